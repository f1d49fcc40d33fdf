"""metrics-server beside a cluster with a node: it asks the node's kubelet, and the API server asks it while `served` lasts."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "foreign"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import cluster_pki as pki
from metrics_server_binary import CannotBuild, metrics_server
from node_pods import Node

from loopback_ports import free_port

__all__ = ["CannotBuild", "MetricsServer"]

NAME, NAMESPACE = "metrics-server", "kube-system"
SERVICES, APISERVICES = f"/api/v1/namespaces/{NAMESPACE}/services", "/apis/apiregistration.k8s.io/v1/apiservices"
GROUP = "metrics.k8s.io"
APISERVICE = f"v1beta1.{GROUP}"


class MetricsServer:
    """A process of this machine that looks every ten seconds, its shortest. Raises CannotBuild."""

    def __init__(self, node: Node, folder: Path) -> None:
        folder.mkdir()
        self._node, self._folder, self._port = node, folder, free_port()
        pki.issue(node.cluster.folder / "pki", NAME, pki.Subject(NAME, serves=(f"{NAME}.{NAMESPACE}.svc",)))
        keys = node.cluster.folder / "pki"
        who = node.cluster.user(f"system:serviceaccount:{NAMESPACE}:{NAME}", ("system:masters",))
        options = {
            "kubeconfig": who, "authentication-kubeconfig": who, "authorization-kubeconfig": who,
            "bind-address": "127.0.0.1", "secure-port": self._port, "cert-dir": folder,
            "tls-cert-file": keys / f"{NAME}.crt", "tls-private-key-file": keys / f"{NAME}.key",
            "kubelet-certificate-authority": node.cluster.authority, "kubelet-preferred-address-types": "InternalIP",
            "metric-resolution": "10s", "kubelet-request-timeout": "9s",
        }  # fmt: skip
        command = [str(metrics_server(build=False)), *(f"--{name}={value}" for name, value in options.items())]
        with (folder / "log").open("wb") as told:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """The metrics API is there, by an APIService as installations of metrics-server have it."""
        ports = [{"port": self._port, "protocol": "TCP"}]
        service = {"metadata": {"name": NAME}, "spec": {"type": "ExternalName", "externalName": "localhost", "ports": ports}}
        bundle = base64.b64encode(self._node.cluster.authority.read_bytes()).decode()
        spec = {
            "group": GROUP, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": bundle,
            "service": {"name": NAME, "namespace": NAMESPACE, "port": self._port},
        }  # fmt: skip
        self._node.client.call("POST", SERVICES, body=service)
        self._node.client.call("POST", APISERVICES, body={"metadata": {"name": APISERVICE}, "spec": spec})
        try:
            self._node.until(self._available, "the metrics API", self.said)
            yield
        finally:  # no namespace can be deleted while an APIService is there that nobody serves
            self._node.client.call("DELETE", f"{APISERVICES}/{APISERVICE}")
            self._node.client.call("DELETE", f"{SERVICES}/{NAME}")

    def _available(self) -> bool:
        assert self._process.poll() is None, self.said()
        status = self._node.client.call("GET", f"{APISERVICES}/{APISERVICE}").get("status", {})
        return any(row["type"] == "Available" and row["status"] == "True" for row in status.get("conditions") or ())

    def said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3000:]

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(60)
