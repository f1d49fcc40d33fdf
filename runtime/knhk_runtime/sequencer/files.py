"""The storage port of the sequencer and its adapter for a local disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

OPEN_MAX = 128  # files that are open at once
TEMPORARY = ".tmp"  # end of the name of what is not whole


class Files(Protocol):
    """The steps that a log needs of a file system. Each raises OSError and then promises nothing: the step may have been
    done or not. What was written is durable after `sync`, names are durable after `sync_dir` of their folder."""

    def read(self, path: Path) -> bytes:
        """All bytes of a file."""

    def names(self, path: Path) -> list[str]:
        """Sorted names in a folder; none when it is missing."""

    def mkdir(self, path: Path) -> None:
        """A folder and its parents; present ones are fine."""

    def create(self, path: Path) -> int:
        """Descriptor of a new, empty file; one of that name is emptied."""

    def write(self, fd: int, data: bytes) -> None:
        """All of `data` at the end of the file."""

    def sync(self, fd: int) -> None:
        """fdatasync."""

    def close(self, fd: int) -> None:
        """Give the descriptor back."""

    def rename(self, source: Path, target: Path) -> None:
        """Atomically, over a file that may be there."""

    def sync_dir(self, path: Path) -> None:
        """fsync of a folder."""

    def cut(self, path: Path, size: int) -> None:
        """Shorten a file to `size` bytes, durably."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""


class Disk:
    """Files of the local file system."""

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def names(self, path: Path) -> list[str]:
        return sorted(os.listdir(path)) if path.is_dir() else []

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def write(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def cut(self, path: Path, size: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)


def put(files: Files, path: Path, data: bytes) -> None:
    """Write a whole file by temporary name, fdatasync and rename. The name is durable after `sync_dir` of its folder."""
    put_all(files, [(path, data)])


def put_all(files: Files, items: Sequence[tuple[Path, bytes]], suffix: str = TEMPORARY) -> None:
    """`put` for many: all are written before the first is synced, so that a file system with a journal commits them together. `suffix`: of
    temporary names; one of its own for each caller where several write one folder."""
    for start in range(0, len(items), OPEN_MAX):
        group, open_files = items[start : start + OPEN_MAX], list[int]()
        try:
            for path, data in group:
                open_files.append(files.create(_beside(path, suffix)))
                files.write(open_files[-1], data)
            for fd in open_files:
                files.sync(fd)
        finally:
            for fd in open_files:
                files.close(fd)
        for path, _ in group:
            files.rename(_beside(path, suffix), path)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
