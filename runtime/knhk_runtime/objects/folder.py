"""Objects as files of a folder: written beside, synced, renamed. Conditions hold between processes by a lock file."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from knhk.model.faults import AlreadyExists, Conflict, NotFound, Waiting
from knhk_runtime.objects.port import PLAIN, About, Listed, Stored, checked
from knhk_runtime.sequencer.files import TEMPORARY, Disk, Files, put_all

LOCK = ".lock"
RETRY_AFTER_S = 1.0
_numbers = itertools.count()


def _etag(data: bytes) -> str:
    return sha256(data).hexdigest()


class FolderStore:
    """`ObjectStore` in a folder of a local file system, which is made when missing. What a kill left half-written has a name that ends in
    `.tmp`, and is no object."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder, self._files = folder.absolute(), Disk() if files is None else files
        self._durable = set[Path]()  # folders whose names have been synced up to ours

    @property
    def name(self) -> str:
        return str(self._folder)

    def get(self, key: str) -> Stored:
        with self._errors(key):
            data = self._files.read(self._path(key))
        return Stored(data, _etag(data))

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        return (self.get(key).data for key in keys)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        self.put_all([(key, data)], about)
        return _etag(data)

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        pairs = [(self._path(key), data) for key, data in items]
        with self._errors(", ".join(key for key, _ in items[:1])), self._locked(fcntl.LOCK_SH):
            self._write(pairs)

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        if self.create_all([(key, data)], about):
            raise AlreadyExists(f"{self.name}/{key} is there already")
        return _etag(data)

    def create_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> list[tuple[str, bytes]]:
        pairs = [(self._path(key), (key, data)) for key, data in items]
        with self._errors(", ".join(key for key, _ in items[:1])), self._locked(fcntl.LOCK_EX):
            there = [item for path, item in pairs if path.exists()]
            self._write([(path, item[1]) for path, item in pairs if item not in there])
        return there

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        with self._errors(key), self._locked(fcntl.LOCK_EX):
            found = self._there(key)
            if found is None or _etag(found) != etag:
                raise Conflict(f"{self.name}/{key} is no longer what it was")
            self._write([(self._path(key), data)])
        return _etag(data)

    def leftovers(self) -> list[Path]:
        """What writers that were killed left half-written, and those that write now."""
        return sorted(self._folder.rglob(f"*{TEMPORARY}"))

    def list(self, folder: str = "") -> Iterator[Listed]:
        top = self._path(folder) if folder else self._folder
        with self._errors(folder):
            yield from self._below(top, f"{folder}/" if folder else "")

    def delete(self, keys: Sequence[str]) -> None:
        paths = [self._path(key) for key in keys]
        with self._errors(", ".join(keys[:1])), self._locked(fcntl.LOCK_SH):
            changed = dict.fromkeys(path.parent for path in paths if self._remove(path))
            for folder in changed:
                self._files.sync_dir(folder)

    def _remove(self, path: Path) -> bool:
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)

    def _there(self, key: str) -> bytes | None:
        try:
            return self._files.read(self._path(key))
        except FileNotFoundError:
            return None

    def _write(self, pairs: Sequence[tuple[Path, bytes]]) -> None:
        self._ready([path for path, _ in pairs])
        put_all(self._files, pairs, _own_suffix())
        for folder in dict.fromkeys(path.parent for path, _ in pairs):
            self._files.sync_dir(folder)

    def _ready(self, paths: Sequence[Path]) -> None:
        """Makes the folders of `paths`; their names are durable. No folder is ever removed, so once is enough."""
        for folder in dict.fromkeys(path.parent for path in paths):
            if folder in self._durable:
                continue
            self._files.mkdir(folder)
            chain = [folder, *folder.parents]
            for above in chain[1 : chain.index(self._folder) + 2]:
                self._files.sync_dir(above)
            self._durable.add(folder)

    def _below(self, folder: Path, prefix: str) -> Iterator[Listed]:
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry.name + "/" if entry.is_dir() else entry.name, entry) for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in entries:
            if name.startswith(".") or name.endswith(TEMPORARY):
                continue
            if name.endswith("/"):
                yield from self._below(folder / entry.name, prefix + name)
                continue
            try:
                yield Listed(prefix + name, entry.stat().st_size)
            except FileNotFoundError:
                continue

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"{self.name}/{key}: there is no such object") from error
        except OSError as error:
            raise Waiting("Store", f"{self.name}/{key}: {error.strerror or error}", RETRY_AFTER_S) from error


def _own_suffix() -> str:
    return f".{os.getpid()}-{next(_numbers)}{TEMPORARY}"
