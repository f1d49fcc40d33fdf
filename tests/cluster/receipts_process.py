"""The server of receipts beside a real API server: its own account, a certificate of our authority, its APIService applied."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.system import SystemClock
from knhk.model.faults import AlreadyExists, KnhkError, NotFound

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster

COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "receipts"
OWN = "knhk-system"
ACCOUNT = f"system:serviceaccount:{OWN}:knhk-receipts"
SERVED_WITHIN_S = 240.0
SERVICES, APISERVICES = f"/api/v1/namespaces/{OWN}/services", "/apis/apiregistration.k8s.io/v1/apiservices"


class ReceiptsServer:
    """Serves `log` (a folder) to the cluster's users."""

    def __init__(self, cluster: Cluster, client: KubeClient, kubectl: Path, log: Path, folder: Path) -> None:
        self.client, self.folder = client, folder
        folder.mkdir()
        with contextlib.suppress(AlreadyExists):
            client.call("POST", "/api/v1/namespaces", body={"metadata": {"name": OWN}})
        command = [str(kubectl), f"--kubeconfig={cluster.kubeconfig}", "apply", "--server-side", "-f", str(COMPONENT / "rbac.yaml")]
        subprocess.run(command, check=True, capture_output=True)
        certificates = ServingCertificates(client, OWN, SystemClock())
        pair = certificates.leaf("knhk-receipts", ["127.0.0.1"])
        for name, data in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", certificates.authority().bundle)):
            (folder / name).write_bytes(data)
        files = [f"--{name}={folder / file}" for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))]
        kubeconfig = cluster.user(ACCOUNT, ("system:serviceaccounts", f"system:serviceaccounts:{OWN}"))
        command = [sys.executable, "-m", "knhk.receipts", "--address=127.0.0.1", "--port=0", f"--kubeconfig={kubeconfig}"]
        self._told = (folder / "told").open("wb")
        self.process = subprocess.Popen(
            [*command, f"--log={log}", f"--index={folder / 'receipts.db'}", *files], stdout=subprocess.PIPE, stderr=self._told, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.said()
        self.port = int(self.url.rpartition(":")[2])
        for path, document in self._documents(self.port):
            with contextlib.suppress(NotFound):
                client.call("DELETE", f"{path}/{document['metadata']['name']}")
            client.call("POST", path, body=document)
        self._served()

    def _documents(self, port: int) -> list[tuple[str, dict[str, Any]]]:
        """The APIService of the component, and a Service that leads to this machine."""
        (apiservice,) = yaml.safe_load_all((COMPONENT / "apiservice.yaml").read_text())
        apiservice["spec"]["service"]["port"] = port
        ports = [{"port": port, "protocol": "TCP"}]
        service = {"metadata": {"name": "knhk-receipts"}, "spec": {"type": "ExternalName", "externalName": "localhost", "ports": ports}}
        return [(SERVICES, service), (APISERVICES, apiservice)]

    def _served(self) -> None:
        deadline_s = time.monotonic() + SERVED_WITHIN_S
        while True:
            conditions = self.client.call("GET", f"{APISERVICES}/v1alpha1.receipts.knhk.dev").get("status", {}).get("conditions", ())
            if any(row["type"] == "Available" and row["status"] == "True" for row in conditions):
                with contextlib.suppress(KnhkError):
                    self.client.call("GET", "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts", {"limit": "1"})
                    return
            assert time.monotonic() < deadline_s, (conditions, self.said())
            time.sleep(0.1)

    def said(self) -> str:
        return (self.folder / "told").read_text(errors="replace")[-4000:]

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))

    def memory_mib(self) -> float:
        """Most that was resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024

    def close(self) -> None:
        """No namespace can be deleted while an APIService is there that nobody serves."""
        for path, document in reversed(self._documents(0)):
            with contextlib.suppress(NotFound):
                self.client.call("DELETE", f"{path}/{document['metadata']['name']}")
        self.process.kill()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._told.close()


def kubectl_of(program: Path, kubeconfig: Path, cache: Path) -> Any:
    """`kubectl` as somebody: its process, done."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(program), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(cache)})

    return run
