"""Light HTTP/1.1 client by asyncio streams, over a Unix socket or TLS: one connection, one request at a time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from knhk.model.faults import Stalled

MAX_ANSWER_BYTES = 8 << 20
_HEAD_BYTES = 64 << 10


class Unreachable(Exception):
    """No whole answer came; repeat what may be repeated."""


@dataclass(frozen=True)
class Answer:
    """`fields`: headers, names in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Https:
    """A server behind TLS. `context` is asked before each request: another one than before means another connection. `dial`: where
    connections go in place of host and port, whose certificate must come all the same."""

    host: str
    port: int
    context: Callable[[], ssl.SSLContext]
    dial: tuple[str, int] | None = None

    @classmethod
    def of(cls, url: str, context: Callable[[], ssl.SSLContext], dial: tuple[str, int] | None = None) -> Https:
        """Of `https://HOST[:PORT]`. Raises Stalled."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 443
        except ValueError:
            host, port = None, 0
        if host is None or parts.scheme != "https" or parts.path.strip("/") or parts.query or parts.username:
            raise Stalled("Address", f"{url!r}: must be https://HOST[:PORT]")
        return cls(host, port, context, dial)

    def __str__(self) -> str:
        return f"https://{self.host}:{self.port}"


class HttpClient:
    """Safe for several tasks of one event loop: their requests go one after another."""

    def __init__(self, server: Path | Https, most_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._server, self._most_bytes = server, most_bytes
        self._host = "localhost" if isinstance(server, Path) else f"{server.host}:{server.port}"
        self._lock = asyncio.Lock()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._context: ssl.SSLContext | None = None

    async def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, timeout_s: float = 10.0
    ) -> Answer:
        """Raises Unreachable."""
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(method, target, body, headers or {})
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:  # of ssl too
                self._drop()
                raise Unreachable(f"{self._server}: {type(error).__name__}: {error}") from error
            except BaseException:
                self._drop()
                raise

    async def close(self) -> None:
        """Close the connection: its socket is free when this returns."""
        async with self._lock:
            writer = self._stream[1] if self._stream else None
            self._drop()
            if writer is not None:
                with suppress(OSError):  # of ssl too: what it ended with
                    await writer.wait_closed()

    def _drop(self) -> None:
        """At once: what was asked is answered or given up, and TLS's farewell would wait for the other side after the event loop's end."""
        if self._stream:
            self._stream[1].transport.abort()
        self._stream = None

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self._server.context() if isinstance(self._server, Https) else None
        if self._stream is not None and (self._stream[0].at_eof() or context is not self._context):
            self._drop()
        if self._stream is None:
            self._context = context
            if isinstance(self._server, Path):
                self._stream = await asyncio.open_unix_connection(self._server, limit=_HEAD_BYTES)
            else:
                host, port = self._server.dial or (self._server.host, self._server.port)
                self._stream = await asyncio.open_connection(host, port, ssl=context, server_hostname=self._server.host, limit=_HEAD_BYTES)
        return self._stream

    async def _exchange(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        if not all(text.isascii() and text.isprintable() for text in (target, *headers.values())) or " " in target:
            raise ValueError("a target or a header would be more than one")
        reader, writer = await self._connected()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        size = int(fields.get("content-length", "0" if status in (204, 304) else "-1"))
        if not 0 <= size <= self._most_bytes:
            raise ValueError("the answer states no usable Content-Length")
        answer = await reader.readexactly(size)
        if fields.get("connection", "").lower() == "close":
            self._drop()
        return Answer(status, fields, answer)
