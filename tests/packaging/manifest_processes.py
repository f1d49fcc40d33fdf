"""What the containers of manifests/, and the agent of a guarded pod, run, as processes of this machine: their paths lie below a folder,
their ports are free ones."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.certificates import Pair, new_authority, server_pair
from knhk.adapters.signer_local import establish
from knhk_templates.kubernetes.guard import Surroundings, guard_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

MANIFESTS = Path(__file__).parents[2] / "manifests"
HOLDERS = ("Deployment", "StatefulSet", "Job", "CronJob")
PROGRAMS: Mapping[str, tuple[str, ...]] = {"python3": (), "knhk-agent": ("-m", "knhk_runtime.main")}
NOBODY = "https://127.0.0.1:1"
_PATH = re.compile(r"/(?:etc/knhk|var/lib/knhk|var/run/secrets/knhk|run/knhk|tmp)(?=/|$)[^\s,]*")
_PORT = re.compile(r"0\.0\.0\.0:(\d+)")
_NAMED = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class Container:
    """One of a workload; `pod` is its pod's spec."""

    name: str
    spec: Mapping[str, Any]
    pod: Mapping[str, Any]

    @property
    def ports(self) -> dict[str, int]:
        return {row["name"]: row["containerPort"] for row in self.spec.get("ports", ())}

    @property
    def probe(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec.get("readinessProbe") or self.spec.get("livenessProbe") or {}
        return found


def documents() -> Iterator[dict[str, Any]]:
    """Of base and components, as kustomize has them before an overlay says anything."""
    for folder in ("base", "components"):
        for path in sorted((MANIFESTS / folder).rglob("*.yaml")):
            if path.name != "kustomization.yaml":
                yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def containers() -> list[Container]:
    found = []
    for document in documents():
        if document["kind"] in HOLDERS:
            spec = document["spec"]
            pod = (spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec)["template"]["spec"]
            rows = [*pod.get("initContainers", ()), *pod["containers"]]
            found += [Container(f"{document['metadata']['name']}/{row['name']}", row, pod) for row in rows]
    guard = guard_of("orders", {"listen": {"port": 8080}}, Surroundings("image", NOBODY, NOBODY, NOBODY), native=True)
    return [*found, Container("guard/knhk-agent", guard.containers[0], {})]


def settings() -> dict[str, dict[str, str]]:
    """ConfigMap → what it says."""
    return {row["metadata"]["name"]: dict(row["data"]) for row in documents() if row["kind"] == "ConfigMap"}


@dataclass
class Installed:
    """`root`: where a container's paths are; `settings`: ConfigMaps, which an overlay would merge into."""

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="knhk-m-")))
    settings: dict[str, dict[str, str]] = field(default_factory=settings)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    authority: Pair = field(default_factory=lambda: new_authority(datetime.now(UTC)))

    def place(self, path: str) -> Path:
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def port(self, container: Container, number: int) -> int:
        return self.ports.setdefault((container.name, number), free_port())

    def furnish(self, origin: str) -> None:
        """Keys and certificates, as `knhk cluster keys`, the operator and people make them; all of one pair."""
        establish(self.place("/etc/knhk/keys/root.pub").parent, origin, datetime.now(UTC))
        pair = server_pair(self.authority, ["localhost", "127.0.0.1"], datetime.now(UTC), timedelta(days=1))
        for name, data in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", self.authority.certificate)):
            for folder in ("serving", "client"):
                self.place(f"/etc/knhk/{folder}/{name}").write_bytes(data)
                self.place(f"/etc/knhk/{folder}/{name}").chmod(0o600)
        self.place("/tmp/x").parent.mkdir(exist_ok=True)
        self.place("/var/lib/knhk/x")
        self.settings["knhk-config"]["KNHK_ORIGIN"] = origin

    def environment(self, container: Container) -> dict[str, str]:
        """As the kubelet makes it."""
        found = dict[str, str]()
        for row in container.spec.get("envFrom", ()):
            found |= self.settings[row["configMapRef"]["name"]] if "configMapRef" in row else {}
        for row in container.spec.get("env", ()):
            if "value" in row:
                found[row["name"]] = row["value"]
            elif "configMapKeyRef" in row["valueFrom"]:
                reference = row["valueFrom"]["configMapKeyRef"]
                found[row["name"]] = self.settings[reference["name"]][reference["key"]]
            else:
                found[row["name"]] = "127.0.0.1"  # of the pod: its address
        return found

    def command(self, container: Container) -> list[str]:
        """Its command line. Paths that no mount holds, and names that nobody says, are faults of the manifest."""
        named, mounts = self.environment(container), [row["mountPath"] for row in container.spec.get("volumeMounts", ())]

        def path(found: re.Match[str]) -> str:
            assert any(found[0] == at or found[0].startswith(f"{at}/") for at in mounts), f"{container.name}: {found[0]} is not mounted"
            return str(self.place(found[0]))

        words = []
        for word in container.spec.get("args", ()):
            for name in _NAMED.findall(word):
                assert name in named, f"{container.name}: nobody says {name}"
            text = _NAMED.sub(lambda found: named[found[1]], word)
            text = _PATH.sub(path, text) if not text.startswith(("http", "--store=s3")) else text
            words.append(_PORT.sub(lambda found: f"127.0.0.1:{self.port(container, int(found[1]))}", text))
        program, *module = container.spec["command"]
        return [sys.executable, *PROGRAMS[program], *module, *words]

    def start(self, container: Container) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}
        with self.said(container).open("ab") as out:
            environment = {**inherited, **self.environment(container)}
            process = subprocess.Popen(self.command(container), stdout=out, stderr=out, env=environment, cwd=self.root)
        self.running[container.name] = process
        return process

    def said(self, container: Container) -> Path:
        return self.root / f"{container.name.replace('/', '.')}.log"

    def close(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(60)
