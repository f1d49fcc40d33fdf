"""The key store of a region (docs/privacy.md): a key for each point, subject and window of time; legal holds; erasures under way. SQLite,
many processes. Keys are wrapped by the store's own key, which whoever opens it must have."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from knhk.model.faults import Corrupt, Fault, KnhkError, Refused, Stalled, Waiting
from knhk_runtime.envelope import KEY, KEY_ID, unwrap, wrap
from knhk_verify.errors import Bad

FILE = "keys.db"
BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS key (id BLOB PRIMARY KEY, point TEXT NOT NULL, tag BLOB NOT NULL, window INTEGER NOT NULL, wrapped BLOB NOT NULL)
  WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS key_of ON key (tag, point, window);
CREATE TABLE IF NOT EXISTS made (point TEXT, window INTEGER, keys INTEGER NOT NULL, PRIMARY KEY (point, window)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS destroyed (id BLOB PRIMARY KEY, erasure TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold (id TEXT PRIMARY KEY, tag BLOB NOT NULL, reference TEXT NOT NULL, standing INTEGER NOT NULL, bundle BLOB)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasure (id TEXT PRIMARY KEY, state TEXT NOT NULL, plan TEXT NOT NULL, bundles TEXT NOT NULL DEFAULT '[]')
  WITHOUT ROWID;
"""
IDS_MOST = 16_384  # of one answer
DONE = "done"  # state of an erasure
_TRY_LATER = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)


@dataclass(frozen=True)
class SubjectKey:
    """A key and its id."""

    id: bytes
    key: bytes


class SealingKeys(Protocol):
    """What an agent seals with: a key store of this machine, or a key service. Any thread. What `keys_for` gives is durable. Raises Waiting
    when it cannot be had now, Stalled for what a person must mend, Corrupt for what was altered."""

    @property
    def tags_key(self) -> bytes: ...

    def generation(self) -> int:
        """Grows with each destruction: whoever keeps keys in memory forgets them when it moved. Returns at once."""
        ...

    def keys_for(self, point: str, wanted: Collection[tuple[bytes, int]]) -> dict[tuple[bytes, int], SubjectKey]:
        """The keys of (tag, window) at a point; those that are missing are made."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Quota:
    """How many keys may be made for a window: of a point, and of all points of a key store. Destroyed ones count."""

    of_point: int
    of_store: int


class OverQuota(KnhkError):
    """Keys that were asked for would be more than a quota: none of them was made."""


class OnHold(KnhkError):
    """Keys that were to be destroyed are of a subject whose legal hold stands: none of them was."""


@dataclass(frozen=True)
class Held:
    """A legal hold on what is recorded about a subject."""

    id: str
    tag: bytes
    reference: str
    standing: bool


class ErasableKeys(Protocol):
    """The key store of a home, or that of a namespace behind a key service, as readers and erasures have it. Methods are those of KeyStore,
    with its promises."""

    @property
    def tags_key(self) -> bytes: ...
    def found(self, ids: Collection[bytes]) -> dict[bytes, bytes | None]: ...
    def ids_of(self, tag: bytes) -> list[bytes]: ...
    def ids_before(self, point: str, window: int, after: bytes) -> list[bytes]: ...
    def destroy(self, erasure: str, ids: Iterable[bytes]) -> None: ...
    def put_hold(self, hold: Held, bundle: bytes | None) -> None: ...
    def untold(self) -> list[tuple[Held, bytes]]: ...
    def holds(self) -> list[Held]: ...
    def put_work(self, work: Work) -> None: ...
    def works(self) -> list[Work]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Work:
    """An erasure: its state, its plan (JSON) and the signed events that tell it (JSON), durable before they are appended. Of one that is
    DONE the log has what it did."""

    id: str
    state: str
    plan: str
    bundles: str


def store_file(folder: Path) -> Path:
    """Where the keys of a key store are."""
    return folder / FILE


def wrapped_store_key(folder: Path) -> bytes | None:
    """The store's own key, wrapped by the key-encryption key; None before there is a store. Raises Corrupt, Waiting and Stalled."""
    if not store_file(folder).exists():
        return None
    with _told(folder):
        db = sqlite3.connect(store_file(folder), timeout=BUSY_S)
        try:
            row = db.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            row = None
        finally:
            db.close()
    return None if row is None else bytes(row[0])


def create(folder: Path, store_key: bytes, wrapped: bytes, tags_key: bytes | None = None) -> None:
    """Makes a key store; one that another process made meanwhile stays. `tags_key`: None: one of its own. Raises as `wrapped_store_key`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _told(folder):
        os.close(os.open(store_file(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = _connected(folder)
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (wrapped,))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('tags', ?)", (wrap(store_key, b"tags", tags_key or os.urandom(KEY)),))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('generation', 0)")
            db.execute("COMMIT")
        finally:
            db.close()


class KeyStore:
    """Any thread. What a method did is durable when it returns. Raises Waiting while another process writes or the disk is full, Stalled
    for what a person must mend, Corrupt for what was altered."""

    def __init__(self, folder: Path, store_key: bytes, quota: Quota | None = None) -> None:
        """A store that was made. `store_key`: its own key, unwrapped. `quota`: None: no bound, and what is made is not counted."""
        self.folder, self._by, self._quota = folder, store_key, quota
        self._lock = threading.RLock()
        if not store_file(folder).exists():
            raise Stalled("KeyStore", f"{store_file(folder)}: must be there; it is made by: knhk up")
        with _told(folder):
            self._db = _connected(folder)
            row = self._db.execute("SELECT value FROM meta WHERE name = 'tags'").fetchone()
        if row is None:
            raise Corrupt(str(store_file(folder)), "has no key for tags")
        self.tags_key = self._unwrapped(b"tags", bytes(row[0]))
        if quota is not None:
            self._begin_to_count()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # ---- keys ------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Grows with each destruction: whoever keeps keys in memory forgets them when it moved."""
        return int(self._one("SELECT value FROM meta WHERE name = 'generation'")[0])

    def keys_for(self, point: str, wanted: Collection[tuple[bytes, int]]) -> dict[tuple[bytes, int], SubjectKey]:
        """The keys of (tag, window) at a point; those that are missing are made. Raises OverQuota, and makes none, where they would be too
        many."""
        with self._write() as db:
            found, new = dict[tuple[bytes, int], SubjectKey](), _Counted(db, point, self._quota)
            for tag, window in wanted:
                row = db.execute("SELECT id, wrapped FROM key WHERE tag = ? AND point = ? AND window = ?", (tag, point, window)).fetchone()
                if row is None:
                    new.add(window)
                    made = SubjectKey(os.urandom(KEY_ID), os.urandom(KEY))
                    db.execute("INSERT INTO key VALUES (?,?,?,?,?)", (made.id, point, tag, window, wrap(self._by, made.id, made.key)))
                else:
                    made = SubjectKey(bytes(row[0]), self._unwrapped(bytes(row[0]), bytes(row[1])))
                found[tag, window] = made
            new.write()
            return found

    def used(self, window: int) -> float:
        """The share of its quota that a window's keys have, of the fullest point or of all of them; 0 without a quota."""
        if self._quota is None:
            return 0.0
        most, total = self._one("SELECT max(keys), sum(keys) FROM made WHERE window = ?", (window,))
        return max((most or 0) / self._quota.of_point, (total or 0) / self._quota.of_store)

    def _begin_to_count(self) -> None:
        """What was made before anybody counted: once, a look at every key."""
        with self._write() as db:
            if db.execute("SELECT 1 FROM made LIMIT 1").fetchone() is None:
                db.execute("INSERT INTO made SELECT point, window, count(*) FROM key GROUP BY point, window")

    def key(self, key_id: bytes) -> bytes | None:
        """The key with this id; None when there is none."""
        row = self._one("SELECT wrapped FROM key WHERE id = ?", (key_id,))
        return None if row is None else self._unwrapped(key_id, bytes(row[0]))

    def is_destroyed(self, key_id: bytes) -> bool:
        return self._one("SELECT 1 FROM destroyed WHERE id = ?", (key_id,)) is not None

    def found(self, ids: Collection[bytes]) -> dict[bytes, bytes | None]:
        """The keys with these ids; None for one that was destroyed. One that this store never had is left out."""
        keys = {key_id: self.key(key_id) for key_id in ids}
        return {key_id: key for key_id, key in keys.items() if key is not None or self.is_destroyed(key_id)}

    def ids_of(self, tag: bytes) -> list[bytes]:
        """Ids of all keys of a subject."""
        return [bytes(row[0]) for row in self._all("SELECT id FROM key WHERE tag = ? ORDER BY id", (tag,))]

    def ids_before(self, point: str, window: int, after: bytes) -> list[bytes]:
        """The first IDS_MOST ids after this one, empty for the beginning, of the keys of a point for windows before this one whose subjects
        nobody holds."""
        free = "tag NOT IN (SELECT tag FROM hold WHERE standing)"
        rows = self._all(
            f"SELECT id FROM key WHERE id > ? AND point = ? AND window < ? AND {free} ORDER BY id LIMIT ?", (after, point, window, IDS_MOST)
        )
        return [bytes(row[0]) for row in rows]

    def destroy(self, erasure: str, ids: Iterable[bytes]) -> None:
        """Keys are gone, from this file and its journal; their ids are known as destroyed. What was destroyed already stays so, whoever is
        held since. Raises OnHold, and destroys none, while one of them is of a subject whose hold stands."""
        with self._write() as db:
            rows = [(key_id, erasure) for key_id in ids]
            _must_be_free(db, [key_id for key_id, _ in rows])
            db.executemany("DELETE FROM key WHERE id = ?", [(key_id,) for key_id, _ in rows])
            db.executemany("INSERT OR IGNORE INTO destroyed VALUES (?,?)", rows)
            db.execute("UPDATE meta SET value = value + 1 WHERE name = 'generation'")
        with self._lock, _told(self.folder):
            if self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise Waiting("KeyStore", f"{store_file(self.folder)}: somebody reads it: its journal still holds what was destroyed", 0.5)

    # ---- holds -----------------------------------------------------------------------------------

    def put_hold(self, hold: Held, bundle: bytes | None) -> None:
        """`bundle`: its signed event, until that is in the log. Raises Refused for one that was another subject's."""
        with self._write() as db:
            was = db.execute("SELECT tag, reference FROM hold WHERE id = ?", (hold.id,)).fetchone()
            if was is not None and (bytes(was[0]), was[1]) != (hold.tag, hold.reference):
                raise Refused([Fault("hold", hold.id, "must have the tag and the reference that it was placed with")])
            db.execute("INSERT OR REPLACE INTO hold VALUES (?,?,?,?,?)", (hold.id, hold.tag, hold.reference, int(hold.standing), bundle))

    def untold(self) -> list[tuple[Held, bytes]]:
        """Holds whose signed event may not be in the log yet."""
        rows = self._all("SELECT id, tag, reference, standing, bundle FROM hold WHERE bundle IS NOT NULL ORDER BY id")
        return [(Held(row[0], bytes(row[1]), row[2], bool(row[3])), bytes(row[4])) for row in rows]

    def holds(self) -> list[Held]:
        """All that were ever placed here."""
        rows = self._all("SELECT id, tag, reference, standing FROM hold ORDER BY id")
        return [Held(row[0], bytes(row[1]), row[2], bool(row[3])) for row in rows]

    # ---- erasures --------------------------------------------------------------------------------

    def put_work(self, work: Work) -> None:
        """What is DONE stays so, whatever a log from before its end says."""
        add = "INSERT INTO erasure VALUES (?,?,?,?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, plan = excluded.plan, "
        with self._write() as db:
            row = (work.id, work.state, work.plan, work.bundles)
            db.execute(f"{add} bundles = excluded.bundles WHERE erasure.state != ?", (*row, DONE))

    def works(self) -> list[Work]:
        """Erasures that are not done."""
        return [Work(*row) for row in self._all("SELECT id, state, plan, bundles FROM erasure WHERE state != ? ORDER BY id", (DONE,))]

    # ---- SQLite ----------------------------------------------------------------------------------

    def _unwrapped(self, purpose: bytes, wrapped: bytes) -> bytes:
        try:
            return unwrap(self._by, purpose, wrapped, str(store_file(self.folder)))
        except Bad as error:
            raise Corrupt(error.where, error.what) from error

    def _one(self, sql: str, values: tuple[object, ...] = ()) -> Any:
        with self._lock, _told(self.folder):
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock, _told(self.folder):
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _told(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


class _Counted:
    """New keys of a point within a transaction, held against the quota."""

    def __init__(self, db: sqlite3.Connection, point: str, quota: Quota | None) -> None:
        self._db, self._point, self._quota = db, point, quota
        self._left, self._new = dict[int, int](), dict[int, int]()

    def add(self, window: int) -> None:
        """Raises OverQuota."""
        if self._quota is None:
            return
        if window not in self._left:
            self._left[window] = self._free(window, self._quota)
        self._new[window] = self._new.get(window, 0) + 1
        if self._new[window] > self._left[window]:
            of_point, of_all = self._quota.of_point, self._quota.of_store
            raise OverQuota(f"window {window}: must have at most {of_point} new keys of a point, and {of_all} of all points of a namespace")

    def write(self) -> None:
        rows = [(self._point, window, keys) for window, keys in self._new.items()]
        add = "INSERT INTO made VALUES (?,?,?) ON CONFLICT (point, window) DO UPDATE SET keys = keys + excluded.keys"
        self._db.executemany(add, rows)

    def _free(self, window: int, quota: Quota) -> int:
        ask = "SELECT coalesce(sum(keys), 0), coalesce(sum(keys) FILTER (WHERE point = ?), 0) FROM made WHERE window = ?"
        of_all, of_point = self._db.execute(ask, (self._point, window)).fetchone()
        return int(min(quota.of_point - of_point, quota.of_store - of_all))


def _must_be_free(db: sqlite3.Connection, ids: list[bytes]) -> None:
    """Raises OnHold."""
    standing = {bytes(tag): hold_id for hold_id, tag in db.execute("SELECT id, tag FROM hold WHERE standing")}
    rows = (db.execute("SELECT tag FROM key WHERE id = ?", (key_id,)).fetchone() for key_id in ids) if standing else ()
    if found := sorted({standing[bytes(row[0])] for row in rows if row is not None and bytes(row[0]) in standing}):
        raise OnHold(f"a legal hold stands: {', '.join(found[:20])}; its release carries out what waits")


def _connected(folder: Path) -> sqlite3.Connection:
    db = sqlite3.connect(store_file(folder), timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;" + _SCHEMA)
    return db


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        where = store_file(folder)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _TRY_LATER:
            raise Waiting("KeyStore", f"{where}: {error}", 0.5) from error
        raise Stalled("KeyStore", f"{where}: {error}: must be a key store that this user may write") from error
