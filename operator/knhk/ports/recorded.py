"""Recorded: where what was recorded about people lies, in outboxes and archives, beside a log."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

Ranges = tuple[tuple[int, int], ...]
"""First and last index in the log, ascending."""


class Recorded(Protocol):
    """Promises of every adapter. Everything may be repeated; what is erased is found no more. One caller at a time.
    Errors: Waiting for what is to be tried again, Stalled, Corrupt, and as ObjectStore does."""

    def of_subject(self, tag: bytes, subject: str) -> Ranges:
        """Entries whose records are about a subject. `subject`: its text, empty where only the tag is known: then what was recorded in
        clear may be missing."""
        ...

    def older(self, point: str, before_ns: int, held: Collection[bytes]) -> Ranges:
        """Entries whose records a point made before a time, but for those of tags that are held."""
        ...

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        """Those of these entries whose records are of no tag that is held."""
        ...

    def digest(self, targets: Ranges) -> str:
        """`leafHashes` of these entries (formats/envelope.md)."""
        ...

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """(records of outboxes, rows of the archive) of these entries that lost what was recorded."""
        ...
