"""So much a second for each caller, and some at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class Buckets:
    """Of one thread. `per_s` comes back each second, up to `most`; `known`: callers that are remembered, those that asked last."""

    def __init__(self, now_ns: Callable[[], int], per_s: float, most: float, known: int = 20_000) -> None:
        self._now_ns, self._per_s, self._most, self._known = now_ns, per_s, most, known
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, who: str, amount: float = 1.0) -> bool:
        """Whether so much is left; then it is taken."""
        now = self._now_ns()
        left, at = self._left.get(who, (self._most, now))
        left = min(self._most, left + (now - at) / 1e9 * self._per_s)
        fits = left >= amount
        self._left[who] = (left - amount if fits else left, now)
        self._left.move_to_end(who)
        while len(self._left) > self._known:
            self._left.popitem(last=False)
        return fits
