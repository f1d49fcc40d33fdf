"""A queue of keys with due times and lanes: urgent work first, each key once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush

from knhk.model.resource import Key


class Lane(IntEnum):
    """Lower goes first: a rollback never waits behind a thousand new packs."""

    URGENT = 0
    NORMAL = 1
    SLOW = 2


@dataclass
class WorkQueue:
    """Not for several threads. Times are of the monotonic clock, seconds."""

    _due: dict[Key, tuple[float, Lane]] = field(default_factory=dict)
    _heaps: dict[Lane, list[tuple[float, Key]]] = field(default_factory=lambda: {lane: [] for lane in Lane})

    def put(self, key: Key, due_s: float, lane: Lane = Lane.NORMAL) -> None:
        """Asks for `key` at `due_s`; an earlier time or a more urgent lane that is already asked for stays."""
        known = self._due.get(key)
        if known is not None:
            due_s, lane = min(due_s, known[0]), min(lane, known[1])
        if known != (due_s, lane):
            self._due[key] = (due_s, lane)
            heappush(self._heaps[lane], (due_s, key))

    def head(self, now_s: float) -> Key | None:
        """What `take` would give."""
        lane = self._lane(now_s)
        return None if lane is None else self._heaps[lane][0][1]

    def take(self, now_s: float) -> tuple[Key, float] | None:
        """The most urgent key that is due, and since when, or None."""
        lane = self._lane(now_s)
        if lane is None:
            return None
        due_s, key = heappop(self._heaps[lane])
        del self._due[key]
        return key, due_s

    def _lane(self, now_s: float) -> Lane | None:
        """The most urgent lane in which something is due."""
        return next((lane for lane in Lane if (first := self._first(lane)) is not None and first[0] <= now_s), None)

    def wait_s(self, now_s: float, at_most_s: float) -> float:
        """Seconds until the next key is due, `at_most_s` at most."""
        return max(0.0, min(at_most_s, self._soonest_s(now_s + at_most_s) - now_s))

    def late_s(self, now_s: float) -> float:
        """For how long the oldest key is due."""
        return max(0.0, now_s - self._soonest_s(now_s))

    def _soonest_s(self, otherwise_s: float) -> float:
        firsts = (self._first(lane) for lane in Lane)
        return min((first[0] for first in firsts if first is not None), default=otherwise_s)

    def _first(self, lane: Lane) -> tuple[float, Key] | None:
        """The earliest of a lane; what was asked for otherwise meanwhile falls out."""
        heap = self._heaps[lane]
        while heap and self._due.get(heap[0][1]) != (heap[0][0], lane):
            heappop(heap)
        return heap[0] if heap else None

    def __len__(self) -> int:
        return len(self._due)
