"""The door of an HTTP server of ours: how many may be inside, how many of one address, and how long they may take to say what they want.

It stands before aiohttp, which bounds bodies and heads in bytes, and neither connections nor the time of a head.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import web

HANDSHAKE_WITHIN_S = 10.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Bounds:
    """`connections`: of all, `of_one`: of one address; `head_within_s`: from the first byte of a request to the last of its head;
    `idle_s`: from the answer to the next request, and for a client to take an answer."""

    connections: int = 20_000
    of_one: int = 64
    head_within_s: float = 10.0
    idle_s: float = 75.0


class Doors:
    """Of one server and one event loop. `watch` is the outermost middleware of its application."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._inside: dict[asyncio.BaseTransport, _Visitor] = {}
        self._of: Counter[str] = Counter()

    async def open(self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext) -> asyncio.Server:
        """Listens for a runner that is set up; close the server before the runner's cleanup. Raises OSError."""
        inner = cast(Callable[[], asyncio.Protocol], runner.server)
        return await asyncio.get_running_loop().create_server(
            lambda: _Visitor(self, inner()), host, port, ssl=tls, ssl_handshake_timeout=HANDSHAKE_WITHIN_S, backlog=128
        )

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who has said what he wants is hurried no more until he has his answer: bodies have a time of their own."""
        visitor = self._inside.get(request.transport) if request.transport is not None else None
        if visitor is None:
            return await handler(request)
        visitor.rests()
        try:
            return await handler(request)
        finally:
            visitor.hurries(self.bounds.idle_s)

    def admits(self, transport: asyncio.BaseTransport, visitor: _Visitor) -> bool:
        if len(self._inside) >= self.bounds.connections or self._of[visitor.address] >= self.bounds.of_one:
            return False
        self._inside[transport] = visitor
        self._of[visitor.address] += 1
        return True

    def leaves(self, transport: asyncio.BaseTransport) -> None:
        visitor = self._inside.pop(transport, None)
        if visitor is not None:
            self._of[visitor.address] -= 1
            if not self._of[visitor.address]:
                del self._of[visitor.address]


class _Visitor(asyncio.Protocol):
    """Between a connection and aiohttp's protocol for it."""

    def __init__(self, doors: Doors, inner: asyncio.Protocol) -> None:
        self._doors, self._inner = doors, inner
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._waits, self._admitted = True, False
        self.address = ""

    def rests(self) -> None:
        """No time runs."""
        self._waits = False
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def hurries(self, within_s: float) -> None:
        """The connection ends unless a request, or the next one, is there within this time."""
        self.rests()
        self._waits = True
        if self._transport is not None and not self._transport.is_closing():
            self._limit = asyncio.get_running_loop().call_later(within_s, self._transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self._admitted = self._doors.admits(transport, self)
        if not self._admitted:
            self._transport.abort()
            return
        self._inner.connection_made(transport)
        self.hurries(self._doors.bounds.head_within_s)

    def data_received(self, data: bytes) -> None:
        if not self._admitted:
            return
        if self._waits and self._limit is not None and self._is_patient():
            self.hurries(self._doors.bounds.head_within_s)
        self._inner.data_received(data)

    def _is_patient(self) -> bool:
        """Whether the time that runs is that between two requests: a head's own is not begun anew with each byte."""
        assert self._limit is not None
        return self._limit.when() - asyncio.get_running_loop().time() > self._doors.bounds.head_within_s

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        if self._admitted:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._admitted:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.rests()
        if self._admitted and self._transport is not None:
            self._doors.leaves(self._transport)
            self._inner.connection_lost(exc)
