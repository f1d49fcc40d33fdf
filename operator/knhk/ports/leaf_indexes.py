"""Which index a leaf has in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from knhk_runtime.tlog.served import Served


class LeafIndexes(Protocol):
    """What was read of a log and not met in a record yet. Promises: it is derived, so when it is lost the log is read again from its first
    entry. One thread at a time."""

    def learn(self, log: Served) -> None:
        """What the log's checkpoint covers counts from now on."""
        ...

    def find(self, keys: Iterable[bytes]) -> Mapping[bytes, tuple[int, bytes]]:
        """(index, `leaf_digest`) of the keys that the log has, as far as it was learned, and that were not forgotten; it is read as far as
        that needs. Raises Bad."""
        ...

    def forget(self, keys: Iterable[bytes]) -> None:
        """Of these no second record is expected."""
        ...
