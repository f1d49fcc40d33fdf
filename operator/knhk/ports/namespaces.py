"""What a namespace demands of the packs in it."""

from __future__ import annotations

from typing import Protocol


class Namespaces(Protocol):
    """Promises: an answer is at most some seconds old. Raises Waiting when it cannot be had: nothing goes forward then."""

    def requires_merged_commit(self, namespace: str) -> bool:
        """Whether only what a merged commit says may be enforced."""
        ...


class NoDemands:
    """Everything may be enforced, by whatever hand it was applied."""

    def requires_merged_commit(self, namespace: str) -> bool:
        return False
