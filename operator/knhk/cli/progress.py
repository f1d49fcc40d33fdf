"""How far a long command is, on standard error: on a terminal one line that is written over, elsewhere now and then a line of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

SOON_S, AGAIN_S = 0.5, 0.2  # on a terminal: what is quicker shows nothing
EVERY_S = 10.0  # elsewhere


class Meter:
    """Of one command; a `knhk.model.progress.Far`. `now`: seconds of a clock that only goes forward."""

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now, self._terminal = stream, now, stream.isatty()
        self._since = now()
        self._due = self._since + (SOON_S if self._terminal else EVERY_S)
        self._what, self._shown = "", ""

    def __call__(self, what: str, done: int, of: int | None = None) -> None:
        """`done` of `of` are done (None: nobody knows of how many)."""
        now = self._now()
        if what != self._what:
            self._what, self._since = what, now
        if now < self._due:
            return
        took_s = now - self._since
        if self._terminal:
            self._due = now + AGAIN_S
            self._line(_told(what, done, of, took_s))
        else:
            self._due = now + EVERY_S
            self._write(json.dumps({"progress": what, "done": done, "of": of, "seconds": round(took_s, 1)}) + "\n")

    def say(self, text: str) -> None:
        """A line of its own, on a terminal alone."""
        if self._terminal:
            self.clear()
            self._write(f"{text}\n")

    def clear(self) -> None:
        """Takes the line away: something else is to be written."""
        if self._shown:
            self._line("")
            self._write("\r")

    def _line(self, text: str) -> None:
        self._write("\r" + text.ljust(len(self._shown)))
        self._shown = text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _told(what: str, done: int, of: int | None, took_s: float) -> str:
    share = f" of {of:,} ({100 * done // of} %)" if of else ""
    rate = f", {done / took_s:,.0f}/s" if done and took_s >= 1 else ""
    return f"{what}: {done:,}{share}{rate}"
