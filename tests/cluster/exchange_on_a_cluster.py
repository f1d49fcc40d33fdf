"""An operator, a log and an application as processes beside the real API server; pods of a point as the test makes them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))
sys.path.insert(2, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(3, str(Path(__file__).parents[1]))
from control_plane import Cluster
from guarded_pods import GuardedPod, there
from system_world import PACKS, PAYLOADS, Application

from identity import AUDIENCE, ISSUER, IdentityProvider
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.model.faults import AlreadyExists
from knhk.model.resource import Key
from traffic import Mix

NAMESPACE = "knhk-system"
WITHIN_S = 240.0
PACK, POINT = Key("PolicyPack", "erp", "invoice-controls"), Key("EnforcementPoint", "erp", "orders")
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def until(look: Callable[[], Any], said: Callable[[], str], within_s: float = WITHIN_S) -> Any:
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline_s, f"it did not come; {said()}"
        time.sleep(0.1)
    return seen


@dataclass
class World:
    """An operator, a log and an application as processes; pods as the test makes them."""

    client: KubeClient
    folder: Path
    app: Application
    provider: IdentityProvider
    ports: tuple[int, int, int]  # exchange, log, point
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pods: list[GuardedPod] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def said(self) -> str:
        logs = [
            path.read_text(errors="replace")[-3000:] for path in (self.folder / "operator.log", self.folder / "log.log") if path.exists()
        ]
        return "\n".join([*logs, *(pod.said() for pod in self.pods)])

    def start(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as out:
            self.running.append(subprocess.Popen([sys.executable, "-m", *argv], stdout=out, stderr=out))
        return self.running[-1]

    @property
    def log_key(self) -> Path:
        return self.home / "keys" / "log.key"

    def start_operator(self, cluster: Cluster, *more: str) -> subprocess.Popen[bytes]:
        exchange, log, _ = self.ports
        options = ("--exchange", f"127.0.0.1:{exchange}", "--log", f"https://127.0.0.1:{log}", "--namespace", NAMESPACE)
        guard = ("--guard-image", "registry.test/knhk-agent")
        own = ("--home", str(self.home), "--kubeconfig", str(cluster.kubeconfig))
        return self.start("operator", "knhk.handlers", *own, *options, *guard, *more)

    def start_log(self) -> None:
        """As its pod will: with the certificate that the operator keeps for it, and the key of the log."""
        secret = self.until(lambda: there(self.client, f"{SECRETS}/knhk-log-tls"))
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.folder / name).write_bytes(base64.b64decode(secret["data"][name]))
        self.until(self.log_key.exists)
        tls = [
            f"--{option}={self.folder / name}"
            for option, name in (("tls-cert", "tls.crt"), ("tls-key", "tls.key"), ("client-ca", "ca.crt"))
        ]
        own = [f"--dir={self.folder / 'log'}", f"--socket={self.folder / 's.sock'}", "--origin=knhk.dev/local", f"--key={self.log_key}"]
        self.start("log", "knhk_runtime.sequencer", *own, f"--listen=127.0.0.1:{self.ports[1]}", *tls)

    def until(self, look: Callable[[], Any]) -> Any:
        return until(look, self.said)

    def apply(self, document: dict[str, Any]) -> None:
        path = collection(document["kind"], "erp")
        try:
            self.client.call("POST", path, body=document)
        except AlreadyExists:
            name = f"{path}/{document['metadata']['name']}"
            before = self.client.call("GET", name)
            self.client.call("PUT", name, body={**before, "spec": document["spec"]})

    def apply_point(self) -> None:
        """The point of the application, and the data that its packs ask for."""
        point: dict[str, Any] = yaml.safe_load((PACKS / "orders.yaml").read_text())
        point["spec"] |= {
            "upstream": {"host": "127.0.0.1", "port": self.app.port},
            "listen": {"port": self.ports[2]},
            "selector": {"matchLabels": {"app": "orders"}},
        }
        point["spec"]["attributes"]["jwt"] |= {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": self.provider.jwks()}}
        self.apply(yaml.safe_load((PACKS / "finance-roles.yaml").read_text()))
        self.apply(point)

    def status(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = (there(self.client, place(key)) or {}).get("status") or {}
        return found

    def add_pod(self, name: str, address: str, point: str = "orders", pull: str = "") -> GuardedPod:
        trust = self.until(lambda: there(self.client, "/api/v1/namespaces/erp/configmaps/knhk-trust"))["data"]
        exchange, log = (f"https://127.0.0.1:{port}" for port in self.ports[:2])
        registry = Path(tempfile.mkdtemp(prefix="knhk-pulled-", dir=self.folder)) if pull else self.home / "registry"
        self.pods.append(GuardedPod(self.client, name, address, exchange, log, registry, trust, point, pull))
        self.pods[-1].start_agent()
        self.until(lambda: self.pods[-1].has_configuration)
        self.pods[-1].start_envoy()
        return self.pods[-1]

    def ready(self) -> str:
        rows = [row for row in self.status(POINT).get("conditions", []) if row["type"] == "Ready"]
        return str(rows[0]["status"]) if rows else ""

    def stop(self) -> None:
        for pod in self.pods:
            pod.remove()
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)
        self.app.stop()


@dataclass
class Callers:
    """Right invoices, one after another, to each address in turn; what an address does not answer is not counted."""

    provider: IdentityProvider
    addresses: list[str]
    port: int
    admitted: int = 0

    def __enter__(self) -> Callers:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        mix = (request for request in Mix(PAYLOADS, seed=7) if request.kind == "right")
        while not self._stop.is_set():
            for address in tuple(self.addresses):
                request = next(mix)
                headers = {"authorization": f"Bearer {self.provider.token(request.caller)}", "content-type": "application/json"}
                connection = http.client.HTTPConnection(address, self.port, timeout=5)
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection.request(request.method, request.path, request.body, headers)
                    self.admitted += connection.getresponse().status == 201
                connection.close()
            self._stop.wait(0.02)
