"""The door of an HTTP server of ours: how many may be inside, how many of one address, and how long they may take to say what they want.

It stands before aiohttp, which bounds bodies and heads in bytes, and neither connections nor the time of a head; and before TLS, for who
opens a connection and says nothing has one, too.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import web

from knhk_runtime.log import log

TELLS_EVERY_S = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Tls = Callable[[], ssl.SSLContext]
"""What is shown to a new connection and whose certificates are believed there, asked for each one."""


@dataclass(frozen=True)
class Bounds:
    """`connections`: of all, `of_one`: of one address; `strangers`: of those that showed no certificate, apart from the others (None: no
    difference is made); `handshake_within_s`: until TLS stands; `head_within_s`: from the first byte of a request to the last of its head;
    `idle_s`: from the answer to the next request, and for a client to take an answer.

    As many may be about to begin TLS as may be inside; of those, and of strangers, whoever is there longest gives way to the next one, so
    that who is done in a moment always finds a place."""

    connections: int = 20_000
    of_one: int = 64
    strangers: int | None = None
    handshake_within_s: float = 10.0
    head_within_s: float = 10.0
    idle_s: float = 75.0


class Doors:
    """Of one server and one event loop. `watch` is the outermost middleware of its application."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._arriving: dict[_Arrival, None] = {}
        self._arriving_of: Counter[str] = Counter()
        self._inside: dict[asyncio.BaseTransport, _Visitor] = {}
        self._strangers: dict[asyncio.BaseTransport, None] = {}
        self._of: Counter[str] = Counter()
        self._servers = list[asyncio.Server]()
        self._turned_away, self._told_at_s = 0, float("-inf")

    async def open(self, runner: web.AppRunner, host: str, port: int, tls: Tls) -> asyncio.Server:
        """Listens for a runner that is set up, until `close`. Raises OSError."""
        inner = cast(Callable[[], asyncio.Protocol], runner.server)
        return await self._listen(lambda: _Arrival(self, _Visitor(self, inner()), tls), host, port)

    async def open_in_clear(self, runner: web.AppRunner, host: str, port: int) -> asyncio.Server:
        """The same without TLS, for clients on this machine."""
        inner = cast(Callable[[], asyncio.Protocol], runner.server)
        return await self._listen(lambda: _Visitor(self, inner()), host, port)

    async def _listen(self, comes: Callable[[], asyncio.Protocol], host: str, port: int) -> asyncio.Server:
        self._servers.append(await asyncio.get_running_loop().create_server(comes, host, port, backlog=128))
        return self._servers[-1]

    def close(self) -> None:
        """Nobody comes any more, before a runner's cleanup; who is inside has his answer."""
        for server in self._servers:
            server.close()
        self.turn_away()

    def turn_away(self) -> None:
        """Ends every connection that is about to begin TLS."""
        for arrival in list(self._arriving):
            arrival.end()

    def dismiss(self) -> None:
        """Ends every connection: whoever comes again is held against what `tls` gives then."""
        self.turn_away()
        for transport in list(self._inside):
            cast(asyncio.Transport, transport).abort()

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

    def receives(self, arrival: _Arrival) -> bool:
        if self._arriving_of[arrival.address] >= self.bounds.of_one:
            self._tell(arrival.address)
            return False
        if len(self._arriving) >= self.bounds.connections:
            next(iter(self._arriving)).end()
        self._arriving[arrival] = None
        self._arriving_of[arrival.address] += 1
        return True

    def arrived(self, arrival: _Arrival) -> None:
        """With or without TLS."""
        if arrival in self._arriving:
            del self._arriving[arrival]
            _less(self._arriving_of, arrival.address)

    def admits(self, transport: asyncio.BaseTransport, visitor: _Visitor) -> bool:
        if len(self._inside) >= self.bounds.connections or self._of[visitor.address] >= self.bounds.of_one:
            self._tell(visitor.address)
            return False
        if self.bounds.strangers is not None and not transport.get_extra_info("peercert"):
            if len(self._strangers) >= self.bounds.strangers:
                longest = next(iter(self._strangers))
                del self._strangers[longest]
                cast(asyncio.Transport, longest).abort()
            self._strangers[transport] = None
        self._inside[transport] = visitor
        self._of[visitor.address] += 1
        return True

    def leaves(self, transport: asyncio.BaseTransport) -> None:
        self._strangers.pop(transport, None)
        visitor = self._inside.pop(transport, None)
        if visitor is not None:
            _less(self._of, visitor.address)

    def _tell(self, address: str) -> None:
        """At the first that finds no place, and then once in a while: whoever comes learns no more than that the connection ends."""
        self._turned_away += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._told_at_s >= TELLS_EVERY_S:
            bounds = {"of_one": self.bounds.of_one, "of_all": self.bounds.connections}
            log("connections turned away", address=address, connections=self._turned_away, **bounds)
            self._turned_away, self._told_at_s = 0, now_s


def _less(counts: Counter[str], address: str) -> None:
    counts[address] -= 1
    if not counts[address]:
        del counts[address]


class _Arrival(asyncio.Protocol):
    """A connection until TLS stands."""

    def __init__(self, doors: Doors, visitor: _Visitor, tls: Tls) -> None:
        self._doors, self._visitor, self._tls = doors, visitor, tls
        self._shaking: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.address = ""

    def end(self) -> None:
        self._doors.arrived(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.pause_reading()  # its first byte is TLS's
        self.address = address_of(transport)
        if not self._doors.receives(self):
            self._transport.abort()
            return
        self._shaking = asyncio.get_running_loop().create_task(self._shake(self._transport))

    async def _shake(self, transport: asyncio.Transport) -> None:
        within_s, loop = self._doors.bounds.handshake_within_s, asyncio.get_running_loop()
        try:
            made = await loop.start_tls(transport, self._visitor, self._tls(), server_side=True, ssl_handshake_timeout=within_s)
        except OSError:  # of ssl too: it said no TLS, or nothing
            return
        finally:
            self._doors.arrived(self)
        if made is not None and not transport.is_closing():
            self._visitor.connection_made(made)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Of the other side; "": it has none any more."""
    return str((transport.get_extra_info("peername") or ("",))[0])


class _Visitor(asyncio.Protocol):
    """Between a connection and aiohttp's protocol for it. What comes with the end of TLS's handshake is heard once that has ended."""

    def __init__(self, doors: Doors, inner: asyncio.Protocol) -> None:
        self._doors, self._inner = doors, inner
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._waits, self._admitted, self._gone = True, False, False
        self._early = b""
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
        self.address = address_of(transport)
        self._admitted = not self._gone and self._doors.admits(transport, self)
        if not self._admitted:
            self._transport.abort()
            return
        self._inner.connection_made(transport)
        self.hurries(self._doors.bounds.head_within_s)
        if self._early:
            self.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            self._early += data
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
        self._gone = True
        if self._admitted and self._transport is not None:
            self._doors.leaves(self._transport)
            self._inner.connection_lost(exc)
