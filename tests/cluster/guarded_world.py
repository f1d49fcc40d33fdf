"""Operator and log as processes of this machine, guards in pods of the node; and how a caller meets them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import node_machine as machine
from node_pods import Node

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound, Waiting
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import Leaf, parse_leaf

SYSTEM = "knhk-system"
EXCHANGE_PORT, LOG_PORT = 28_443, 28_445
EXCHANGE, LOG = f"https://{machine.HOST}:{EXCHANGE_PORT}", f"https://{machine.HOST}:{LOG_PORT}"
WITHIN_S = 240.0


@dataclass
class World:
    """Pods are in `namespace`; `selector` chooses those whose words are shown when something fails."""

    node: Node
    folder: Path
    image: str
    namespace: str
    selector: str
    packs: str = ""  # URL of the registry that packs go to; "": they stay in the operator's home
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

    def leaves(self) -> list[Leaf]:
        """Of decisions, as the log has them."""
        return [parse_leaf(entry) for entry in log_entries(self.folder / "log") if entry[:1] == b"\x01"]

    def logged(self) -> set[str]:
        """Receipt ids of decisions in the log."""
        return {leaf.receipt_id.hex() for leaf in self.leaves()}

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)


def post(address: str, port: int = 8080, path: str = "/invoices", body: bytes = b"{}") -> tuple[int, str]:
    """HTTP status and receipt. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", "connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("knhk-receipt", "")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
