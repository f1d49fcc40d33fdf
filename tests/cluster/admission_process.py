"""The admission process beside a real API server: its own certificate, its configurations applied."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_webhooks import BASE, PLURALS, configurations
from knhk.model.faults import NotFound

READY_WITHIN_S = 240.0
OWN_NAMESPACE = "knhk-system"
IMAGE = "registry.test/knhk-agent@sha256:" + "0" * 64


def certificate(folder: Path) -> None:
    """A new authority that is its own certificate for 127.0.0.1: tls.crt, tls.key, ca.crt, each by rename, the key first."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knhk-admission")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = made.public_bytes(serialization.Encoding.PEM)
    for file, data in (("tls.key", private), ("tls.crt", public), ("ca.crt", public)):
        (folder / f".{file}").write_bytes(data)
        (folder / f".{file}").rename(folder / file)


class Admission:
    """One replica, with the certificate in `folder`, which is made when there is none."""

    def __init__(self, folder: Path, kubeconfig: Path, *arguments: str) -> None:
        self.folder = folder
        self._log = (folder / "log").open("wb")
        files = [f"--{name}={folder / file}" for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))]
        if not (folder / "tls.crt").exists():
            certificate(folder)
        command = [sys.executable, "-m", "knhk.admission", "serve", "--address=127.0.0.1", "--port=0", f"--kubeconfig={kubeconfig}"]
        self.process = subprocess.Popen(
            [*command, f"--image={IMAGE}", *files, *arguments], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.said()

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def get(self, path: str) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(f"{self.url}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready(self) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < deadline_s, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return code


def manifests(url: str, image: str = IMAGE, before: str = "") -> list[dict[str, Any]]:
    """What manifests/base says of admission, for a process that answers at `url`; `image` is the guard's."""
    return configurations({"url": url}, OWN_NAMESPACE, image, before)


def hooks(url: str) -> list[dict[str, Any]]:
    """The webhook configurations alone."""
    return [document for document in manifests(url) if document["kind"] in PLURALS]


ROLES = "/apis/rbac.authorization.k8s.io/v1"
# Kind → where its objects lie, without and with a namespace.
PLACES = {
    **{kind: (BASE, plural) for kind, plural in PLURALS.items()},
    "ValidatingAdmissionPolicy": (BASE, "validatingadmissionpolicies"),
    "ValidatingAdmissionPolicyBinding": (BASE, "validatingadmissionpolicybindings"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "ClusterRole": (ROLES, "clusterroles"),
    "ClusterRoleBinding": (ROLES, "clusterrolebindings"),
    "Role": (ROLES, "roles"),
    "RoleBinding": (ROLES, "rolebindings"),
}


def path_of(document: dict[str, Any]) -> str:
    (base, plural), metadata = PLACES[document["kind"]], document["metadata"]
    namespace = f"namespaces/{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{base}/{namespace}{plural}/{metadata['name']}"


def apply(client: KubeClient, document: dict[str, Any]) -> None:
    query = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict"}
    client.call("PATCH", path_of(document), query, json.loads(json.dumps(document)), "application/apply-patch+yaml")


@contextmanager
def applied(client: KubeClient, documents: list[dict[str, Any]]) -> Iterator[None]:
    """The configurations are there, and gone afterwards: other tests' objects are judged without them."""
    try:
        for document in documents:
            apply(client, document)
        yield
    finally:
        for document in documents:
            try:
                client.call("DELETE", path_of(document))
            except NotFound:
                continue
