"""Port Namespaces by an option of the embedded home."""

from __future__ import annotations

from dataclasses import dataclass

ALL = "*"


@dataclass(frozen=True)
class ChosenNamespaces:
    """Those that are named, or all by `*`."""

    names: frozenset[str] = frozenset()

    def requires_merged_commit(self, namespace: str) -> bool:
        return bool(self.names & {ALL, namespace})

    def is_leaving(self, namespace: str) -> bool:
        """Nobody deletes a namespace of a home: it is a word."""
        return False
