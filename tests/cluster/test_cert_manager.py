"""cert-manager's own controller and cainjector keep admission's certificate, as manifests/components/cert-manager asks of them.

Its programs are 1.11.5, its definitions 1.21.2: see tests/foreign. What a kubelet does, files of the Secret renamed into place, is done
here.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from waiting import until

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.model.faults import AlreadyExists, Refused

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "foreign"))
from admission_process import OWN_NAMESPACE, Admission, applied, hooks, path_of
from admission_requests import create, pack
from cert_manager_binaries import cert_manager
from control_plane import Cluster
from foreign_definitions import CannotBuild, definitions

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
COMPONENT = Path(__file__).parents[2] / "manifests" / "components" / "cert-manager"
INJECTED = {"cert-manager.io/inject-ca-from": f"{OWN_NAMESPACE}/knhk-admission"}
CERTIFICATES = f"/apis/cert-manager.io/v1/namespaces/{OWN_NAMESPACE}/certificates"
SECRET = f"/api/v1/namespaces/{OWN_NAMESPACE}/secrets/knhk-admission-certificate"
# Without the kinds of ACME, whose definitions are not there.
CONTROLLERS = ",".join(
    [
        "issuers",
        "certificaterequests-approver",
        "certificaterequests-issuer-ca",
        "certificaterequests-issuer-selfsigned",
        *(f"certificates-{part}" for part in ("issuing", "key-manager", "readiness", "request-manager", "revision-manager", "trigger")),
    ]
)
WITHIN_S = 240.0
NOBODY = "127.0.0.1:0"
Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster, servers: dict[str, Path]) -> Kubectl:
    def run(*arguments: str, text: str = "") -> str:
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def running(cluster: Cluster, client: KubeClient, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """cert-manager, and what our component asks of it, and the loopback address at which admission is reached here."""
    try:
        programs, files = cert_manager(build=False), [f"--filename={path}" for path in definitions() if "cert-manager.io_" in path.name]
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    asked = list(yaml.safe_load_all((COMPONENT / "certificate.yaml").read_text()))
    asked[-1]["spec"]["ipAddresses"] = ["127.0.0.1"]
    with contextlib.suppress(AlreadyExists):
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_NAMESPACE}})
    kubectl("create", *files)
    kubectl("wait", "--for=condition=Established", "--timeout=240s", *files)
    common = [f"--kubeconfig={cluster.kubeconfig}", "--leader-elect=false"]
    commands = {
        "controller": [f"--controllers={CONTROLLERS}", f"--metrics-listen-address={NOBODY}", "--enable-certificate-owner-ref=true"],
        "cainjector": [],
    }
    with contextlib.ExitStack() as stack:
        logs = tmp_path_factory.mktemp("cert-manager")
        processes = [stack.enter_context(process([str(programs[name]), *common, *more], logs / name)) for name, more in commands.items()]
        kubectl("apply", "-f", "-", text=yaml.safe_dump_all(asked))
        kubectl("wait", "--for=condition=Ready", "--timeout=240s", "-n", OWN_NAMESPACE, "certificate/knhk-admission")
        yield
        assert all(found.poll() is None for found in processes), "cert-manager must run to the end"
        kubectl("delete", "--timeout=240s", "-f", "-", text=yaml.safe_dump_all(asked))
        kubectl(
            "delete",
            "--timeout=240s",
            "-n",
            OWN_NAMESPACE,
            "--ignore-not-found",
            "secret/knhk-admission-certificate",
            "secret/knhk-admission-authority",
        )
    kubectl("delete", "--timeout=240s", *files)


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as found:
        try:
            yield found
        finally:
            found.terminate()
            found.wait(30)


def mounted(client: KubeClient, folder: Path) -> str:
    """The Secret's files in `folder`, the key first, as admission wants them; tells the serial number of the certificate."""
    data: Mapping[str, str] = client.call("GET", SECRET)["data"]
    for name in ("tls.key", "tls.crt", "ca.crt"):
        (folder / f".{name}").write_bytes(base64.b64decode(data[name]))
        (folder / f".{name}").rename(folder / name)
    return serial((folder / "tls.crt").read_bytes())


def serial(pem: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def shown(admission: Admission) -> str:
    """Of the certificate that the process shows now."""
    host, _, port = admission.url.removeprefix("https://").partition(":")
    return serial(ssl.get_server_certificate((host, int(port))).encode())


def bundles(client: KubeClient, documents: list[dict[str, Any]]) -> set[str]:
    return {
        hook["clientConfig"].get("caBundle", "") for document in documents for hook in client.call("GET", path_of(document))["webhooks"]
    }


def refused(client: KubeClient) -> bool:
    try:
        create(client, pack("faulty"))
    except Refused as told:
        return len(told.faults) > 1
    return False


def test_cert_manager_makes_what_admission_shows_and_renews_it_without_a_restart(
    running: None, cluster: Cluster, clean: KubeClient, tmp_path: Path
) -> None:
    first = mounted(clean, tmp_path)
    admission = Admission(tmp_path, cluster.kubeconfig)
    documents = hooks(admission.url)
    for document in documents:
        document["metadata"]["annotations"] = INJECTED
    try:
        admission.until_ready()
        with applied(clean, documents):
            authority = clean.call("GET", SECRET)["data"]["ca.crt"]
            until(lambda: bundles(clean, documents) == {authority}, WITHIN_S)
            until(lambda: refused(clean), WITHIN_S)
            assert shown(admission) == first
            renew(clean)
            until(lambda: serial(base64.b64decode(clean.call("GET", SECRET)["data"]["tls.crt"])) != first, WITHIN_S)
            second = mounted(clean, tmp_path)
            until(lambda: shown(admission) == second, WITHIN_S)
            assert refused(clean)
            assert admission.process.poll() is None
            assert bundles(clean, documents) == {authority}
    finally:
        assert admission.end() == 0, admission.said()


def renew(client: KubeClient) -> None:
    """As `cmctl renew` asks for it."""
    found = client.call("GET", f"{CERTIFICATES}/knhk-admission")
    asks = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "asked by hand",
        "lastTransitionTime": found["metadata"]["creationTimestamp"],
    }
    conditions = [row for row in found["status"]["conditions"] if row["type"] != "Issuing"]
    client.call("PATCH", f"{CERTIFICATES}/knhk-admission/status", {}, {"status": {"conditions": [*conditions, asks]}}, MERGE)
