"""What the control plane judges by: counts over requests that both arms judged (formats/agent.md, Statistics).

Derived from outbox frames, so a restarted agent counts the same again; durations alone are not in the outbox and begin anew.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from knhk_runtime.outbox.records import CANDIDATE, DECISION, PARK, REFUSED, UNAVAILABLE, payloads
from knhk_runtime.outbox.segments import Position
from knhk_runtime.record import parse_action
from knhk_runtime.ring.entries import Drained
from knhk_verify.leaf import LEAF_SIZE

ADMIT, DENY = 1, 2
ENFORCED = b"\1"
MAX_SAMPLES = 5
MAX_CLUSTERS = 200_000
MAX_MARKS = 4096
NO_PACK = bytes(20)
_FIRST_LEAF, _RECEIPT = 28, 100
_CANDIDATE_BIT = bytes(flags & CANDIDATE for flags in range(256))
_SIDES = ((0, b"\0"), (1, b"\1"))
SIDES = ("stable", "candidate")
_CLASSES = {1: "R1", 2: "W1", 3: "C1"}
_IS_R1 = bytes(int(klass == 1) for klass in range(256))
ROUTE = "route"  # pseudo-guard: one pack knows the route of the request and the other does not
GuardNames = Callable[[bytes], tuple[str, ...]]


@dataclass
class Pair:
    """Counts of one (stable, candidate). Sets hold clusters: the sticky key's hash, or the receipt id of a request without one."""

    pairs: int = 0
    routed: int = 0
    covered: int = 0
    parked: int = 0
    errors: int = 0
    enforced_denials: int = 0
    last_candidate_enforced_ns: int = 0
    lone: int = 0
    clusters: set[int] = field(default_factory=set)
    guards: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    any: dict[str, set[int]] = field(default_factory=lambda: {"newDenials": set(), "newAdmits": set()})
    samples: dict[str, list[str]] = field(default_factory=lambda: {"newDenials": [], "newAdmits": []})
    classes: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: (_no_classes(), _no_classes()))
    both_r1: int = 0
    latency: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))

    def knows(self, cluster: int) -> bool:
        """Counts the cluster; False beyond MAX_CLUSTERS, whose requests are left out so that shares stay true."""
        if cluster in self.clusters:
            return True
        if len(self.clusters) >= MAX_CLUSTERS:
            return False
        self.clusters.add(cluster)
        return True

    def document(self, stable: bytes, candidate: bytes) -> dict[str, Any]:
        return {
            "stable": stable.hex(),
            "candidate": candidate.hex(),
            "pairs": self.pairs,
            "routed": self.routed,
            "covered": self.covered,
            "parked": self.parked,
            "clusters": len(self.clusters) + self.lone,
            "errors": self.errors,
            "guards": {name: {way: len(seen) for way, seen in ways.items()} for name, ways in sorted(self.guards.items())},
            "any": {way: len(seen) for way, seen in self.any.items()},
            "samples": {way: list(ids) for way, ids in self.samples.items()},
            "enforcedDenials": self.enforced_denials,
            "lastCandidateEnforcedNs": self.last_candidate_enforced_ns,
            "classes": {**dict(zip(SIDES, map(dict, self.classes), strict=True)), "bothR1": self.both_r1},
            "latency": {side: {str(at): n for at, n in sorted(seen.items())} for side, seen in zip(SIDES, self.latency, strict=True)},
        }


def _no_classes() -> dict[str, int]:
    return dict.fromkeys(_CLASSES.values(), 0)


class Counters:
    """Fed with whole frames in any order. Safe from any thread.

    `before`: receipts at the end of the outbox when this run began. What is taken under them was in a batch that the run before
    had made durable but not taken off its ring; `recount` counts it, `take` and `take_drained` do not again.
    """

    def __init__(self, guard_names: GuardNames, before: frozenset[bytes] = frozenset()) -> None:
        self._before = before
        self._guard_names = guard_names
        self._lock = threading.Lock()
        self._pairs: dict[tuple[bytes, bytes], Pair] = {}
        self._decisions: dict[bytes, dict[str, int]] = {}
        self._marks: deque[tuple[Position, dict[tuple[bytes, bytes], int]]] = deque(maxlen=MAX_MARKS)
        self._end = Position(0, 0)
        self.leaves = 0

    def reach(self, end: Position) -> None:
        """Frames up to `end` of the outbox are about to be counted; call it before `take`, so that no mark lies before what it covers."""
        with self._lock:
            self._end = max(self._end, end)

    def mark(self) -> None:
        """Everything counted so far lies before the furthest end that was reached. The oldest mark goes when there are too many:
        coverage is then told later, never early."""
        with self._lock:
            self._marks.append((self._end, {key: pair.pairs for key, pair in self._pairs.items()}))

    def cover(self, acked: Position) -> None:
        """The log has acknowledged the outbox up to `acked`: the pairs counted by then are covered."""
        with self._lock:
            while self._marks and self._marks[0][0] <= acked:
                for key, pairs in self._marks.popleft()[1].items():
                    self._pairs[key].covered = max(self._pairs[key].covered, pairs)

    def recount(self, frames: bytes) -> None:
        """Counts every record of these frames, which a run before made."""
        with self._lock:
            for start, _ in payloads(frames):
                self._take_record(frames, start)

    def take(self, frames: bytes) -> None:
        """Counts every record of these frames that was not there before this run."""
        with self._lock:
            for start, _ in payloads(frames):
                if receipt_at(frames, start) not in self._before:
                    self._take_record(frames, start)

    def take_drained(self, drained: Drained) -> None:
        """Counts a batch of the hot library; Python runs for each record only where arms differ or one of them is no decision."""
        again = drained.leaves[_RECEIPT : _RECEIPT + 16] in self._before
        pair = uniform_pair(drained)
        if again or (pair is None and len(drained.leaves) // LEAF_SIZE != len(drained.clusters) // 8):
            self.take(drained.frames)
            with self._lock:
                self._take_latencies(drained)
            return
        with self._lock:
            self.leaves += len(drained.leaves) // LEAF_SIZE
            for (pack, kind, verdict, klass), count in drained.counts.items():
                self._count(pack, kind, klass, verdict, count)
            if pair is not None:
                self._take_uniform(self._pairs.setdefault(pair, Pair()), drained)
            self._take_latencies(drained)

    def _take_uniform(self, pair: Pair, drained: Drained) -> None:
        """Two decisions in each record, stable first, all of one pair."""
        clusters = memoryview(drained.clusters).cast("Q")
        pair.pairs += len(clusters)
        self._take_classes(pair, drained)
        pair.lone += clusters.tolist().count(0)
        if len(pair.clusters) + len(clusters) <= MAX_CLUSTERS:
            pair.clusters.update(clusters)
            pair.clusters.discard(0)
        else:
            for cluster in filter(None, clusters):
                pair.knows(cluster)
        enforced = drained.leaves[LEAF_SIZE + 4 :: 2 * LEAF_SIZE].rfind(ENFORCED)
        if enforced >= 0:
            at = (2 * enforced + 1) * LEAF_SIZE + 92
            pair.last_candidate_enforced_ns = max(pair.last_candidate_enforced_ns, int.from_bytes(drained.leaves[at : at + 8], "big"))
        for found in drained.discordant if stable_pack(drained) != NO_PACK else ():
            cluster = found.cluster or lone_cluster(found.receipt)
            if found.cluster == 0 or pair.knows(found.cluster):
                stable, candidate = (Seen(arm.pack, arm.verdict, arm.mode, arm.a) for arm in found.arms)
                self._take_difference(pair, found.receipt, cluster, stable, candidate)

    def _take_classes(self, pair: Pair, drained: Drained) -> None:
        columns = [drained.leaves[first + 2 :: 2 * LEAF_SIZE] for first in (0, LEAF_SIZE)]
        for seen, column in zip(pair.classes, columns, strict=True):
            for klass, name in _CLASSES.items():
                seen[name] += column.count(klass)
        stable, candidate = (int.from_bytes(column.translate(_IS_R1)) for column in columns)
        pair.both_r1 += (stable & candidate).bit_count()

    def _take_latencies(self, drained: Drained) -> None:
        for key, arms in drained.latencies.items():
            for seen, counts in zip(self._pairs.setdefault(key, Pair()).latency, arms, strict=True):
                seen.update({at: n for at, n in enumerate(counts) if n})

    def documents(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
        """`pairs` and `decisions` of stats.json."""
        with self._lock:
            pairs = [pair.document(stable, candidate) for (stable, candidate), pair in self._pairs.items()]
            return pairs, {pack.hex(): dict(row) for pack, row in self._decisions.items()}

    def _take_record(self, data: bytes, start: int) -> None:
        arms = data[start + 1]
        self.leaves += arms
        first = start + _FIRST_LEAF
        for leaf in range(first, first + arms * LEAF_SIZE, LEAF_SIZE):
            self._count(data[leaf + 72 : leaf + 92], data[leaf + 1], data[leaf + 2], data[leaf + 3], 1)
        if arms == 2:
            self._take_pair(data, start, first, first + LEAF_SIZE)

    def _count(self, pack: bytes, kind: int, klass: int, verdict: int, count: int) -> None:
        row = self._decisions.get(pack)
        if row is None:
            row = self._decisions[pack] = dict.fromkeys(("admit", "deny", "park", "refused", "R1", "W1", "C1"), 0)
        if kind == DECISION:
            row["admit" if verdict == ADMIT else "deny"] += count
            if klass:
                row[_CLASSES[klass]] += count
        else:
            row["park" if kind == PARK else "refused"] += count

    def _take_pair(self, data: bytes, start: int, stable: int, candidate: int) -> None:
        if data[stable + 5] & CANDIDATE:
            stable, candidate = candidate, stable
        key = (data[stable + 72 : stable + 92], data[candidate + 72 : candidate + 92])
        pair = self._pairs.setdefault(key, Pair())
        if data[candidate + 4] == ENFORCED[0]:
            time_ns = int.from_bytes(data[candidate + 92 : candidate + 100], "big")
            pair.last_candidate_enforced_ns = max(pair.last_candidate_enforced_ns, time_ns)
        kinds = data[stable + 1], data[candidate + 1]
        judged = kinds[0] == DECISION or key[0] == NO_PACK  # before a first pack the point itself answers, and may refuse
        routed = key[0] != NO_PACK and kinds in ((DECISION, REFUSED), (REFUSED, DECISION))
        if not routed and not (judged and kinds[1] == DECISION):
            pair.errors += int(judged and kinds[1] in (UNAVAILABLE, REFUSED))
            # What stable leaves to the same tier parks when that tier is away, whichever version is enforced: no fault of the candidate.
            pair.parked += int(judged and kinds[1] == PARK and data[stable + 2] != data[candidate + 2])
            return
        pair.pairs += 1
        pair.routed += int(routed)
        classes = [None if routed else _CLASSES.get(data[leaf + 2]) for leaf in (stable, candidate)]
        for seen, name in zip(pair.classes, classes, strict=True):
            if name:
                seen[name] += 1
        pair.both_r1 += int(classes == ["R1", "R1"])
        cluster = int.from_bytes(data[start + 4 : start + 12], "big")
        receipt = data[stable + 100 : stable + 116]
        if cluster == 0:
            pair.lone += 1
            cluster = lone_cluster(receipt)
        elif not pair.knows(cluster):
            return
        if key[0] != NO_PACK and data[stable + 3] != data[candidate + 3]:
            self._take_difference(pair, receipt, cluster, _seen(data, start, stable), _seen(data, start, candidate))

    def _take_difference(self, pair: Pair, receipt: bytes, cluster: int, stable: Seen, candidate: Seen) -> None:
        denies = candidate.verdict == DENY
        way = "newDenials" if denies else "newAdmits"
        if denies and candidate.mode == ENFORCED[0]:
            pair.enforced_denials += 1
        pair.any[way].add(cluster)
        if len(pair.samples[way]) < MAX_SAMPLES and receipt.hex() not in pair.samples[way]:
            pair.samples[way].append(receipt.hex())
        denier = candidate if denies else stable
        if not denier.a:  # its pack does not know the route
            pair.guards.setdefault(ROUTE, {"newDenials": set(), "newAdmits": set()})[way].add(cluster)
            return
        names = self._guard_names(denier.pack)
        for index in parse_action(denier.a).failing:
            name = names[index] if index < len(names) else f"#{index}"
            pair.guards.setdefault(name, {"newDenials": set(), "newAdmits": set()})[way].add(cluster)


def receipt_at(frames: bytes, start: int) -> bytes:
    """Receipt id of the record whose payload is at `start`."""
    at = start + _FIRST_LEAF + _RECEIPT
    return frames[at : at + 16]


@dataclass(frozen=True)
class Seen:
    """What counts of one arm."""

    pack: bytes
    verdict: int
    mode: int
    a: bytes


def lone_cluster(receipt: bytes) -> int:
    """The cluster of a request without sticky key: itself, above all hashes."""
    return int.from_bytes(receipt, "big") << 64


def uniform_pair(drained: Drained) -> tuple[bytes, bytes] | None:
    """The one (stable, candidate) of a batch in which every record has two decisions, stable first."""
    leaves, records = drained.leaves, len(drained.clusters) // 8
    if records == 0 or len(leaves) != 2 * records * LEAF_SIZE or any(kind != DECISION for _, kind, _, _ in drained.counts):
        return None
    flags = leaves[5::LEAF_SIZE]
    if any(flags[first::2].translate(_CANDIDATE_BIT).strip(want) for first, want in _SIDES):
        return None
    packs = [leaves[first + 72 : first + 92] for first in (0, LEAF_SIZE)]
    same = all(_is_column(leaves, first + 72, pack, records) for first, pack in zip((0, LEAF_SIZE), packs, strict=True))
    return (packs[0], packs[1]) if same else None


def stable_pack(drained: Drained) -> bytes:
    """The stable pack of a uniform batch."""
    return drained.leaves[72:92]


def _is_column(leaves: bytes, at: int, value: bytes, records: int) -> bool:
    """Whether every second leaf has these bytes there."""
    return all(leaves[at + column :: 2 * LEAF_SIZE] == value[column : column + 1] * records for column in range(len(value)))


def _seen(data: bytes, start: int, leaf: int) -> Seen:
    """The arm whose leaf is at `leaf` of the payload at `start`."""
    at = start + _FIRST_LEAF + data[start + 1] * LEAF_SIZE
    at += 4 + int.from_bytes(data[at : at + 4], "big")
    size = int.from_bytes(data[at : at + 4], "big")
    if leaf != start + _FIRST_LEAF:
        at += 4 + size
        size = int.from_bytes(data[at : at + 4], "big")
    return Seen(data[leaf + 72 : leaf + 92], data[leaf + 3], data[leaf + 4], data[at + 4 : at + 4 + size])
