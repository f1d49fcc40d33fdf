"""Time, injected: nothing of ours reads a clock by itself."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Safe to use from any thread."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since 1970-01-01T00:00:00Z; may step back when it is set."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some start; never steps back. For durations and time-outs."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass; blocks the calling thread."""
        ...
