"""Records that become rows of the Δ log, and its plans and commits (formats/delta.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from knhk.model.delta import Row
from knhk.model.faults import Corrupt
from knhk.model.ranges import Ranges, merged
from knhk_runtime.envelope import parse_envelope
from knhk_runtime.record import Record, parse_action, parse_observation, parse_record
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf
from knhk_verify.signed import canonical

if TYPE_CHECKING:  # loads the native library
    from knhk_hot.records import Scanned

PLANS, COMMITS, SNAPSHOTS, REPLACED, ENDS = "_plans", "_commits", "_snapshots", "_replaced", "_ends"
HOUR_NS = 3600 * 10**9
UNTOLD_BYTES = 64 << 20  # in memory, at most, of a segment whose commit does not tell: those of before were made of 32 MiB of frames
Place = tuple[int, int]  # segment and offset of an outbox


@dataclass(frozen=True)
class Records:
    """Records of an outbox that lie one after another: of what a scan found from (segment, offset) on those from number `first` up to
    `last`, which is not one of them."""

    source: str
    segment: int
    offset: int
    found: Scanned
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def start(self) -> Place:
        return self.segment, self.offset + self.found.starts[self.first]

    @property
    def end(self) -> Place:
        return self.segment, self.offset + self.found.starts[self.last]

    @property
    def weight(self) -> int:
        """Bytes that their rows take, about."""
        return sum(self.found.weights[self.first : self.last])

    @property
    def keys(self) -> Sequence[bytes]:
        """Idempotency keys of their leaves."""
        return self.found.keys[self.found.firsts[self.first] : self.found.firsts[self.last]]

    def keys_at(self, number: int) -> Sequence[bytes]:
        """Of one of them, counted from 0."""
        firsts, at = self.found.firsts, self.first + number
        return self.found.keys[firsts[at] : firsts[at + 1]]

    def time_ns(self, number: int) -> int:
        """Of one of them, as its first leaf says."""
        return self.found.times[self.first + number]

    def where(self, number: int) -> str:
        """Of one of them, for people."""
        return f"{self.source}/{self.segment:016x}.seg offset {self.offset + self.found.starts[self.first + number]}"

    def head(self, count: int) -> Records:
        return replace(self, last=self.first + count)

    def after(self, count: int) -> Records:
        return replace(self, first=self.first + count)

    def about(self, weight: int) -> Records:
        """The first of them that together have at least this weight; all when they have less."""
        taken, last = 0, self.first
        while last < self.last and (taken < weight or last == self.first):
            taken, last = taken + self.found.weights[last], last + 1
        return replace(self, last=last)


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


def point_of(source: str) -> str:
    """NAMESPACE/NAME of the point whose agent wrote an outbox; empty when its name does not say."""
    namespace, dot, name = source.partition("~")[0].partition(".")
    return f"{namespace}/{name}" if dot else ""


def check_row(payload: bytes, where: str) -> None:
    """Raises Bad with what is wrong with a record of an outbox that makes no rows."""
    record = parse_record(payload, where)
    if record.sealed:
        parse_envelope(record.observation, f"{where} O")
    elif not record.erased:
        parse_observation(record.observation, f"{where} O")
    for leaf, action in zip(record.leaves, record.actions, strict=True):
        parse_leaf(leaf, where)
        if action and not record.erased:
            parse_action(action, f"{where} A")
    raise Bad(where, "makes no rows")


def record_of(row: Row) -> Record:
    """The record of one leaf that a row holds."""
    cluster = int(row.key, 16) if row.key else 0
    salt, observation, action = row.salt or bytes(16), row.observation or b"", row.action or b""
    lost = row.erased or row.observation is None
    return Record(lost, cluster, salt, (row.leaf,), observation, (action,), row.sealed and not lost)


def folder(region: int, hour: int, regions: Sequence[str]) -> str:
    """Of segments. `region`: its number; `hour`: counted from 1970."""
    name = regions[region] if region < len(regions) else f"region-{region}"
    return f"region={name}/{_hour(hour)}"


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
        erase = {path: merged(_place(each) for each in ranges) for path, ranges in found.get("erase", {}).items()}
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
