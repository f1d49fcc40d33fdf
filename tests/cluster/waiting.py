"""Waiting for what an API server comes to by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.1


def until(holds: Callable[[], bool], within_s: float) -> None:
    """Looks until it holds. AssertionError when it does not in time."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"does not hold within {within_s:g} s"
        time.sleep(LOOK_S)
