"""The bell beside the rings (formats/ring.md): one waits for it, producers and any thread ring it."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from pathlib import Path

NAME = "bell"
_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_READ_BYTES = 1 << 16  # what a FIFO holds


class Bell:
    """A FIFO that stays for the next consumer: producers have it open."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._fifo = _opened(folder / NAME)
        self._rung = select.poll()
        self._rung.register(self._fifo, select.POLLIN)

    def ring(self) -> None:
        """From any thread; one that was closed is silent."""
        with contextlib.suppress(OSError):  # full: it is rung already
            os.write(self._fifo, b"\0")

    def wait(self, within_s: float) -> bool:
        """Returns when it was rung since the last time, and after `within_s` in any case: then False."""
        if not self._rung.poll(within_s * 1000):
            return False
        os.read(self._fifo, _READ_BYTES)
        return True

    def close(self) -> None:
        fifo, self._fifo = self._fifo, -1
        os.close(fifo)


def _opened(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fifo = os.open(path, _FLAGS)
    if stat.S_ISFIFO(os.fstat(fifo).st_mode):
        return fifo
    os.close(fifo)
    path.unlink()
    return _opened(path)
