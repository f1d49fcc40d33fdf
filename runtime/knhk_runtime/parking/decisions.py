"""Late decisions, kept under their decision id until they are used once or expire. Survives a restart (SQLite, one file)."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

EXPIRY_S = 300
MAX_KEPT = 100_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decision (
  id BLOB PRIMARY KEY, o_key BLOB NOT NULL, packs BLOB NOT NULL, expires_ns INTEGER NOT NULL,
  o BLOB NOT NULL, used INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arm (
  id BLOB, number INTEGER, pack BLOB NOT NULL, kind INTEGER NOT NULL, klass INTEGER NOT NULL, verdict INTEGER NOT NULL,
  a BLOB NOT NULL, violations BLOB NOT NULL, PRIMARY KEY (id, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS decision_o_key ON decision (o_key);
"""
# A request that came back too early has several ids for one judgement, and O with its time names that judgement.
_KEEP = """
INSERT OR IGNORE INTO decision
VALUES (:id, :o_key, :packs, :expires_ns, :o, EXISTS (SELECT 1 FROM decision WHERE o_key = :o_key AND o = :o AND used = 1))
"""
_USE = "UPDATE decision SET used = 1 WHERE used = 0 AND (o_key, o) = (SELECT o_key, o FROM decision WHERE id = ? AND used = 0)"


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
    """Safe from any thread. What `keep` and `use` did is durable when they return."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)

    def keep(self, late: Late, now_ns: int) -> None:
        """Stores a decision and forgets those that expired, and the oldest above MAX_KEPT."""
        row = {"id": late.id, "o_key": late.o_key, "packs": late.packs, "expires_ns": late.expires_ns, "o": late.o}
        arms = [(late.id, number, *astuple(arm)) for number, arm in enumerate(late.arms)]
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute(_KEEP, row)
                self._db.executemany("INSERT OR IGNORE INTO arm VALUES (?,?,?,?,?,?,?,?)", arms)
                self._forget(now_ns)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _forget(self, now_ns: int) -> None:
        self._db.execute("DELETE FROM decision WHERE expires_ns <= ?", (now_ns,))
        over = "SELECT id FROM decision ORDER BY expires_ns DESC LIMIT -1 OFFSET ?"
        self._db.execute(f"DELETE FROM decision WHERE id IN ({over})", (MAX_KEPT,))
        self._db.execute("DELETE FROM arm WHERE id NOT IN (SELECT id FROM decision)")

    def find(self, decision: bytes, o_key: bytes, packs: bytes, now_ns: int) -> Late | None:
        """The decision, when it is unused, not expired, and O-key and packs are equal."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, o_key, expires_ns, o FROM decision WHERE id = ? AND o_key = ? AND packs = ? AND expires_ns > ? AND used = 0",
                (decision, o_key, packs, now_ns),
            ).fetchone()
            if row is None:
                return None
            arms = self._db.execute("SELECT pack, kind, klass, verdict, a, violations FROM arm WHERE id = ? ORDER BY number", (decision,))
            return Late(row[0], row[1], row[2], row[3], tuple(Judged(*arm) for arm in arms.fetchall()))

    def use(self, decision: bytes) -> bool:
        """Marks it used, under each of its ids; False when somebody was faster."""
        with self._lock:
            return self._db.execute(_USE, (decision,)).rowcount > 0

    def close(self) -> None:
        with self._lock:
            self._db.close()
