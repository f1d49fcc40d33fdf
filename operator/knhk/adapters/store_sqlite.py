"""knhk.ports.store.Store in one SQLite file: WAL mode, many threads and processes, crash-safe."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from knhk.api import check_update
from knhk.model.canonical import canonical
from knhk.model.faults import (
    AlreadyExists,
    Conflict,
    Gap,
    KnhkError,
    NotFound,
    Refused,
    Stalled,
    Waiting,
)
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.ports.chance import Random
from knhk.ports.clock import Clock
from knhk.ports.store import Change, ChangeType, Event, Listing

KEPT_CHANGES = 2_000
KEPT_EVENTS = 1_000
POLL_S = 0.02
BUSY_S = 10.0

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE object (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    uid TEXT NOT NULL, revision INTEGER NOT NULL, generation INTEGER NOT NULL, created TEXT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, labels TEXT NOT NULL, annotations TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE change (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL, kind TEXT NOT NULL, object TEXT NOT NULL
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    type TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL, time TEXT NOT NULL, count INTEGER NOT NULL
);
CREATE INDEX event_object ON event (kind, namespace, name, id);
"""
_HEAD = "kind, namespace, name, uid, revision, generation, created"
_COLUMNS = f"{_HEAD}, spec, status, labels, annotations"
_WHERE = "kind = ? AND namespace = ? AND name = ?"

# Primary SQLite result codes that mean the same thing to a caller: does trying again help?
_RETRY: Final[Mapping[int, tuple[str, str, float]]] = {
    sqlite3.SQLITE_BUSY: ("StoreBusy", "another process writes to it", 0.5),
    sqlite3.SQLITE_LOCKED: ("StoreBusy", "another thread writes to it", 0.5),
    sqlite3.SQLITE_FULL: ("StoreFull", "the disk is full; make room", 5.0),
}
_PERSON: Final[Mapping[int, tuple[str, str]]] = {
    sqlite3.SQLITE_CANTOPEN: (
        "StoreUnreadable",
        "cannot be opened; its folder must exist and be writable",
    ),
    sqlite3.SQLITE_READONLY: ("StoreReadOnly", "must be writable by this user"),
    sqlite3.SQLITE_PERM: ("StoreReadOnly", "must be readable and writable by this user"),
    sqlite3.SQLITE_AUTH: ("StoreReadOnly", "must be readable and writable by this user"),
    sqlite3.SQLITE_NOTADB: ("StoreDamaged", "is not a SQLite database; restore or remove it"),
    sqlite3.SQLITE_CORRUPT: ("StoreDamaged", "is damaged; restore it from a backup"),
    sqlite3.SQLITE_IOERR: ("StoreUnreadable", "cannot be read or written (I/O error)"),
}


class SqliteStore:
    """Opens `path`, making it when absent. One connection for each thread."""

    def __init__(self, path: Path, clock: Clock, random: Random) -> None:
        self._path = path
        self._clock = clock
        self._random = random
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._closed = False
        with self._translated():
            self._migrate()

    def create(self, resource: Resource) -> Resource:
        """See Store.create."""
        with self._writing() as db:
            if self._find(db, resource.key) is not None:
                raise AlreadyExists(f"{resource.key} exists already")
            return self._insert(db, resource)

    def get(self, key: Key) -> Resource:
        """See Store.get."""
        with self._translated() as db:
            return self._must(db, key)

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        """See Store.list."""
        wanted = (labels or {}).items()
        with self._translated() as db, _snapshot(db):
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM object WHERE kind = ? AND (? IS NULL OR namespace = ?) ORDER BY namespace, name",
                (kind, namespace, namespace),
            ).fetchall()
            revision = _last(db)
        found = (_resource(row) for row in rows)
        return Listing(tuple(r for r in found if wanted <= r.labels.items()), revision)

    def heads(self, kind: str) -> Iterator[Resource]:
        """See Store.heads."""
        with self._translated() as db:
            rows = db.execute(f"SELECT {_HEAD}, '{{}}', '{{}}', labels, annotations FROM object WHERE kind = ?", (kind,)).fetchall()
        yield from map(_resource, rows)

    def update(self, resource: Resource) -> Resource:
        """See Store.update."""
        with self._writing() as db:
            return self._replace(db, self._current(db, resource), resource)

    def update_status(self, resource: Resource) -> Resource:
        """See Store.update_status."""
        with self._writing() as db:
            old = self._current(db, resource)
            return self._put(db, old, replace(old, status=resource.status))

    def apply(self, resource: Resource) -> Resource:
        """See Store.apply."""
        with self._writing() as db:
            old = self._find(db, resource.key)
            if old is None and resource.resource_version:
                raise Conflict(f"{resource.key} was deleted; read again")
            if old is None:
                return self._insert(db, resource)
            return self._replace(db, _checked(old, resource.resource_version), resource)

    def delete(self, key: Key, resource_version: str = "") -> None:
        """See Store.delete."""
        with self._writing() as db:
            old = _checked(self._must(db, key), resource_version)
            db.execute(f"DELETE FROM object WHERE {_WHERE}", (key.kind, key.namespace, key.name))
            db.execute(f"DELETE FROM event WHERE {_WHERE}", (key.kind, key.namespace, key.name))
            self._log(db, "Deleted", old)

    def departed(self) -> tuple[Resource, ...]:
        """See Store.departed: those among the last KEPT_CHANGES changes. They are told again after each start, which does no harm."""
        with self._translated() as db:
            rows = db.execute("SELECT revision, type, kind, object FROM change WHERE type = 'Deleted' ORDER BY revision").fetchall()
        return tuple(change.resource for change in map(_change, rows) if change.resource.status.get("pending"))

    def release(self, resource: Resource) -> None:
        """See Store.release: nothing is held here."""

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        """See Store.changes."""
        end_ns = self._clock.monotonic_ns() + int(timeout_s * 1e9)
        while True:
            found, revision = self._changes(since, kinds)
            if found or self._clock.monotonic_ns() >= end_ns:
                return found, revision
            since = revision
            self._clock.sleep(POLL_S)

    def record(self, event: Event) -> None:
        """See Store.record."""
        key = (event.key.kind, event.key.namespace, event.key.name)
        with self._writing() as db:
            last = db.execute(
                f"SELECT id, type, reason, message FROM event WHERE {_WHERE} ORDER BY id DESC LIMIT 1",
                key,
            ).fetchone()
            if last is not None and last[1:] == (event.type, event.reason, event.message):
                db.execute(
                    "UPDATE event SET count = count + 1, time = ? WHERE id = ?",
                    (self._now(), last[0]),
                )
                return
            db.execute(
                "INSERT INTO event (kind, namespace, name, type, reason, message, time, count) VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
                (*key, event.type, event.reason, event.message, self._now()),
            )
            db.execute(
                f"DELETE FROM event WHERE {_WHERE} AND id <= (SELECT id FROM event WHERE {_WHERE} ORDER BY id DESC LIMIT 1 OFFSET ?)",
                (*key, *key, KEPT_EVENTS),
            )

    def events(self, key: Key) -> tuple[Event, ...]:
        """See Store.events."""
        with self._translated() as db:
            rows = db.execute(
                f"SELECT type, reason, message, time, count FROM event WHERE {_WHERE} ORDER BY id",
                (key.kind, key.namespace, key.name),
            ).fetchall()
        return tuple(Event(key, *row) for row in rows)

    def close(self) -> None:
        """See Store.close."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                connection.close()
            self._open.clear()

    # ---- one write ---------------------------------------------------------------------------

    def _insert(self, db: sqlite3.Connection, resource: Resource) -> Resource:
        made = replace(
            resource,
            uid=self._uid(),
            generation=1,
            created=self._now(),
            status={},
            path="",
            lines={},
        )
        return self._store(db, "Added", made)

    def _replace(self, db: sqlite3.Connection, old: Resource, new: Resource) -> Resource:
        faults = check_update(old, new)
        if faults:
            raise Refused(faults)
        moved = canonical(old.spec) != canonical(new.spec)
        merged = replace(
            old,
            spec=new.spec,
            labels=new.labels,
            annotations=new.annotations,
            generation=old.generation + int(moved),
        )
        return self._put(db, old, merged)

    def _put(self, db: sqlite3.Connection, old: Resource, new: Resource) -> Resource:
        return old if _texts(old) == _texts(new) else self._store(db, "Modified", new)

    def _store(self, db: sqlite3.Connection, type: ChangeType, resource: Resource) -> Resource:
        stored = self._log(db, type, resource)
        values = (
            stored.kind,
            stored.namespace,
            stored.name,
            stored.uid,
            int(stored.resource_version),
            stored.generation,
            stored.created,
            *_texts(stored),
        )
        db.execute(
            f"INSERT OR REPLACE INTO object ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return stored

    def _log(self, db: sqlite3.Connection, type: ChangeType, resource: Resource) -> Resource:
        cursor = db.execute(
            "INSERT INTO change (type, kind, object) VALUES (?, ?, ?)",
            (type, resource.kind, _pack(resource)),
        )
        revision = cursor.lastrowid or 0
        db.execute("DELETE FROM change WHERE revision <= ?", (revision - KEPT_CHANGES,))
        return replace(resource, resource_version=str(revision))

    # ---- reading -----------------------------------------------------------------------------

    def _find(self, db: sqlite3.Connection, key: Key) -> Resource | None:
        row = db.execute(f"SELECT {_COLUMNS} FROM object WHERE {_WHERE}", (key.kind, key.namespace, key.name)).fetchone()
        return None if row is None else _resource(row)

    def _must(self, db: sqlite3.Connection, key: Key) -> Resource:
        found = self._find(db, key)
        if found is None:
            raise NotFound(f"{key} was not found")
        return found

    def _current(self, db: sqlite3.Connection, resource: Resource) -> Resource:
        return _checked(self._must(db, resource.key), resource.resource_version)

    def _changes(self, since: int, kinds: Collection[str]) -> tuple[tuple[Change, ...], int]:
        with self._translated() as db, _snapshot(db):
            last = _last(db)
            oldest = db.execute("SELECT coalesce(min(revision), ?) FROM change", (last + 1,)).fetchone()[0]
            if since > last or (since < last and since < oldest - 1):
                raise Gap(f"changes from {since} on are not kept (kept: {oldest} to {last}); list again")
            rows = db.execute(
                "SELECT revision, type, kind, object FROM change WHERE revision > ? ORDER BY revision",
                (since,),
            ).fetchall()
        return tuple(_change(row) for row in rows if not kinds or row[2] in kinds), last

    # ---- connections -------------------------------------------------------------------------

    def _migrate(self) -> None:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _SCHEMA_VERSION):
            db.execute("ROLLBACK")
            must = f"has format {found}, must be {_SCHEMA_VERSION}; use the version of knhk that wrote it"
            raise Stalled("StoreVersion", f"{self._path} {must}")
        if found == 0:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "db", None)
        if self._closed:
            raise Stalled("StoreClosed", f"{self._path} was closed")
        if found is None:
            found = self._connect()
            self._local.db = found
        return found

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            db.close()
            raise
        with self._lock:
            self._open.append(db)
        return db

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection()
        except sqlite3.Error as err:
            raise self._meaning(err) from err

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._translated() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _meaning(self, err: sqlite3.Error) -> KnhkError:
        code = getattr(err, "sqlite_errorcode", 0) & 0xFF
        if code in _RETRY:
            reason, text, after_s = _RETRY[code]
            return Waiting(reason, f"{self._path}: {text}", after_s)
        reason, text = _PERSON.get(code, ("StoreFailed", f"failed: {err}"))
        return Stalled(reason, f"{self._path} {text}")

    def _uid(self) -> str:
        raw = self._random.bytes(16).hex()
        return "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))

    def _now(self) -> str:
        return rfc3339(self._clock.now_ns())


@contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Several reads of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def _last(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return int(row[0]) if row is not None else 0


def _checked(old: Resource, resource_version: str) -> Resource:
    if resource_version and resource_version != old.resource_version:
        raise Conflict(f"{old.key} is at version {old.resource_version}, not {resource_version}; read again")
    return old


def _texts(resource: Resource) -> tuple[str, str, str, str]:
    parts = (resource.spec, resource.status, resource.labels, resource.annotations)
    spec, status, labels, annotations = (canonical(part).decode() for part in parts)
    return spec, status, labels, annotations


def _pack(resource: Resource) -> str:
    head: list[Any] = [resource.kind, resource.namespace, resource.name, resource.uid]
    return json.dumps([*head, resource.generation, resource.created, *_texts(resource)])


def _change(row: tuple[int, Literal["Added", "Modified", "Deleted"], str, str]) -> Change:
    kind, namespace, name, uid, generation, created, *texts = json.loads(row[3])
    resource = _resource((kind, namespace, name, uid, row[0], generation, created, *texts))
    return Change(row[0], row[1], resource)


def _resource(row: tuple[Any, ...]) -> Resource:
    kind, namespace, name, uid, revision, generation, created, *texts = row
    spec, status, labels, annotations = (json.loads(text) for text in texts)
    return Resource(
        kind=kind,
        namespace=namespace,
        name=name,
        spec=spec,
        status=status,
        labels=labels,
        annotations=annotations,
        uid=uid,
        resource_version=str(revision),
        generation=generation,
        created=created,
    )
