"""Disks for tests of storage: one that does not wait, and one of which a step fails."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knhk_runtime.sequencer.files import Disk

CHANGES = ("mkdir", "create", "write", "sync", "rename", "sync_dir", "cut", "unlink", "rmdir")


class Quick(Disk):
    """A disk that does not wait: what survives a power cut cannot be seen from inside a process."""

    def sync(self, fd: int) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


class Lying(Quick):
    """A disk whose step number `at` raises ENOSPC; `persists` says whether it was done nevertheless. Lost writes leave half."""

    def __init__(self, at: int, persists: bool) -> None:
        self.at, self.persists, self.steps = at, persists, 0

    def __getattribute__(self, name: str) -> Any:
        step = super().__getattribute__(name)
        return self._wrap(name, step) if name in CHANGES else step

    def _wrap(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            number, self.steps = self.steps, self.steps + 1
            if number != self.at:
                return step(*arguments)
            if self.persists:
                made = step(*arguments)
                if name == "create":
                    self.close(made)
            elif name == "write":
                step(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(errno.ENOSPC, f"told to fail at step {number}, {name}")

        return run
