"""What the control plane judges by: counts over requests that both arms judged (formats/agent.md, Statistics).

Derived from outbox frames only, so a restarted agent counts the same again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk_runtime.outbox.records import CANDIDATE, DECISION, ENFORCED, PARK, REFUSED, UNAVAILABLE, payloads
from knhk_verify.record import LEAF_SIZE, parse_action

ADMIT, DENY = 1, 2
MAX_SAMPLES = 5
MAX_CLUSTERS = 200_000
_FIRST_LEAF = 28
_CLASSES = {1: "R1", 2: "W1", 3: "C1"}
GuardNames = Callable[[bytes], tuple[str, ...]]


@dataclass
class Pair:
    """Counts of one (stable, candidate). Sets hold clusters: the sticky key's hash, or the receipt id of a request without one."""

    pairs: int = 0
    errors: int = 0
    enforced_denials: int = 0
    last_candidate_enforced_ns: int = 0
    lone: int = 0
    clusters: set[int] = field(default_factory=set)
    guards: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    any: dict[str, set[int]] = field(default_factory=lambda: {"newDenials": set(), "newAdmits": set()})
    samples: dict[str, list[str]] = field(default_factory=lambda: {"newDenials": [], "newAdmits": []})

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
            "clusters": len(self.clusters) + self.lone,
            "errors": self.errors,
            "guards": {name: {way: len(seen) for way, seen in ways.items()} for name, ways in sorted(self.guards.items())},
            "any": {way: len(seen) for way, seen in self.any.items()},
            "samples": {way: list(ids) for way, ids in self.samples.items()},
            "enforcedDenials": self.enforced_denials,
            "lastCandidateEnforcedNs": self.last_candidate_enforced_ns,
        }


class Counters:
    """Fed with whole frames in any order. Safe from any thread."""

    def __init__(self, guard_names: GuardNames) -> None:
        self._guard_names = guard_names
        self._lock = threading.Lock()
        self._pairs: dict[tuple[bytes, bytes], Pair] = {}
        self._decisions: dict[bytes, dict[str, int]] = {}
        self.leaves = 0

    def take(self, frames: bytes) -> None:
        """Counts every record of these frames."""
        with self._lock:
            for start, end in payloads(frames):
                self._take_record(frames, start, end)

    def documents(self) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
        """`pairs` and `decisions` of stats.json."""
        with self._lock:
            pairs = [pair.document(stable, candidate) for (stable, candidate), pair in self._pairs.items()]
            return pairs, {pack.hex(): dict(row) for pack, row in self._decisions.items()}

    def _take_record(self, data: bytes, start: int, end: int) -> None:
        arms = data[start + 1]
        self.leaves += arms
        first = start + _FIRST_LEAF
        for leaf in range(first, first + arms * LEAF_SIZE, LEAF_SIZE):
            self._count_leaf(data, leaf)
        if arms == 2:
            self._take_pair(data, start, first, first + LEAF_SIZE)

    def _count_leaf(self, data: bytes, leaf: int) -> None:
        row = self._decisions.get(data[leaf + 72 : leaf + 92])
        if row is None:
            names = ("admit", "deny", "park", "refused", "R1", "W1", "C1")
            row = self._decisions[data[leaf + 72 : leaf + 92]] = dict.fromkeys(names, 0)
        kind = data[leaf + 1]
        if kind == DECISION:
            row["admit" if data[leaf + 3] == ADMIT else "deny"] += 1
            if data[leaf + 2]:
                row[_CLASSES[data[leaf + 2]]] += 1
        else:
            row["park" if kind == PARK else "refused"] += 1

    def _take_pair(self, data: bytes, start: int, stable: int, candidate: int) -> None:
        if data[stable + 5] & CANDIDATE:
            stable, candidate = candidate, stable
        key = (data[stable + 72 : stable + 92], data[candidate + 72 : candidate + 92])
        pair = self._pairs.setdefault(key, Pair())
        if data[candidate + 4] == ENFORCED:
            time_ns = int.from_bytes(data[candidate + 92 : candidate + 100], "big")
            pair.last_candidate_enforced_ns = max(pair.last_candidate_enforced_ns, time_ns)
        if data[stable + 1] != DECISION or data[candidate + 1] != DECISION:
            if data[stable + 1] == DECISION and data[candidate + 1] in (UNAVAILABLE, REFUSED):
                pair.errors += 1
            return
        pair.pairs += 1
        cluster = int.from_bytes(data[start + 4 : start + 12], "big")
        differs = data[stable + 3] != data[candidate + 3]
        if cluster == 0:
            pair.lone += 1
            cluster = int.from_bytes(data[stable + 100 : stable + 116], "big") << 64
        elif not pair.knows(cluster):
            return
        if differs:
            self._take_difference(pair, data, start, stable, candidate, cluster)

    def _take_difference(self, pair: Pair, data: bytes, start: int, stable: int, candidate: int, cluster: int) -> None:
        denies = data[candidate + 3] == DENY
        way = "newDenials" if denies else "newAdmits"
        if denies and data[candidate + 4] == ENFORCED:
            pair.enforced_denials += 1
        pair.any[way].add(cluster)
        receipt = data[stable + 100 : stable + 116].hex()
        if len(pair.samples[way]) < MAX_SAMPLES and receipt not in pair.samples[way]:
            pair.samples[way].append(receipt)
        denier = candidate if denies else stable
        for name in self._failing(data, start, denier):
            pair.guards.setdefault(name, {"newDenials": set(), "newAdmits": set()})[way].add(cluster)

    def _failing(self, data: bytes, start: int, leaf: int) -> list[str]:
        """Names of the guards that failed in the arm whose leaf is at `leaf`."""
        at = start + _FIRST_LEAF + data[start + 1] * LEAF_SIZE
        at += 4 + int.from_bytes(data[at : at + 4], "big")
        size = int.from_bytes(data[at : at + 4], "big")
        if leaf != start + _FIRST_LEAF:
            at += 4 + size
            size = int.from_bytes(data[at : at + 4], "big")
        action = parse_action(data[at + 4 : at + 4 + size])
        names = self._guard_names(data[leaf + 72 : leaf + 92])
        return [names[index] if index < len(names) else f"#{index}" for index in action.failing]


def running_document(stable: str | None, candidate: str | None, data: str | None) -> Mapping[str, str | None]:
    """`running` of stats.json: digests, "sha256:…" or null."""
    return {"stable": stable, "candidate": candidate, "data": data}
