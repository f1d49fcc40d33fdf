"""The control plane of a cluster as processes of this machine, for benchmarks: a real API server, the operator with its exchange, the
builder with two warm workers, Debian's registry, and the log behind TLS. There is no node."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "order_to_cash"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "system"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "registry"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from control_plane import Cluster, owned
from definitions import install
from exchange_on_a_cluster import World
from registry_servers import debian_registry
from server_binaries import binaries
from system_world import Application

from identity import IdentityProvider
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.signer_local import establish
from knhk.model.faults import AlreadyExists, NotFound
from knhk.wiring.home import LOG_ORIGIN
from loopback_ports import free_port

TLS = "/api/v1/namespaces/knhk-system/secrets/knhk-builder-tls"
SERVICE_ACCOUNT = "/api/v1/namespaces/{}/serviceaccounts/default"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
TOKEN_LIVES_S = 3600
NAMESPACES: Mapping[str, Mapping[str, str]] = {"erp": {"knhk.dev/enforce": "true"}, "knhk-system": {}}  # elsewhere no pod is heard


@dataclass
class Plane(World):
    """The world of the exchange's tests, with a builder and a registry of their own. `registry`: URL; `kubectl`: command."""

    registry: str = ""
    kubectl: tuple[str, ...] = ()
    builder: subprocess.Popen[bytes] | None = None
    builder_port: int = 0

    @property
    def log_key(self) -> Path:
        return self.folder / "keys" / "log.key"

    def start_builder(self, proof_cases: int | None) -> None:
        """As its Deployment does, with the certificate that the operator keeps for it."""
        secret = self.until(lambda: there(self.client, TLS))
        (at := self.folder / "builder").mkdir(exist_ok=True)
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (at / name).write_bytes(base64.b64decode(secret["data"][name]))
        files = [f"--{option}={at / name}" for option, name in (("certificate", "tls.crt"), ("key", "tls.key"), ("authority", "ca.crt"))]
        own = ["--keys", str(self.folder / "keys"), "--registry", self.registry, "--scratch", str(at / "scratch"), "--workers", "2"]
        argv = [sys.executable, "-m", "knhk.builder", *own, *files, "--address=127.0.0.1", f"--port={self.builder_port}", "--health-port=0"]
        environment = os.environ if proof_cases is None else {**os.environ, "KNHK_PROOF_CASES": str(proof_cases)}
        with (self.folder / "builder.log").open("ab") as out:
            self.builder = subprocess.Popen(argv, stdout=out, stderr=out, env=environment)
        self.running.append(self.builder)

    def restart_builder(self, proof_cases: int | None) -> None:
        """Another process, that knows what the registry has."""
        assert self.builder is not None
        self.builder.terminate()
        self.builder.wait(60)
        self.running.remove(self.builder)
        self.start_builder(proof_cases)

    def kubectl_apply(self, *resources: Mapping[str, Any]) -> None:
        """All of them, in one call."""
        (self.folder / "applied.yaml").write_text(yaml.safe_dump_all(resources, sort_keys=False))
        subprocess.run([*self.kubectl, "apply", "-f", str(self.folder / "applied.yaml")], capture_output=True, check=True)


def there(client: KubeClient, path: str) -> Any:
    """The object, None while it is not there."""
    with contextlib.suppress(NotFound):
        return client.call("GET", path)
    return None


def until(look: Callable[[], Any], what: str, within_s: float, every_s: float) -> Any:
    """The first true answer."""
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(every_s)
    return seen


def by_token(client: KubeClient, cluster: Cluster, folder: Path) -> Path:
    """A kubeconfig with a service account's token, as a pod has it: a certificate is verified at each request, a token is not. It may do
    everything: what roles cost is not measured."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "knhk-system"}
    client.call("POST", BINDINGS, body={"metadata": {"name": "bench"}, "roleRef": role, "subjects": [subject]})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_LIVES_S}}
    told = client.call("POST", f"{SERVICE_ACCOUNT.format('knhk-system')}/token", body=asked)["status"]
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": told["token"]}
    (path := folder / "operator.kubeconfig").write_text(yaml.safe_dump(config))
    return path


@contextmanager
def control_plane(folder: Path, proof_cases: int | None = None, settle: Callable[[Path], object] = id) -> Iterator[Plane]:
    """All of it, until the context ends. `proof_cases`: of each build; None: as many as everywhere. `settle`: gets the folder of keys
    before a process reads it."""
    with ExitStack() as stack:
        cluster = stack.enter_context(owned(folder / "cluster"))
        client = KubeClient(api_client(cluster.kubeconfig))
        install(client)
        for namespace, labels in NAMESPACES.items():
            metadata = {"name": namespace, "labels": labels}
            with contextlib.suppress(AlreadyExists):
                client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        for namespace in NAMESPACES:
            until(partial(there, client, SERVICE_ACCOUNT.format(namespace)), "the service account is there", 60.0, 0.1)
        establish(folder / "keys", LOG_ORIGIN, datetime.now(UTC))
        settle(folder / "keys")
        (folder / "registry").mkdir()
        registry = f"{stack.enter_context(debian_registry(folder / 'registry'))}/knhk/packs"
        exchange, log, listen, build = free_port(), free_port(), free_port(), free_port()
        kubectl = (str(binaries(("kubectl",), build=False)["kubectl"]), f"--kubeconfig={cluster.kubeconfig}")
        unused = Application(folder / "unused.db", 0)
        plane = Plane(client, folder, unused, IdentityProvider.new(), (exchange, log, listen), registry=registry, kubectl=kubectl)
        plane.builder_port = build
        stack.callback(plane.stop)
        builder = f"https://127.0.0.1:{build}"
        plane.start_operator(
            replace(cluster, kubeconfig=by_token(client, cluster, folder)),
            "--registry",
            registry,
            "--builder",
            builder,
            "--keys",
            str(folder / "keys"),
        )
        plane.start_log()
        plane.start_builder(proof_cases)
        yield plane
