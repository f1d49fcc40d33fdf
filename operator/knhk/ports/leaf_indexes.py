"""Which index a leaf has in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from knhk_runtime.tlog.served import Served


class LeafIndexes(Protocol):
    """What was read of a log and not met in a record yet. Promises: it is derived, so when it is lost the log is read again from its first
    entry; of two leaves with one key the later counts. One thread at a time."""

    def learn(self, log: Served) -> None:
        """Reads what is new under the log's checkpoint. Raises Bad."""
        ...

    def find(self, keys: Iterable[bytes]) -> Mapping[bytes, tuple[int, bytes]]:
        """(index, `leaf_digest`) of the keys that are known."""
        ...

    def forget(self, keys: Iterable[bytes]) -> None:
        """Of these no second record is expected."""
        ...
