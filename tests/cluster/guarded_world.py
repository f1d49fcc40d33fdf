"""Operator and log as processes of this machine, guards in pods of the node; and how a caller meets them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
import node_machine as machine
from node_pods import Node, is_ready
from pods import app_pod

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.model.faults import NotFound, Waiting
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import Leaf, parse_leaf

SYSTEM = "knhk-system"
EXCHANGE_PORT, LOG_PORT = 28_443, 28_445
EXCHANGE, LOG = f"https://{machine.HOST}:{EXCHANGE_PORT}", f"https://{machine.HOST}:{LOG_PORT}"
WITHIN_S = 240.0
BODY = b'{"total": 7}'
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix ex: <https://example.com/ns#> .
ex:S a sh:NodeShape ; sh:targetClass ex:Order ;
  sh:property [ sh:path ex:total ; %s ; sh:message "an order needs a total" ] .
"""
APPLICATION = """
import http.server, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.end_headers(); self.wfile.write(self.headers["knhk-receipt"].encode())
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer((sys.argv[1], 9000), Answer).serve_forever()
"""
MAPPING = """prefixes: {ex: "https://example.com/ns#"}
unknownMembers: Allow
maps: [{id: order, iterator: $, subject: {blank: true}, class: ex:Order, properties: {ex:total: $.total}}]
"""


def document(kind: str, namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "knhk.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def pack(
    namespace: str, point: str, version: str, *steps: dict[str, int], shadow: int = 20, total: str = "sh:minCount 1"
) -> dict[str, Any]:
    """A pack called as its point; `total` is what it asks of an order's total."""
    spec = {
        "version": version,
        "sources": [
            {"name": "shapes", "kind": "shapes", "inline": SHAPES % total},
            {"name": "body", "kind": "mapping", "inline": MAPPING},
        ],
        "routes": [{"name": "submit", "mapping": "body"}],
        "targets": [{"point": point}],
        "rollout": {"shadow": {"minPairs": shadow}, "steps": list(steps)},
    }
    return document("PolicyPack", namespace, point, spec)


def pod(image: str, name: str, address: str) -> dict[str, Any]:
    """The application listening on `address`."""
    found = app_pod(name)
    found["spec"]["containers"][0] |= {"image": image, "command": ["python3", "-c", APPLICATION, address]}
    del found["spec"]["containers"][0]["readinessProbe"]
    return found


@dataclass
class World:
    """Pods are in `namespace`, and `selector` chooses them; `point` and its pack have one name."""

    node: Node
    folder: Path
    image: str
    namespace: str
    selector: str
    point: str = "orders"
    packs: str = ""  # URL of the registry that packs go to; "": they stay in the operator's home
    keys: str = ""  # URL of the key service; "": there is none
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client(self) -> KubeClient:
        return self.node.client

    def start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as out:
            self.running.append(subprocess.Popen([sys.executable, "-m", *argv], stdout=out, stderr=out))

    def start_operator(self) -> None:
        pods = ("--exchange", f"{machine.HOST}:{EXCHANGE_PORT}", "--log", LOG, "--namespace", SYSTEM)
        guard = ["--guard-image", self.image, "--guard-exchange", EXCHANGE, "--guard-log", LOG]
        guard += ["--registry", self.packs, "--guard-registry", self.packs] if self.packs else []
        guard += ["--guard-keys", self.keys] if self.keys else []
        kubeconfig = str(self.node.cluster.kubeconfig)
        self.start("operator", "knhk.handlers", "--home", str(self.folder / "home"), "--kubeconfig", kubeconfig, *pods, *guard)

    def start_log(self) -> None:
        secret = self.until(lambda: self.there(f"/api/v1/namespaces/{SYSTEM}/secrets/knhk-log-tls"))
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.folder / name).write_bytes(base64.b64decode(secret["data"][name]))
        key = self.folder / "home" / "keys" / "log.key"
        self.until(key.exists)
        files = (("tls-cert", "tls.crt"), ("tls-key", "tls.key"), ("client-ca", "ca.crt"))
        tls = [f"--{option}={self.folder / name}" for option, name in files]
        own = [f"--dir={self.folder / 'log'}", f"--socket={self.folder / 's.sock'}", "--origin=knhk.dev/local", f"--key={key}"]
        self.start("log", "knhk_runtime.sequencer", *own, f"--listen={machine.HOST}:{LOG_PORT}", *tls)

    def there(self, path: str) -> Any:
        try:
            return self.client.call("GET", path)
        except (NotFound, Waiting):
            return None

    def until(self, look: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + WITHIN_S
        while not (seen := look()):
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.1)
        return seen

    def said(self) -> str:
        logs = [path.read_text(errors="replace")[-2500:] for path in sorted(self.folder.glob("*.log"))]
        containers = [self.logs(container) for container in ("knhk-agent", "knhk-envoy", "app")]
        return "\n".join([*logs, self.node.kubectl("-n", self.namespace, "get", "pods", "-o", "wide"), *containers])

    def logs(self, container: str) -> str:
        with contextlib.suppress(AssertionError):
            return f"{container}: " + self.node.kubectl("-n", self.namespace, "logs", "-l", self.selector, "-c", container, "--tail=20")
        return ""

    def get(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = self.there(f"{collection(kind, self.namespace)}/{self.point}") or {}
        return found

    def revision(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("PolicyPack").get("status", {}).get("revision", {})
        return found

    def instances(self) -> dict[str, int]:
        found: dict[str, int] = self.get("EnforcementPoint").get("status", {}).get("instances", {})
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """Those that are not on their way out."""
        rows = self.client.call("GET", f"/api/v1/namespaces/{self.namespace}/pods", {"labelSelector": self.selector})["items"]
        return {row["metadata"]["name"]: row for row in rows if "deletionTimestamp" not in row["metadata"]}

    def ready(self, many: int) -> bool:
        found = self.pods().values()
        return len(found) == many and all(map(is_ready, found))

    def told(self, pod: str) -> dict[str, Any]:
        """The statistics of a pod's agent."""
        show = ("python3", "-c", "print(open('/var/lib/knhk/point/stats.json').read())")
        found: dict[str, Any] = json.loads(self.node.kubectl("-n", self.namespace, "exec", pod, "-c", "knhk-agent", "--", *show))
        return found

    def in_wave(self) -> list[str]:
        return [name for name in self.pods() if self.told(name)["inWave"]]

    def leaves(self) -> list[Leaf]:
        """Of decisions, as the log has them."""
        return [parse_leaf(entry) for entry in log_entries(self.folder / "log") if entry[:1] == b"\x01"]

    def logged(self) -> set[str]:
        """Receipt ids of decisions in the log."""
        return {leaf.receipt_id.hex() for leaf in self.leaves()}

    def arms(self, receipt: str) -> int:
        """Leaves of one request."""
        return sum(leaf.receipt_id.hex() == receipt for leaf in self.leaves())

    def judged(self, digest: str) -> int:
        """Leaves of a pack."""
        pack = bytes.fromhex(digest.removeprefix("sha256:"))[:20]
        return sum(leaf.pack == pack for leaf in self.leaves())

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)


def post(address: str, port: int = 8080, path: str = "/invoices", body: bytes = b"{}") -> tuple[int, str]:
    """HTTP status and receipt. Raises OSError when nobody answers."""
    return answer(address, port, path, body)[:2]


def answer(address: str, port: int, path: str, body: bytes) -> tuple[int, str, str]:
    """The same, and what was said."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", "connection": "close"})
        response = connection.getresponse()
        return response.status, response.headers.get("knhk-receipt", ""), response.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


@dataclass
class Load:
    """Callers of the Service, each request by a connection of its own. `others`: answers that are not 200.
    `lost`: requests that got none, and why."""

    address: str
    port: int = 8080
    callers: int = 3
    body: bytes = BODY
    admitted: list[str] = field(default_factory=list)
    others: list[tuple[int, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def coming(self) -> Iterator[Load]:
        with ThreadPoolExecutor(self.callers) as pool:
            running = [pool.submit(self._call) for _ in range(self.callers)]
            try:
                yield self
            finally:
                self._stop.set()
        for call in running:
            call.result()

    def _call(self) -> None:
        while not self._stop.wait(0.02):
            try:
                status, receipt, said = answer(self.address, self.port, "/invoices", self.body)
            except OSError as error:
                self.lost.append(str(error))
                continue
            if status == 200:
                self.admitted.append(receipt)
            else:
                self.others.append((status, said))
