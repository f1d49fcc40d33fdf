"""A disk in memory that forgets what nobody synced: the storage port of the sequencer, and a power cut."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any


@dataclass
class Inode:
    """Bytes of a file, and how many of them are durable."""

    data: bytes = b""
    durable: int = 0


Hook = Callable[[str, Callable[[], Any], Callable[[], Any]], Any]


def _as_told(_name: str, do: Callable[[], Any], _half: Callable[[], Any]) -> Any:
    return do()


class Disk:
    """`Files`. `hook(step, do, half)` is asked to do each step that changes something; what a step that fails may have done of a write is
    `half`. Names are durable after `sync_dir`, bytes after `sync`."""

    def __init__(self, folder: Path) -> None:
        self.hook: Hook = _as_told
        self.files = dict[Path, Inode]()
        self.folders = {folder, *folder.parents}
        self._durable: tuple[dict[Path, Inode], set[Path]] = ({}, set(self.folders))
        self._open = dict[int, Inode]()
        self._numbers = count(3)

    # ---- what happens to a disk -------------------------------------------------------------------

    def killed(self) -> None:
        """The process is gone; the machine goes on."""
        self._open.clear()

    def power_cut(self, chance: Random) -> None:
        """Of what was not synced anything may be there: each name or not, of bytes a beginning."""
        self.killed()
        files, folders = self._durable
        for path in sorted(self.files.keys() | files.keys()):
            now, before = self.files.get(path), files.get(path)
            if now is not before and chance.random() < 0.5:
                if now is None:
                    del files[path]
                else:
                    files[path] = now
        folders |= {folder for folder in sorted(self.folders) if chance.random() < 0.5}
        self.folders = {folder for folder in folders if all(above in folders for above in folder.parents)}
        self.files = {path: inode for path, inode in files.items() if path.parent in self.folders}
        for path in sorted(self.files):
            inode = self.files[path]
            inode.data = inode.data[: chance.randint(inode.durable, len(inode.data))]
            inode.durable = len(inode.data)
        self._durable = (dict(self.files), set(self.folders))

    # ---- the port ---------------------------------------------------------------------------------

    def read(self, path: Path) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self.files[path].data

    def names(self, path: Path) -> list[str]:
        return sorted(each.name for each in (*self.files, *self.folders) if each.parent == path and each != path)

    def mkdir(self, path: Path) -> None:
        self.hook("mkdir", lambda: self.folders.update((path, *path.parents)), lambda: None)

    def create(self, path: Path) -> int:
        return int(self.hook("create", lambda: self._create(path), lambda: None))

    def _create(self, path: Path) -> int:
        if path.parent not in self.folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(path))
        self.files[path] = Inode()
        fd = next(self._numbers)
        self._open[fd] = self.files[path]
        return fd

    def write(self, fd: int, data: bytes) -> None:
        inode = self._open[fd]

        def append(part: bytes) -> None:
            inode.data += part

        self.hook("write", lambda: append(data), lambda: append(data[: len(data) // 2]))

    def sync(self, fd: int) -> None:
        inode = self._open[fd]

        def sync() -> None:
            inode.durable = len(inode.data)

        self.hook("sync", sync, lambda: None)

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def rename(self, source: Path, target: Path) -> None:
        def rename() -> None:
            self.files[target] = self.files.pop(source)

        self.hook("rename", rename, lambda: None)

    def sync_dir(self, path: Path) -> None:
        self.hook("sync_dir", lambda: self._sync_dir(path), lambda: None)

    def _sync_dir(self, path: Path) -> None:
        files, folders = self._durable
        for gone in [each for each in files if each.parent == path and each not in self.files]:
            del files[gone]
        files |= {each: inode for each, inode in self.files.items() if each.parent == path}
        folders -= {each for each in folders if each.parent == path and each not in self.folders}
        folders |= {each for each in self.folders if each.parent == path}

    def cut(self, path: Path, size: int) -> None:
        inode = self.files[path]

        def cut() -> None:
            inode.data = inode.data[:size]
            inode.durable = size

        self.hook("cut", cut, lambda: None)

    def unlink(self, path: Path) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        self.hook("unlink", lambda: self.files.pop(path, None), lambda: None)

    def rmdir(self, path: Path) -> None:
        if self.names(path):
            raise OSError(errno.ENOTEMPTY, "not empty", str(path))
        self.hook("rmdir", lambda: self.folders.discard(path), lambda: None)
