"""Argo CD's own application-controller and repo-server on a cluster, with what they need of an installation.

The controller's metrics are at a free port of every address, for it can be told no other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import MERGE, KubeClient

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from foreign_controllers import READY_WITHIN_S, defined, is_gone, said, serving
from waiting import until

from loopback_ports import free_port

NAMESPACE = "argocd"
APPLICATION = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/applications/erp-policies"
PART = {"app.kubernetes.io/part-of": "argocd"}


class Argo:
    """What people do with it: Application `erp-policies`, as in manifests/gitops."""

    def __init__(self, client: KubeClient, said: Callable[[], str]) -> None:
        self.client, self.said = client, said

    def application(self) -> dict[str, Any]:
        return self.client.call("GET", APPLICATION)

    def stands(self) -> tuple[str, str, str]:
        """Sync, health, and the commit that both speak of."""
        status = self.application().get("status", {})
        sync = status.get("sync", {})
        return sync.get("status", ""), status.get("health", {}).get("status", ""), sync.get("revision", "")

    def refresh(self) -> None:
        """As `argocd app get --refresh`; returns when it has looked."""
        self.client.call("PATCH", APPLICATION, {}, {"metadata": {"annotations": {"argocd.argoproj.io/refresh": "normal"}}}, MERGE)
        until(lambda: "argocd.argoproj.io/refresh" not in self.application()["metadata"].get("annotations", {}), READY_WITHIN_S)


@contextmanager
def running(
    program: Path, definitions: list[Path], configuration: Path, client: KubeClient, kubeconfig: Path, folder: Path
) -> Iterator[Argo]:
    """While the context lasts; then neither they nor their definitions are there."""
    ports = {name: free_port() for name in ("redis", "repo", "repo-metrics", "metrics")}
    redis, repo = f"127.0.0.1:{ports['redis']}", f"127.0.0.1:{ports['repo']}"
    commands = {
        "redis": ("redis", redis),
        "repo-server": (
            *("argocd-repo-server", f"--redis={redis}", "--address=127.0.0.1", f"--port={ports['repo']}", "--disable-tls"),
            *("--metrics-address=127.0.0.1", f"--metrics-port={ports['repo-metrics']}"),
        ),
        "application-controller": (
            *("argocd-application-controller", f"--redis={redis}", f"--repo-server={repo}", "--repo-server-plaintext"),
            *(f"--metrics-port={ports['metrics']}", f"--namespace={NAMESPACE}"),
        ),
    }
    health = {"repo-server": ports["repo-metrics"], "application-controller": ports["metrics"]}
    logs = [folder / f"argocd-{name}.log" for name in commands]
    around = {"KUBECONFIG": str(kubeconfig), "ARGOCD_FAKE_IN_CLUSTER": "true"}  # the cluster of KUBECONFIG, as if in a pod
    folders = {f"ARGOCD_{name}": str(folder) for name in ("SSH_DATA_PATH", "TLS_DATA_PATH", "PLUGINSOCKFILEPATH")}
    folders["ARGOCD_ASK_PASS_SOCK"] = str(folder / "ask-pass.sock")  # by default one name for all of a machine
    with ExitStack() as stack:
        stack.enter_context(defined(client, definitions))
        stack.enter_context(_installed(client, configuration))
        for log, (name, words) in zip(logs, commands.items(), strict=True):
            url = f"http://127.0.0.1:{health[name]}/healthz" if name in health else ""
            stack.enter_context(serving((str(program), *words), log, url, ARGOCD_GPG_ENABLED="false", **around, **folders))
        yield Argo(client, lambda: said(logs))


@contextmanager
def _installed(client: KubeClient, configuration: Path) -> Iterator[None]:
    """The objects of an installation that these two processes read."""
    until(lambda: is_gone(client, f"/api/v1/namespaces/{NAMESPACE}"), READY_WITHIN_S)
    client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    of = f"/api/v1/namespaces/{NAMESPACE}"
    try:
        client.call("POST", f"{of}/configmaps", body=yaml.safe_load(configuration.read_text()))
        for name in ("argocd-rbac-cm", "argocd-ssh-known-hosts-cm", "argocd-tls-certs-cm", "argocd-gpg-keys-cm"):
            client.call(
                "POST", f"{of}/configmaps", body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": PART}}
            )
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "argocd-secret", "labels": PART}}
        client.call("POST", f"{of}/secrets", body={**secret, "stringData": {"server.secretkey": "for-tests-only"}})
        yield
    finally:
        client.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
