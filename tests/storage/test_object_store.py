"""One contract for every object store: memory, folder, a real S3 server."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from knhk.model.faults import AlreadyExists, Conflict, KnhkError, NotFound, Stalled, Waiting
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.opening import open_store
from knhk_runtime.objects.port import About, Listed, ObjectStore
from knhk_runtime.sequencer.files import Disk

KEYS = (
    "tile/entries/000",
    "tile/entries/001.p/7",
    "tile/entries/x001/000",
    "tile/entries2/0",
    "region=eu/pack=a.b~c/-.parquet",
    "checkpoint",
)


def test_what_is_written_is_read_whole_and_in_parts(store: ObjectStore) -> None:
    etag = store.put("a/b", b"0123456789")
    assert (store.get("a/b").data, store.get("a/b").etag) == (b"0123456789", etag)
    assert [store.get_range("a/b", start, length) for start, length in ((0, 3), (8, 1), (8, 9), (10, 1), (99, 1))] == [
        b"012",
        b"8",
        b"89",
        b"",
        b"",
    ]
    store.put("a/b", b"")
    assert store.get("a/b").data == b""
    assert store.put("a/b", b"1") != etag


def test_what_is_not_there_is_told(store: ObjectStore) -> None:
    store.put("a/b/c", b"1")
    for key in ("x", "a/b", "a/b/c/d"):
        with pytest.raises(NotFound, match=key):
            store.get(key)
        with pytest.raises(NotFound, match=key):
            store.get_range(key, 0, 1)
    assert list(store.list("x")) == []


def test_an_object_is_created_once(store: ObjectStore) -> None:
    store.create("lease", b"1")
    with pytest.raises(AlreadyExists):
        store.create("lease", b"2")
    assert store.get("lease").data == b"1"
    store.delete(["lease"])
    store.create("lease", b"3")


def test_an_object_is_swapped_only_for_the_one_that_was_read(store: ObjectStore) -> None:
    first = store.put("checkpoint", b"1")
    second = store.swap("checkpoint", b"2", first)
    for etag in (first, "0" * 32):
        with pytest.raises(Conflict):
            store.swap("checkpoint", b"3", etag)
    assert store.get("checkpoint") == type(store.get("checkpoint"))(b"2", second)
    store.delete(["checkpoint"])
    with pytest.raises(Conflict):
        store.swap("checkpoint", b"3", second)
    assert list(store.list()) == []


@pytest.mark.parametrize("way", ["create", "swap"])
def test_of_many_writers_under_a_condition_one_wins(store: ObjectStore, way: str) -> None:
    etag = store.put("swap", b"0")

    def write(number: int) -> bool:
        try:
            store.create("create", str(number).encode()) if way == "create" else store.swap("swap", f"{number}!".encode(), etag)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = [number for number, wins in enumerate(pool.map(write, range(32))) if wins]
    assert len(won) == 1
    assert int(store.get(way).data.decode().rstrip("!")) == won[0]


def test_objects_are_listed_in_order_below_their_folders(store: ObjectStore) -> None:
    store.put_all([(key, key.encode()) for key in KEYS])
    assert list(store.list()) == [Listed(key, len(key)) for key in sorted(KEYS)]
    assert [row.key for row in store.list("tile/entries")] == sorted(KEYS[:3])
    assert [row.key for row in store.list("region=eu")] == [KEYS[4]]
    assert list(store.list("tile/ent")) == []


def test_many_are_written_and_deleted_at_once(store: ObjectStore) -> None:
    items = [(f"n/{number:04d}", b"%d" % number) for number in range(300)]
    store.put_all(items)
    assert [(row.key, store.get(row.key).data) for row in store.list("n")][::50] == items[::50]
    assert list(store.get_all(key for key, _ in items[::-1])) == [data for _, data in items[::-1]]
    with pytest.raises(NotFound):
        list(store.get_all(["n/0000", "n/absent"]))
    store.delete([key for key, _ in items[1:]] + ["n/absent"])
    assert [row.key for row in store.list()] == ["n/0000"]
    items = [("n/0000", b"other"), ("n/new", b"1"), ("m/new", b"2")]
    assert store.create_all(items) == items[:1]
    assert [(row.key, store.get(row.key).data) for row in store.list()] == [("m/new", b"2"), ("n/0000", b"0"), ("n/new", b"1")]
    store.put_all([])
    assert store.create_all([]) == []
    store.delete([])


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", ".lock", "a.tmp", "a b", "ü", "a\n", "a\\b", "a" * 901])
def test_what_is_no_key_is_refused(store: ObjectStore, key: str) -> None:
    steps: tuple[Callable[[], Any], ...] = (
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.create(key, b""),
        lambda: store.delete([key]),
    )
    for step in steps:
        with pytest.raises(ValueError, match="must be a key"):
            step()


# ---- a folder -----------------------------------------------------------------------------------


class Failing(Disk):
    """A disk on which one kind of step fails."""

    def __init__(self, step: str) -> None:
        self.step = step

    def __getattribute__(self, name: str) -> Any:
        if name == super().__getattribute__("step"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().__getattribute__(name)


@pytest.mark.parametrize("step", ["create", "write", "sync", "rename"])
def test_a_write_that_fails_leaves_the_object_as_it_was(tmp_path: Path, step: str) -> None:
    FolderStore(tmp_path).put("a/b", b"old")
    for write in (lambda store: store.put("a/b", b"new"), lambda store: store.swap("a/b", b"new", store.get("a/b").etag)):
        with pytest.raises(Waiting, match="No space left"):
            write(FolderStore(tmp_path, Failing(step)))
    assert [(row.key, FolderStore(tmp_path).get(row.key).data) for row in FolderStore(tmp_path).list()] == [("a/b", b"old")]


class Counting(Disk):
    """Keeps what was made durable before each rename."""

    def __init__(self) -> None:
        self.told = list[str]()

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.told.append("sync")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.told.append(f"rename {target.name}")

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.told.append(f"sync_dir {path.name}")


def test_bytes_are_durable_before_their_name_and_the_names_of_new_folders_too(tmp_path: Path) -> None:
    disk = Counting()
    store = FolderStore(tmp_path / "top", disk)
    store.put("x/y/z", b"1")
    assert disk.told == ["sync_dir x", "sync_dir top", f"sync_dir {tmp_path.name}", "sync", "rename z", "sync_dir y"]
    disk.told.clear()
    store.put("x/y/z", b"2")
    assert disk.told == ["sync", "rename z", "sync_dir y"]


def test_processes_that_swap_one_object_lose_no_increment(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from knhk.model.faults import Conflict; from knhk_runtime.objects.folder import FolderStore\n"
        "store, done = FolderStore(Path(sys.argv[1])), 0\n"
        "while done < 40:\n"
        "    found = store.get('n')\n"
        "    try: store.swap('n', b'%d' % (int(found.data) + 1), found.etag)\n"
        "    except Conflict: continue\n"
        "    done += 1\n"
    )
    FolderStore(tmp_path).create("n", b"0")
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert FolderStore(tmp_path).get("n").data == b"120"


# ---- an S3 --------------------------------------------------------------------------------------


@pytest.mark.server
def test_headers_go_with_the_object(s3_address: str) -> None:
    import obstore

    store: Any = open_store(s3_address)
    store.put("tile/0/000", b"1", About("application/octet-stream", "public, max-age=31536000, immutable"))
    found = obstore.get(store._bucket, "tile/0/000").attributes
    assert found["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.server
def test_a_refusal_says_what_a_person_must_mend(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(Stalled, match="s3://bucket"):
        open_store(s3_address).put("a", b"1")
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(Waiting, match="s3://nobody/a"):
        open_store("s3://nobody").get("a")


@pytest.mark.parametrize("address", ["gs://x", "s3://", "http://x/y"])
def test_an_address_of_no_store_is_refused(address: str) -> None:
    with pytest.raises(Stalled, match="must be s3://BUCKET/PREFIX, or a folder"):
        open_store(address)


def test_every_error_is_one_of_ours(store: ObjectStore) -> None:
    store.put("a", b"1")
    with pytest.raises(KnhkError):
        store.create("a", b"2")


def test_a_folder_needs_no_s3(tmp_path: Path) -> None:
    """Nor does the agent: `tests/agent` looks at all that it imports."""
    code = (
        f"import sys; from knhk_runtime.objects.opening import open_store; open_store({str(tmp_path)!r}); print('obstore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
