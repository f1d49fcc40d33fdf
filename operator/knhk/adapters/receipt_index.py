"""An index over the entries of a log, in one SQLite file: pages of receipts by what they say, newest first.

It is derived: whatever is wrong with it, it is made anew from the log, and who wants proof takes it from the log. Entries that are alike
in all that can be asked for (all but time, hashes and receipt id) share one *shape*, of which there are few. So a selector, whatever it
combines, is held against shapes, and a page is the merge of their newest entries: no page reads more than its own rows and one row of
each shape that fits. Policy events, which are few, and each different, stand in a table of their own.

A guard that lies makes as many shapes as it likes. So each pack has OWN of them, the first; what more it has is its *rest*, whose entries
a page looks at one by one, at most MISSES that do not fit: then it ends there, with fewer rows, and the next one goes on.

A leaf names no namespace. It is of that of its pack, which the policy events of the log name; a leaf without a pack is of that which its
ring's other leaves are of, and until there is one, of none.
"""

from __future__ import annotations

import heapq
import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from knhk.lockchain import NOTARISED
from knhk.lockchain.entries import Row
from knhk.lockchain.receipts import label_value, named, pack_digest, receipt_name
from knhk.model.selection import EVENT_TRAITS, FLAGS, INTERVAL, SINGLE, Requirement, Selection, Traits, equal, exactly, holds
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad
from knhk_verify.leaf import CLASSES, KINDS, LEAF_SIZE, MODES, VERDICTS, parse_leaf
from knhk_verify.note import unb64
from knhk_verify.signed import parse_json

VERSION = 5
BATCH = 1 << 14  # entries in one transaction
OWN = 64  # shapes of a pack, or of a namespace without a pack; an honest guard makes some ten
STRANGERS = 256  # shapes of all packs together that no event names
MISSES = 1 << 13  # entries of rests that a page looks at and that do not fit
KEPT = 1 << 12  # answers that a reading keeps for those that are alike
POLICY, NO_SHAPE, STRANGERS_REST = "POLICY", 0, 1
CACHE_KIB = 8 << 10  # of each thread
TABLES = ("log", "shapes", "packs", "sources", "entries", "events", "witnesses")
EVENT_COLUMNS = ("namespace", "name", *EVENT_TRAITS, "actorLabel", "time")
PAGE_BYTES = 4 << 20  # of statements in an answer; an entry has at most 64 KiB
MAX_WITNESSES = 8  # of an entry; there is one
ENTRY_BYTES = 170  # that a decision by a pack that is named takes of the file; one of the rest of strangers takes some 30 more
STEP = 2048  # entries that are looked at in one step of what follows them
_PACK, _RECEIPT, _SOURCE = slice(72, 92), slice(100, 116), slice(100, 108)
_SHARED, _NO_PACK = slice(0, 8), bytes(20)
_LEAF_TRAITS = frozenset(("kind", "class", "verdict", "mode", "arm", "region", *FLAGS))  # that lie in _SHARED; the others are of its pack
_SCHEMA = f"""
CREATE TABLE log (origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, born TEXT NOT NULL);
-- shared '': the rest of a pack, of a namespace without a pack, or (digest '') of all packs that no event names
-- oldest, newest: none of its entries lies before, none behind
CREATE TABLE shapes (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, home TEXT NOT NULL, shared BLOB NOT NULL, oldest INTEGER NOT NULL,
  newest INTEGER NOT NULL, entries INTEGER NOT NULL DEFAULT 0, UNIQUE (digest, home, shared));
INSERT INTO shapes (id, digest, home, shared, oldest, newest) VALUES ({STRANGERS_REST}, x'', '', x'', 0, 0);
CREATE TABLE packs (digest BLOB PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (source BLOB PRIMARY KEY, namespace TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (number INTEGER PRIMARY KEY, shape INTEGER NOT NULL, data BLOB NOT NULL); -- shape 0: of a policy event
CREATE INDEX entries_by_shape ON entries (shape);
CREATE INDEX strangers_by_pack ON entries (substr(data, 73, 20)) WHERE shape = {STRANGERS_REST};
CREATE TABLE events (number INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in EVENT_COLUMNS)});
CREATE INDEX events_by_name ON events (name);
CREATE INDEX events_by_namespace ON events (namespace);
CREATE INDEX events_by_pack ON events (namespace, pack);
CREATE TABLE witnesses (entry INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (entry, number)) WITHOUT ROWID;
CREATE INDEX entries_by_receipt ON entries (substr(data, 101, 16)) WHERE length(data) = 118;
"""
_INSERT_EVENT = f"INSERT INTO events VALUES ({', '.join('?' * (1 + len(EVENT_COLUMNS)))})"
_INDEX = re.compile("0|[1-9][0-9]{0,17}", re.ASCII)
_NEWEST = "SELECT number, data FROM entries INDEXED BY entries_by_shape WHERE shape = ? AND number < ? ORDER BY number DESC"
_AT = "SELECT number, shape, data FROM entries WHERE number = ? AND number < ? AND shape != 0"
_OF_RECEIPT = (
    "SELECT number, shape, data FROM entries WHERE length(data) = 118 AND substr(data, 101, 16) = ? AND number < ? ORDER BY number DESC"
)


@dataclass(frozen=True)
class Page:
    """Rows, newest first; `size`: entries of the log then; `total`: how many of all fit, None where only a look at each of a rest would
    tell; `more`: `before` of the next page, if there is one: also of a page with fewer rows than were asked for, or none."""

    rows: tuple[Row, ...]
    size: int
    total: int | None
    more: int | None


def receipt_of_name(name: str) -> bytes | None:
    """The receipt id in an object's name; None: there is no such name."""
    try:
        receipt = bytes.fromhex(name.removesuffix("-candidate"))
    except ValueError:
        return None
    return receipt if len(receipt) == 16 else None


_MALFORMED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class ReceiptIndex:
    """Of one log. Any thread may read, one at a time may `follow`; each sees the index as a transaction left it. `malformed`: a read or a
    write met bytes of the file that are none of a database, so it is to be made `anew`."""

    def __init__(self, file: Path) -> None:
        self._file, self._own, self._following = file, threading.local(), threading.Lock()
        self._life, self.malformed = 0, False
        file.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        try:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError:  # no file of ours: it is made anew
            version = -1
        if version != VERSION:
            self._remake()

    def anew(self) -> None:
        """In place of a file that turned out to be malformed an empty one; the next `follow` reads the whole log. Who reads the old one
        meanwhile goes on to, and then reads this."""
        with self._following:
            self._remake()

    def _remake(self) -> None:
        self.close()
        self._life += 1
        for suffix in ("", "-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        self.forget()
        self.malformed = False

    @property
    def _db(self) -> sqlite3.Connection:
        if getattr(self._own, "life", self._life) != self._life:
            self.close()
        found: sqlite3.Connection | None = getattr(self._own, "db", None)
        if found is None:
            self._own.life = self._life
            found = self._own.db = sqlite3.connect(self._file, isolation_level=None, timeout=30.0)
            found.execute("PRAGMA journal_mode=WAL")
            found.execute("PRAGMA synchronous=NORMAL")  # what a power cut loses is read again from the log
            found.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return found

    def close(self) -> None:
        """Of this thread."""
        if (found := getattr(self._own, "db", None)) is not None:
            found.close()
            del self._own.db

    def forget(self) -> None:
        """Makes the index empty; the next `follow` reads the whole log."""
        with self._writing() as db:
            for table in TABLES:
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO log VALUES ('', 0, x'', hex(randomblob(8)))")
            db.execute(f"PRAGMA user_version={VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite ends those itself in which it met what is malformed
                db.execute("ROLLBACK")
            raise

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notes that the file is malformed, which the error says that passes on."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.malformed = self.malformed or getattr(error, "sqlite_errorcode", 0) & 0xFF in _MALFORMED
            raise

    @property
    def size(self) -> int:
        """Entries of the log that are in here."""
        return int(self._db.execute("SELECT size FROM log").fetchone()[0])

    def disk_bytes(self) -> int:
        """What its files take of the disk."""
        taken = 0
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):  # between its lives
                taken += self._file.with_name(self._file.name + suffix).stat().st_size
        return taken

    @property
    def born(self) -> str:
        """Another one each time that the index is made anew."""
        return str(self._db.execute("SELECT born FROM log").fetchone()[0])

    def shapes(self) -> int:
        """How many shapes a page reads."""
        return int(self._db.execute("SELECT count(*) FROM shapes WHERE entries > 0").fetchone()[0])

    # ---- following the log ------------------------------------------------------------------------

    def follow(self, origin: str, log: Served) -> int:
        """Takes in what the log has more; how many entries. A log of another origin, or whose beginning is another, is read anew as a
        whole. Raises Bad for what is malformed in it."""
        with self._following, self._noticing():
            if not self._is_of(origin, log):
                self.forget()
            at = begin = self.size
            entries = log.entries(at)
            while batch := list(islice(entries, BATCH)):
                if not self._take(origin, log, at, batch):  # another process was faster
                    return self.size - begin
                at += len(batch)
            return at - begin

    def _is_of(self, origin: str, log: Served) -> bool:
        known, size, root = self._db.execute("SELECT origin, size, root FROM log").fetchone()
        return bool(size == 0 or (known == origin and size <= log.size and log.root(size) == root))

    def _take(self, origin: str, log: Served, start: int, batch: Sequence[bytes]) -> bool:
        with self._writing() as db:
            if int(db.execute("SELECT size FROM log").fetchone()[0]) != start:
                return False
            end, taking = start + len(batch), _Taking(db)
            db.executemany("INSERT INTO entries VALUES (?, ?, ?)", (taking.row(n, data) for n, data in enumerate(batch, start)))
            taking.finish()
            db.execute("UPDATE log SET origin = ?, size = ?, root = ?", (origin, end, log.root(end)))
            return True

    # ---- reading ----------------------------------------------------------------------------------

    def page(self, selection: Selection, limit: int, before: int | None = None) -> Page:
        """The newest `limit` entries that fit, of those below index `before`; fewer, where their statements are large."""
        with self._reading() as db:
            size = self.size
            below = size if before is None else min(before, size)
            decisions, so_many = self._decisions(db, selection, below)
            events, more_of_them = self._events(db, selection, below, limit + 1)
            rows, more = _bounded(heapq.merge(decisions, events, key=lambda row: row.number, reverse=True), limit)
            return Page(rows, size, None if so_many is None else so_many + more_of_them, more)

    def _decisions(self, db: sqlite3.Connection, selection: Selection, below: int) -> tuple[Iterator[Row | _Stop], int | None]:
        """The decisions that fit, newest first, and how many there are."""
        if (single := self._single(db, selection, below)) is not None:
            fitting = [row for row in single if _fits(selection, row)]
            return iter(fitting), len(fitting)
        choice = _Choice(db, selection)
        return choice.newest(below), choice.total

    def _single(self, db: sqlite3.Connection, selection: Selection, below: int) -> list[Row] | None:
        """Decisions that may fit where one entry or receipt is asked for, newest first; None where none is."""
        if (number := exactly(selection, "number")) is not None:
            return self._among(db, _AT, number, below)
        receipt, name = exactly(selection, "receipt"), exactly(selection, "name")
        if receipt is None and name is None:
            return None
        found = receipt_of_name(receipt if receipt is not None else name or "")
        return [] if found is None else self._among(db, _OF_RECEIPT, found, below)

    def _events(self, db: sqlite3.Connection, selection: Selection, below: int, limit: int) -> tuple[Iterator[Row], int]:
        """The newest policy events that fit, and how many there are."""
        if (asked := _where(selection)) is None:
            return iter(()), 0
        where, values = asked
        total = int(db.execute(f"SELECT count(*) FROM events WHERE {where}", values).fetchone()[0])
        return self._of_events(db, f"{where} AND number < ? ORDER BY number DESC LIMIT ?", (*values, below, limit)), total

    def _of_events(self, db: sqlite3.Connection, where: str, values: Sequence[str | int]) -> Iterator[Row]:
        for number, *said in db.execute(f"SELECT number, {', '.join(EVENT_COLUMNS)} FROM events WHERE {where}", values):
            (data,) = db.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()
            yield Row(number, _event_traits(said), data)

    def _from(self, db: sqlite3.Connection, selection: Selection, start: int) -> Iterator[Row]:
        """Policy events that fit, oldest first."""
        if (asked := _where(selection)) is None:
            return iter(())
        return self._of_events(db, f"{asked[0]} AND number >= ? ORDER BY number", (*asked[1], start))

    def witnesses(self, number: int) -> list[Row]:
        """Events Notarised that say that they are about the entry at this index, the first ones; whether they are is for the reader."""
        with self._reading() as db:
            where = "number IN (SELECT number FROM witnesses WHERE entry = ?) ORDER BY number LIMIT ?"
            return list(self._of_events(db, where, (number, MAX_WITNESSES)))

    def beyond(self, selection: Selection, start: int) -> int:
        """How many entries from `start` on `after` may have to look at."""
        with self._reading() as db:
            if not only_events(selection):
                return self.size - start
            return int(db.execute("SELECT count(*) FROM events WHERE number >= ?", (start,)).fetchone()[0])

    def after(self, selection: Selection, start: int) -> tuple[list[Row], int]:
        """Entries that fit from index `start` on, oldest first, and where to go on: one step."""
        with self._reading() as db:
            events, size = self._from(db, selection, start), self.size
            if only_events(selection):
                rows, more = _bounded(events, STEP)
                return list(rows), size if more is None else more + 1
            end = min(size, start + STEP)
            decided = _Choice(db, selection).oldest("WHERE number >= ? AND number < ?", start, end)
            told: Iterator[Row] = takewhile(lambda row: row.number < end, events)
            rows, more = _bounded(heapq.merge(decided, told, key=lambda row: row.number), STEP)
            return list(rows), end if more is None else more + 1

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Everything read within is of one moment."""
        with self._noticing():
            db = self._db
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("COMMIT")

    def _among(self, db: sqlite3.Connection, query: str, value: bytes | str, below: int) -> list[Row]:
        if not (found := db.execute(query, (value, below)).fetchall()):
            return []
        everything = _Choice(db, ())
        return [row for one in found if (row := everything.row(*one)) is not None]

    def rows(self, selection: Selection = ()) -> Iterator[Row]:
        """All that fit, oldest first, of one moment: nobody else may read in this thread meanwhile."""
        if any(exactly(selection, trait) is not None for trait in SINGLE):
            yield from reversed(self.page(selection, 2).rows)
            return
        with self._reading() as db:
            decided = _Choice(db, selection).oldest("")
            yield from heapq.merge(decided, self._from(db, selection, 0), key=lambda row: row.number)


@dataclass(frozen=True)
class _Stop:
    """A page ends here: what lies before `number` was not looked at."""

    number: int


class _Said:
    """Whether decisions fit, by what their leaves say and by whose they are: of those that are alike it is found out once."""

    def __init__(self, selection: Selection, packs: Mapping[bytes, Sequence[str]]) -> None:
        of_leaf = tuple(requirement for requirement in selection if requirement.trait in _LEAF_TRAITS and not _every_leaf(requirement))
        of_pack = tuple(requirement for requirement in selection if requirement.trait not in (*_LEAF_TRAITS, *SINGLE))

        @lru_cache(KEPT)
        def by_leaf(shared: bytes) -> Traits | None:
            return found if holds(of_leaf, found := _leaf_traits(shared)) else None

        @lru_cache(KEPT)
        def by_pack(digest: bytes, home: str) -> Traits | None:
            return found if holds(of_pack, found := _pack_traits(digest, home, packs)) else None

        @lru_cache(KEPT)
        def by_both(shared: bytes, digest: bytes, home: str) -> Traits | None:
            if (of_its_pack := by_pack(digest, home)) is None or (of_itself := by_leaf(shared)) is None:
                return None
            return {**of_its_pack, **of_itself}

        self._by_leaf, self._by_pack, self.traits = by_leaf, by_pack, by_both
        self._every_leaf = not of_leaf
        kinds = tuple(requirement for requirement in of_leaf if requirement.trait == "kind")
        self._some_leaf = any(holds(kinds, {"kind": kind}) for kind in KINDS.values())
        by_digest = tuple(requirement for requirement in of_pack if requirement.trait == "packDigest")
        self._every_stranger = not by_digest
        others = tuple(requirement for requirement in of_pack if requirement.trait != "packDigest")
        asked = exactly(by_digest, "packDigest")
        self._some_stranger = holds(others, _pack_traits(b"", "", {})) and all(digest.hex() != asked for digest in packs)

    def may_fit(self, digest: bytes, home: str, shared: bytes) -> bool:
        """Of a shape whether its entries fit, of a rest whether some may."""
        by_pack = self._by_pack(digest, home) is not None if digest else self._some_stranger
        return by_pack and (self._by_leaf(shared) is not None if shared else self._some_leaf)

    def all_fit(self, digest: bytes) -> bool:
        """Whether all entries of a rest of which some may fit do."""
        return self._every_leaf and (bool(digest) or self._every_stranger)


class _Choice:
    """The decisions that a selection chooses, in one reading: shapes that fit, and rests of which entries may."""

    def __init__(self, db: sqlite3.Connection, selection: Selection) -> None:
        self._db = db
        packs = {digest: row for digest, *row in db.execute("SELECT digest, namespace, name, version FROM packs")}
        self._said = _Said(selection, packs)
        self._single = tuple(requirement for requirement in selection if requirement.trait in SINGLE)
        self._homes, self._rests, self._alike = dict[int, str](), set[int](), dict[int, Traits]()
        self._bounds = list[tuple[int, int, int]]()
        self.total: int | None = 0
        for shape, digest, home, shared, oldest, newest, entries in db.execute(
            "SELECT id, digest, home, shared, oldest, newest, entries FROM shapes WHERE entries > 0"
        ):
            if not self._said.may_fit(digest, home, shared):
                continue
            self._homes[shape] = home
            self._bounds.append((shape, oldest, newest))
            if not shared:
                self._rests.add(shape)
            looked_at = not shared and not self._said.all_fit(digest)
            self.total = None if looked_at or self.total is None else self.total + entries

    def row(self, number: int, shape: int, data: bytes) -> Row | None:
        """An entry, if it fits."""
        if (traits := self._alike.get(shape)) is None:
            home = self._homes.get(shape)
            if home is None or (traits := self._said.traits(data[_SHARED], data[_PACK], home)) is None:
                return None
            if shape not in self._rests:
                self._alike[shape] = traits
        row = Row(number, traits, data)
        return row if not self._single or _fits(self._single, row) else None

    def oldest(self, where: str, *values: int) -> Iterator[Row]:
        """Those that fit of entries in a range, oldest first."""
        if self._homes:
            for one in self._db.execute(f"SELECT number, shape, data FROM entries {where} ORDER BY number", values):
                if (row := self.row(*one)) is not None:
                    yield row

    def newest(self, below: int) -> Iterator[Row | _Stop]:
        """Those that fit below an index, newest first."""
        missed = 0
        for number, shape, data in self._in_order(below):
            if (row := self.row(number, shape, data)) is not None:
                yield row
                continue
            missed += 1
            if missed == MISSES:
                yield _Stop(number)
                return

    def _in_order(self, below: int) -> Iterator[tuple[int, int, bytes]]:
        """Entries of what was chosen, newest first. A shape is read when its newest entry may be the next."""
        unread: Iterator[tuple[int, bytes]] | None = None
        waiting = [(-min(newest, below - 1), shape, unread, b"") for shape, oldest, newest in self._bounds if oldest < below]
        heapq.heapify(waiting)
        while waiting:
            at, shape, entries, data = waiting[0]
            if entries is None:
                entries = self._db.execute(_NEWEST, (shape, below))
            else:
                yield -at, shape, data
            if (found := next(entries, None)) is None:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (-found[0], shape, entries, found[1]))


class _Taking:
    """One transaction's work: entries to rows, what they tell of packs and rings beside."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._ids = dict[tuple[bytes, str, bytes], int]()
        self._own = dict[tuple[bytes, str], int]()
        self._counts, self._newest = dict[int, int](), dict[int, int]()
        self._packs = {bytes(digest): str(namespace) for digest, namespace in db.execute("SELECT digest, namespace FROM packs")}
        self._sources = {bytes(source): str(namespace) for source, namespace in db.execute("SELECT source, namespace FROM sources")}
        self._learned, self._named = dict[bytes, str](), list[bytes]()

    def row(self, number: int, entry: bytes) -> tuple[int, int, bytes]:
        if len(entry) != LEAF_SIZE or entry[0] != 1:
            return number, NO_SHAPE, self._event(number, entry)
        digest, home = entry[_PACK], ""
        if any(digest):
            namespace = self._packs.get(digest)
            if namespace and entry[_SOURCE] not in self._sources:
                self._sources[entry[_SOURCE]] = self._learned[entry[_SOURCE]] = namespace
        else:
            home = self._sources.get(entry[_SOURCE], "")
        if (digest, home, entry[_SHARED]) not in self._ids:
            parse_leaf(entry, f"entry {number}")
        shape = self._shape(digest, home, entry[_SHARED], number)
        self._counts[shape] = self._counts.get(shape, 0) + 1
        self._newest[shape] = number
        return number, shape, entry

    def _shape(self, digest: bytes, home: str, shared: bytes, number: int) -> int:
        """Of an entry at an index, or (shared b"") the rest that it is in."""
        asked = digest, home, shared
        if (known := self._ids.get(asked)) is None:
            known = self._ids[asked] = self._found(*asked) or self._new(digest, home, shared, number)
        return known

    def _found(self, digest: bytes, home: str, shared: bytes) -> int:
        found = self._db.execute("SELECT id FROM shapes WHERE digest = ? AND home = ? AND shared = ?", (digest, home, shared)).fetchone()
        return 0 if found is None else int(found[0])

    def _new(self, digest: bytes, home: str, shared: bytes, number: int) -> int:
        """A shape of its own while its pack has room for one; else the rest."""
        stranger = digest not in self._packs and digest != _NO_PACK
        owner, room = ((b"", ""), STRANGERS) if stranger else ((digest, home), OWN)
        if shared:
            if owner not in self._own:
                self._own[owner] = self._count(owner)
            if self._own[owner] >= room:
                return self._shape(*owner, b"", number)
            self._own[owner] += 1
        made = self._db.execute(
            "INSERT INTO shapes (digest, home, shared, oldest, newest) VALUES (?, ?, ?, ?, ?)", (digest, home, shared, number, number)
        )
        return int(made.lastrowid or 0)

    def _count(self, owner: tuple[bytes, str]) -> int:
        """Shapes of its own that a pack has, or all have that no event names."""
        where = "digest = ? AND home = ?" if owner[0] else "digest NOT IN (SELECT digest FROM packs UNION VALUES (?)) AND home = ?"
        values = owner if owner[0] else (_NO_PACK, "")
        return int(self._db.execute(f"SELECT count(*) FROM shapes WHERE {where} AND shared != x''", values).fetchone()[0])

    def _event(self, number: int, entry: bytes) -> bytes:
        """The statement of a policy event, which is found from now on, as are packs that it names."""
        where = f"entry {number}"
        document = parse_json(entry, where)
        try:
            statement = unb64(document["dsseEnvelope"]["payload"], f"{where} payload")
            told = json.loads(statement)
            predicate, subject = told["predicate"], told["subject"][0]
            event, time = str(predicate["kind"]), str(predicate.get("time", ""))
            traits = {
                "event": event,
                "time": time,
                **_subject(str(subject["name"])),
                **named(predicate),
                "packDigest": pack_digest(predicate),
            }
            pack: Mapping[str, Any] = predicate.get("pack") or {}
            if pack:
                self._knows(bytes.fromhex(str(pack["digest"]).removeprefix("sha256:"))[:20], pack)
                traits |= {"namespace": str(pack["namespace"]), "version": str(pack["version"])}
            elif str(subject["name"]).startswith("pack/"):
                self._knows(bytes.fromhex(subject["digest"]["sha256"])[:20], {**traits, "name": traits["pack"]})
                traits |= {"packDigest": str(subject["digest"]["sha256"])[:40]}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise Bad(where, f"is no policy event: {error!r}") from error
        if event == NOTARISED:
            self._witnesses(number, predicate)
        traits |= {"name": receipt_name(event, number), "actorLabel": label_value(traits["actor"]) if "actor" in traits else ""}
        self._db.execute(_INSERT_EVENT, (number, *(traits.get(column, "") for column in EVENT_COLUMNS)))
        return statement

    def _witnesses(self, number: int, predicate: Mapping[str, Any]) -> None:
        entry = (predicate.get("evidence") or {}).get("logIndex")
        if type(entry) is int and 0 <= entry < number:
            self._db.execute("INSERT INTO witnesses VALUES (?, ?)", (entry, number))

    def _knows(self, digest: bytes, pack: Mapping[str, Any]) -> None:
        if len(digest) == 20 and digest not in self._packs:
            row = (digest, str(pack["namespace"]), str(pack["name"]), str(pack["version"]))
            self._packs[digest] = row[1]
            self._named.append(digest)
            self._db.execute("INSERT INTO packs VALUES (?, ?, ?, ?)", row)

    def finish(self) -> None:
        """Writes counts, and brings home what a ring wrote before it was known whose it is."""
        taken = [(n, self._newest[shape], shape) for shape, n in self._counts.items()]
        self._db.executemany("UPDATE shapes SET entries = entries + ?, newest = ? WHERE id = ?", taken)
        for digest in self._named:
            self._move(STRANGERS_REST, (digest, "", b""), "strangers_by_pack", "substr(data, 73, 20) = ?", digest)
        for source, namespace in self._learned.items():
            self._db.execute("INSERT INTO sources VALUES (?, ?)", (source, namespace))
            self._bring_home(source, namespace)

    def _bring_home(self, source: bytes, namespace: str) -> None:
        of_ring = "length(data) = 118 AND substr(data, 101, 16) BETWEEN ? AND ?"
        ring = source + bytes(8), source + b"\xff" * 8
        homeless = self._db.execute(
            "SELECT id, shared FROM shapes WHERE digest = ? AND home = '' AND id IN "
            f"(SELECT shape FROM entries INDEXED BY entries_by_receipt WHERE {of_ring})",
            (_NO_PACK, *ring),
        ).fetchall()
        for shape, shared in homeless:
            self._move(shape, (_NO_PACK, namespace, shared), "entries_by_receipt", of_ring, *ring)

    def _move(self, shape: int, into: tuple[bytes, str, bytes], by: str, where: str, *values: bytes) -> None:
        """Brings those entries of one shape into another, as an index finds them: that of shapes would read all of the shape."""
        found = f"entries INDEXED BY {by}", f"WHERE shape = {shape} AND {where}"
        selected = f"SELECT count(*), min(number), max(number) FROM {' '.join(found)}"
        entries, oldest, newest = self._db.execute(selected, values).fetchone()
        if not entries:
            return
        home = self._shape(*into, oldest)
        self._db.execute(f"UPDATE {found[0]} SET shape = ? {found[1]}", (home, *values))
        self._db.execute("UPDATE shapes SET entries = entries - ? WHERE id = ?", (entries, shape))
        self._db.execute(
            "UPDATE shapes SET entries = entries + ?, oldest = min(oldest, ?), newest = max(newest, ?) WHERE id = ?",
            (entries, oldest, newest, home),
        )


def _subject(name: str) -> dict[str, str]:
    """Namespace of the subject `KIND/NAMESPACE/NAME[@VERSION]` of a policy event, and of a pack more."""
    kind, _, rest = name.partition("/")
    namespace, _, rest = rest.partition("/")
    named, _, version = rest.partition("@")
    return {"namespace": namespace if rest else "", **({"pack": named, "version": version} if kind == "pack" else {})}


def _pack_traits(digest: bytes, home: str, packs: Mapping[bytes, Sequence[str]]) -> Traits:
    namespace, name, version = packs.get(digest, (home, "", ""))
    return {"namespace": namespace, "pack": name, "version": version, "packDigest": digest.hex() if any(digest) else ""}


def _leaf_traits(shared: bytes) -> Traits:
    return {
        "kind": KINDS[shared[1]],
        "class": CLASSES[shared[2]],
        "verdict": VERDICTS[shared[3]],
        "mode": MODES[shared[4]],
        "arm": "candidate" if shared[5] & 1 else "stable",
        "region": str(int.from_bytes(shared[6:8], "big")),
        **{flag: "true" if shared[5] >> bit & 1 else "false" for bit, flag in enumerate(FLAGS, 1)},
    }


def _event_traits(said: Sequence[str]) -> Traits:
    return {"kind": POLICY, **dict(zip(EVENT_COLUMNS, said, strict=True))}


def _bounded(rows: Iterator[Row | _Stop], limit: int) -> tuple[tuple[Row, ...], int | None]:
    """At most so many rows, of at most PAGE_BYTES but for the first, and where to go on when there may be more."""
    found, taken = list[Row](), 0
    for row in rows:
        if isinstance(row, _Stop):
            return tuple(found), row.number
        taken += len(row.data)
        if found and (len(found) == limit or taken > PAGE_BYTES):
            return tuple(found), found[-1].number
        found.append(row)
    return tuple(found), None


def _where(selection: Selection) -> tuple[str, tuple[str, ...]] | None:
    """The condition for rows of table events, with its values; None when no policy event fits."""
    own = [requirement for requirement in selection if requirement.trait in ("number", *EVENT_COLUMNS)]
    if not holds(tuple(requirement for requirement in selection if requirement not in own), {"kind": POLICY}):
        return None
    if (number := exactly(selection, "number")) is not None and not _INDEX.fullmatch(number):
        return None  # SQLite would take 007 and 1e1 for numbers
    conditions = [_condition(requirement) for requirement in own]
    return " AND ".join(["1", *(text for text, _ in conditions)]), tuple(value for _, values in conditions for value in values)


def _condition(requirement: Requirement) -> tuple[str, tuple[str, ...]]:
    trait, values, no = requirement.trait, tuple(sorted(requirement.values)), "" if requirement.wanted else "NOT "
    if requirement.present:
        return f"{no}({trait} != '')", ()
    if trait == INTERVAL:
        (value,) = values
        return f"{no}(substr({trait}, 1, length(?)) = ?)", (value, value)
    return f"{no}({trait} IN ({', '.join('?' * len(values))}))", values


def _fits(selection: Selection, row: Row) -> bool:
    own = {**row.traits, "name": row.name, "receipt": row.data[_RECEIPT].hex(), "number": str(row.number)}
    return holds(selection, own)


def _every_leaf(requirement: Requirement) -> bool:
    """Whether it holds of every leaf, for none is a policy event."""
    return requirement.trait == "kind" and all(requirement.holds({"kind": kind}) for kind in KINDS.values())


def decisions() -> Requirement:
    """What is no policy event."""
    return Requirement("kind", frozenset((POLICY,)), wanted=False)


def policy_events() -> Requirement:
    return equal("kind", POLICY)


def only_events(selection: Selection) -> bool:
    return exactly(selection, "kind") == POLICY
