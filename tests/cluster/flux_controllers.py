"""Flux's own controllers on a cluster: as they are, with their definitions, at ports of loopback."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.model.faults import AlreadyExists, NotFound

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from definitions import PATH as DEFINITIONS
from definitions import conditions
from guarded_pods import there
from waiting import until

from loopback_ports import free_port

READY_WITHIN_S = 240.0
ENDS_WITHIN_S = 60.0
KUSTOMIZATIONS = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/erp/kustomizations"
REPOSITORIES = "/apis/source.toolkit.fluxcd.io/v1/namespaces/erp/gitrepositories"
ASKED = "reconcile.fluxcd.io/requestedAt"  # what `flux reconcile` sets


class Flux:
    """What people do with it. Both objects are called `policies`, as in manifests/gitops."""

    def __init__(self, client: KubeClient, said: Callable[[], str]) -> None:
        self.client, self.said = client, said
        self._asked = 0

    def kustomization(self) -> dict[str, Any]:
        return self.client.call("GET", f"{KUSTOMIZATIONS}/policies")

    def is_ready(self) -> tuple[str, str]:
        """Status of its condition Ready, and the message; "Unknown" while there is none for this generation."""
        found = self.kustomization()
        for row in found.get("status", {}).get("conditions", ()):
            if row["type"] == "Ready" and row["observedGeneration"] == found["metadata"]["generation"]:
                return row["status"], f"{row['reason']}: {row['message']}"
        return "Unknown", ""

    def fetched(self) -> str:
        """The commit that its GitRepository holds."""
        status = self.client.call("GET", f"{REPOSITORIES}/policies").get("status", {})
        return str(status.get("artifact", {}).get("revision", "")).rpartition(":")[2]

    def change(self, **spec: Any) -> None:
        """Members of the spec of the Kustomization."""
        self.client.call("PATCH", f"{KUSTOMIZATIONS}/policies", {}, {"spec": spec}, MERGE)

    def fetch(self, commit: str) -> None:
        """As `flux reconcile source git policies`; returns when it has this commit."""
        self._ask(f"{REPOSITORIES}/policies")
        until(lambda: self.fetched() == commit, READY_WITHIN_S)

    def reconcile(self) -> None:
        """As `flux reconcile kustomization policies`; returns when that is done."""
        asked = self._ask(f"{KUSTOMIZATIONS}/policies")
        until(
            lambda: self.kustomization()["status"].get("lastHandledReconcileAt") == asked and self.is_ready()[0] == "True", READY_WITHIN_S
        )

    def _ask(self, path: str) -> str:
        self._asked += 1
        self.client.call("PATCH", path, {}, {"metadata": {"annotations": {ASKED: str(self._asked)}}}, MERGE)
        return str(self._asked)

    def forget(self) -> None:
        """Takes both objects away; returns when Flux has let them go."""
        for path in (f"{KUSTOMIZATIONS}/policies", f"{REPOSITORIES}/policies"):
            try:
                self.client.call("DELETE", path)
            except NotFound:
                continue
            until(partial(_is_gone, self.client, path), READY_WITHIN_S)


@contextmanager
def running(programs: dict[str, Path], definitions: list[Path], client: KubeClient, kubeconfig: Path, folder: Path) -> Iterator[Flux]:
    """While the context lasts; then neither they nor their definitions are there."""
    documents = [yaml.safe_load(file.read_text()) for file in definitions]
    for document in documents:
        try:
            client.call("POST", DEFINITIONS, body=document)
        except AlreadyExists:
            continue
    names = [document["metadata"]["name"] for document in documents]
    until(lambda: all(conditions(client, name).get("Established") == "True" for name in names), READY_WITHIN_S)
    store = f"127.0.0.1:{free_port()}"
    (folder / "artifacts").mkdir()
    more = {
        "source-controller": (f"--storage-path={folder / 'artifacts'}", f"--storage-addr={store}", f"--storage-adv-addr={store}"),
        "kustomize-controller": ("--requeue-dependency=1s",),  # how soon it looks again for a source that is not there yet
    }
    logs = {name: folder / f"{name}.log" for name in programs}
    try:
        with ExitStack() as stack:
            for name, program in programs.items():
                stack.enter_context(_process(program, kubeconfig, logs[name], more.get(name, ())))
            flux = Flux(client, lambda: "\n".join(log.read_text(errors="replace")[-3000:] for log in logs.values()))
            yield flux
            flux.forget()
    finally:
        for name in names:
            client.call("DELETE", f"{DEFINITIONS}/{name}")
        until(lambda: all(_is_gone(client, f"{DEFINITIONS}/{name}") for name in names), READY_WITHIN_S)


def _is_gone(client: KubeClient, path: str) -> bool:
    return there(client, path) is None


@contextmanager
def _process(program: Path, kubeconfig: Path, log: Path, more: tuple[str, ...]) -> Iterator[None]:
    """While it answers."""
    health = f"127.0.0.1:{free_port()}"
    command = [str(program), f"--health-addr={health}", "--metrics-addr=0", *more]
    environment = {"HOME": str(log.parent), "KUBECONFIG": str(kubeconfig), "PATH": "/usr/bin:/bin", "TMPDIR": str(log.parent)}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            until(lambda: process.poll() is not None or _answers(f"http://{health}/readyz"), READY_WITHIN_S)
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            yield
        finally:
            process.terminate()
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False
