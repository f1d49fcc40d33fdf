"""A writer that starts finds the last commit by a few reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from knhk.model.faults import Corrupt
from knhk.reconcilers import delta
from knhk.reconcilers.archiving import newest_commit
from knhk.reconcilers.delta import Commit
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import Listed, Stored


class Counted(FolderStore):
    """Says how often it was read, and cannot list."""

    reads = 0

    def get(self, key: str) -> Stored:
        self.reads += 1
        return super().get(key)

    def list(self, folder: str = "") -> Iterator[Listed]:
        raise AssertionError("a start must not list what grows for ever")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 100, 255, 256, 300])
def test_the_last_of_so_many_is_found(tmp_path: Path, count: int) -> None:
    store = Counted(tmp_path)
    for number in range(count):
        store.create(delta.commit_key(number), delta.commit_bytes(Commit(number, "o", {"s": (number, 16)}, ())))
    found = newest_commit(store)
    assert (found.number if found else -1) == count - 1
    assert store.reads <= 2 + 2 * count.bit_length()


def test_a_last_commit_that_is_none_is_told(tmp_path: Path) -> None:
    store = Counted(tmp_path)
    store.create(delta.commit_key(0), b"{}")
    with pytest.raises(Corrupt, match="must be of version 1"):
        newest_commit(store)
