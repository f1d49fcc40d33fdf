"""Flux's own controllers on a cluster: as they are, with their definitions, at ports of loopback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.model.faults import NotFound

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from foreign_controllers import READY_WITHIN_S, defined, is_gone, said, serving
from waiting import until

from loopback_ports import free_port

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
            until(partial(is_gone, self.client, path), READY_WITHIN_S)


@contextmanager
def running(programs: dict[str, Path], definitions: list[Path], client: KubeClient, kubeconfig: Path, folder: Path) -> Iterator[Flux]:
    """While the context lasts; then neither they nor their definitions are there."""
    store = f"127.0.0.1:{free_port()}"
    (folder / "artifacts").mkdir()
    more = {
        "source-controller": (f"--storage-path={folder / 'artifacts'}", f"--storage-addr={store}", f"--storage-adv-addr={store}"),
        "kustomize-controller": ("--requeue-dependency=1s",),  # how soon it looks again for a source that is not there yet
    }
    logs = [folder / f"{name}.log" for name in programs]
    with ExitStack() as stack:
        stack.enter_context(defined(client, definitions))
        for log, (name, program) in zip(logs, programs.items(), strict=True):
            health = f"127.0.0.1:{free_port()}"
            command = (str(program), f"--health-addr={health}", "--metrics-addr=0", *more[name])
            stack.enter_context(serving(command, log, f"http://{health}/readyz", KUBECONFIG=str(kubeconfig)))
        flux = Flux(client, lambda: said(logs))
        yield flux
        flux.forget()
