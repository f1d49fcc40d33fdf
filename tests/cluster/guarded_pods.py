"""Pods that no node runs: real objects of the API server with real tokens, whose guards are processes of this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.placement_processes import envoy_binary
from knhk.model.faults import NotFound, Waiting
from knhk.ports.caller import AUDIENCE, ENFORCE_LABEL, POINT_LABEL
from knhk_runtime.proxy import placed

NAMESPACE = "erp"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TOKENS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default/token"


def enforce(client: KubeClient, value: str | None) -> None:
    """The namespace's label; None takes it away."""
    body = {"metadata": {"labels": {ENFORCE_LABEL: value}}}
    client.call("PATCH", f"/api/v1/namespaces/{NAMESPACE}", body=body, media=MERGE)


def there(client: KubeClient, path: str) -> Any:
    """The object; None while there is none, or while the API server does not answer."""
    try:
        return client.call("GET", path)
    except (NotFound, Waiting):
        return None


def make_pod(
    client: KubeClient, name: str, point: str | None = "orders", phase: str = "Running", labels: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Its uid. A kubelet would tell the phase."""
    labels = {**labels, **({POINT_LABEL: point} if point is not None else {})}
    spec = {"containers": [{"name": "app", "image": "registry.test/app"}]}
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    uid: str = client.call("POST", PODS, body=document)["metadata"]["uid"]
    client.call("PATCH", f"{PODS}/{name}/status", body={"status": {"phase": phase}}, media=MERGE)
    return uid


def end_pod(client: KubeClient, name: str) -> None:
    """At once: there is no kubelet that would say when."""
    client.call("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": "0"})


def token_of(client: KubeClient, pod: str | None, uid: str = "", audience: str = AUDIENCE, tokens: str = TOKENS) -> str:
    """A service account token, bound to a pod as a kubelet asks for it; None: bound to nothing. `tokens`: of which account."""
    bound = {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}} if pod is not None else {}
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, **bound},
    }
    token: str = client.call("POST", tokens, body=body)["status"]["token"]
    return token


@dataclass
class GuardedPod:
    """The agent and the Envoy of one pod, with folders of their own where containers would have mounts."""

    client: KubeClient
    name: str
    address: str
    exchange: str
    log: str
    registry: Path
    trust: dict[str, str]
    point: str = "orders"
    pull: str = ""  # URL of the registry that `registry` is filled from; empty: others fill it
    base: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="knhk-pod-")))
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_agent(self) -> None:
        uid = make_pod(self.client, self.name, self.point)
        for folder in ("point", "outbox", "run/rings"):
            (self.base / folder).mkdir(parents=True)
        for name, text in (("token", token_of(self.client, self.name, uid)), *self.trust.items()):
            (self.base / name).write_text(text)
        options = {
            "point-dir": self.base / "point", "registry": self.registry, "outbox": self.base / "outbox",
            "ring-dir": self.base / "run" / "rings", "root-pub": self.base / "root.pub", "socket": self.base / "run" / "agent.sock",
            "exchange": self.exchange, "log": self.log, "token-file": self.base / "token", "ca-file": self.base / "ca.crt",
            **({"pull": self.pull} if self.pull else {}),
        }  # fmt: skip
        self._start("agent", sys.executable, "-m", "knhk_runtime.main", *(f"--{name}={value}" for name, value in options.items()))

    @property
    def has_configuration(self) -> bool:
        """Whether Envoy can start."""
        return all((self.base / "point" / name).exists() for name in ("private/envoy.json", "private/ecds.json"))

    def start_envoy(self) -> None:
        """As knhk-proxy does, with the paths of this machine in place of those of containers."""
        text = (self.base / "point" / "private" / "envoy.json").read_text()
        text = text.replace("/var/lib/knhk/point", str(self.base / "point")).replace("/run/knhk", str(self.base / "run"))
        (self.base / "envoy.json").write_bytes(placed(text.encode(), self.address, "envoy.json"))
        self._start(
            "envoy",
            str(envoy_binary()),
            "-c",
            str(self.base / "envoy.json"),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warning",
        )

    def _start(self, name: str, *argv: str) -> None:
        with (self.base / f"{name}.log").open("ab") as out:
            self.running.append(subprocess.Popen(argv, stdout=out, stderr=out))

    def statistics(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.base / "point" / "stats.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.base.glob("*.log")))

    def die(self) -> None:
        """Of a sudden, and its node with it."""
        for process in self.running:
            process.kill()
            process.wait()

    def remove(self) -> None:
        self.die()
        shutil.rmtree(self.base)
