"""How segments of the Δ log are written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from knhk.model.delta import Row
from knhk.model.ranges import Ranges

if TYPE_CHECKING:  # loads the native library
    from knhk_hot.records import Columns

Folder = Callable[[int, int], str]
"""Where rows of a region, by its number, and an hour, counted from 1970, belong."""


@dataclass(frozen=True)
class Batch:
    """Rows of records that lie one after another from (segment, offset) on in the outbox `source` of an agent of `point`. `log_index`: of
    each row its column of that name."""

    source: str
    point: str
    segment: int
    offset: int
    log_index: Sequence[int | None]
    columns: Columns


@dataclass(frozen=True)
class Made:
    """A segment. `first`, `last`: least and greatest index in the log, -1 when it has none; `decoded`: bytes of its columns in memory."""

    data: bytes
    rows: int
    first: int
    last: int
    decoded: int


@dataclass(frozen=True)
class Part:
    """A segment that is written anew. `where`: for people; `erase`: first and last index in the log of rows that lose what was recorded."""

    where: str
    data: bytes
    erase: Ranges = ()


class Segments(Protocol):
    """A form of segments. Promises: the same rows give the same bytes, in whatever order they come; what is read is all in memory, a row
    group at a time. Reading raises Corrupt, which names `where`, for what is no segment."""

    def encode(self, batches: Iterable[Batch], folder: Folder) -> Iterator[tuple[str, Made]]:
        """A segment for each folder, in the order of their names. All rows are in memory at once, twice while they are sorted."""
        ...

    def rewrite(self, parts: Sequence[Part]) -> Made:
        """One segment of the rows of several, all of which are in memory at once. A row that is erased loses salt, observation, action,
        actor, route, subject and key. Raises Corrupt also for a segment with columns that this version does not know, and would lose."""
        ...

    def rows(self, data: bytes, where: str) -> Iterator[Row]:
        """The rows of a segment."""
        ...

    def about(self, data: bytes, where: str, namespace: str, subject: str, in_clear: bool) -> Iterator[Row]:
        """Rows of points of a namespace that are not erased: sealed for the subject with this tag (hexadecimal), and with `in_clear` those
        that nobody sealed. Of a row group without such rows no payload is read."""
        ...

    def column(self, data: bytes, where: str, name: str) -> list[Any]:
        """All values of one column."""
        ...
