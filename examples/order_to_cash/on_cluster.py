"""The demo's hands on a Kubernetes cluster: kubectl as a user has it, the control plane by its manifests, the application in pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from demo import PACK, POINT, Failed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONTROL, NAMESPACE = "knhk-system", PACK.partition("/")[0]
WORKLOADS = ("deployment/knhk-operator", "deployment/knhk-builder", "deployment/knhk-admission", "statefulset/knhk-log")
APP_PORT = 8080
ORIGIN = "knhk.dev/demo"
FOLDER_AS_TAR = "import sys,tarfile;t=tarfile.open(fileobj=sys.stdout.buffer,mode='w|');t.add(sys.argv[1],'.');t.close()"


@dataclass
class Kubectl:
    """The commands that a user has on a cluster; the same hands as `demo.Tools`."""

    program: Path
    kubeconfig: Path
    console: Console

    def run(self, *args: str, expect: int = 0, text: str = "", timeout_s: float = 180.0) -> str:
        """Runs `kubectl ARGS`. Fails unless the exit code is `expect`."""
        done = self._done(args, text.encode(), timeout_s)
        if done.returncode != expect:
            raise Failed(f"$ kubectl {' '.join(args)}: exit {done.returncode}, expected {expect}\n{done.stderr.decode()}")
        return (done.stdout if expect == 0 else done.stderr).decode()

    def _done(self, args: Sequence[str], text: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        argv = [str(self.program), f"--kubeconfig={self.kubeconfig}", *args]
        return subprocess.run(argv, input=text, capture_output=True, timeout=timeout_s, check=False)

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "-o", "json"))

    def apply(self, file: Path) -> None:
        """`kubectl apply` of one file, by the path that a user would type."""
        self.run("apply", "-f", os.path.relpath(file))

    def refused(self, file: Path) -> list[str]:
        """Applies a file that must be refused; a line for each fault."""
        return [line.strip(" *-") for line in self.run("apply", "-f", os.path.relpath(file), expect=1).splitlines() if "must" in line]

    def get(self, kind: str, key: str) -> dict[str, Any]:
        """One resource; `key` is NAMESPACE/NAME."""
        namespace, _, name = key.partition("/")
        resource: dict[str, Any] = self.json("get", f"{kind}.knhk.dev", name, "-n", namespace)
        return resource

    def receipts(self, namespace: str) -> list[dict[str, Any]]:
        """All Receipts of a namespace."""
        rows: list[dict[str, Any]] = self.json("get", "receipts.knhk.dev", "-n", namespace)["items"]
        return rows

    def folder(self, pod: str, container: str, namespace: str, source: str, target: Path) -> None:
        """Copies a folder of a container."""
        argv = ("exec", "-n", namespace, pod, "-c", container, "--", "python3", "-c", FOLDER_AS_TAR, source)
        done = self._done(argv, b"", 120)
        if done.returncode != 0:
            raise Failed(f"{pod}: {source}: {done.stderr.decode()}")
        target.mkdir(parents=True, exist_ok=True)
        archive = target / ".tar"
        archive.write_bytes(done.stdout)
        with tarfile.open(archive) as found:
            found.extractall(target, filter="data")
        archive.unlink()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def step(self, number: int, text: str) -> None:
        self.console.print(f"\n[bold cyan]{number}.[/] [bold]{text}[/]", highlight=False)


@dataclass(frozen=True)
class Images:
    """References that the nodes can pull, and the registry as pods reach it."""

    operator: str
    builder: str
    agent: str
    registry: str


def install(kubectl: Kubectl, folder: Path, images: Images, components: Sequence[str] = ()) -> None:
    """Keys, then the overlay `dev` with these images and components; returns when every workload of the overlay is available."""
    knhk = str(Path(sys.executable).parent / "knhk")
    keys = folder / "keys"
    subprocess.run([knhk, "cluster", "keys", str(keys), "--origin", ORIGIN], check=True, capture_output=True)
    kubectl.run("apply", "-f", str(ROOT / "manifests" / "base" / "namespace.yaml"))
    kubectl.run("apply", "--server-side", "-f", str(keys / "secrets.yaml"))
    kubectl.run("apply", "--server-side", "-k", str(_overlay(folder / "overlay", images, components)))
    for workload in WORKLOADS:
        kubectl.run("rollout", "status", workload, "-n", CONTROL, "--timeout=180s", timeout_s=200)


def _overlay(folder: Path, images: Images, components: Sequence[str]) -> Path:
    """A kustomization of this run: which images, which registry, what more."""
    settings = {"KNHK_REGISTRY": images.registry, "KNHK_AGENT_IMAGE": images.agent, "KNHK_ORIGIN": ORIGIN}
    pulled = {"knhk-operator": images.operator, "knhk-builder": images.builder}
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(ROOT / "manifests" / "overlays" / "dev", folder)],
        "components": [os.path.relpath(ROOT / "manifests" / "components" / name, folder) for name in ("settings", *components)],
        "configMapGenerator": [
            {
                "name": "knhk-config",
                "namespace": CONTROL,
                "behavior": "merge",
                "literals": [f"{name}={value}" for name, value in settings.items()],
                "options": {"disableNameSuffixHash": True},
            }
        ],
        "images": [{"name": name, "newName": of.partition("@")[0], "digest": of.partition("@")[2]} for name, of in pulled.items()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def application(image: str, replicas: int) -> str:
    """The order-to-cash service in pods, which listens on loopback only, and its Service: manifests as an application team has them."""
    labels = {"app": "order-to-cash"}
    restricted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "application",
        "image": image,
        "command": ["python3", "/app/app.py", "--db", "/data/application.db", "--port", str(APP_PORT)],
        "ports": [{"name": "http", "containerPort": APP_PORT}],
        "securityContext": restricted,
        "volumeMounts": [{"name": "code", "mountPath": "/app"}, {"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "code", "configMap": {"name": "order-to-cash"}}, {"name": "data", "emptyDir": {}}],
    }  # fmt: skip
    meta = {"name": "order-to-cash", "namespace": NAMESPACE}
    documents = (
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {"knhk.dev/enforce": "true", "pod-security.kubernetes.io/enforce": "restricted"},
            },
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"app.py": (HERE / "app.py").read_text()}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": APP_PORT}]},
        },
    )
    return yaml.safe_dump_all(documents, sort_keys=False)


def point(document: dict[str, Any]) -> dict[str, Any]:
    """The example's EnforcementPoint for these pods: nothing of what it guards differs from the one without a cluster."""
    spec = document["spec"]
    spec["selector"] = {"matchLabels": {"app": "order-to-cash"}}
    spec["listen"] = {"address": "0.0.0.0", "port": APP_PORT}
    spec["upstream"] = {"host": "127.0.0.1", "port": APP_PORT}
    return document


def pods(kubectl: Kubectl) -> list[str]:
    """Names of the application's pods that are not about to go."""
    rows = kubectl.json("get", "pods", "-n", NAMESPACE, "-l", "app=order-to-cash")["items"]
    return sorted(row["metadata"]["name"] for row in rows if "deletionTimestamp" not in row["metadata"])


def wait_for_point(kubectl: Kubectl, within_s: float = 120.0) -> None:
    """Returns when the point says Ready."""
    namespace, _, name = POINT.partition("/")
    started_s = time.monotonic()
    kubectl.run("wait", "--for=condition=Ready", f"enforcementpoint/{name}", "-n", namespace, f"--timeout={within_s:.0f}s")
    kubectl.say(f"   {POINT} is Ready after {time.monotonic() - started_s:.1f} s")
