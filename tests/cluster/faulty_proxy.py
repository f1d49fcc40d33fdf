"""A proxy between an operator and the API server that breaks what it is told to: plain HTTP in front, the admin's TLS behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from control_plane import Cluster

REASONS = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass
class Faults:
    """`share` of the requests are answered with one of `statuses`, `lost` of them are done and never answered, by the seed. While `blind`
    nobody lists or watches. `told` counts what was done to requests."""

    chance: random.Random
    share: float = 0.0
    lost: float = 0.0
    late_s: float = 0.0
    statuses: tuple[int, ...] = (409, 410, 429, 500, 503)
    blind: bool = False
    told: Counter[str] = field(default_factory=Counter)
    streams: set[socket.socket] = field(default_factory=set)

    def cut(self) -> None:
        """Ends every watch in the middle."""
        for stream in tuple(self.streams):
            self.told["cut"] += 1
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def of(self, method: str, path: str, who: str) -> int | str:
        """What becomes of a request: a status, "lost", or "" for nothing. A list is never answered with 409 or 410, and 410 comes within a
        watch, as from a real API server."""
        found: int | str = ""
        if self.blind and method == "GET":
            found = 503
        elif self.chance.random() < self.share:
            reads = who.startswith("kopf")
            lists = reads and "watch=true" not in path
            found = self.chance.choice([s for s in self.statuses if not ((reads and s == 409) or (lists and s == 410))])
        elif method != "GET" and self.chance.random() < self.lost:
            found = "lost"
        if found:
            self.told[str(found)] += 1
        return found


@contextmanager
def proxy(cluster: Cluster, faults: Faults, folder: Path) -> Iterator[Path]:
    """The kubeconfig of whoever is to go through it."""
    pki, upstream = cluster.folder / "pki", urlsplit(cluster.server)
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = faults.of(self.command, self.path, self.headers.get("User-Agent", ""))
            time.sleep(faults.late_s)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if isinstance(fault, int):
                self._say(fault)
                return
            there = http.client.HTTPSConnection(upstream.hostname or "", upstream.port, context=context)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            try:
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                if fault == "lost":
                    answer.read()
                    self.close_connection = True
                    return
                self._pass(answer)
            except OSError:
                self._say(503)
            finally:
                there.close()

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def _pass(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(answer.status)
            for name in ("Content-Type", "Content-Encoding"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self._ends_with_its_connection({"Transfer-Encoding": "chunked"})  # by which a cut one is told from one that ended
            faults.streams.add(self.connection)
            try:
                while part := answer.read1(1 << 16):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            except (OSError, http.client.HTTPException):
                pass  # either end has gone
            finally:
                faults.streams.discard(self.connection)

        def _say(self, status: int) -> None:
            details = {"name": "x", "retryAfterSeconds": 0}
            document = {"kind": "Status", "status": "Failure", "code": status, "reason": REASONS[status], "details": details}
            data = json.dumps({**document, "message": "injected"}).encode()
            if status == 410 and "watch=true" in self.path:
                status, data = 200, b'{"type":"ERROR","object":' + data + b"}\n"
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self._ends_with_its_connection({"Content-Length": str(len(data))})
                self.wfile.write(data)

        def _ends_with_its_connection(self, told: Mapping[str, str]) -> None:
            for name, value in {**told, "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kubeconfig = folder / "proxied.kubeconfig"
    found = json.loads(cluster.kubeconfig.read_text())
    found["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{server.server_port}"}
    found["users"][0]["user"] = {}
    kubeconfig.write_text(json.dumps(found))
    try:
        yield kubeconfig
    finally:
        faults.cut()
        server.shutdown()
        server.server_close()
        thread.join()
