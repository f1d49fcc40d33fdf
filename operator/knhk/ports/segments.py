"""How segments of the Δ log are written and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from knhk.model.delta import Row


class Segments(Protocol):
    """A form of segments. Promises: the same rows give the same bytes, in whatever order they come; what is read is all in memory, a row
    group at a time. Reading raises Corrupt, which names `where`, for what is no segment."""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """A segment."""
        ...

    def rows(self, data: bytes, where: str) -> Iterator[Row]:
        """The rows of a segment."""
        ...

    def column(self, data: bytes, where: str, name: str) -> list[Any]:
        """All values of one column."""
        ...
