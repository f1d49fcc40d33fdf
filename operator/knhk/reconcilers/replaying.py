"""Replay: every recorded decision again, from the bytes of O through the recorded pack, compared with the log byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from knhk.model.faults import KnhkError, Waiting
from knhk.model.progress import Far, counted, unheard
from knhk.model.ranges import Marks
from knhk.reconcilers.delta import record_of
from knhk.reconcilers.evaluators import Evaluator
from knhk_runtime.record import Record, entry_key, h_a, h_o, parse_action, parse_observation, parse_record
from knhk_runtime.tiers.decide import decide as decide_whole
from knhk_runtime.tlog.folder import log_records
from knhk_runtime.tlog.served import Served
from knhk_runtime.tlog.tree import TILE, subtree_hash, tile_path
from knhk_runtime.unsealing import NO_ACCESS, Closed, Unsealer
from knhk_verify.errors import Bad
from knhk_verify.leaf import LEAF_SIZE, Leaf, parse_leaf
from knhk_verify.tree import HASH, leaf_hash

if TYPE_CHECKING:
    from knhk.model.delta import Row

BATCH = 1024
MAX_TOLD = 100
DECISION = 1
NO_PACK = bytes(20)
BASELINE_ADMIT = b"KNA1\x01\x00\x00\x00\x00\x00"  # no guards, no triples
TABLES_DECIDED = 0

# (first 20 bytes of the pack's digest, digest of the bundle file) → evaluator; raises KnhkError with the reason
Load = Callable[[bytes, bytes], Evaluator]


class Segments(Protocol):
    """knhk.reconcilers.ledger.Kept."""

    def names(self) -> list[str]: ...

    def rows(self, name: str) -> Iterator[Row]: ...

    def indexes(self, name: str) -> list[int | None]: ...


@dataclass(frozen=True)
class Difference:
    """A decision that replay could not confirm: place of its record (or "log"), receipt id, reason."""

    where: str
    receipt: str
    reason: str


@dataclass
class Replayed:
    """Decisions replayed to the same bytes, erased ones, sealed ones that this reader may not open, those that differ, and leaves of which
    no record is kept here; the first differences in words. Entries of the log that were recomputed, the root that they give (of
    segments by the first shard), how many entries the log had, and of segments which shard (I/N) this is."""

    replayed: int = 0
    erased: int = 0
    sealed: int = 0
    different: int = 0
    unrecorded: int = 0
    entries: int = 0
    root: str = ""
    size: int = 0
    shard: str = ""
    differences: list[Difference] = field(default_factory=list)

    def differs(self, where: str, receipt: bytes, reason: str) -> None:
        self.different += 1
        self._tell(where, receipt, reason)

    def opened(self, record: Record, leaf: Leaf, where: str, unsealer: Unsealer) -> Record | None:
        """The record when it can be decided again; else it is counted."""
        try:
            found = unsealer.open(record, where)
        except Bad as error:
            self.differs(where, leaf.receipt_id, error.what)
            return None
        if isinstance(found, Record):
            return found
        self.erased += found is Closed.ERASED
        self.sealed += found is Closed.SEALED
        return None

    def lacks(self, receipt: bytes) -> None:
        self.unrecorded += 1
        self._tell("log", receipt, "no record of it is kept")

    def _tell(self, where: str, receipt: bytes, reason: str) -> None:
        if len(self.differences) < MAX_TOLD:
            self.differences.append(Difference(where, receipt.hex(), reason))


@dataclass(frozen=True)
class _Task:
    where: str
    leaf: Leaf
    record: Record
    action: bytes


def replay(
    log_dir: Path,
    entries: Iterable[bytes],
    load: Load,
    evaluator_digest: bytes,
    unsealer: Unsealer = NO_ACCESS,
    far: Far = unheard,
) -> Replayed:
    """Replay every DECISION leaf among the log's entries from the records in a log folder. `evaluator_digest` names the cold tier of this
    installation; `unsealer` opens sealed records.

    A decision is confirmed when the pack gives the same A for the same O, and verdict, time and both hashes are those of the leaf in
    the log. Records that the log does not hold (yet) are nobody's evidence and do not count.
    Raises Bad for a segment or tile that cannot be read: run `log verify` for all that is wrong.
    """
    logged = {entry_key(entry): entry for entry in entries if len(entry) == LEAF_SIZE and entry[0] == 1}
    result, seen, other = Replayed(), set[bytes](), dict[bytes, str]()
    waiting: dict[tuple[bytes, bytes], list[_Task]] = {}
    decided = counted(_decided(log_dir, logged, seen, other), far, "decisions", len(logged))
    for where, leaf, kept, arm in unsealer.ahead(decided, lambda each: each[2]):
        if (record := result.opened(kept, leaf, where, unsealer)) is None:
            continue
        group = (leaf.pack, parse_observation(record.observation, where).bundle)
        waiting.setdefault(group, []).append(_Task(where, leaf, record, record.actions[arm]))
        if len(waiting[group]) >= BATCH:
            _judge(group, waiting.pop(group), load, evaluator_digest, result)
    for group, tasks in waiting.items():
        _judge(group, tasks, load, evaluator_digest, result)
    for key, entry in logged.items():
        if key not in seen and parse_leaf(entry).kind == DECISION:
            if key in other:
                result.differs(other[key], key[:16], "the record has another leaf than the log")
            else:
                result.lacks(key[:16])
    return result


def _decided(
    log_dir: Path, logged: Mapping[bytes, bytes], seen: set[bytes], other: dict[bytes, str]
) -> Iterator[tuple[str, Leaf, Record, int]]:
    """(place, leaf, record, arm) of each DECISION leaf that the log has, once; they are `seen`. `other`: place of a record whose leaf
    the log has otherwise. Raises Bad."""
    for where, payload in log_records(log_dir):
        kept = parse_record(payload, where)
        for arm, leaf_bytes in enumerate(kept.leaves):
            key, leaf = entry_key(leaf_bytes), parse_leaf(leaf_bytes, where)
            if leaf.kind != DECISION or key in seen or key not in logged:
                continue
            if logged[key] != leaf_bytes:
                other[key] = where
                continue
            seen.add(key)
            yield where, leaf, kept, arm


@dataclass(frozen=True)
class Shard:
    """The part `number` (from 0 on) of `count`: segments and bundles of entries, in turn."""

    number: int = 0
    count: int = 1

    def has(self, place: int) -> bool:
        return place % self.count == self.number


def replay_segments(
    segments: Segments,
    log: Served,
    load: Load,
    evaluator_digest: bytes,
    shard: Shard = Shard(),
    unsealer: Unsealer = NO_ACCESS,
    far: Far = unheard,
) -> Replayed:
    """Replay the DECISION leaves of an archive's segments (formats/delta.md) against a log, and recompute the log's tiles and root from its
    entries: each shard its part, all shards together everything.

    Rows that the log does not hold are nobody's evidence and do not count. Raises Bad and Corrupt for what cannot be read, and Waiting
    when a pack cannot be had just now."""
    result, seen = Replayed(size=log.size, shard=f"{shard.number}/{shard.count}"), Marks(log.size)
    waiting: dict[tuple[bytes, bytes], list[_Task]] = {}
    archived = counted(_archived(segments, log, shard, seen, result), far, "decisions", log.size if shard.count == 1 else None)
    for where, leaf, kept in unsealer.ahead(archived, lambda each: each[2]):
        if (record := result.opened(kept, leaf, where, unsealer)) is None:
            continue
        group = (leaf.pack, parse_observation(record.observation, where).bundle)
        waiting.setdefault(group, []).append(_Task(where, leaf, record, record.actions[0]))
        if len(waiting[group]) >= BATCH:
            _judge(group, waiting.pop(group), load, evaluator_digest, result)
    for group, tasks in waiting.items():
        _judge(group, tasks, load, evaluator_digest, result)
    _recompute(log, shard, seen, result, far)
    return result


def _archived(segments: Segments, log: Served, shard: Shard, seen: Marks, result: Replayed) -> Iterator[tuple[str, Leaf, Record]]:
    """(place, leaf, record) of each DECISION leaf in the segments of this shard, once; what all segments hold of the log is `seen`."""
    for place, name in enumerate(segments.names()):
        first = {index for index in segments.indexes(name) if index is not None and seen.add(index)}
        if not shard.has(place):
            continue
        for row in segments.rows(name):
            where = f"{name}: {row.source}/{row.segment:016x}.seg offset {row.offset}"
            leaf = parse_leaf(row.leaf, where)
            if row.log_index is None or row.log_index not in first:
                continue
            first.remove(row.log_index)
            if log.entry(row.log_index) != row.leaf:
                result.differs(where, leaf.receipt_id, "the record has another leaf than the log")
            elif leaf.kind == DECISION:
                yield where, leaf, record_of(row)


def _recompute(log: Served, shard: Shard, seen: Marks, result: Replayed, far: Far) -> None:
    """The tiles over the entries of this shard, those above them by the first shard; and what no record is kept of. Raises Bad."""
    bundles = -(-log.size // TILE)
    for n in range(bundles):
        if not shard.has(n):
            continue
        far("bundles of entries", n, bundles)
        entries = log.entries_of(n)
        if b"".join(map(leaf_hash, entries)) != log.tile(0, n):
            raise Bad(tile_path(0, n, len(entries)), "is not what its entries give: the log was altered")
        for index, entry in enumerate(entries, n * TILE):
            if entry[:1] != b"{" and parse_leaf(entry).kind == DECISION and not seen.has(index):
                result.lacks(entry[100:116])
        result.entries += len(entries)
    if shard.number == 0:
        for level in range(1, (log.size.bit_length() + 7) // 8):
            for n in range(-(-(log.size >> 8 * level) // TILE)):
                tile = log.tile(level, n)
                for at in range(len(tile) // HASH):
                    if subtree_hash(log.tile(level - 1, n * TILE + at)) != tile[at * HASH : (at + 1) * HASH]:
                        raise Bad(tile_path(level, n), f"hash {at} is not what the tile below gives: the log was altered")
        result.root = log.root(log.size).hex()


def _judge(
    group: tuple[bytes, bytes],
    tasks: list[_Task],
    load: Load,
    evaluator_digest: bytes,
    result: Replayed,
) -> None:
    if group[0] == NO_PACK:
        for task in tasks:
            _compare(task, BASELINE_ADMIT, result)
        return
    try:
        evaluator = load(*group)
    except Waiting:
        raise  # what could not be asked for now says nothing of a decision
    except KnhkError as error:
        for task in tasks:
            result.differs(task.where, task.leaf.receipt_id, str(error))
        return
    for task, first in zip(tasks, evaluator.tables([task.record.observation for task in tasks]), strict=True):
        if first.status == TABLES_DECIDED:
            _compare(task, first.a, result)
        else:
            _lower(task, evaluator, evaluator_digest, result)


def _lower(task: _Task, evaluator: Evaluator, evaluator_digest: bytes, result: Replayed) -> None:
    o = task.record.observation
    if parse_observation(o, task.where).evaluator != evaluator_digest:
        result.differs(task.where, task.leaf.receipt_id, "evaluator missing: another one decided it")
        return
    try:
        decided = decide_whole(evaluator, evaluator.judge, o)
    except KnhkError as error:
        result.differs(task.where, task.leaf.receipt_id, f"not decided again: {error}")
        return
    _compare(task, decided.a, result)


def _compare(task: _Task, action: bytes, result: Replayed) -> None:
    checks = (
        (action == task.action, "A is not the one that was recorded"),
        (h_a(task.record.salt, action) == task.leaf.h_a, "H(A) is not the one in the log"),
        (
            h_o(task.record.salt, task.record.observation) == task.leaf.h_o,
            "H(O) is not the one in the log",
        ),
        (parse_action(action).verdict == task.leaf.verdict, "the verdict is not that of A"),
        (parse_observation(task.record.observation).time_ns == task.leaf.time_ns, "its time is not that of O"),
    )
    reason = next((reason for ok, reason in checks if not ok), None)
    if reason is None:
        result.replayed += 1
    else:
        result.differs(task.where, task.leaf.receipt_id, reason)
