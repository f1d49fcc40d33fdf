"""A writer or reader that starts knows an archive by a few reads: a snapshot, and the commits since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from knhk.model.faults import Corrupt, NotFound
from knhk.reconcilers import delta
from knhk.reconcilers.delta import Commit, Contents, File
from knhk.reconcilers.ledger import contents_of
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import Listed, Stored


class Counted(FolderStore):
    """Says how often it was read, and lists nothing that grows for ever."""

    reads = 0

    def get(self, key: str) -> Stored:
        self.reads += 1
        return super().get(key)

    def list(self, folder: str = "") -> Iterator[Listed]:
        assert folder == delta.SNAPSHOTS, "a start must not list what grows for ever"
        return super().list(folder)


def commit(number: int, *gone: int) -> Commit:
    """Adds one segment, and takes away those of earlier commits."""
    files = [File(f"p/{number}", 1, 10, "", number, number), *(File(f"p/{each}", 0, 0, "", -1, -1) for each in gone)]
    return Commit(number, "o", {"s": (number, 16)}, tuple(files), 77 if gone else 0)


def filled(store: FolderStore, *commits: Commit) -> Contents:
    for each in commits:
        store.create(delta.commit_key(each.number), delta.commit_bytes(each))
    return Contents().after(commits)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_without_a_snapshot_all_commits_are_read(tmp_path: Path, count: int) -> None:
    store = FolderStore(tmp_path)
    filled(store, *map(commit, range(count)))
    found = contents_of(store)
    assert (found.number, len(found.files)) == (count - 1, count)


def test_a_snapshot_and_the_commits_since_say_the_same_as_all(tmp_path: Path) -> None:
    every = [*map(commit, range(100)), commit(100, *range(90)), commit(101, 95, 96)]
    whole = filled(FolderStore(tmp_path), *every)
    store = Counted(tmp_path)
    for number in (98, 100):
        said = Contents().after(every[: number + 1])
        store.put(delta.snapshot_key(number), delta.snapshot_bytes(said))
    assert contents_of(store) == whole
    assert store.reads == 3  # the snapshot, commit 101, and that there is no 102
    assert set(whole.files) == {f"p/{n}" for n in range(90, 102)} - {"p/95", "p/96"}
    assert whole.gone["p/5"] == 77


def test_a_snapshot_that_goes_while_it_is_read_is_no_error(tmp_path: Path) -> None:
    every = [*map(commit, range(5))]
    whole = filled(FolderStore(tmp_path), *every)

    class Late(FolderStore):
        def get(self, key: str) -> Stored:
            if key == delta.snapshot_key(2):
                self.put(delta.snapshot_key(4), delta.snapshot_bytes(whole))
                self.delete([key])
                raise NotFound(key)
            return super().get(key)

    Late(tmp_path).put(delta.snapshot_key(2), delta.snapshot_bytes(Contents().after(every[:3])))
    assert contents_of(Late(tmp_path)) == whole


def test_old_commits_that_somebody_took_away_are_not_needed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    whole = filled(store, *map(commit, range(9)))
    store.put(delta.snapshot_key(8), delta.snapshot_bytes(whole))
    store.delete([delta.commit_key(number) for number in range(7)])
    assert contents_of(store) == whole


@pytest.mark.parametrize("key", [delta.commit_key(0), delta.snapshot_key(0)])
def test_a_commit_or_snapshot_that_is_none_is_told(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path)
    store.create(key, b"{}")
    with pytest.raises(Corrupt, match="must be of version 1"):
        contents_of(store)
