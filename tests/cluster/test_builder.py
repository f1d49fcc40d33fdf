"""Operator, builder and registry as processes of their own on the real API server: what kubectl applies is built by the builder, with keys
that the operator does not hold."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import place
from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.signer_local import establish
from knhk.model.faults import AlreadyExists
from knhk.wiring.home import LOG_ORIGIN
from knhk_runtime.distribution import Repository

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from operator_process import EXAMPLES, PACK, Operator, phase, seen
from registry_servers import debian_registry

from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
NAMESPACE = "knhk-system"
TLS = f"/api/v1/namespaces/{NAMESPACE}/secrets/knhk-builder-tls"


@contextmanager
def builder(folder: Path, registry: str, port: int) -> Iterator[int]:
    """Its process, as its Deployment starts it; gives the port."""
    files = [f"--{option}={folder / name}" for option, name in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))]
    argv = [sys.executable, "-m", "knhk.builder", "--keys", str(folder / "build"), "--registry", registry, *files, "--workers", "1"]
    argv += ["--scratch", str(folder / "scratch"), "--address", "127.0.0.1", "--port", str(port), "--health-port", "0"]
    environment = {**os.environ, "KNHK_PROOF_CASES": "20"}
    with (
        (folder / "builder.log").open("ab") as log,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, env=environment, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.match(r"https://127\.0\.0\.1:(\d+) ", process.stdout.readline())
            assert found is not None, (folder / "builder.log").read_text()
            yield int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)


def test_the_builder_builds_what_kubectl_applies_and_the_operator_holds_no_key_for_it(
    clean: KubeClient, cluster: Cluster, servers: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    establish(keys, LOG_ORIGIN, datetime.now(UTC))
    for folder, roles in (("rollout", ("rollout", "log")), ("build", ("build", "data"))):
        (tmp_path / folder).mkdir(mode=0o700)
        for name in (*(f"{role}.key" for role in roles), "keys.json", "root.pub"):
            (tmp_path / folder / name).write_bytes((keys / name).read_bytes())
            (tmp_path / folder / name).chmod(0o600)
    with suppress(AlreadyExists):
        clean.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    (tmp_path / "registry").mkdir()
    with debian_registry(tmp_path / "registry") as url:
        port, registry = free_port(), f"{url}/knhk/packs"
        more = ["--registry", registry, "--builder", f"https://127.0.0.1:{port}", "--keys", str(tmp_path / "rollout")]
        operator = Operator(tmp_path / "home", cluster.kubeconfig, *more)
        try:
            apply(servers, cluster, "finance-roles.yaml", "1.0.0/pack.yaml")
            secret = seen(clean, operator, TLS, lambda found: "data" in found)
            for name in ("tls.crt", "tls.key", "ca.crt"):
                (tmp_path / name).write_bytes(base64.b64decode(secret["data"][name]))
            with builder(tmp_path, registry, port):
                pack = seen(clean, operator, place(PACK), lambda found: phase(found) == "Signed")
        finally:
            assert operator.end(signal.SIGTERM) == 0, operator.said()
        repository = Repository(registry)
        digest = pack["status"]["revision"]["digest"]
        assert OciRegistry(repository).resolve("erp/invoice-controls:1.0.0") == digest
        assert len(OciRegistry(repository).referrers(digest)) == 4
        repository.close()
    assert not list((tmp_path / "home").rglob("build.key"))
    assert not list((tmp_path / "home").rglob("data.key"))


def apply(servers: dict[str, Path], cluster: Cluster, *files: str) -> None:
    arguments = [argument for file in files for argument in ("-f", str(EXAMPLES / file))]
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", "--namespace=erp", "apply", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
