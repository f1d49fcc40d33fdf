"""What a namespace demands of the packs in it."""

from __future__ import annotations

from typing import Protocol


class Namespaces(Protocol):
    """Promises: an answer is at most some seconds old. Raises Waiting when it cannot be had: nothing goes forward then."""

    def requires_merged_commit(self, namespace: str) -> bool:
        """Whether only what a merged commit says may be enforced."""
        ...

    def is_leaving(self, namespace: str) -> bool:
        """Whether a namespace is being deleted, or is gone: all that is in it goes with it."""
        ...


class NoDemands:
    """Everything may be enforced, by whatever hand it was applied."""

    def requires_merged_commit(self, namespace: str) -> bool:
        return False

    def is_leaving(self, namespace: str) -> bool:
        return False
