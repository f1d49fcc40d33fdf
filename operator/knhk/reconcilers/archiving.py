"""From outboxes beside the log to segments of the Δ log: plan, segments, commit (formats/delta.md). After a crash anywhere the next round
makes the same segments again."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Corrupt, NotFound
from knhk.ports.clock import Clock
from knhk.ports.leaf_indexes import LeafIndexes
from knhk.ports.segments import Batch, Segments
from knhk.reconcilers import delta
from knhk.reconcilers.delta import Commit, Place, Plan, Records
from knhk.reconcilers.ledger import KEEP_S, Ledger
from knhk_hot.records import columns, scan
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.outbox.segments import check_frames
from knhk_runtime.record import SEGMENT_HEAD
from knhk_runtime.sequencer.copies import whole
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad

COMMIT_BYTES = 32 << 20  # frames of a commit; a segment and what making it takes of memory are bound by it
READ_BYTES, FIRST_BYTES = 4 << 20, 4 << 10  # at once; and to see a first record alone
PART_BYTES, DOUBTED_BYTES = 1 << 20, 2 << 20  # read between looks for leaves; of one client, in one look, without leaves in the log
RETIRE_S = 24 * 3600.0
SETTLE_S, PATIENCE_S = 1.5, 60.0  # until a checkpoint covers what the log has acknowledged; until it must have
_NAME = re.compile(r"[0-9a-f]{16}\.seg")


@dataclass(frozen=True)
class Opened:
    """The log as it is now: its name, the names of its regions, what its newest checkpoint covers."""

    origin: str
    regions: tuple[str, ...]
    served: Served


class Archive(Ledger):
    """The one writer of an archive. `remove`: segments of copies are removed after their commit, but for the last of each, which says how
    far the copy reaches, and that too when nothing came for `RETIRE_S`; not those of outboxes that their agents write here themselves.

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
        keep_s: float = KEEP_S,
    ) -> None:
        super().__init__(store, form, clock, keep_s=keep_s)
        self._outboxes, self._log, self._indexes = outboxes, log, indexes
        self._remove, self._commit_bytes = remove, commit_bytes
        self._turn = ""  # the outbox at which the last look ended before it had seen all
        self._ends = dict[str, Place | None]()  # of outboxes that the last commit does not name

    def waiting(self) -> int:
        """Bytes of outboxes that are not committed yet; `progress` tells it, and the age of the oldest."""
        waiting, oldest = 0, 0
        for source in self._sources():
            at = self._done(source) or (0, SEGMENT_HEAD)
            for segment, size in self._reach(source):
                waiting += max(0, size - (at[1] if segment == at[0] else SEGMENT_HEAD)) if segment >= at[0] else 0
            if first := next(self._read(source, at, at_once=FIRST_BYTES), None):
                oldest = min(oldest or first[0].time_ns(0), first[0].time_ns(0))
        self.progress.waiting_bytes, self.progress.oldest_ns = waiting, oldest
        return waiting

    def round(self) -> Commit | None:
        """One commit; None when nothing waits."""
        number = self.followed().number + 1
        opened = self._log()
        self._indexes.learn(opened.served)
        plan = self._planned(number)
        if plan is None and (plan := self._next(number)) is not None:
            self._plan(plan)
        return None if plan is None else self._carry(plan)

    def _carry(self, plan: Plan) -> Commit:
        if plan.erase:
            return self._rewrite(plan)
        opened = self._log()
        self._indexes.learn(opened.served)
        return self._archive(plan, opened)

    def _archive(self, plan: Plan, opened: Opened) -> Commit:
        met = list[bytes]()
        made = self._form.encode(self._batches(plan, met), lambda region, hour: delta.folder(region, hour, opened.regions))
        files = tuple(self._put(f"{folder}/{plan.number:016x}.parquet", each) for folder, each in made)
        self._end_gone(plan)
        there = {source: place for source, place in self.contents().sources.items() if source in self._sources()}
        commit = Commit(plan.number, opened.origin, there | {source: end for source, (_, end) in plan.ranges.items()}, files)
        self._commit(commit)
        self._indexes.forget(met)
        self.progress.rows += sum(file.rows for file in files)
        if self._remove:
            self._clean(commit)
        return commit

    def _batches(self, plan: Plan, met: list[bytes]) -> Iterator[Batch]:
        """Rows of what is planned; keys of its leaves are added to `met`."""
        for source, (start, end) in sorted(plan.ranges.items()):
            there = False
            for records, frames in self._read(source, start, end):
                yield self._batch(records, frames)
                met += records.keys
                there = True
            if not there:
                raise Corrupt(f"{source} segment {start[0]} offset {start[1]}", "is planned for the archive, and gone from the outbox")

    def _batch(self, records: Records, frames: bytes) -> Batch:
        """A row whose O or A is not what its leaf commits to is no evidence, and has no index; of sealed ones replay tells."""
        made = columns(frames, records.found)
        for number in made.refused:
            self._blamed(records, number, frames)
        index, holds = self._indexes.find(made.keys), bytes(made.numbers["holds"])
        found = [index.get(key) for key in made.keys]
        logged = [None if at is None or at[1] != digest else at[0] for at, digest in zip(found, made.digests, strict=True)]
        indexes = [at if held else None for at, held in zip(logged, holds, strict=True)]
        self.progress.untrue += indexes.count(None) - logged.count(None)
        return Batch(records.source, delta.point_of(records.source), records.segment, records.offset, indexes, made)

    def _end_gone(self, plan: Plan) -> None:
        """Where outboxes ended that are gone stays beside the commits, so that these need not name them; they may come back."""
        here = set(self._sources())
        for source, place in self.contents().sources.items():
            if source not in here and source not in plan.ranges:
                self._store.put(delta.end_key(source), delta.end_bytes(source, place))
                self._ends.pop(source, None)

    def _done(self, source: str) -> Place | None:
        """How far an outbox is archived; None: nothing of it is."""
        return self.contents().sources.get(source) or self._ended(source)

    def _ended(self, source: str) -> Place | None:
        """Of one that was gone when the last commit was made."""
        if source not in self._ends:
            key = delta.end_key(source)
            try:
                self._ends[source] = delta.parse_end(self._store.get(key).data, f"{self._store.name}/{key}")
            except NotFound:
                self._ends[source] = None
        return self._ends[source]

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

    def _read(self, source: str, start: Place, end: Place | None = None, at_once: int = READ_BYTES) -> Iterator[tuple[Records, bytes]]:
        """Whole records from a place up to another, or as far as there are, and bytes that begin with their frames."""
        for segment, size in self._reach(source):
            if segment < start[0] or (end is not None and segment > end[0]):
                continue
            at = start[1] if segment == start[0] else SEGMENT_HEAD
            last = end[1] if end is not None and segment == end[0] else size
            while at < last:
                data = self._bytes(source, segment, at, last, at_once)
                found = scan(data)
                records = Records(source, segment, at, found, 0, len(found.times))
                at = records.end[1]
                if records:
                    yield records, data
                if found.why:
                    self._blamed(records, len(records), data)
                    return
                if not records:
                    break

    def _bytes(self, source: str, segment: int, at: int, last: int, at_once: int) -> bytes:
        """With the whole of the first frame, unless it is still being written."""
        with (self._outboxes / source / f"{segment:016x}.seg").open("rb") as file:
            file.seek(at)
            data = file.read(min(at_once, last - at))
            if len(data) < (needed := 8 + int.from_bytes(data[:4], "big")) <= last - at:
                data += file.read(needed - len(data))
        return data

    def _blamed(self, records: Records, number: int, data: bytes) -> None:
        """Of a frame that makes no rows, one of these or the next; `data`: what was scanned. Raises Corrupt, but for what a pod sent."""
        at = records.found.starts[records.first + number]
        frame, where = data[at : at + 8 + int.from_bytes(data[at : at + 4], "big")], records.where(number)
        check_frames(frame, str(self._outboxes / records.source / f"{records.segment:016x}.seg"), records.offset + at)
        try:
            delta.check_row(frame[8:], where)
        except Bad as error:
            if "~" not in records.source:  # no copy
                raise Corrupt(error.where, error.what) from error
            self.progress.broken.add(records.source)

    # ---- plan ----------------------------------------------------------------------------------

    def _next(self, number: int) -> Plan | None:
        """Of the first look that finds something; None when all outboxes were seen in vain."""
        from_first = not self._turn
        while (plan := self._choose(number)) is None:
            if from_first and not self._turn:
                return None
            from_first = from_first or not self._turn
        return plan

    def _choose(self, number: int) -> Plan | None:
        """One look at outboxes from that on at which the last one ended, until there is enough for a commit. Those in which leaves are
        missing wait for the next checkpoint together, each client with no more than its share."""
        left, spent, ranges = self._commit_bytes, Counter[str](), dict[str, tuple[Place, Place]]()
        doubted = list[tuple[Place, Records]]()
        sources, self._turn = [source for source in self._sources() if source >= self._turn], ""
        for source in sources:
            if left <= spent.total():
                self._turn = source
                break
            client, start = source.rpartition("~")[0] or source, self._done(source)
            if spent[client] >= DOUBTED_BYTES:
                continue
            taken, doubts = self._take(source, start or (0, SEGMENT_HEAD), left - spent.total())
            if taken is not None:
                ranges[source], left = (start or taken[0], taken[1]), left - taken[2]
            if doubts is not None:
                spent[client] += doubts.weight
                doubted.append((start or (taken[0] if taken else doubts.start), doubts))
        if doubted:
            self._clock.sleep(SETTLE_S)
            self._indexes.learn(self._log().served)
        for start, each in doubted:
            if shown := self._shown(each):
                ranges[each.source] = (start, each.head(shown).end)
        return Plan(number, ranges) if ranges else None

    def _take(self, source: str, start: Place, limit: int) -> tuple[tuple[Place, Place, int] | None, Records | None]:
        """Records of one outbox whose leaves the log shows, of about the weight `limit`: first place, end, weight; and the part after them
        in which a leaf is missing."""
        first, end, used = start, start, 0
        for rest, _ in self._read(source, start):
            while rest and used < limit:
                part = rest.about(min(PART_BYTES, limit - used))
                first = first if used else part.start
                if self._lacking(part):
                    return (first, end, used) if used else None, part
                end, used, rest = part.end, used + part.weight, rest.after(len(part))
            if used >= limit:
                break
        return (first, end, used) if used else None, None

    def _lacking(self, part: Records) -> list[int]:
        """Which of them have a leaf that the log does not show."""
        known = self._indexes.find(part.keys)
        if all(key in known for key in part.keys):
            return []
        return [n for n in range(len(part)) if any(key not in known for key in part.keys_at(n))]

    def _shown(self, part: Records) -> int:
        """How many from the first on, now that the log was read after them. What was acknowledged a moment ago is under a checkpoint by
        now. A leaf that the log does not show is none of its: an agent that died has written its record a second time."""
        lacking = self._lacking(part)
        young = self._clock.now_ns() - int(PATIENCE_S * 1e9)
        waits = [n for n in lacking if part.time_ns(n) > young]
        self.progress.unmatched += len([n for n in lacking if not waits or n < waits[0]])
        return waits[0] if waits else len(part)

    # ---- copies that are archived ----------------------------------------------------------------

    def _clean(self, commit: Commit) -> None:
        for source, end in commit.sources.items():
            folder = self._outboxes / source
            if (folder / "acked").exists() or not folder.is_dir():
                continue
            *before, last = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name)) or [""]
            for name in before:
                if int(name[:16], 16) < end[0]:
                    (folder / name).unlink()
            if last and "~" in source:
                self._retire(folder, folder / last, end)

    def _retire(self, folder: Path, last: Path, end: Place) -> None:
        """A copy that is archived and that nothing was added to for long goes whole: its pod is gone, most likely. Should it send again, it
        begins at the first record that it has, and `_ended` knows which of them are archived."""
        number, idle_ns = int(last.name[:16], 16), int(RETIRE_S * 1e9)
        with whole(self._outboxes):
            found = last.stat()
            if (number, found.st_size) == end and found.st_mtime_ns + idle_ns <= self._clock.now_ns():
                shutil.rmtree(folder)
