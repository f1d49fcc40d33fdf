"""From outboxes beside the log to segments of the Δ log: plan, segments, commit (formats/delta.md). After a crash anywhere the next round
makes the same segments again."""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from knhk.model.delta import Row
from knhk.model.faults import AlreadyExists, Corrupt, Deposed, NotFound
from knhk.ports.clock import Clock
from knhk.ports.leaf_indexes import LeafIndexes
from knhk.ports.segments import Segments
from knhk.reconcilers import delta
from knhk.reconcilers.delta import Commit, File, Framed, Index, Place, Plan, Ranges
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.outbox.segments import check_frames, whole_frames
from knhk_runtime.record import SEGMENT_HEAD
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad

COMMIT_BYTES = 32 << 20  # frames of a commit; a segment and what making it takes of memory are bound by it
READ_BYTES = 4 << 20
SETTLE_S, PATIENCE_S = 1.5, 60.0  # until a checkpoint covers what the log has acknowledged; until it must have
_NAME = re.compile(r"[0-9a-f]{16}\.seg")


@dataclass(frozen=True)
class Opened:
    """The log as it is now: its name, the names of its regions, what its newest checkpoint covers."""

    origin: str
    regions: tuple[str, ...]
    served: Served


@dataclass
class Progress:
    """Of one writer since its start. `oldest_ns`: time of the oldest decision that waits, 0: none does. `broken`: copies with what is no
    record: their pods are at fault, and nobody else waits for them."""

    commits: int = 0
    rows: int = 0
    waiting_bytes: int = 0
    oldest_ns: int = 0
    unmatched: int = 0
    broken: set[str] = field(default_factory=set)


class Archive:
    """The one writer of an archive. `remove`: segments of copies are removed after their commit, but for the last of each, which says how
    far the copy reaches; not those of outboxes that their agents write here themselves.

    A pod may send anything: of its copy nothing is taken from a frame on that is no record, and what contradicts itself is left out.
    Methods raise Corrupt for an outbox that was altered, Deposed when another writer works on this archive, and as ObjectStore does."""

    def __init__(
        self,
        outboxes: Path,
        log: Callable[[], Opened],
        indexes: LeafIndexes,
        form: Segments,
        store: ObjectStore,
        clock: Clock,
        *,
        remove: bool = False,
        commit_bytes: int = COMMIT_BYTES,
    ) -> None:
        self._outboxes, self._log, self._indexes, self._store, self._clock = outboxes, log, indexes, store, clock
        self._form, self._remove, self._commit_bytes = form, remove, commit_bytes
        self._last: Commit | None = None
        self._read = False
        self.progress = Progress()

    def waiting(self) -> int:
        """Bytes of outboxes that are not committed yet; `progress` tells it, and the age of the oldest."""
        done, waiting, oldest = self._committed(), 0, 0
        for source in self._sources():
            at = done.get(source, (0, SEGMENT_HEAD))
            for segment, size in self._reach(source):
                waiting += max(0, size - (at[1] if segment == at[0] else SEGMENT_HEAD)) if segment >= at[0] else 0
            if first := next(self._frames(source, at), None):
                time_ns = int.from_bytes(first.record.leaves[0][92:100], "big")
                oldest = min(oldest or time_ns, time_ns)
        self.progress.waiting_bytes, self.progress.oldest_ns = waiting, oldest
        return waiting

    def round(self) -> Commit | None:
        """One commit; None when nothing waits."""
        last = self._followed()
        number = last.number + 1 if last else 0
        opened = self._log()
        self._indexes.learn(opened.served)
        plan = self._planned(number)
        if plan is None and (plan := self._choose(number)) is not None:
            self._create(delta.plan_key(number), delta.plan_bytes(plan))
        if plan is None:
            return None
        return self._erase(plan, opened.origin) if plan.erase else self._archive(plan, opened)

    def _archive(self, plan: Plan, opened: Opened) -> Commit:
        number, last = plan.number, self._last
        found = [each for source, (start, end) in sorted(plan.ranges.items()) for each in self._range(source, start, end)]
        index = self._indexes.find(key for each in found for key in delta.keys_of(each.record))
        files = self._segments(number, found, index, opened.regions)
        sources = {**(last.sources if last else {}), **{source: end for source, (_, end) in plan.ranges.items()}}
        commit = Commit(number, opened.origin, sources, files)
        self._create(delta.commit_key(number), delta.commit_bytes(commit))
        self._last = commit
        self._indexes.forget(key for each in found for key in delta.keys_of(each.record))
        self.progress.commits += 1
        self.progress.rows += sum(file.rows for file in files)
        if self._remove:
            self._clean(commit)
        return commit

    # ---- erasing -------------------------------------------------------------------------------

    def erase(self, indexes: Collection[int]) -> int:
        """How many rows of these entries of the log lost what was recorded; 0 when none had any more. What a crash left of this is done
        by the next call, and by `round` as far as its plan was made."""
        done = 0
        while True:
            last = self._followed()
            if self._planned(last.number + 1 if last else 0) is not None:
                self.round()
                continue
            wanted = self._wanted(sorted(indexes))
            if last is None or not wanted:
                self._sweep()
                return done
            plan = Plan(last.number + 1, {}, wanted)
            try:
                self._create(delta.plan_key(plan.number), delta.plan_bytes(plan))
            except Deposed:  # another writer was faster: its commit first
                continue
            self._erase(plan, last.origin)
            done += sum(last - first + 1 for ranges in wanted.values() for first, last in ranges)

    def _wanted(self, indexes: list[int]) -> dict[str, Ranges]:
        """Of each segment the indexes of rows that are to be erased and are not yet."""
        found, kept = dict[str, Ranges](), Kept(self._store, self._form)
        for path, file in kept.files.items():
            here = set(indexes[bisect_left(indexes, file.first) : bisect_right(indexes, file.last)]) if file.first >= 0 else set[int]()
            if not here:
                continue
            rows = zip(kept.indexes(path), kept.column(path, "erased"), strict=True)
            if ranges := delta.ranges_of(index for index, erased in rows if index in here and not erased):
                found[path] = ranges
        return found

    def _erase(self, plan: Plan, origin: str) -> Commit:
        """New segments without what is erased, the commit that names them, and only then are the old ones deleted."""
        kept, parts = Kept(self._store, self._form), defaultdict[str, list[Row]](list)
        for path, ranges in plan.erase.items():
            gone = set(delta.indexes_of(ranges))
            parts[path.rpartition("/")[0]] += [delta.erased(row) if row.log_index in gone else row for row in kept.rows(path)]
        made = tuple(self._segment(f"{folder}/{plan.number:016x}.parquet", rows) for folder, rows in sorted(parts.items()))
        gone_files = tuple(File(path, 0, 0, sha256(b"").hexdigest(), -1, -1) for path in sorted(plan.erase))
        last = self._last
        commit = Commit(plan.number, origin, dict(last.sources) if last else {}, (*made, *gone_files))
        self._create(delta.commit_key(plan.number), delta.commit_bytes(commit))
        self._last = commit
        self.progress.commits += 1
        self._store.delete([file.path for file in gone_files])
        return commit

    def _sweep(self) -> None:
        """Segments that a commit took away, and a crash left."""
        named = {file.path: file for file in named_files(self._store)}
        if gone := sorted({each.key for each in self._store.list() if (file := named.get(each.key)) and not file.rows}):
            self._store.delete(gone)

    # ---- what is there -------------------------------------------------------------------------

    def _newest(self) -> Commit | None:
        """The last commit that this writer knows."""
        if not self._read:
            self._last, self._read = newest_commit(self._store), True
        return self._last

    def _followed(self) -> Commit | None:
        """The last commit, another writer's too."""
        while True:
            last = self._newest()
            number = last.number + 1 if last else 0
            key = delta.commit_key(number)
            try:
                self._last = delta.parse_commit(self._store.get(key).data, f"{self._store.name}/{key}", number)
            except NotFound:
                return last

    def _committed(self) -> dict[str, Place]:
        last = self._newest()
        return dict(last.sources) if last else {}

    def _planned(self, number: int) -> Plan | None:
        key = delta.plan_key(number)
        try:
            return delta.parse_plan(self._store.get(key).data, f"{self._store.name}/{key}", number)
        except NotFound:
            return None

    def _create(self, key: str, data: bytes) -> None:
        """An answer that was lost may make us meet ourselves. Raises Deposed."""
        try:
            self._store.create(key, data)
        except AlreadyExists as error:
            if self._store.get(key).data != data:
                self._read, self._last = False, None
                raise Deposed(f"{self._store.name}/{key} is another writer's: only one may write an archive") from error

    def _sources(self) -> list[str]:
        return sorted(path.name for path in self._outboxes.glob("*") if path.is_dir())

    def _reach(self, source: str) -> list[tuple[int, int]]:
        """(segment, size) of what may be archived: as far as the log has acknowledged an outbox that its agent writes here itself."""
        folder = self._outboxes / source
        found = sorted((int(name[:16], 16), (folder / name).stat().st_size) for name in os.listdir(folder) if _NAME.fullmatch(name))
        with suppress(FileNotFoundError):
            words = (folder / "acked").read_text("ascii").split()
            if len(words) != 2 or not re.fullmatch("[0-9a-f]{16}", words[0]) or not words[1].isdecimal():
                raise Corrupt(str(folder / "acked"), "must be a segment of 16 hexadecimal digits and an offset")
            acked = int(words[0], 16), int(words[1])
            found = [(segment, size if segment < acked[0] else min(size, acked[1])) for segment, size in found if segment <= acked[0]]
        return found

    def _frames(self, source: str, start: Place, end: Place | None = None) -> Iterator[Framed]:
        """Whole records from a place up to another, or as far as there are."""
        for segment, size in self._reach(source):
            if segment < start[0] or (end is not None and segment > end[0]):
                continue
            at = start[1] if segment == start[0] else SEGMENT_HEAD
            last = end[1] if end is not None and segment == end[0] else size
            while at < last:
                frames = self._read_frames(source, segment, at, last)
                if not frames:
                    break
                try:
                    yield from delta.framed(source, segment, at, frames)
                except Bad as error:
                    self._blame(source, error)
                    return
                at += len(frames)

    def _blame(self, source: str, error: Bad) -> None:
        if "~" not in source:  # no copy
            raise Corrupt(error.where, error.what) from error
        self.progress.broken.add(source)

    def _read_frames(self, source: str, segment: int, at: int, last: int) -> bytes:
        """Whole frames; none when the next one is still being written."""
        path = self._outboxes / source / f"{segment:016x}.seg"
        with path.open("rb") as file:
            file.seek(at)
            data = file.read(min(READ_BYTES, last - at))
            if not whole_frames(data) and (needed := 8 + int.from_bytes(data[:4], "big")) <= last - at:
                data += file.read(needed - len(data))
        frames = data[: whole_frames(data)]
        check_frames(frames, str(path), at)
        return frames

    def _range(self, source: str, start: Place, end: Place) -> list[Framed]:
        found = list(self._frames(source, start, end))
        if not found:
            raise Corrupt(f"{source} segment {start[0]} offset {start[1]}", "is planned for the archive, and gone from the outbox")
        return found

    # ---- plan ----------------------------------------------------------------------------------

    def _choose(self, number: int) -> Plan | None:
        done, left = self._committed(), self._commit_bytes
        ranges = dict[str, tuple[Place, Place]]()
        for source in self._sources():
            start = done.get(source)
            if (taken := self._take(source, start or (0, SEGMENT_HEAD), left)) is not None:
                ranges[source], used = (start or taken[0], taken[1]), taken[2]
                left -= used
            if left <= 0:
                break
        return Plan(number, ranges) if ranges else None

    def _take(self, source: str, start: Place, limit: int) -> tuple[Place, Place, int] | None:
        """Records of one outbox whose leaves the log shows, about `limit` bytes: first place, end, size."""
        found, used = list[tuple[Framed, int]](), 0
        for each in self._frames(source, start):
            size = _size(each)
            found.append((each, size))
            used += size
            if used >= limit:
                break
        found = found[: self._shown([each for each, _ in found])]
        if not found:
            return None
        first, (last, size) = found[0][0], found[-1]
        return (first.segment, first.offset), (last.segment, last.offset + size), sum(size for _, size in found)

    def _shown(self, found: list[Framed]) -> int:
        """How many from the first on. What was acknowledged a moment ago is under the next checkpoint. A leaf that the log does not show
        after that is none of its: an agent that died has written its record a second time."""
        for again in (True, False):
            known = self._indexes.find(key for each in found for key in delta.keys_of(each.record))
            lacking = [n for n, each in enumerate(found) if any(key not in known for key in delta.keys_of(each.record))]
            if not lacking:
                return len(found)
            if again:
                self._clock.sleep(SETTLE_S)
                self._indexes.learn(self._log().served)
        young = self._clock.now_ns() - int(PATIENCE_S * 1e9)
        waits = [n for n in lacking if int.from_bytes(found[n].record.leaves[0][92:100], "big") > young]
        self.progress.unmatched += len([n for n in lacking if not waits or n < waits[0]])
        return waits[0] if waits else len(found)

    # ---- segments ------------------------------------------------------------------------------

    def _segments(self, number: int, found: list[Framed], index: Index, regions: tuple[str, ...]) -> tuple[File, ...]:
        parts = defaultdict[str, list[Row]](list)
        for each in found:
            try:
                made = tuple(delta.rows_of(each, index))
            except Bad as error:
                self._blame(each.source, error)
                continue
            for row in made:
                parts[delta.partition(row, regions)].append(row)
        return tuple(self._segment(f"{folder}/{number:016x}.parquet", rows) for folder, rows in sorted(parts.items()))

    def _segment(self, path: str, rows: list[Row]) -> File:
        data = self._form.encode(rows)
        self._store.put(path, data)
        return file_of(path, data, rows)

    def _clean(self, commit: Commit) -> None:
        for source, end in commit.sources.items():
            folder = self._outboxes / source
            if (folder / "acked").exists() or not folder.is_dir():
                continue
            names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
            for name in names[:-1]:
                if int(name[:16], 16) < end[0]:
                    (folder / name).unlink()


def file_of(path: str, data: bytes, rows: list[Row]) -> File:
    """What a commit says of a segment."""
    indexes = [row.log_index for row in rows if row.log_index is not None]
    return File(path, len(rows), len(data), sha256(data).hexdigest(), min(indexes, default=-1), max(indexes, default=-1))


def newest_commit(store: ObjectStore) -> Commit | None:
    """The last commit, by a few reads however many there are: numbers leave none out. Raises Corrupt and as ObjectStore does."""

    def read(number: int) -> Commit | None:
        key = delta.commit_key(number)
        try:
            return delta.parse_commit(store.get(key).data, f"{store.name}/{key}", number)
        except NotFound:
            return None

    last, step = read(0), 1
    while last is not None and (found := read(last.number + step)) is not None:
        last, step = found, 2 * step
    while last is not None and step > 1:
        step //= 2
        last = read(last.number + step) or last
    return last


def _number(key: str) -> int | None:
    name = key.rpartition("/")[2]
    return int(name[:16], 16) if re.fullmatch(r"[0-9a-f]{16}\.json", name) else None


def _size(each: Framed) -> int:
    record = each.record
    body = 28 + sum(map(len, record.leaves)) + 4 + len(record.observation) + sum(4 + len(a) for a in record.actions)
    return 8 + body


class Kept:
    """The committed segments of an archive, read whole and checked against their commits. Raises Corrupt, and as ObjectStore does."""

    def __init__(self, store: ObjectStore, form: Segments) -> None:
        self.store, self._form = store, form
        self.files = {file.path: file for file in committed(store)}

    def names(self) -> list[str]:
        return sorted(self.files)

    def rows(self, name: str) -> Iterator[Row]:
        return self._form.rows(self._read(name), f"{self.store.name}/{name}")

    def indexes(self, name: str) -> list[int | None]:
        return self.column(name, "log_index")

    def column(self, name: str, column: str) -> list[Any]:
        """All values of one column."""
        return self._form.column(self._read(name), f"{self.store.name}/{name}", column)

    def _read(self, name: str) -> bytes:
        data = self.store.get(name).data
        if sha256(data).hexdigest() != self.files[name].sha256:
            raise Corrupt(f"{self.store.name}/{name}", "is not what its commit says: it was altered")
        return data


def committed(store: ObjectStore) -> list[File]:
    """The segments of an archive as its commits tell them, in order of their paths: of one path the later counts. Raises Corrupt and as
    ObjectStore does."""
    found = {file.path: file for file in named_files(store)}
    return [found[path] for path in sorted(found) if found[path].rows]


def named_files(store: ObjectStore) -> Iterator[File]:
    """All that commits ever named, in their order."""
    for number in sorted(n for each in store.list(delta.COMMITS) if (n := _number(each.key)) is not None):
        key = delta.commit_key(number)
        yield from delta.parse_commit(store.get(key).data, f"{store.name}/{key}", number).files
