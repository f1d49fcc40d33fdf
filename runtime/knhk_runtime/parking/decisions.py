"""Late decisions, kept under their decision id until they are used once or expire. Survives a restart (SQLite, one file)."""

from __future__ import annotations

import sqlite3
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

from knhk_runtime.outbox.records import time_of
from knhk_runtime.waiting import Boxes

EXPIRY_S = 300
MAX_KEPT = 100_000
VERSION = 2  # of the schema: rows of version 1 were in clear
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS decision (
  id BLOB PRIMARY KEY, request BLOB NOT NULL, packs BLOB NOT NULL, expires_ns INTEGER NOT NULL,
  judgement BLOB NOT NULL, box BLOB NOT NULL, used INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decision_judgement ON decision (judgement);
PRAGMA user_version = {VERSION};
"""
# A request that came back too early has several ids for one judgement, and O with its time names that judgement.
_KEEP = """
INSERT OR IGNORE INTO decision
VALUES (:id, :request, :packs, :expires_ns, :judgement, :box, EXISTS (SELECT 1 FROM decision WHERE judgement = :judgement AND used = 1))
"""
_USE = "UPDATE decision SET used = 1 WHERE used = 0 AND judgement = (SELECT judgement FROM decision WHERE id = ? AND used = 0)"
_ARM = struct.Struct(">20sBBBII")


@dataclass(frozen=True)
class Judged:
    """What became of one arm: numbers as in formats/leaf.md, A (empty for a disposition), violations as JSON (`[]` unless denied)."""

    pack: bytes
    kind: int
    klass: int
    verdict: int
    a: bytes
    violations: bytes


@dataclass(frozen=True)
class Late:
    """A decision made after the client was sent away. `o` is what was judged, with its own time."""

    id: bytes
    o_key: bytes
    expires_ns: int
    o: bytes
    arms: tuple[Judged, ...]

    @property
    def packs(self) -> bytes:
        return b"".join(arm.pack for arm in self.arms)


class Decisions:
    """Safe from any thread. What `keep` and `use` did is durable when they return. What is forgotten is overwritten."""

    def __init__(self, path: Path, boxes: Boxes) -> None:
        self._lock, self._boxes, self._path = threading.Lock(), boxes, path
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;")
        if self._db.execute("PRAGMA user_version").fetchone()[0] < VERSION:  # clients come back to a 410, and are judged anew
            self._db.executescript("DROP TABLE IF EXISTS decision; DROP TABLE IF EXISTS arm; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);")
        self._db.executescript(_SCHEMA)

    def keep(self, late: Late, now_ns: int) -> None:
        """Stores a decision and forgets those that expired, and the oldest above MAX_KEPT. Raises OSError as Boxes does."""
        row = {"id": late.id, "request": self._boxes.name(late.o_key), "packs": late.packs, "expires_ns": late.expires_ns}
        row |= {"judgement": self._boxes.name(late.o_key + late.o), "box": self._boxes.close(_packed(late), time_of(late.o))}
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(_KEEP, row)
                self._db.execute("DELETE FROM decision WHERE expires_ns <= ?", (now_ns,))
                over = "SELECT id FROM decision ORDER BY expires_ns DESC LIMIT -1 OFFSET ?"
                self._db.execute(f"DELETE FROM decision WHERE id IN ({over})", (MAX_KEPT,))
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def forget(self, now_ns: int) -> None:
        """What expired goes from the file and from its log of writes."""
        with self._lock:
            self._db.execute("DELETE FROM decision WHERE expires_ns <= ?", (now_ns,))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # `keep` deletes, too

    def find(self, decision: bytes, o_key: bytes, packs: bytes, now_ns: int) -> Late | None:
        """The decision, when it is unused, not expired, and O-key and packs are equal. Raises Corrupt, and OSError as Boxes does."""
        request = self._boxes.name(o_key)
        with self._lock:
            row = self._db.execute(
                "SELECT expires_ns, box FROM decision WHERE id = ? AND request = ? AND packs = ? AND expires_ns > ? AND used = 0",
                (decision, request, packs, now_ns),
            ).fetchone()
        if row is None or (data := self._boxes.open(row[1], f"{self._path} {decision.hex()}")) is None:
            return None
        return Late(decision, o_key, row[0], *_unpacked(data))

    def use(self, decision: bytes) -> bool:
        """Marks it used, under each of its ids; False when somebody was faster."""
        with self._lock:
            return self._db.execute(_USE, (decision,)).rowcount > 0

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _packed(late: Late) -> bytes:
    heads = (_ARM.pack(a.pack, a.kind, a.klass, a.verdict, len(a.a), len(a.violations)) + a.a + a.violations for a in late.arms)
    return len(late.o).to_bytes(4, "big") + late.o + b"".join(heads)


def _unpacked(data: bytes) -> tuple[bytes, tuple[Judged, ...]]:
    at, arms = 4 + int.from_bytes(data[:4], "big"), list[Judged]()
    o = data[4:at]
    while at < len(data):
        pack, kind, klass, verdict, length, more = _ARM.unpack_from(data, at)
        at += _ARM.size
        arms.append(Judged(pack, kind, klass, verdict, data[at : at + length], data[at + length : at + length + more]))
        at += length + more
    return o, tuple(arms)
