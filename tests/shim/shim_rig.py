"""A real Envoy with the shim, an application and an agent beside it, all on loopback and in one private folder."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from shim_native import envoy_binary, shim_module

from knhk_runtime.exchange.install import discovery_text
from knhk_templates import attribute_sources, render_bootstrap

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

ISSUER, AUDIENCE = "https://issuer.example", "orders"
MATCHES = (
    {"name": "create", "method": "POST", "path": "/invoices", "action": "create", "mediaTypes": ["application/json"]},
    {
        "name": "approve",
        "method": "POST",
        "path": "/invoices/{id}/approve",
        "action": "approve",
        "mediaTypes": ["application/json", "application/ld+json"],
    },
    {"name": "show", "method": "GET", "path": "/invoices/{id}", "action": "read", "mediaTypes": []},
    {"name": "search", "method": "GET", "path": "/search", "action": "read", "mediaTypes": [], "query": True},
    {"name": "pay", "method": "POST", "path": "/payments", "action": "pay", "mediaTypes": []},
)


def wait_for(what: str, ready: Callable[[], Any], timeout_s: float = 120) -> Any:
    """Polls until `ready` is true; an error that names `what` when it never is."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = ready()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(what)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def receipt(self) -> str | None:
        return self.headers.get("knhk-receipt")

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        return dict(json.loads(self.body))

    @property
    def reason(self) -> str:
        return str(self.problem["type"]).rsplit("/", 1)[-1]


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


class App:
    """The application: keeps what reached it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Message, bytes]] = []
        self.trailers: list[bytes] = []
        seen, trailers = self.seen, self.trailers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                seen.append((self.command, self.path, self.headers, self._body()))
                self.send_response(200)
                self.send_header("content-length", "2")
                self.send_header("knhk-receipt", "forged-by-the-application")
                self.end_headers()
                self.wfile.write(b"ok")

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length", 0)))
                body = b""
                while (size := int(self.rfile.readline(), 16)) > 0:
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while line := self.rfile.readline().strip():
                    trailers.append(line)
                return body

            do_GET = do_POST = do_PUT = do_DELETE = _serve

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def bodies(self) -> list[bytes]:
        return [body for _, _, _, body in self.seen]

    def receipts(self) -> list[str]:
        return [headers["knhk-receipt"] for _, _, headers, _ in self.seen]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Parked:
    """What /park carried."""

    receipt: bytes
    cluster: int
    decision: bytes
    arms: tuple[tuple[str, int, int, int, bytes], ...]  # pack, flags, mode, state, A
    o: bytes
    level: int


def read_park(data: bytes) -> Parked:
    magic, version, arms, level, zero, receipt, cluster, decision = struct.unpack_from(">4sBBBB16sQ16s", data)
    assert (magic, version, zero) == (b"KNPK", 1, 0)
    at, found = 48, []
    for _ in range(arms):
        pack, flags, mode, state, a_len = struct.unpack_from(">20sBBHI", data, at)
        found.append((pack.hex(), flags, mode, state, data[at + 28 : at + 28 + a_len]))
        at += 28 + a_len
    (o_len,) = struct.unpack_from(">I", data, at)
    assert at + 4 + o_len == len(data)
    return Parked(receipt, cluster, decision, tuple(found), data[at + 4 :], level)


@dataclass(frozen=True)
class Awaited:
    """What /durable carried."""

    level: int
    is_open: int
    receipt: bytes
    position: int


def read_awaited(data: bytes) -> Awaited:
    magic, version, level, is_open, zero, receipt, position = struct.unpack(">4sBBBB16sQ", data)
    assert (magic, version, zero) == (b"KNDU", 1, 0)
    return Awaited(level, is_open, receipt, position)


@dataclass
class Agent:
    """An agent that answers as it is told: `verdict` maps what was parked to (status, verdict, problem), `durable` what waits to a status.
    `sure`: the leaves of what was parked are so durable as was asked."""

    path: Path
    verdict: Callable[[Parked], tuple[int, int, bytes]] = lambda _: (200, 1, b"")
    marked: bool = True
    sure: bool = True
    durable: Callable[[Awaited], int] = lambda _: 204
    parked: list[Parked] = field(default_factory=list)
    awaited: list[Awaited] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        agent = self
        self.gate.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/durable":
                    self._answer(agent.settled(read_awaited(data)), b"")
                else:
                    self._answer(*self._judged(read_park(data)))

            def _judged(self, parked: Parked) -> tuple[int, bytes]:
                agent.parked.append(parked)
                agent.gate.wait(30)
                status, verdict, problem = agent.verdict(parked)
                head = b"KNPA\x01" + bytes([verdict, not agent.sure, 0])
                return status, head + parked.receipt + len(problem).to_bytes(4, "big") + problem

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("content-length", str(len(body)))
                if agent.marked:
                    self.send_header("x-knhk-agent", "1")
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = _UnixServer(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def settled(self, awaited: Awaited) -> int:
        self.awaited.append(awaited)
        self.gate.wait(30)
        return self.durable(awaited)

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
FOREIGN_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks() -> str:
    numbers = KEY.public_key().public_numbers()
    return json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _b64(numbers.n), "e": _b64(numbers.e)}]})


def token(sub: str = "alice", key: Any = KEY, **claims: Any) -> str:
    body = {"sub": sub, "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 3600, **claims}
    return jwt.encode(body, key, algorithm="RS256", headers={"kid": "1"})


class Rig:
    """One enforcement point. `with rig(folder) as r: r.configure(stable=pack); r.post(b"{}")`."""

    def __init__(self, folder: Path, workers: int = 2, application: bool = True) -> None:
        self.folder, self.workers, self.application = folder, workers, application
        self.port = free_port()
        for name in ("rings", "packs"):
            (folder / name).mkdir(mode=0o700)
        self.rings, self.packs = folder / "rings", folder / "packs"
        self.app, self.agent = App(), Agent(folder / "agent.sock")
        self.agent.start()
        self._epoch = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def point(self) -> dict[str, Any]:
        claims = [{"name": "role", "attribute": "role"}]
        return {
            "name": "erp/orders",
            "listen": {"address": "127.0.0.1", "port": self.port},
            **({"upstream": {"host": "127.0.0.1", "port": self.app.port}} if self.application else {}),
            "match": MATCHES,
            "attributes": {"jwt": {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": jwks()}, "claims": claims}},
            "local": {
                "ecds": str(self.folder / "ecds.json"),
                "agentSocket": str(self.agent.path),
                "adminSocket": str(self.folder / "admin.sock"),
            },
        }

    def settings(self, stable: Path | None = None, candidate: Path | None = None, durability: str = "ring", **more: Any) -> dict[str, Any]:
        """filter_config of the shim (formats/agent.md). `durability`: of both packs."""
        return {
            "version": 1,
            "point": "erp/orders",
            "epoch": self._epoch,
            "region": "local",
            "regionIndex": 3,
            "ringDir": str(self.rings),
            "ringBytes": 4 << 20,
            "generation": self._epoch,
            "baseline": "Deny",
            "mode": "Canary" if candidate else "Stable",
            "weight": 0,
            "salt": "00112233445566778899aabbccddeeff",
            "stale": False,
            "stable": pack_file(stable, "1.0.0", durability),
            "candidate": pack_file(candidate, "1.1.0", durability),
            "bundle": None,
            "evaluator": "ab" * 32,
            "stickyAttribute": "sub",
            "attributes": attribute_sources(self.point),
            "agentCluster": "knhk_agent",
            "parkTimeoutMs": 5000,
            "durableTimeoutMs": 60_000,
            "agentGraceSeconds": 600,
            "failure": "Closed",
            "problemBase": "https://knhk.dev/problems/",
            "notAfterNs": 0,
            "consent": None,
            "residency": {"bytes": 0, "absent": "Decide", "preload": ["stable", "bundle", "candidate"]},
            **more,
        }

    def publish(self, settings: Mapping[str, Any]) -> None:
        """Replaces the discovery file by rename, as the agent does."""
        self._epoch += 1
        path = self.folder / "ecds.json"
        path.with_suffix(".tmp").write_text(discovery_text(str(self._epoch), Path(shim_module()), settings))
        path.with_suffix(".tmp").rename(path)

    def configure(self, stable: Path | None = None, candidate: Path | None = None, **more: Any) -> None:
        """Publishes and waits until Envoy runs it."""
        before = self.stat("success")
        self.publish(self.settings(stable, candidate, **more))
        if self.process is None:
            self.start()
        else:
            wait_for("the new configuration", lambda: self.stat("success") > before)

    def start(self) -> None:
        bootstrap = self.folder / "envoy.json"
        bootstrap.write_text(render_bootstrap(self.point))
        self.log = (self.folder / "envoy.log").open("wb")
        command = [str(envoy_binary()), "-c", str(bootstrap), "--concurrency", str(self.workers), "--disable-hot-restart", "-l", "info"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        wait_for("Envoy listens", self._listens)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "envoy.log").read_text()[-3000:]
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def admin(self, path: str) -> str:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.folder / "admin.sock"))
            s.sendall(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(s)
            answer.begin()
            return answer.read().decode()

    def stat(self, which: str) -> int:
        """Successful or rejected updates of the guard (config_reload, config_fail)."""
        if self.process is None:
            return 0
        name = {"success": "config_reload:", "rejected": "config_fail:"}[which]
        lines = self.admin("/stats?filter=extension_config_discovery").splitlines()
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines if name in line)

    def counters(self) -> dict[str, int]:
        lines = (line.rsplit(": ", 1) for line in self.admin("/stats?filter=knhk_&usedonly").splitlines())
        return {name: int(value) for name, value in lines if value.isdigit()}

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, auth: str | None = "alice"
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"content-type": "application/json"} if body is not None else {}
        if auth is not None:
            sent["authorization"] = f"Bearer {token(auth)}"
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.msg, answer.read())
        finally:
            connection.close()

    def post(self, body: bytes, path: str = "/invoices", **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def raw(self, data: bytes, until: bytes, timeout_s: float = 20) -> bytes:
        """Sends bytes as they are and reads until the answer holds `until` or ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as s:
            s.sendall(data)
            got = b""
            while until not in got and (more := s.recv(65536)):
                got += more
            return got

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None
            self.log.close()

    def close(self) -> None:
        self.agent.gate.set()
        self.kill(signal.SIGTERM)
        self.app.close()
        self.agent.close()


def pack_file(path: Path | None, version: str, durability: str) -> dict[str, str] | None:
    if path is None:
        return None
    named = {"name": "erp/invoice-controls", "version": version, "durability": durability}
    return {"path": str(path), "sha256": path.stem, "digest": image_digest(path), **named}


def image_digest(path: Path) -> str:
    """Stands for the digest of the image index: another one than that of the file."""
    return path.stem[::-1]


def pack_id(path: Path) -> str:
    return image_digest(path)[:40]


@contextmanager
def rig(folder: Path, workers: int = 2, application: bool = True) -> Iterator[Rig]:
    """Everything of it ends with the block. `application`: one follows; else the point answers itself."""
    made = Rig(folder, workers, application)
    try:
        yield made
    finally:
        made.close()
