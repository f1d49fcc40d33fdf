"""Recorded decisions as rows of the Δ log, and its plans and commits (formats/delta.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from knhk.model.delta import Row
from knhk.model.faults import Corrupt
from knhk_runtime.envelope import NOBODY, parse_envelope
from knhk_runtime.record import LAST_NS, Record, entry_key, leaf_digest, parse_action, parse_observation, parse_record
from knhk_verify.leaf import CLASSES, KINDS, MODES, VERDICTS, parse_leaf
from knhk_verify.signed import canonical

PLANS, COMMITS = "_plans", "_commits"
Place = tuple[int, int]  # segment and offset of an outbox
Ranges = tuple[tuple[int, int], ...]  # first and last index in the log, ascending
Index = Mapping[bytes, tuple[int, bytes]]  # idempotency key → index in the log, digest of the leaf there


@dataclass(frozen=True)
class Framed:
    """A record and where it lies."""

    source: str
    segment: int
    offset: int
    record: Record

    @property
    def where(self) -> str:
        return f"{self.source}/{self.segment:016x}.seg offset {self.offset}"


@dataclass(frozen=True)
class File:
    """A segment as its commit tells it; `first`, `last`: least and greatest index in the log, -1 when it has none."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first: int
    last: int


@dataclass(frozen=True)
class Commit:
    number: int
    origin: str
    sources: Mapping[str, Place]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Plan:
    number: int
    ranges: Mapping[str, tuple[Place, Place]]
    erase: Mapping[str, Ranges] = field(default_factory=dict)


def framed(source: str, segment: int, offset: int, frames: bytes) -> Iterator[Framed]:
    """The records of whole, checked frames that begin at a place. Raises Bad."""
    at = 0
    while at < len(frames):
        end = at + 8 + int.from_bytes(frames[at : at + 4], "big")
        where = f"{source}/{segment:016x}.seg offset {offset + at}"
        yield Framed(source, segment, offset + at, parse_record(frames[at + 8 : end], where))
        at = end


def keys_of(record: Record) -> list[bytes]:
    """Idempotency keys of its leaves."""
    return [entry_key(leaf) for leaf in record.leaves]


def point_of(source: str) -> str:
    """NAMESPACE/NAME of the point whose agent wrote an outbox; empty when its name does not say."""
    namespace, dot, name = source.partition("~")[0].partition(".")
    return f"{namespace}/{name}" if dot else ""


def rows_of(found: Framed, index: Index) -> Iterator[Row]:
    """A row for each leaf of a record. Raises Bad."""
    record = found.record
    plain = not record.erased and not record.sealed
    seen = parse_observation(record.observation, f"{found.where} O") if plain else None
    tag = parse_envelope(record.observation, f"{found.where} O").tag if record.sealed else NOBODY
    attributes = dict(seen.attributes) if seen else {}
    for data, a in zip(record.leaves, record.actions, strict=True):
        leaf = parse_leaf(data, found.where)
        at = index.get(entry_key(data))
        action = parse_action(a, f"{found.where} A") if a and not record.erased else None
        yield Row(
            log_index=at[0] if at and at[1] == leaf_digest(data) else None,
            receipt=leaf.receipt_id.hex(),
            time=leaf.time_ns // 1000,
            time_ns=min(leaf.time_ns, LAST_NS),
            kind=KINDS[leaf.kind],
            verdict=VERDICTS[leaf.verdict] if leaf.verdict else "",
            class_=CLASSES[leaf.klass] if leaf.klass else "",
            mode=MODES[leaf.mode],
            arm="candidate" if leaf.flags & 1 else "stable",
            stale=bool(leaf.flags & 2),
            cached=bool(leaf.flags & 4),
            brownout=bool(leaf.flags & 8),
            fail_open=bool(leaf.flags & 16),
            resumed=bool(leaf.flags & 32),
            pack=leaf.pack.hex() if any(leaf.pack) else "",
            point=point_of(found.source),
            route=seen.route if seen else None,
            actor=attributes.get("sub") or attributes.get("peer"),
            key="" if record.erased else f"{record.cluster:016x}",
            bundle=_digest(seen.bundle) if seen else None,
            evaluator=_digest(seen.evaluator) if seen else None,
            guards=action.guards if action else None,
            failing=action.failing if action else None,
            leaf=data,
            salt=record.salt if plain else None,
            observation=None if record.erased else record.observation,
            action=None if record.erased or not a else a,
            sealed=record.sealed,
            subject=tag.hex() if tag != NOBODY else None,
            erased=record.erased,
            source=found.source,
            segment=found.segment,
            offset=found.offset,
        )


def record_of(row: Row) -> Record:
    """The record of one leaf that a row holds."""
    cluster = int(row.key, 16) if row.key else 0
    salt, observation, action = row.salt or bytes(16), row.observation or b"", row.action or b""
    lost = row.erased or row.observation is None
    return Record(lost, cluster, salt, (row.leaf,), observation, (action,), row.sealed and not lost)


def erased(row: Row) -> Row:
    """A row without what was recorded."""
    return row._replace(salt=None, observation=None, action=None, actor=None, route=None, subject=None, key="", sealed=False, erased=True)


def ranges_of(indexes: Iterable[int]) -> Ranges:
    """Of indexes in any order."""
    found = list[list[int]]()
    for index in sorted(set(indexes)):
        if found and found[-1][1] == index - 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return tuple((first, last) for first, last in found)


def indexes_of(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    for first, last in ranges:
        yield from range(first, last + 1)


def _digest(found: bytes) -> str:
    return found.hex() if any(found) else ""


def partition(row: Row, regions: Sequence[str]) -> str:
    """Folder of a row's segment."""
    number = int.from_bytes(row.leaf[6:8], "big")
    region = regions[number] if number < len(regions) else f"region-{number}"
    return f"region={region}/{datetime.fromtimestamp(row.time_ns // 10**9, UTC):date=%Y-%m-%d/hour=%H}"


# ---- plans and commits ------------------------------------------------------------------------


def plan_key(number: int) -> str:
    return f"{PLANS}/{number:016x}.json"


def commit_key(number: int) -> str:
    return f"{COMMITS}/{number:016x}.json"


def plan_bytes(plan: Plan) -> bytes:
    ranges = {source: [list(start), list(end)] for source, (start, end) in plan.ranges.items()}
    erase = {"erase": {path: [list(each) for each in ranges] for path, ranges in plan.erase.items()}} if plan.erase else {}
    return canonical({"version": 1, "number": plan.number, "ranges": ranges, **erase})


def commit_bytes(commit: Commit) -> bytes:
    files = [vars(file) for file in commit.files]
    sources = {source: list(place) for source, place in commit.sources.items()}
    return canonical({"version": 1, "number": commit.number, "origin": commit.origin, "sources": sources, "files": files})


def parse_plan(data: bytes, where: str, number: int) -> Plan:
    """Raises Corrupt."""
    found = _document(data, where, number)
    try:
        erase = {path: tuple(_place(each) for each in ranges) for path, ranges in found.get("erase", {}).items()}
        return Plan(number, {source: (_place(start), _place(end)) for source, (start, end) in found["ranges"].items()}, erase)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(where, f"is no plan of the Δ log: {error}") from error


def parse_commit(data: bytes, where: str, number: int) -> Commit:
    """Raises Corrupt."""
    found = _document(data, where, number)
    try:
        files = tuple(File(**{name: file[name] for name in File.__dataclass_fields__}) for file in found["files"])
        return Commit(number, found["origin"], {source: _place(place) for source, place in found["sources"].items()}, files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(where, f"is no commit of the Δ log: {error}") from error


def _document(data: bytes, where: str, number: int) -> Any:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Corrupt(where, f"is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("version") != 1 or found.get("number") != number:
        raise Corrupt(where, f"must be of version 1 and number {number}")
    return found


def _place(found: Any) -> Place:
    segment, offset = found
    return int(segment), int(offset)
