"""Where tiles and checkpoint are published, for everybody to read: the log's own folder, or an object store.

The one commit point of a tree is the write of its checkpoint; all that the checkpoint needs is durable before."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from knhk.model.faults import AlreadyExists, Conflict, Corrupt, Deposed, NotFound, Stalled, Waiting
from knhk_runtime.objects.port import About, ObjectStore
from knhk_runtime.sequencer.files import TEMPORARY, Files, put, put_all
from knhk_runtime.sequencer.lease import Lease
from knhk_verify.note import b64

Items = Sequence[tuple[str, bytes]]
TILES = About("application/octet-stream", "public, max-age=31536000, immutable")
CHECKPOINT = About("text/plain; charset=utf-8", "public, max-age=1, must-revalidate")
EPOCH = "epoch.knhk.dev"  # name of the signature line that says who wrote a checkpoint
FENCED_WITHIN = 8  # tries to take over from a writer who is writing
_LINE, _ID = f"— {EPOCH} ", sha256(f"{EPOCH}\n".encode() + b"\xffknhk.dev/log-epoch").digest()[:4]
META = About("application/json", "public, max-age=60")
COMMITS = ("checkpoint", "signed")  # names under which one checkpoint at a time is replaced


class Publication(Protocol):
    """Each step raises OSError when storage fails, and then may have been done, and Deposed when another writes this log. Reading is
    for any thread; one thread writes."""

    @property
    def term(self) -> int | None:
        """Number of this writer among all that ever were; None where a lock of the folder says that there is one."""

    def writable(self) -> None:
        """Raises OSError when another may write by now."""

    def begin(self) -> None:
        """Before anything else: sweeps what a kill left half-written."""

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError."""

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        """`read` of each, in order."""

    def remains(self) -> str:
        """Something that only a log has which has a checkpoint; empty when there is nothing."""

    def meta(self, data: bytes) -> None:
        """Writes meta.json."""

    def tiles(self, items: Items) -> None:
        """Writes tiles; durable when it returns."""

    def checkpoint(self, note: bytes, name: str = "checkpoint") -> None:
        """Replaces the checkpoint that was read or written last under this name, one of COMMITS; durable when it returns. None before:
        there must be none."""

    def partials(self) -> list[str]:
        """Paths of all partial tiles."""

    def remove(self, paths: Sequence[str]) -> None:
        """Removes tiles; those that are not there are no error."""


class FilesPublication:
    """In the log's own folder, whose lock is held."""

    term = None

    def __init__(self, files: Files, folder: Path) -> None:
        self._files, self._folder = files, folder

    def writable(self) -> None:
        return

    def begin(self) -> None:
        self._files.mkdir(self._folder / "tile")
        for path in self._below(self._folder / "tile"):
            if path.name.endswith(TEMPORARY):
                self._files.unlink(path)

    def read(self, path: str) -> bytes:
        return self._files.read(self._folder / path)

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        return map(self.read, paths)

    def remains(self) -> str:
        if self._files.names(self._folder / "tile"):
            return "tile"
        return "meta.json" if "meta.json" in self._files.names(self._folder) else ""

    def meta(self, data: bytes) -> None:
        put(self._files, self._folder / "meta.json", data)
        self._files.sync_dir(self._folder)

    def tiles(self, items: Items) -> None:
        folders = dict[Path, None]()
        for path, _ in items:
            target = self._folder / path
            if target.parent not in folders:
                self._files.mkdir(target.parent)
            for folder in (target.parent, *target.parent.parents):
                folders[folder] = None
                if folder == self._folder:
                    break
        put_all(self._files, [(self._folder / path, data) for path, data in items])
        for folder in folders:
            self._files.sync_dir(folder)

    def checkpoint(self, note: bytes, name: str = "checkpoint") -> None:
        put(self._files, self._folder / name, note)
        self._files.sync_dir(self._folder)

    def partials(self) -> list[str]:
        found = (path.relative_to(self._folder).as_posix() for path in self._below(self._folder / "tile"))
        return [path for path in found if ".p/" in path]

    def remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self._files.unlink(self._folder / path)
        for folder in dict.fromkeys((self._folder / path).parent for path in paths):
            if folder.name.endswith(".p") and folder.name in self._files.names(folder.parent) and not self._files.names(folder):
                self._files.rmdir(folder)

    def _below(self, folder: Path) -> Iterator[Path]:
        for name in self._files.names(folder):
            path = folder / name
            if name.endswith(".p") or (name.endswith(TEMPORARY) is False and self._files.names(path)):
                yield from self._below(path)
            else:
                yield path


class StorePublication:
    """In an object store that other machines may write, under a lease that is held.

    A tile is created; one that is there with other bytes is of a writer before us whose tiles never came under a checkpoint, or of one
    after us. So its etag is read first, then the lease is confirmed, then it is swapped: were it of one after us, the lease would be
    another's before we read it. The checkpoint is swapped for the one that we read or wrote last. It names the epoch of its writer, and
    who takes over writes his into it before anything else: what a writer before him had under way can then no longer be done, and no
    tile that he replaces can come under a checkpoint."""

    def __init__(self, store: ObjectStore, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self._etags = dict[str, str]()  # of the checkpoints that we read or wrote last
        self._tried = {name: set[bytes]() for name in COMMITS}  # checkpoints whose writes failed, and may have been done

    @property
    def term(self) -> int:
        return self._lease.epoch

    def writable(self) -> None:
        if not self._lease.in_force():
            raise OSError(errno.EROFS, f"{self._store.name}: the lease was not renewed in time: another may write this log")

    def begin(self) -> None:
        with _errors():
            for name in COMMITS:
                self._fence(name)

    def _fence(self, name: str) -> None:
        for _ in range(FENCED_WITHIN):
            try:
                found = self._store.get(name)
            except NotFound:
                return
            self._lease.confirm()
            wanted = marked(found.data, self.term)
            if found.data == wanted:
                return
            with suppress(Conflict):
                self._store.swap(name, wanted, found.etag, CHECKPOINT)
        raise Deposed(f"{self._store.name}/{name}: another writes it again and again")

    def read(self, path: str) -> bytes:
        with _errors():
            found = self._store.get(path)
        if path not in COMMITS:
            return found.data
        self._etags[path] = found.etag
        return unmarked(found.data)

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes]:
        with _errors():
            yield from self._store.get_all(paths)

    def remains(self) -> str:
        with _errors():
            return next((row.key for row in self._store.list("tile")), "") or self._there("meta.json")

    def _there(self, key: str) -> str:
        try:
            self._store.get(key)
        except NotFound:
            return ""
        return key

    def meta(self, data: bytes) -> None:
        self.beside("meta.json", data)

    def beside(self, name: str, data: bytes) -> None:
        """What is no part of the tree, and replaced as a whole."""
        self.writable()
        with _errors():
            self._store.put(name, data, META)

    def tiles(self, items: Items) -> None:
        self.writable()
        with _errors():
            self._lease.confirm()
            for path, data in self._store.create_all(items, TILES):
                self._replace(path, data)

    def _replace(self, path: str, data: bytes) -> None:
        found = self._store.get(path)
        if found.data == data:
            return
        self._lease.confirm()
        self.writable()  # we may have slept in that look, and etags are of bytes: a successor publishes what is there if it is his as well
        try:
            self._store.swap(path, data, found.etag, TILES)
        except Conflict:
            if self._store.get(path).data != data:
                raise

    def checkpoint(self, note: bytes, name: str = "checkpoint") -> None:
        self.writable()
        note = marked(note, self.term)
        with _errors():
            self._lease.confirm()
            self._tried[name].add(note)
            before = self._etags.get(name)
            try:
                etag = self._store.create(name, note, CHECKPOINT) if before is None else self._store.swap(name, note, before, CHECKPOINT)
            except Conflict:
                etag = self._after_a_conflict(note, name)
        self._etags[name] = etag
        self._tried[name].clear()

    def _after_a_conflict(self, note: bytes, name: str) -> str:
        """What is there may be ours all the same: this write, sent twice, or one before it whose answer was lost."""
        found = self._store.get(name)
        if found.data == note:
            return found.etag
        if found.data not in self._tried[name]:
            raise Deposed(f"{self._store.name}/{name} is another writer's")
        return self._store.swap(name, note, found.etag, CHECKPOINT)

    def partials(self) -> list[str]:
        with _errors():
            return [row.key for row in self._store.list("tile") if ".p/" in row.key]

    def remove(self, paths: Sequence[str]) -> None:
        with _errors():
            self._store.delete(paths)


def marked(note: bytes, epoch: int) -> bytes:
    """A checkpoint that names the epoch of its writer, by a signature line of a kind that readers do not know and skip (formats/log.md)."""
    return unmarked(note) + f"{_LINE}{b64(_ID + epoch.to_bytes(8, 'big'))}\n".encode()


def unmarked(note: bytes) -> bytes:
    """The checkpoint without that line."""
    return b"".join(line for line in note.splitlines(keepends=True) if not line.startswith(_LINE.encode()))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(errno.ENOENT, str(error)) from error
    except (AlreadyExists, Conflict) as error:
        raise Deposed(f"another writes this log: {error}") from error
    except (Waiting, Stalled, Corrupt) as error:
        raise OSError(errno.EIO, str(error)) from error
