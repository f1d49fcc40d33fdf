"""Who is judged now, who waits, and who is turned away. An API server gives each question a time: what cannot be answered within it is
not worked on, so that under too many questions those that are judged are answered in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from knhk.model.faults import KnhkError

GIVEN_S, LONGEST_S = 5.0, 30.0  # what a question has that says nothing, and at most: an API server gives no more
AT_ONCE, WAITING = 64, 128  # of one webhook, of one point
ALL = 512  # together, those whose body is still being read included
BEGINS_WITHIN, ANSWERS_WITHIN = 0.5, 0.9  # of its time; the answer has a way to go
PULSE_S = 0.05
_SECONDS = re.compile(r"([0-9]{1,6})s")


class TurnedAway(KnhkError):
    """A question is not judged: there are more than can be answered in time."""


def given_s(timeout: str) -> float:
    """How long whoever asks waits, by `timeout` of the query as an API server writes it ("10s")."""
    found = _SECONDS.fullmatch(timeout)
    return min(float(found[1]), LONGEST_S) if found else GIVEN_S


class Gate:
    """`at_once` are judged at the same time, `waiting` more wait for their turn, first come first served. One event loop."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._places, self._most = asyncio.Semaphore(at_once), waiting
        self.waiting = self.inside = 0

    @asynccontextmanager
    async def turn(self, until_s: float) -> AsyncIterator[None]:
        """Its turn, which must come until then (the loop's time). Raises TurnedAway."""
        if self._places.locked() and self.waiting >= self._most:
            raise TurnedAway(f"{self.waiting} questions wait already")
        self.waiting += 1
        try:
            async with asyncio.timeout_at(until_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise TurnedAway("its turn did not come while it could be answered in time") from error
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._places.release()


class Gates:
    """One gate for each path, so that a point that is slow holds up no other, and a bound for all together."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING, most: int = ALL) -> None:
        self._at_once, self._waiting, self._most = at_once, waiting, most
        self._gates: dict[str, Gate] = {}
        self._inside = 0

    @asynccontextmanager
    async def entered(self, path: str) -> AsyncIterator[Gate]:
        """The gate of a path, for one question. Raises TurnedAway."""
        if self._inside >= self._most:
            raise TurnedAway(f"{self._inside} questions are here already")
        gate = self._gates.setdefault(path, Gate(self._at_once, self._waiting))
        gate.inside += 1
        self._inside += 1
        try:
            yield gate
        finally:
            gate.inside -= 1
            self._inside -= 1
            if not gate.inside:
                del self._gates[path]


class Pulse:
    """How far the event loop is behind: a question that it sees now may have lain there for so long."""

    def __init__(self) -> None:
        self._due_s = self._late_s = 0.0

    async def beat(self) -> None:
        """Goes on until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._due_s = loop.time() + PULSE_S
            await asyncio.sleep(PULSE_S)
            self._late_s = loop.time() - self._due_s

    def late_s(self, now_s: float) -> float:
        """By its last beat, or by that which is due."""
        return max(self._late_s, now_s - self._due_s) if self._due_s else 0.0
