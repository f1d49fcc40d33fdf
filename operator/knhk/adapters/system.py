"""Clock and chance of this machine."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """knhk.ports.clock.Clock by the operating system."""

    def now_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def sleep(self, duration_s: float) -> None:
        """Block this thread."""
        time.sleep(duration_s)


class SystemRandom:
    """knhk.ports.chance.Random by the operating system's generator."""

    def bytes(self, count: int) -> bytes:
        """From getrandom(2)."""
        return secrets.token_bytes(count)
