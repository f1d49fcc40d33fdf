"""Recorded decisions as rows of the Δ log, and its plans and commits (formats/delta.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

from knhk.model.delta import Row
from knhk.model.faults import Corrupt
from knhk_runtime.envelope import NOBODY, parse_envelope
from knhk_runtime.record import (
    LAST_NS,
    NO_ACTION,
    Record,
    entry_key,
    h_a,
    h_o,
    leaf_digest,
    parse_action,
    parse_observation,
    parse_record,
)
from knhk_verify.leaf import CLASSES, KINDS, MODES, VERDICTS, parse_leaf
from knhk_verify.signed import canonical

PLANS, COMMITS, SNAPSHOTS, REPLACED, ENDS = "_plans", "_commits", "_snapshots", "_replaced", "_ends"
HOUR_NS = 3600 * 10**9
UNTOLD_BYTES = 64 << 20  # in memory, at most, of a segment whose commit does not tell: those of before were made of 32 MiB of frames
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
    """A segment as its commit tells it; `first`, `last`: least and greatest index in the log, -1 when it has none; `decoded`: bytes of its
    columns in memory, about."""

    path: str
    rows: int
    bytes: int
    sha256: str
    first: int
    last: int
    decoded: int = UNTOLD_BYTES


@dataclass(frozen=True)
class Commit:
    """`time_ns`: when what it takes away was planned; 0: nothing was, or it is not told."""

    number: int
    origin: str
    sources: Mapping[str, Place]
    files: tuple[File, ...]
    time_ns: int = 0


@dataclass(frozen=True)
class Plan:
    """Records to archive, or segments to rewrite: without the rows that are named, or, when none is, as they are (a merge)."""

    number: int
    ranges: Mapping[str, tuple[Place, Place]]
    erase: Mapping[str, Ranges] = field(default_factory=dict)
    time_ns: int = 0

    @property
    def merges(self) -> bool:
        return bool(self.erase) and not any(self.erase.values())


@dataclass(frozen=True)
class Contents:
    """An archive as of commit `number`. `files`: what is there, by path; `gone`: when (time of the plan) a segment was taken away that
    readers may still be at."""

    number: int = -1
    origin: str = ""
    sources: Mapping[str, Place] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)

    def after(self, commits: Iterable[Commit]) -> Contents:
        """As of the last of these, which follow: of one path the later entry counts."""
        made, files, gone = self, dict(self.files), dict(self.gone)
        for commit in commits:
            for file in commit.files:
                files.pop(file.path, None)
                gone.pop(file.path, None)
                if file.rows:
                    files[file.path] = file
                else:
                    gone[file.path] = commit.time_ns
            made = Contents(commit.number, commit.origin, commit.sources, files, gone)
        return made

    def without(self, paths: Iterable[str]) -> Contents:
        """Nobody is at these any more."""
        left = set(paths)
        return replace(self, gone={path: time_ns for path, time_ns in self.gone.items() if path not in left})


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


def is_logged(leaf: bytes, index: Index) -> bool:
    """Whether the log has this very leaf."""
    at = index.get(entry_key(leaf))
    return at is not None and at[1] == leaf_digest(leaf)


def rows_of(found: Framed, index: Index) -> Iterator[Row]:
    """A row for each leaf of a record. One whose O or A is not what its leaf commits to is no evidence, and has no index; of sealed ones
    replay tells. Raises Bad."""
    record = found.record
    plain = not record.erased and not record.sealed
    observed = h_o(record.salt, record.observation) if plain else b""
    seen = parse_observation(record.observation, f"{found.where} O") if plain else None
    tag = parse_envelope(record.observation, f"{found.where} O").tag if record.sealed else NOBODY
    attributes = dict(seen.attributes) if seen else {}
    for data, a in zip(record.leaves, record.actions, strict=True):
        leaf = parse_leaf(data, found.where)
        is_true = not plain or (leaf.h_o, leaf.h_a) == (observed, h_a(record.salt, a) if KINDS[leaf.kind] == "DECISION" else NO_ACTION)
        action = parse_action(a, f"{found.where} A") if a and not record.erased else None
        yield Row(
            log_index=index[entry_key(data)][0] if is_true and is_logged(data, index) else None,
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
    return f"region={region}/{_hour(row.time_ns // HOUR_NS)}"


@lru_cache(4096)
def _hour(number: int) -> str:
    """Folder of an hour, counted from 1970."""
    return f"{datetime.fromtimestamp(number * 3600, UTC):date=%Y-%m-%d/hour=%H}"


# ---- plans and commits ------------------------------------------------------------------------


def plan_key(number: int) -> str:
    return f"{PLANS}/{number:016x}.json"


def commit_key(number: int) -> str:
    return f"{COMMITS}/{number:016x}.json"


def snapshot_key(number: int) -> str:
    return f"{SNAPSHOTS}/{number:016x}.json"


def replaced_key(path: str) -> str:
    """Where a segment that was merged into another lies for those who are at it."""
    return f"{REPLACED}/{path}"


def end_key(source: str) -> str:
    """Names of sources are longer than a key may be."""
    return f"{ENDS}/{sha256(source.encode()).hexdigest()}.json"


def number_of(key: str) -> int | None:
    """Of a plan, commit or snapshot."""
    name = key.rpartition("/")[2]
    return int(name[:16], 16) if re.fullmatch(r"[0-9a-f]{16}\.json", name) else None


def plan_bytes(plan: Plan) -> bytes:
    ranges = {source: [list(start), list(end)] for source, (start, end) in plan.ranges.items()}
    erase = {"erase": {path: [list(each) for each in ranges] for path, ranges in plan.erase.items()}} if plan.erase else {}
    return canonical({"version": 1, "number": plan.number, "ranges": ranges, **erase, **_time(plan.time_ns)})


def commit_bytes(commit: Commit) -> bytes:
    said = {"version": 1, "number": commit.number, "origin": commit.origin, "sources": _listed(commit.sources)}
    return canonical({**said, "files": [vars(file) for file in commit.files], **_time(commit.time_ns)})


def snapshot_bytes(contents: Contents) -> bytes:
    said = {"version": 1, "number": contents.number, "origin": contents.origin, "sources": _listed(contents.sources)}
    files = [vars(contents.files[path]) for path in sorted(contents.files)]
    return canonical({**said, "files": files, "gone": dict(contents.gone)})


def end_bytes(source: str, place: Place) -> bytes:
    return canonical({"version": 1, "source": source, "end": list(place)})


def parse_end(data: bytes, where: str) -> Place:
    """Raises Corrupt."""
    try:
        return _place(json.loads(data)["end"])
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(where, f"must say where an outbox ended: {error}") from error


def parse_plan(data: bytes, where: str, number: int) -> Plan:
    """Raises Corrupt."""
    found = _document(data, where, number)
    try:
        erase = {path: tuple(_place(each) for each in ranges) for path, ranges in found.get("erase", {}).items()}
        ranges = {source: (_place(start), _place(end)) for source, (start, end) in found["ranges"].items()}
        return Plan(number, ranges, erase, int(found.get("time_ns", 0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(where, f"is no plan of the Δ log: {error}") from error


def parse_commit(data: bytes, where: str, number: int) -> Commit:
    """Raises Corrupt."""
    found = _document(data, where, number)
    try:
        return Commit(number, found["origin"], _places(found), tuple(_files(found)), int(found.get("time_ns", 0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(where, f"is no commit of the Δ log: {error}") from error


def parse_snapshot(data: bytes, where: str, number: int) -> Contents:
    """Raises Corrupt."""
    found = _document(data, where, number)
    try:
        gone = {path: int(time_ns) for path, time_ns in found["gone"].items()}
        return Contents(number, found["origin"], _places(found), {file.path: file for file in _files(found)}, gone)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(where, f"is no snapshot of the Δ log: {error}") from error


def _document(data: bytes, where: str, number: int) -> Any:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Corrupt(where, f"is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("version") != 1 or found.get("number") != number:
        raise Corrupt(where, f"must be of version 1 and number {number}")
    return found


def _files(found: Any) -> Iterator[File]:
    """What later versions add is ignored, what earlier ones had not has its default."""
    for file in found["files"]:
        yield File(**{name: file[name] for name in File.__dataclass_fields__ if name in file})


def _listed(sources: Mapping[str, Place]) -> dict[str, list[int]]:
    return {source: list(place) for source, place in sources.items()}


def _places(found: Any) -> dict[str, Place]:
    return {source: _place(place) for source, place in found["sources"].items()}


def _time(time_ns: int) -> dict[str, int]:
    return {"time_ns": time_ns} if time_ns else {}


def _place(found: Any) -> Place:
    segment, offset = found
    return int(segment), int(offset)
