"""An index over the entries of a log, in one SQLite file: pages of receipts by what they say, newest first.

It is derived: whatever is wrong with it, it is made anew from the log, and who wants proof takes it from the log. Entries that are alike
in all that can be asked for (all but time, hashes and receipt id) share one *shape*, of which there are few. So a selector, whatever it
combines, is held against shapes, and a page is the merge of their newest entries: no page reads more than its own rows and one row of
each shape that fits. Policy events, which are few, and each different, stand in a table of their own.

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

VERSION = 4
BATCH = 1 << 14  # entries in one transaction
STRANGERS = 256  # digests that no event names, and
REGIONS = 16  # regions of a pack, each by itself; the others are one, so that nobody's made-up leaves make more shapes than a page can read
OTHER, POLICY, NO_SHAPE = "other", "POLICY", 0
CACHE_KIB = 8 << 10  # of each thread
TABLES = ("log", "shapes", "packs", "sources", "entries", "events", "witnesses")
EVENT_COLUMNS = ("namespace", "name", *EVENT_TRAITS, "actorLabel", "time")
PAGE_BYTES = 4 << 20  # of statements in an answer; an entry has at most 64 KiB
MAX_WITNESSES = 8  # of an entry; there is one
ENTRY_BYTES = 170  # that an entry takes of the file
STEP = 2048  # entries that are looked at in one step of what follows them
_PACK, _RECEIPT, _SOURCE = slice(72, 92), slice(100, 116), slice(100, 108)
_OTHER_PACK, _OTHER_REGION = b"\xff" * 20, b"\xff" * 2
_SCHEMA = f"""
CREATE TABLE log (origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, born TEXT NOT NULL);
CREATE TABLE shapes (id INTEGER PRIMARY KEY, key BLOB NOT NULL, home TEXT NOT NULL, entries INTEGER NOT NULL DEFAULT 0, UNIQUE (key, home));
CREATE TABLE packs (digest BLOB PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (source BLOB PRIMARY KEY, namespace TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (number INTEGER PRIMARY KEY, shape INTEGER NOT NULL, data BLOB NOT NULL); -- shape 0: of a policy event
CREATE INDEX entries_by_shape ON entries (shape);
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
    """Rows, newest first; `size`: entries of the log then; `total`: how many of all fit; `more`: `before` of the next page."""

    rows: tuple[Row, ...]
    size: int
    total: int
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
            merged = heapq.merge(*decisions, events, key=lambda row: row.number, reverse=True)
            rows, more = _bounded(merged, limit)
            return Page(rows, size, so_many + more_of_them, more)

    def _decisions(self, db: sqlite3.Connection, selection: Selection, below: int) -> tuple[list[Iterator[Row]], int]:
        """Streams of the decisions that fit, each newest first, and how many there are."""
        if (single := self._single(db, selection, below)) is not None:
            fitting = [row for row in single if _fits(selection, row)]
            return [iter(fitting)], len(fitting)
        shapes = [(shape, traits, entries) for shape, traits, entries in self._shapes(db) if holds(selection, traits)]
        return [self._newest(db, shape, traits, below) for shape, traits, _ in shapes], sum(entries for _, _, entries in shapes)

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
            shapes = {shape: traits for shape, traits, _ in self._shapes(db) if holds(selection, traits)}
            found = db.execute("SELECT number, shape, data FROM entries WHERE number >= ? AND number < ? ORDER BY number", (start, end))
            decided = (Row(number, shapes[shape], data) for number, shape, data in found if shape in shapes)
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
        found = db.execute(query, (value, below)).fetchall()
        traits = {shape: traits for shape, traits, _ in self._shapes(db)} if found else {}
        return [Row(number, traits[shape], data) for number, shape, data in found]

    def _newest(self, db: sqlite3.Connection, shape: int, traits: Traits, below: int) -> Iterator[Row]:
        for number, data in db.execute(_NEWEST, (shape, below)):
            yield Row(number, traits, data)

    def _shapes(self, db: sqlite3.Connection) -> list[tuple[int, Traits, int]]:
        packs = {digest: row for digest, *row in db.execute("SELECT digest, namespace, name, version FROM packs")}
        rows = db.execute("SELECT id, key, home, entries FROM shapes WHERE entries > 0")
        return [(shape, _traits(key, home, packs), entries) for shape, key, home, entries in rows]

    def rows(self, selection: Selection = ()) -> Iterator[Row]:
        """All that fit, oldest first, of one moment: nobody else may read in this thread meanwhile."""
        if any(exactly(selection, trait) is not None for trait in SINGLE):
            yield from reversed(self.page(selection, 2).rows)
            return
        with self._reading() as db:
            traits = {shape: found for shape, found, _ in self._shapes(db) if holds(selection, found)}
            events = self._from(db, selection, 0)
            entries = db.execute("SELECT number, shape, data FROM entries ORDER BY number") if traits else ()
            decided = (Row(number, traits[shape], data) for number, shape, data in entries if shape in traits)
            yield from heapq.merge(decided, events, key=lambda row: row.number)


class _Taking:
    """One transaction's work: entries to rows, what they tell of packs and rings beside."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._ids = dict[tuple[bytes, str], int]()
        self._counts = dict[int, int]()
        self._packs = {bytes(digest): str(namespace) for digest, namespace in db.execute("SELECT digest, namespace FROM packs")}
        self._sources = {bytes(source): str(namespace) for source, namespace in db.execute("SELECT source, namespace FROM sources")}
        self._learned = dict[bytes, str]()
        self._regions = dict[bytes, set[bytes]]()
        for region, digest in db.execute(
            "SELECT DISTINCT substr(key, 7, 2), substr(key, 9) FROM shapes WHERE length(key) = 28 AND substr(key, 1, 1) = x'01'"
        ):
            self._regions.setdefault(bytes(digest), set()).add(bytes(region))
        self._strangers = len(self._regions.keys() - self._packs.keys())

    def row(self, number: int, entry: bytes) -> tuple[int, int, bytes]:
        if len(entry) != LEAF_SIZE or entry[0] != 1:
            return number, NO_SHAPE, self._event(number, entry)
        key, home = self._key(entry), ""
        if any(entry[_PACK]):
            namespace = self._packs.get(entry[_PACK])
            if namespace and entry[_SOURCE] not in self._sources:
                self._sources[entry[_SOURCE]] = self._learned[entry[_SOURCE]] = namespace
        else:
            home = self._sources.get(entry[_SOURCE], "")
        if (key, home) not in self._ids:
            parse_leaf(entry, f"entry {number}")
        return number, self._count(self._shape(key, home)), entry

    def _key(self, entry: bytes) -> bytes:
        """What a leaf shares with others: its digest and its region as they are while there are few."""
        digest, region = entry[_PACK], entry[6:8]
        if region in self._regions.get(digest, ()):
            return entry[:8] + digest
        if digest not in self._regions and digest not in self._packs and any(digest):
            if self._strangers >= STRANGERS:
                return entry[:6] + _OTHER_REGION + _OTHER_PACK
            self._strangers += 1
        regions = self._regions.setdefault(digest, set())
        if len(regions) >= REGIONS:
            return entry[:6] + _OTHER_REGION + digest
        regions.add(region)
        return entry[:8] + digest

    def _shape(self, key: bytes, home: str) -> int:
        if (key, home) not in self._ids:
            self._db.execute("INSERT OR IGNORE INTO shapes (key, home) VALUES (?, ?)", (key, home))
            found = self._db.execute("SELECT id FROM shapes WHERE key = ? AND home = ?", (key, home)).fetchone()
            self._ids[key, home] = int(found[0])
        return self._ids[key, home]

    def _count(self, shape: int) -> int:
        self._counts[shape] = self._counts.get(shape, 0) + 1
        return shape

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
            self._db.execute("INSERT INTO packs VALUES (?, ?, ?, ?)", row)

    def finish(self) -> None:
        """Writes counts, and brings home what a ring wrote before it was known whose it is."""
        self._db.executemany("UPDATE shapes SET entries = entries + ? WHERE id = ?", [(n, shape) for shape, n in self._counts.items()])
        for source, namespace in self._learned.items():
            self._db.execute("INSERT INTO sources VALUES (?, ?)", (source, namespace))
            self._bring_home(source, namespace)

    def _bring_home(self, source: bytes, namespace: str) -> None:
        homeless = self._db.execute(
            "SELECT e.shape, s.key, count(*) FROM entries e JOIN shapes s ON s.id = e.shape WHERE length(e.data) = 118 AND "
            "substr(e.data, 101, 16) BETWEEN ? AND ? AND s.home = '' AND substr(s.key, 9) = zeroblob(20) GROUP BY e.shape",
            (source + bytes(8), source + b"\xff" * 8),
        ).fetchall()
        for shape, key, entries in homeless:
            home = self._shape(bytes(key), namespace)
            self._db.execute(
                "UPDATE entries SET shape = ? WHERE length(data) = 118 AND substr(data, 101, 16) BETWEEN ? AND ? AND shape = ?",
                (home, source + bytes(8), source + b"\xff" * 8, shape),
            )
            self._db.execute("UPDATE shapes SET entries = entries - ? WHERE id = ?", (entries, shape))
            self._db.execute("UPDATE shapes SET entries = entries + ? WHERE id = ?", (entries, home))


def _subject(name: str) -> dict[str, str]:
    """Namespace of the subject `KIND/NAMESPACE/NAME[@VERSION]` of a policy event, and of a pack more."""
    kind, _, rest = name.partition("/")
    namespace, _, rest = rest.partition("/")
    named, _, version = rest.partition("@")
    return {"namespace": namespace if rest else "", **({"pack": named, "version": version} if kind == "pack" else {})}


def _traits(key: bytes, home: str, packs: Mapping[bytes, Sequence[str]]) -> Traits:
    digest = key[8:]
    namespace, name, version = packs.get(digest, (home, "", ""))
    flags = {flag: "true" if key[5] >> bit & 1 else "false" for bit, flag in enumerate(FLAGS, 1)}
    return {
        "namespace": namespace,
        "pack": name,
        "version": version,
        "packDigest": (OTHER if digest == _OTHER_PACK else digest.hex()) if any(digest) else "",
        "kind": KINDS[key[1]],
        "class": CLASSES[key[2]],
        "verdict": VERDICTS[key[3]],
        "mode": MODES[key[4]],
        "arm": "candidate" if key[5] & 1 else "stable",
        "region": OTHER if key[6:8] == _OTHER_REGION else str(int.from_bytes(key[6:8], "big")),
        **flags,
    }


def _event_traits(said: Sequence[str]) -> Traits:
    return {"kind": POLICY, **dict(zip(EVENT_COLUMNS, said, strict=True))}


def _bounded(rows: Iterator[Row], limit: int) -> tuple[tuple[Row, ...], int | None]:
    """At most so many rows, of at most PAGE_BYTES but for the first, and the number of the last when there are more."""
    found, taken = list[Row](), 0
    for row in rows:
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


def decisions() -> Requirement:
    """What is no policy event."""
    return Requirement("kind", frozenset((POLICY,)), wanted=False)


def policy_events() -> Requirement:
    return equal("kind", POLICY)


def only_events(selection: Selection) -> bool:
    return exactly(selection, "kind") == POLICY
