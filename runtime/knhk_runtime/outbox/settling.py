"""How far the records of an agent have come: on its disk, in the log, in k regions; and who waits for that (formats/agent.md)."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from knhk_runtime.outbox.segments import Position

RING, DISK, LOG, REGION = range(4)
SOURCE_BYTES = 8
MOST_LEFT_OUT = 65_536


T = TypeVar("T", int, Position)


class Reached(Generic[T]):
    """A place that moves forward only, and those who wait for it. One event loop's thread."""

    def __init__(self, at: T) -> None:
        self.at: T = at
        self._waiting: list[tuple[T, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def move(self, at: T) -> None:
        """Nothing when it has been there."""
        if at <= self.at:
            return
        self.at = at
        while self._waiting and self._waiting[0][0] <= at:
            _, _, waits = heapq.heappop(self._waiting)
            if not waits.done():
                waits.set_result(None)

    async def reach(self, at: T) -> None:
        if at > self.at:
            waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (at, next(self._order), waits))
            await waits


class Settling:
    """What has come how far. `end`: where the durable part of the outbox ends; `aside`: where that of what was set aside ends, to be judged
    first; `hurry`: somebody waits for what is in the rings."""

    def __init__(self, end: Callable[[], Position], aside: Callable[[], Position], hurry: Callable[[], None]) -> None:
        self._end, self._aside, self._hurry = end, aside, hurry
        self._tails: dict[bytes, Reached[int]] = {}
        self._left_out: dict[bytes, None] = {}
        self.judged, self.acked, self.regions = Reached(Position(0, 0)), Reached(Position(0, 0)), Reached(0)
        self.wants_regions = asyncio.Event()  # set while somebody waits for them
        self._waiting = 0
        self.bound = 0  # above the index of each leaf that the log has acknowledged

    # what has happened; from the event loop's thread

    def drained(self, source: bytes, tail: int) -> None:
        """Of this ring everything before `tail` is on the disk."""
        self._tail(source).move(tail)

    def gone(self, source: bytes) -> None:
        """A ring that nobody writes any more."""
        self._tails.pop(source, None)

    def acknowledged(self, end: Position, indexes: Iterable[int]) -> None:
        """The log has what the outbox has before `end`, and said these indexes."""
        self.bound = max(self.bound, 1 + max(indexes, default=-1))
        self.acked.move(end)

    def held(self, size: int) -> None:
        """Enough regions hold so many entries of the log."""
        self.regions.move(size)

    def left_out(self, receipts: Iterable[bytes]) -> None:
        """The log will never have these from here, whatever it acknowledges."""
        self._left_out |= dict.fromkeys(receipts)
        while len(self._left_out) > MOST_LEFT_OUT:
            del self._left_out[next(iter(self._left_out))]

    # waiting; whoever waits sets the time

    async def of_ring(self, receipt: bytes, position: int, level: int, is_open: bool) -> bool:
        """Whether the record of this receipt, which ends at this position of its ring, has come so far; False when it never will.
        `is_open`: its other arm is judged by the agent, and the record set aside until then."""
        tail = self._tail(receipt[:SOURCE_BYTES])
        if tail.at < position:
            self._hurry()
            await tail.reach(position)
        if level == DISK:
            return True
        if is_open:
            await self.judged.reach(self._aside())
        return await self.of_outbox(receipt, self._end(), level)

    async def of_outbox(self, receipt: bytes, end: Position, level: int) -> bool:
        """The same of a record that the outbox has before `end`."""
        if level >= LOG:
            await self.acked.reach(end)
        if receipt in self._left_out:
            return False
        if level >= REGION:
            await self._mirrored(self.bound)
        return True

    async def _mirrored(self, size: int) -> None:
        self._waiting += 1
        self.wants_regions.set()
        try:
            await self.regions.reach(size)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.wants_regions.clear()

    def _tail(self, source: bytes) -> Reached[int]:
        return self._tails.setdefault(source, Reached(0))
