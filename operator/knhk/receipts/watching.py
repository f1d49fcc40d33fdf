"""Watches: what the log takes in from a version on, each entry once, in its order, as it comes.

An entry never changes and never goes, so all that there is to tell is ADDED. A version is a size of the log; one that is further back than
a client should be led on from is too old (410), and its client lists again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from knhk.adapters.front_proxy import User
from knhk.adapters.receipt_index import ReceiptIndex
from knhk.lockchain.entries import Row
from knhk.model.faults import KnhkError
from knhk.model.selection import Selection
from knhk.receipts import objects
from knhk.receipts.kinds import Kind

MOST = 64  # at a time; each is a connection of the API server, which has 256
MOST_OF_ONE = 16  # person
TOO_OLD = 1 << 18  # entries that a watch may be behind
LASTS_S, LASTS_AT_MOST_S = 1800.0, 3600.0
LOOK_S = 30.0  # whether its user still may, and a bookmark for who asks for them
TAKEN_WITHIN_S = 30.0  # what a client does not take ends its watch
_log = logging.getLogger("knhk.receipts")


@dataclass(frozen=True)
class Watch:
    """One that may begin: `rows` are told at once, then all that fits from index `start` on. `born`: of the
    index that they are of. `may`: why not, any more; "": it may."""

    kind: Kind
    selection: Selection
    rows: tuple[Row, ...]
    start: int
    born: str
    shown: Callable[[tuple[Row, ...], int], Mapping[str, Any]]
    may: Callable[[], str]
    bookmarks: bool
    lasts_s: float


def too_old(version: int, size: int) -> tuple[int, str, str]:
    """Code, reason and message of a Status."""
    return 410, "Expired", f"too old resource version: {version} ({size}): list again"


class Watches:
    """All of one application, on its event loop. `hands`: threads for what blocks."""

    def __init__(self, index: ReceiptIndex, hands: Executor) -> None:
        self._index, self._hands = index, hands
        self._open = dict[asyncio.Event, str]()
        self._of = Counter[str]()
        self._ending = False

    def __len__(self) -> int:
        return len(self._open)

    def wake(self) -> None:
        """The log has grown."""
        for woken in self._open:
            woken.set()

    def end(self) -> None:
        """All of them, now."""
        self._ending = True
        self.wake()

    def full(self, user: User) -> bool:
        return len(self._open) >= MOST or self._of[user.name] >= MOST_OF_ONE

    async def serve(self, request: web.Request, user: User, watch: Watch) -> web.StreamResponse:
        """Until its time is over, its client goes, or an ERROR says why."""
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        with self._place(user) as woken, contextlib.suppress(ConnectionError, TimeoutError):
            await response.prepare(request)
            async for said in self._told(request, watch, woken):
                await asyncio.wait_for(response.write(said), TAKEN_WITHIN_S)
            await asyncio.wait_for(response.write_eof(), TAKEN_WITHIN_S)
        return response

    @contextmanager
    def _place(self, user: User) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        self._open[woken] = user.name
        self._of[user.name] += 1
        try:
            yield woken
        finally:
            del self._open[woken]
            self._of[user.name] -= 1
            self._of += Counter()  # without those that have none

    async def _told(self, request: web.Request, watch: Watch, woken: asyncio.Event) -> AsyncIterator[bytes]:
        """Lines of JSON, some at a time."""
        loop, at = asyncio.get_running_loop(), watch.start
        end_s = time.monotonic() + watch.lasts_s
        look_s = time.monotonic() + LOOK_S
        if watch.rows:
            yield await loop.run_in_executor(self._hands, _added, watch, watch.rows)
        while not self._ending and request.transport is not None and not request.transport.is_closing():
            woken.clear()
            try:
                said, at, more = await loop.run_in_executor(self._hands, self._step, watch, at)
            except (KnhkError, OSError, ValueError, sqlite3.Error) as error:
                _log.warning("a watch ends: %s: %s", type(error).__name__, error)
                yield _error(500, "InternalError", f"{type(error).__name__}: {error}")
                return
            if said:
                yield said
            if at < 0:
                return
            now_s = time.monotonic()
            if now_s >= look_s or now_s >= end_s:
                if why := await loop.run_in_executor(self._hands, watch.may):
                    yield _error(403, "Forbidden", why)
                    return
                if watch.bookmarks:
                    yield _line("BOOKMARK", watch.shown((), at))
                look_s = now_s + LOOK_S
            if now_s >= end_s:
                return
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), min(look_s, end_s) - now_s)

    def _step(self, watch: Watch, at: int) -> tuple[bytes, int, bool]:
        """What is to be told, where to go on (below 0: nowhere), and whether there is more now."""
        far = self._index.beyond(watch.selection, at) > TOO_OLD
        rows, end = self._index.after(watch.selection, at)
        if far or self._index.born != watch.born:  # looked at last: what was read is of that log
            return _error(*too_old(at, self._index.size)), -1, False
        return _added(watch, tuple(rows)), end, end < self._index.size


def _added(watch: Watch, rows: tuple[Row, ...]) -> bytes:
    return b"".join(_line("ADDED", watch.shown((row,), row.number + 1)) for row in rows)


def _line(event: str, document: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": event, "object": document}, separators=(",", ":")).encode() + b"\n"


def _error(code: int, reason: str, message: str) -> bytes:
    return _line("ERROR", objects.status(code, reason, message))
