"""A queue of keys with due times and lanes: urgent work first, each key once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

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

    def put(self, key: Key, due_s: float, lane: Lane = Lane.NORMAL) -> None:
        """Asks for `key` at `due_s`; an earlier time or a more urgent lane that is already asked for stays."""
        known = self._due.get(key)
        if known is not None:
            due_s, lane = min(due_s, known[0]), min(lane, known[1])
        self._due[key] = (due_s, lane)

    def take(self, now_s: float) -> Key | None:
        """The most urgent key that is due, or None."""
        ready = [(lane, due, key) for key, (due, lane) in self._due.items() if due <= now_s]
        if not ready:
            return None
        key = min(ready)[2]
        del self._due[key]
        return key

    def wait_s(self, now_s: float, at_most_s: float) -> float:
        """Seconds until the next key is due, `at_most_s` at most."""
        soonest = min((due for due, _ in self._due.values()), default=now_s + at_most_s)
        return max(0.0, min(at_most_s, soonest - now_s))

    def __len__(self) -> int:
        return len(self._due)
