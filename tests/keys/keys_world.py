"""The key service's own process behind TLS, and what it asks an API server, by tables of the test."""

from __future__ import annotations

import base64
import http.client
import json
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from knhk.adapters.certificates import Pair, new_authority, server_pair

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

AUDIENCE, ENFORCED = "keys.knhk.dev", "erp"


def token(name: str, audience: str = AUDIENCE, pod: bool = True) -> str:
    """A token by its own words; the table says whose it is."""
    claims: dict[str, Any] = {"aud": [audience], "exp": int(time.time()) + 3600, "sub": name, "kubernetes.io": {"pod": {}} if pod else {}}
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in ("{}", json.dumps(claims), "signature"))


@dataclass
class Api:
    """Pods and tokens: name → (namespace, point). Rights: (user, verb, namespace). `secrets`: namespace → key of the consents' tags."""

    pods: dict[str, tuple[str, str]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    rights: set[tuple[str, str, str]] = field(default_factory=set)
    secrets: dict[str, bytes] = field(default_factory=dict)
    away: bool = False

    def guard(self, point: str, pod: str) -> str:
        namespace, _, name = point.partition("/")
        self.pods[pod] = namespace, name
        return token(pod)

    def reader(self, name: str, *rights: tuple[str, str], audience: str = AUDIENCE) -> str:
        """`rights`: verb and namespace."""
        made = token(name, audience, pod=False)
        self.users[made] = name
        self.rights |= {(name, *right) for right in rights}
        return made

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        if self.away:
            return 503, {"message": "away"}
        match path.strip("/").split("/"):
            case [*_, "tokenreviews"]:
                return 201, {"status": self._review(body["spec"]["token"])}
            case [*_, "subjectaccessreviews"]:
                spec = body["spec"]
                asked = spec["resourceAttributes"]
                right = spec["user"], asked["verb"], asked["namespace"]
                return 201, {"status": {"allowed": asked["resource"] == "subjectkeys" and right in self.rights}}
            case ["api", "v1", "namespaces", namespace, "pods", pod] if self.pods.get(pod, ("",))[0] == namespace:
                return 200, {"metadata": {"name": pod, "uid": f"uid-{pod}", "labels": {"knhk.dev/point": self.pods[pod][1]}}}
            case ["api", "v1", "namespaces", namespace]:
                return 200, {"metadata": {"name": namespace, "labels": {"knhk.dev/enforce": "true"}}}
            case ["api", "v1", "namespaces", namespace, "secrets", name] if namespace in self.secrets:
                return 200, {"metadata": {"name": name}, "data": {"key": base64.b64encode(self.secrets[namespace]).decode()}}
        return 404, {"reason": "NotFound", "message": "not found", "details": {"kind": "thing", "name": path}}

    def _review(self, given: str) -> dict[str, Any]:
        pod = next((pod for pod in self.pods if given == token_like(given, pod)), None)
        if pod is not None:
            extra = {f"authentication.kubernetes.io/pod-{what}": [value] for what, value in (("name", pod), ("uid", f"uid-{pod}"))}
            user: dict[str, Any] = {"username": f"system:serviceaccount:{self.pods[pod][0]}:default", "extra": extra}
        elif given in self.users:
            user = {"username": self.users[given]}
        else:
            return {"authenticated": False}
        return {"authenticated": True, "audiences": audiences_of(given), "user": user}


def audiences_of(given: str) -> list[str]:
    """As the token says."""
    found: list[str] = json.loads(base64.urlsafe_b64decode(given.split(".")[1] + "=="))["aud"]
    return found


def token_like(given: str, name: str) -> str:
    """`given`, when it says that it is of this pod; else nothing."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(given.split(".")[1] + "=="))
    except (ValueError, IndexError):
        return ""
    return given if claims.get("sub") == name and claims["kubernetes.io"] else ""


@dataclass(frozen=True)
class Answered:
    status: int
    body: bytes

    @property
    def kind(self) -> str:
        return str(json.loads(self.body)["type"].rpartition("/")[2])


@dataclass
class KeyWorld:
    base: Path
    api: Api
    authority: Pair
    kubeconfig: Path
    port: int = field(default_factory=free_port)  # not one of the kernel's choice, which another may get while the service is down
    process: subprocess.Popen[str] | None = None
    quota: tuple[str, ...] = ()  # options of its command line

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        return self.base / "store"

    @property
    def ca_file(self) -> Path:
        return self.base / "tls" / "ca.crt"

    def token_file(self, text: str) -> Path:
        path = self.base / "token"
        path.write_text(text)
        return path

    def start(self) -> None:
        """As the StatefulSet runs it, at the port that it had before."""
        tls = [
            f"--{name}={self.base / 'tls' / file}"
            for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))
        ]
        words = [
            "--address=127.0.0.1",
            f"--port={self.port}",
            f"--kubeconfig={self.kubeconfig}",
            f"--store={self.store}",
            f"--keys={self.base / 'kek'}",
            *tls,
            *self.quota,
        ]
        end = time.monotonic() + 60.0
        while not (line := self._began(words)):  # whoever dialled from this port meanwhile lets it go again
            assert "address already in use" in self.said().rstrip().rpartition("\n")[2], self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)
        self.port = int(line.rpartition(":")[2])

    def _began(self, words: list[str]) -> str:
        """What it says first; nothing when it ended."""
        with (self.base / "keys.err").open("a") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "knhk.keys", *words], stdout=subprocess.PIPE, stderr=said, text=True, env=os.environ
            )
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            self.kill()
        return line

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def said(self) -> str:
        return (self.base / "keys.err").read_text()

    def send(self, method: str, target: str, given: str | None = None, body: bytes | None = None) -> http.client.HTTPSConnection:
        """A request whose answer nobody has read yet."""
        context = ssl.create_default_context(cadata=self.authority.certificate.decode())
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        connection.request(method, target, body, {"Authorization": f"Bearer {given}"} if given is not None else {})
        return connection

    def ask(self, method: str, target: str, given: str | None = None, body: bytes | None = None) -> Answered:
        with closing(self.send(method, target, given, body)) as connection:
            answer = connection.getresponse()
            return Answered(answer.status, answer.read())

    def rows(self, namespace: str = ENFORCED) -> list[tuple[bytes, bytes, int, str]]:
        """(id, tag, window, point) of all keys on the disk."""
        if not (self.store / namespace / "keys.db").exists():
            return []
        with closing(sqlite3.connect(self.store / namespace / "keys.db", timeout=60)) as db:
            return [(bytes(a), bytes(b), c, d) for a, b, c, d in db.execute("SELECT id, tag, window, point FROM key ORDER BY id")]


@contextmanager
def key_world(base: Path) -> Iterator[KeyWorld]:
    """A service that runs, and its API server."""
    (base / "tls").mkdir(parents=True)
    (base / "kek").mkdir(mode=0o700)
    authority, now = new_authority(datetime.now(UTC)), datetime.now(UTC)
    shown = server_pair(authority, ["127.0.0.1"], now, timedelta(days=1))
    for name, data in (("tls.crt", shown.certificate), ("tls.key", shown.key), ("ca.crt", authority.certificate)):
        (base / "tls" / name).write_bytes(data)
    api = Api()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    kubeconfig = base / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{server.server_address[1]}")))
    made = KeyWorld(base, api, authority, kubeconfig)
    try:
        made.start()
        yield made
    finally:
        made.kill()
        server.shutdown()
        server.server_close()
        serving.join()


def _kubeconfig(server: str) -> dict[str, Any]:
    named = {
        "clusters": {"cluster": {"server": server}},
        "users": {"user": {"token": "t"}},
        "contexts": {"context": {"cluster": "c", "user": "c"}},
    }
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        **{kind: [{"name": "c", **row}] for kind, row in named.items()},
    }  # fmt: skip


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            status, document = api.answer(self.command, self.path.partition("?")[0], json.loads(self.rfile.read(size) or b"null"))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Tests read what the service says."""

    return Handler
