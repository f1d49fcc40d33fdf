"""A server between a client and a real registry that lies, dawdles, cuts connections or asks for credentials, as told."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    parts: tuple[bytes, ...] = ()  # sent in place of the body, `gap` awaited before each but the first
    cut: bool = False  # the connection ends before the body does


Meddle = Callable[["Request", Callable[[], Reply]], Reply | None]
"""Gets a request and what asks the real registry; None ends the connection without an answer."""


@dataclass(frozen=True)
class Request:
    number: int
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Between:
    """`meddle` may be changed at any time. `gone` is set when the test ends: whoever dawdles waits for it."""

    upstream: str
    meddle: Meddle | None = None
    count: int = 0
    gone: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


@contextmanager
def between(upstream: str) -> Iterator[Between]:
    state = Between(upstream)

    class Handler(_Handler):
        between: ClassVar[Between] = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.gone.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    between: ClassVar[Between]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.between.lock:
            self.between.count += 1
            request = Request(self.between.count, self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        meddle = self.between.meddle
        reply = meddle(request, lambda: self._asked(body)) if meddle else self._asked(body)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(reply)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

    def _asked(self, body: bytes) -> Reply:
        host = urlsplit(self.between.upstream).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization", "connection")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        found = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        if "location" in found.headers:
            found.headers["location"] = re.sub(r"^https?://[^/]+", "", found.headers["location"])
        return found

    def _send(self, reply: Reply | None) -> None:
        if reply is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name not in ("content-length", "connection", "transfer-encoding", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", reply.headers.get("content-length", "0") if self.command == "HEAD" else str(len(reply.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.cut:
            self.wfile.write(reply.body[: len(reply.body) // 2])
            self.close_connection = True
            return
        for number, part in enumerate(reply.parts or (reply.body,)):
            if number and self.between.gone.wait(0.2):
                return
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
