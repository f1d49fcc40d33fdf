"""Erasing what was recorded about a subject, or longer ago than a point keeps it (docs/privacy.md). The plan is durable first, then keys
are destroyed, then copies are rewritten, then the log is told: each step may be repeated, so the next run ends what a crash cut off."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from knhk.lockchain.events import PolicyEvent
from knhk.model.delta import Row
from knhk.model.faults import Waiting
from knhk.model.ranges import Marks, Ranges, Within, count, merged, minus, numbers_of
from knhk.model.times import rfc3339
from knhk.ports.chance import Random
from knhk.ports.clock import Clock
from knhk.ports.recorded import RANGES_MOST, Found, Recorded
from knhk.reconcilers.archiving import Archive
from knhk.reconcilers.delta import point_of, record_of
from knhk_runtime.envelope import leaves_digest, parse_envelope, tag_of, window_of
from knhk_runtime.outbox.erasing import erase_segment, is_copy, records_in
from knhk_runtime.record import Record, parse_observation
from knhk_runtime.sequencer.copies import whole
from knhk_runtime.subject_keys import DONE, IDS_MOST, ErasableKeys, Held, OnHold, Work
from knhk_runtime.subjects import Privacy
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad
from knhk_verify.tree import leaf_hash

QUEUED, PLANNED, TELLING = "queued", "planned", "telling"
SUBJECT, RETENTION = "subject", "retention"
RETAINED = "retention"  # basis of what a point's retention ends
PART = 500  # ranges and keys of one event
ALL: Ranges = ((0, (1 << 63) - 1),)
LEAVES = 1 << 18  # that are looked for at a time: 50 MiB
SETTLE_S, LOOKS = 0.5, 10
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True)
class Plan:
    """`subject`: tag, hexadecimal, or the point whose retention it is; `targets`: ranges of indexes in the log; `keys`: ids, hexadecimal.
    `entries`: indexes of the events that told it; `without`: ids of the holds that a retention left out."""

    kind: str
    subject: str
    basis: str
    targets: tuple[tuple[int, int], ...] = ()
    keys: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    destroyed: str = ""
    entries: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def leaves(self) -> int:
        return count(self.targets)


@dataclass(frozen=True)
class Told:
    """What became of an erasure; `state` is empty where there was nothing to erase, or for a dry run `dry`. `records`, `rows`: rewritten by
    this run, of outboxes and of the archive. `unsearched`: as `knhk.ports.recorded.Found` has it."""

    erasure: str
    state: str
    plan: Plan
    records: int = 0
    rows: int = 0
    unsearched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reapplied:
    """What walking the log's erasures did: events read, keys destroyed again, records and rows erased again, holds and queued erasures
    restored."""

    events: int = 0
    keys: int = 0
    records: int = 0
    rows: int = 0
    holds: int = 0
    queued: int = 0


# An outbox nobody appends to may be rewritten whole: true within the context.
Closed = Callable[[str], AbstractContextManager[bool]]


def everywhere(_: str) -> bool:
    """Records of all points."""
    return True


@dataclass
class Copies:
    """Where records lie. `observations`: folder of outboxes, None where there is none; `archive`: the Δ log, when there is one; `closed`:
    whether nobody appends to an outbox."""

    observations: Path | None
    archive: Archive | None
    log: Callable[[], Served]
    closed: Closed
    clock: Clock

    def folders(self) -> list[Path]:
        found = self.observations.glob("*") if self.observations is not None else ()
        return sorted(path for path in found if path.is_dir())


@dataclass
class Beside(Copies):
    """`knhk.ports.recorded.Recorded`: outboxes of a folder, and an archive. `rows`: what the archive holds; `privacy`: of points, by
    NAMESPACE/NAME; `tags_key`: of tags, by which records in clear are found whose subject has no name here; None: they are not.
    `is_here`: which points' records are its affair."""

    rows: Callable[[], Iterator[Row]]
    privacy: Mapping[str, Privacy] = field(default_factory=dict)
    tags_key: Callable[[], bytes] | None = None
    is_here: Callable[[str], bool] = everywhere

    def of_subject(self, tag: bytes, subject: str) -> Found:
        """See the port."""
        unsearched = set[str]()

        def is_wanted(point: str, record: Record) -> bool:
            if not record.sealed and point not in self.privacy and self.is_here(point):
                unsearched.add(point)
            found = self._whose(point, record)
            return found == tag if isinstance(found, bytes) else found == subject != ""

        targets = tuple(self._found(is_wanted).ranges())
        return Found(targets, tuple(sorted(unsearched)))

    def older(self, point: str, before_ns: int, held: Collection[bytes], after: int) -> Ranges:
        """See the port. In clear, and without a way to a tag, a record stays while anybody is held."""

        def is_wanted(at: str, record: Record) -> bool:
            if at != point or not self.is_here(at) or int.from_bytes(record.leaves[0][92:100], "big") >= before_ns:
                return False
            found = self._whose(at, record)
            return not held if isinstance(found, str) else found not in held

        return tuple(islice(self._found(is_wanted).ranges(after), RANGES_MOST))

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        """See the port. In clear, as `older`."""

        def is_held(point: str, record: Record) -> bool:
            found = self._whose(point, record)
            return bool(held) if isinstance(found, str) else found in held

        return minus(targets, self._found(is_held, among=targets).ranges())

    def digest(self, targets: Ranges) -> str:
        """See the port."""
        return leaves_digest(map(leaf_hash, entries_at(self.log(), targets)))

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """See the port."""
        return rewrite(self, targets, self.is_here)

    def _whose(self, point: str, record: Record) -> bytes | str | None:
        """Whose record it is, by tag, or by name where there is no way to a tag; None when nobody says."""
        if record.erased or not self.is_here(point):
            return None
        try:
            if record.sealed:
                return parse_envelope(record.observation).tag
            if (said := self.privacy.get(point)) is None:
                return None
            name = said.subject_of(parse_observation(record.observation))
            return name if self.tags_key is None else tag_of(self.tags_key(), name)
        except Bad:
            return None

    def _found(self, is_wanted: Callable[[str, Record], bool], among: Ranges = ALL) -> Marks:
        """Indexes in the log of the leaves of wanted records that are not erased, among these. What the log has acknowledged a moment ago
        is under the next checkpoint; what it does not show after that is nobody's evidence. Outboxes are read first: what leaves them
        meanwhile is in the archive. Raises Waiting for a row of the archive that is not under the checkpoint."""
        marks, here = Marks(), Within(among)
        for leaves in batches(self._leaves(is_wanted)):
            shown = self._shown(leaves)
            marks.reach(self.log().size)
            for index in filter(here.has, shown):
                marks.add(index)
        marks.reach(self.log().size)
        for row in self.rows():
            at = row.log_index
            if at is not None and not row.erased and here.has(at) and is_wanted(row.point, record_of(row)):
                if at >= marks.size:  # archived since
                    marks.reach(self.log().size)
                if at >= marks.size:
                    raise Waiting("Log", f"archive entry {at}: the log has {marks.size} entries: it is behind its archive", SETTLE_S)
                marks.add(at)
        return marks

    def _leaves(self, is_wanted: Callable[[str, Record], bool]) -> Iterator[bytes]:
        """Of wanted records of outboxes that are not erased."""
        for path, record in self._recorded(self._segments()):
            if not record.erased and is_wanted(point_of(path.parent.name), record):
                yield from record.leaves

    def _shown(self, leaves: set[bytes]) -> set[int]:
        """Indexes of these leaves, as far as the log shows them by now: it is read once, and after each pause what is new."""
        found, read = set[int](), 0
        for look in range(LOOKS if leaves else 0):
            if look:
                self.clock.sleep(SETTLE_S)
            log = self.log()
            found.update(index for index, entry in enumerate(log.entries(read), read) if entry in leaves)
            read = max(read, log.size)
            if len(found) == len(leaves):
                break
        return found

    def _recorded(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Record]]:
        """What segments of outboxes hold; of one that is gone meanwhile nothing."""
        return ((path, record) for path in paths for record in records_in(path))

    def _segments(self) -> list[Path]:
        return [path for folder in self.folders() if self.is_here(point_of(folder.name)) for path in sorted(folder.glob("*.seg"))]


@dataclass
class Surroundings:
    """What an eraser works on. `append`: a signed event, idempotent by its bytes; `privacy`: of points, by NAMESPACE/NAME."""

    keys: ErasableKeys
    recorded: Recorded
    events: Callable[[], Iterator[tuple[int, PolicyEvent]]]
    sign: Callable[[PolicyEvent], bytes]
    append: Callable[[bytes], int]
    clock: Clock
    chance: Random
    actor: str
    privacy: Mapping[str, Privacy] = field(default_factory=dict)


class Eraser:
    """One at a time on a home. Methods raise Waiting for what is to be tried again, Stalled, Corrupt, and as ObjectStore does."""

    def __init__(self, around: Surroundings) -> None:
        self._at = around

    # ---- commands ------------------------------------------------------------------------------

    def erase(self, subject: str, basis: str, *, dry: bool = False) -> Told:
        """Everything about a subject, unless a hold stands: then it waits for the release."""
        tag = tag_of(self._at.keys.tags_key, subject)
        if not dry:
            self.resume()
        known = next((work for work in self._at.keys.works() if work.state == QUEUED and _plan(work).subject == tag.hex()), None)
        if known is not None:
            return Told(known.id, QUEUED, _plan(known))
        found = self._at.recorded.of_subject(tag, subject)
        return replace(self._begin(self._of_subject(tag, found, basis), dry), unsearched=found.unsearched)

    def retain(self, *, dry: bool = False) -> list[Told]:
        """What is older than the retention of its point, unless it is held: of much several erasures, one after another."""
        if not dry:
            self.resume()
        now_ns = self._at.clock.now_ns()
        limits = {point: said.retention_days * DAY_NS for point, said in sorted(self._at.privacy.items()) if said.retention_days}
        return [self._begin(plan, dry) for point, limit_ns in limits.items() for plan in self._of_retention(point, now_ns - limit_ns)]

    def hold(self, subject: str, reference: str) -> Held:
        """A legal hold: what is recorded about this subject, now and later, is not erased until its release. No erasure that cannot be
        ended keeps it waiting."""
        self._tell_holds()
        tag = tag_of(self._at.keys.tags_key, subject)
        same = next((hold for hold in self._at.keys.holds() if hold.standing and (hold.tag, hold.reference) == (tag, reference)), None)
        if same is not None:
            return same
        made = Held(self._id(), tag, reference, True)
        self._tell_hold(made, "Held")
        return made

    def release(self, hold_id: str) -> tuple[Held, list[Told]] | None:
        """Ends a hold and carries out what waited for it; None when there is no such hold. The hold is over also when that fails."""
        self._tell_holds()
        found = next((hold for hold in self._at.keys.holds() if hold.id == hold_id), None)
        if found is None:
            return None
        if found.standing:
            found = replace(found, standing=False)
            self._tell_hold(found, "HoldReleased")
        return found, self.resume()

    def resume(self) -> list[Told]:
        """What an earlier run began or queued, as far as it may be done now."""
        self._tell_holds()
        told = []
        for work in self._at.keys.works():
            if work.state == QUEUED:
                self._append(work)
                if self._holds(bytes.fromhex(_plan(work).subject)):
                    continue
                again = self._replanned(_plan(work))
                work = Work(work.id, PLANNED, _text(again), "[]")
                self._at.keys.put_work(work)
            told.append(self._carry(work))
        return told

    def reapply(self) -> Reapplied:
        """After a restore from a backup: all that the log says was erased is erased again, and holds are as the log says."""
        erased = erased_by(event for _, event in self._at.events())
        keys = reapply_keys(self._at.keys, erased)
        records, rows = self._at.recorded.rewrite(erased.targets)
        return replace(keys, records=records, rows=rows)

    # ---- plans ---------------------------------------------------------------------------------

    def _of_subject(self, tag: bytes, found: Found, basis: str) -> Plan:
        keys = tuple(key.hex() for key in self._at.keys.ids_of(tag))
        return Plan(SUBJECT, tag.hex(), basis, found.targets, keys, tuple(hold.id for hold in self._holds(tag)))

    def _of_retention(self, point: str, before_ns: int) -> Iterator[Plan]:
        """As many plans as are needed: none has more than an answer of who knows the entries, and the keys."""
        window, index, key = window_of(max(0, before_ns)), -1, b""
        are_more_targets = are_more_keys = True
        while are_more_targets or are_more_keys:
            holds = self._standing()
            held = {hold.tag for hold in holds}
            targets = self._at.recorded.older(point, before_ns, held, index) if are_more_targets else ()
            keys = self._at.keys.ids_before(point, window, key) if are_more_keys else []
            are_more_targets, are_more_keys = len(targets) == RANGES_MOST, len(keys) == IDS_MOST
            if targets or keys:
                index, key = targets[-1][1] if targets else index, keys[-1] if keys else key
                without = tuple(hold.id for hold in holds)
                yield Plan(RETENTION, point, RETAINED, targets, tuple(map(bytes.hex, keys)), without=without)

    def _replanned(self, plan: Plan) -> Plan:
        """A queued plan as it is now; what it had stays in it: it may have been erased before the hold came, and of a tag alone no record
        in clear is found."""
        tag = bytes.fromhex(plan.subject)
        now = self._of_subject(tag, self._at.recorded.of_subject(tag, ""), plan.basis)
        targets = merged((*plan.targets, *now.targets))
        return replace(now, targets=targets, keys=tuple(dict.fromkeys((*plan.keys, *now.keys))), holds=())

    def _standing(self) -> list[Held]:
        return [hold for hold in self._at.keys.holds() if hold.standing]

    def _holds(self, tag: bytes) -> list[Held]:
        return [hold for hold in self._standing() if hold.tag == tag]

    # ---- steps ---------------------------------------------------------------------------------

    def _begin(self, plan: Plan, dry: bool) -> Told:
        if dry or not (plan.targets or plan.keys):
            return Told("", "dry" if dry else "", plan)
        if plan.holds:
            return self._queue(self._id(), plan)
        work = Work(self._id(), PLANNED, _text(plan), "[]")
        self._at.keys.put_work(work)
        return self._carry(work)

    def _queue(self, erasure: str, plan: Plan) -> Told:
        evidence = {"erasure": erasure, "basis": plan.basis, "holds": list(plan.holds)}
        work = Work(erasure, QUEUED, _text(plan), _texts([self._signed("ErasureQueued", plan, evidence)]))
        self._at.keys.put_work(work)
        self._append(work)
        return Told(erasure, QUEUED, plan)

    def _carry(self, work: Work) -> Told:
        records = rows = 0
        if work.state == PLANNED:
            plan = _plan(work)
            if not plan.destroyed:
                plan = replace(plan, destroyed=self._now())
                work = replace(work, plan=_text(plan))
                self._at.keys.put_work(work)
            try:
                self._at.keys.destroy(work.id, map(bytes.fromhex, plan.keys))
            except OnHold:  # placed since it was planned
                return self._held_since(work, plan)
            if self._is_held_since(plan):  # of records whose keys are in no plan, in another one, or were gone by then
                return self._held_since(work, plan)
            records, rows = self._at.recorded.rewrite(plan.targets)
            work = replace(work, state=TELLING, bundles=_texts(self._parts(work.id, plan)))
            self._at.keys.put_work(work)
        entries = self._append(work, clear=False)
        plan = replace(_plan(work), entries=tuple(entries))
        self._at.keys.put_work(Work(work.id, DONE, _text(replace(plan, targets=(), keys=())), "[]"))
        return Told(work.id, DONE, plan, records, rows)

    def _is_held_since(self, plan: Plan) -> bool:
        if plan.kind == SUBJECT:
            return bool(self._holds(bytes.fromhex(plan.subject)))
        return not {hold.id for hold in self._standing()} <= set(plan.without)

    def _held_since(self, work: Work, plan: Plan) -> Told:
        """The erasure of a subject waits for the release; retention goes on without those who are held."""
        if plan.kind == SUBJECT:
            holds = tuple(hold.id for hold in self._holds(bytes.fromhex(plan.subject)))
            return self._queue(work.id, replace(plan, destroyed="", holds=holds)) if holds else self._carry(work)
        standing = self._standing()
        held = {hold.tag for hold in standing}
        kept = {key_id.hex() for tag in held for key_id in self._at.keys.ids_of(tag)}
        targets = self._at.recorded.free(plan.targets, held)
        left = replace(
            plan, targets=targets, keys=tuple(key for key in plan.keys if key not in kept), without=tuple(hold.id for hold in standing)
        )
        self._at.keys.put_work(work := replace(work, plan=_text(left)))
        return self._carry(work)

    def _parts(self, erasure: str, plan: Plan) -> list[bytes]:
        """Signed events, as many as the ranges and keys need."""
        several = max(1, -(-len(plan.targets) // PART), -(-len(plan.keys) // PART))
        parts = []
        for number in range(several):
            here = slice(number * PART, (number + 1) * PART)
            targets, keys = plan.targets[here], plan.keys[here]
            evidence = {
                "erasure": erasure,
                "part": number + 1,
                "parts": several,
                "basis": plan.basis,
                "leaves": count(targets),
                "targets": [list(each) for each in targets],
                "leafHashes": self._at.recorded.digest(targets),
                "keys": list(keys),
                "destroyed": plan.destroyed,
                "hold": "none",
            }
            parts.append(self._signed("Erased", plan, evidence))
        return parts

    def _signed(self, kind: str, plan: Plan, evidence: Mapping[str, Any]) -> bytes:
        subject = (f"subject/{plan.subject}", plan.subject)
        if plan.kind == RETENTION:
            subject = (f"retention/{plan.subject}", sha256(plan.subject.encode()).hexdigest())
        point = plan.subject if plan.kind == RETENTION else ""
        return self._at.sign(PolicyEvent(kind, subject, self._at.actor, self._now(), point=point, evidence=evidence))

    def _append(self, work: Work, *, clear: bool = True) -> list[int]:
        """Indexes of the events of an erasure. Their bytes are durable, so that a repetition appends nothing twice."""
        entries = [self._at.append(text.encode()) for text in json.loads(work.bundles)]
        if clear and entries:
            self._at.keys.put_work(replace(work, bundles="[]"))
        return entries

    def _tell_holds(self) -> None:
        """Those whose events an earlier run may not have told."""
        for hold, bundle in self._at.keys.untold():
            self._at.append(bundle)
            self._at.keys.put_hold(hold, None)

    def _tell_hold(self, hold: Held, kind: str) -> None:
        """The hold counts from before its event is in the log."""
        tag = hold.tag.hex()
        evidence = {"hold": hold.id, "reference": hold.reference}
        bundle = self._at.sign(PolicyEvent(kind, (f"subject/{tag}", tag), self._at.actor, self._now(), evidence=evidence))
        self._at.keys.put_hold(hold, bundle)
        self._at.append(bundle)
        self._at.keys.put_hold(hold, None)

    # ---- small things --------------------------------------------------------------------------

    def _id(self) -> str:
        return self._at.chance.bytes(16).hex()

    def _now(self) -> str:
        return rfc3339(self._at.clock.now_ns())


# ---- copies, and what the log says of them ---------------------------------------------------------


@dataclass
class Erased:
    """What the log says was erased, and is held: `keys` that were destroyed, entries whose records are gone, `of` the points of a
    namespace, or of all (""), erasures that are `done` and `queued`, `holds` as they stand."""

    events: int = 0
    keys: list[bytes] = field(default_factory=list)
    of: dict[str, Ranges] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    queued: dict[str, Plan] = field(default_factory=dict)
    holds: dict[str, Held] = field(default_factory=dict)

    @property
    def targets(self) -> Ranges:
        return merged(each for ranges in self.of.values() for each in ranges)


def erased_by(events: Iterable[PolicyEvent]) -> Erased:
    """By the verified events of a log, in its order."""
    found, of = Erased(), defaultdict[str, list[tuple[int, int]]](list)
    for event in events:
        said = event.evidence
        if event.kind == "Erased":
            found.events += 1
            found.keys += map(bytes.fromhex, said["keys"])
            of[str(said.get("namespace", ""))] += ((first, last) for first, last in said["targets"])
            found.done |= {said["erasure"]} if said["part"] == said["parts"] else set()
        elif event.kind == "ErasureQueued":
            found.queued[said["erasure"]] = Plan(SUBJECT, event.subject[1], said["basis"], holds=tuple(said["holds"]))
        elif event.kind in ("Held", "HoldReleased"):
            found.holds[said["hold"]] = Held(said["hold"], bytes.fromhex(event.subject[1]), said["reference"], event.kind == "Held")
    found.of = {namespace: merged(ranges) for namespace, ranges in of.items()}
    return found


def is_of(event: PolicyEvent, namespace: str) -> bool:
    """Whether an event counts for a namespace: it is of it, or of a home, which names none."""
    return bool(event.evidence.get("namespace", namespace) == namespace)


def reapply_keys(keys: ErasableKeys, erased: Erased, *, alone: bool = True) -> Reapplied:
    """A key store as the log says: keys are destroyed again, holds stand, what waits for them waits. Repeated it finds nothing. `alone`: it
    is the only one of its log; of several, each has the erasures of subjects that it has keys of.

    Holds that were released are released first, and those that stand placed last: what was erased before its hold is destroyed. Raises
    OnHold for a hold that was placed after the restore, and before this."""
    held, works = {hold.id: hold for hold in keys.holds()}, {work.id: work for work in keys.works()}
    restored = [hold for hold in erased.holds.values() if held.get(hold.id) != hold]
    for hold in restored:
        if not hold.standing:
            keys.put_hold(hold, None)
    there = [key for key in keys.found(erased.keys).values() if key is not None]
    if erased.keys:
        keys.destroy("reapplied", erased.keys)
    for hold in restored:
        if hold.standing:
            keys.put_hold(hold, None)
    for work in works.values():
        if work.id in erased.done:
            keys.put_work(replace(work, state=DONE, bundles="[]"))
    waiting = {name: plan for name, plan in erased.queued.items() if name not in erased.done | works.keys()}
    mine = {name: plan for name, plan in waiting.items() if alone or keys.ids_of(bytes.fromhex(plan.subject))}
    queued = [Work(name, QUEUED, _text(plan), "[]") for name, plan in mine.items()]
    for work in queued:
        keys.put_work(work)
    waits = {work.id for work in keys.works()} & mine.keys()  # what was done there stays so
    return Reapplied(erased.events, len(there), holds=len(restored), queued=len(waits))


def entries_at(log: Served, targets: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Entries of a log at ascending ranges of indexes: nothing else of it is read than the bundles that hold them. Raises Bad."""
    return map(log.entry, numbers_of(targets))


def rewrite(at: Copies, targets: Ranges, is_here: Callable[[str], bool] = everywhere) -> tuple[int, int]:
    """(records of outboxes, rows of the archive) of these points that lost what was recorded. Raises Waiting while an agent appends to a
    segment that holds some: it begins another one when it sees that keys were destroyed."""
    if not targets:
        return 0, 0
    folders = [folder for folder in at.folders() if is_here(point_of(folder.name))]
    records = sum(_rewrite_outbox(at, folder, leaves) for leaves in _leaves_at(at.log(), targets, folders) for folder in folders)
    return records, at.archive.erase(targets, is_here) if at.archive is not None else 0


def _leaves_at(log: Served, targets: Ranges, folders: list[Path]) -> Iterator[set[bytes]]:
    """Leaves of these entries, one part after another: all of them where they are few, else those that outboxes hold."""
    if not folders:
        return
    if count(targets) <= LEAVES:
        yield set(entries_at(log, targets))
        return
    there = (record for folder in folders for path in sorted(folder.glob("*.seg")) for record in records_in(path))
    for leaves in batches(leaf for record in there if not record.erased for leaf in record.leaves):
        if wanted := leaves.intersection(entries_at(log, targets)):
            yield wanted
            wanted.clear()


def batches(leaves: Iterator[bytes]) -> Iterator[set[bytes]]:
    """Sets of at most LEAVES, one at a time."""
    while batch := set(islice(leaves, LEAVES)):
        yield batch
        batch.clear()


def _rewrite_outbox(at: Copies, folder: Path, leaves: set[bytes]) -> int:
    def is_wanted(record: Record) -> bool:
        return any(leaf in leaves for leaf in record.leaves)

    if not (segments := sorted(folder.glob("*.seg"))):
        return 0
    last, erased = segments[-1], sum(erase_segment(path, is_wanted) for path in segments[:-1])
    if not any(is_wanted(record) and not record.erased for record in records_in(last)):
        return erased
    if is_copy(folder.name):
        with whole(folder.parent):  # the log's server adds nothing meanwhile
            return erased + erase_segment(last, is_wanted)
    for _ in range(LOOKS):
        with at.closed(folder.name) as nobody:
            if nobody or max(folder.glob("*.seg")) != last:
                return erased + erase_segment(last, is_wanted)
        at.clock.sleep(SETTLE_S)
    raise Waiting("Outbox", f"{last}: its agent still appends to it; run `knhk receipt erase --resume` again", SETTLE_S)


def _text(plan: Plan) -> str:
    return json.dumps(asdict(plan), sort_keys=True)


def _texts(bundles: Iterable[bytes]) -> str:
    return json.dumps([bundle.decode() for bundle in bundles])


def _plan(work: Work) -> Plan:
    said = json.loads(work.plan)
    lists = {name: tuple(said[name]) for name in ("keys", "holds", "entries", "without") if name in said}
    return Plan(**{**said, **lists, "targets": tuple((first, last) for first, last in said["targets"])})
