"""Chance, injected: a seed replays any run."""

from __future__ import annotations

from typing import Protocol


class Random(Protocol):
    """Safe to use from any thread. In production unpredictable to outsiders; in tests seeded."""

    def bytes(self, count: int) -> bytes:
        """`count` random bytes."""
        ...
