"""This tier needs the servers of Kubernetes, which `make test` builds; without them each test says that it was not run."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient, api_client
from knhk.adapters.kube_documents import collection
from knhk.api import KINDS
from knhk.model.faults import AlreadyExists, NotFound, Waiting

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "gitops"))
import images
import node_machine as machine
from control_plane import Cluster, shared
from definitions import install
from gitea_binaries import gitea as build_gitea
from gitea_server import Gitea, fresh
from guarded_pods import PODS, end_pod, enforce, there
from node_pods import Node
from operator_process import Operator
from server_binaries import CannotBuild, binaries
from waiting import until

NAMESPACES = ("erp", "a", "b")
SYSTEM = "knhk-system"
ANSWERS_WITHIN_S = 240.0


@pytest.fixture(scope="session")
def servers() -> dict[str, Path]:
    """Name → binary."""
    try:
        return binaries(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture(scope="session")
def cluster(servers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cluster]:
    """The control plane that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    with shared((base if worker_id == "master" else base.parent) / "cluster") as found:
        yield found


@pytest.fixture(scope="session")
def node(servers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Node]:
    """A cluster of its own with a node, on which pods run; one at a time on a machine, so this may wait for another run's."""
    if why_not := machine.lacks():
        pytest.skip(f"not run: {why_not}")
    base = tmp_path_factory.getbasetemp()
    with shared((base if worker_id == "master" else base.parent) / "node", node=True) as found:
        client = KubeClient(api_client(found.kubeconfig))
        install(client)
        yield Node(found, client, servers["kubectl"])


@pytest.fixture(scope="session")
def guard_image(node: Node) -> str:
    """knhk-agent, as pods name it."""
    return _pushed(node, "knhk-agent")


@pytest.fixture(scope="session")
def control_images(node: Node) -> dict[str, str]:
    """`operator` and `builder`, as pods name them."""
    return {name: _pushed(node, f"knhk-{name}") for name in ("operator", "builder")}


def _pushed(node: Node, name: str) -> str:
    return node.push(images.build(images.IMAGES[name]).artifact, f"{name}:1")


@pytest.fixture(scope="session")
def client(cluster: Cluster) -> KubeClient:
    """Requests as the cluster's admin; the CustomResourceDefinitions of crds/ are there and served."""
    found = KubeClient(api_client(cluster.kubeconfig))
    install(found)
    return found


@pytest.fixture
def clean(client: KubeClient) -> KubeClient:
    """No object of ours is left of the test before; a server that it ended has come back."""
    for kind in KINDS:
        for document in patiently(partial(client.call, "GET", collection(kind)))["items"]:
            path = f"{collection(kind, document['metadata']['namespace'])}/{document['metadata']['name']}"
            with contextlib.suppress(NotFound):
                client.call("PATCH", path, {}, {"metadata": {"finalizers": None}}, MERGE)
                client.call("DELETE", path)
    for namespace in NAMESPACES:
        with contextlib.suppress(AlreadyExists):
            client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    return client


@pytest.fixture
def ours(clean: KubeClient) -> Iterator[KubeClient]:
    """Our namespace, and a service account for pods; no pod is left."""
    with contextlib.suppress(AlreadyExists):
        clean.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    until(lambda: there(clean, "/api/v1/namespaces/erp/serviceaccounts/default") is not None, ANSWERS_WITHIN_S)
    clear(clean)
    enforce(clean, "true")
    yield clean
    enforce(clean, None)
    clear(clean)


@pytest.fixture
def operator(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> Iterator[Operator]:
    found = Operator(tmp_path / "home", cluster.kubeconfig)
    yield found
    if found.process.poll() is None:
        assert found.end(signal.SIGTERM) == 0, found.said()


@pytest.fixture
def kubectl(cluster: Cluster, servers: dict[str, Path]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", "--namespace=erp", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def gitea() -> Iterator[Gitea]:
    try:
        program, static = build_gitea(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    with fresh(program, static) as found:
        yield found


def clear(client: KubeClient) -> None:
    """What pods of the test before trusted is no other's."""
    for row in client.call("GET", PODS)["items"]:
        end_pod(client, row["metadata"]["name"])
    for kind, namespace in ((kind, namespace) for kind in ("configmaps", "secrets") for namespace in (SYSTEM, "erp")):
        path = f"/api/v1/namespaces/{namespace}/{kind}"
        for row in client.call("GET", path)["items"]:
            if row["metadata"]["name"].startswith("knhk-"):
                client.call("DELETE", f"{path}/{row['metadata']['name']}")


def patiently(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, as soon as the API server has one."""
    deadline_s = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        try:
            return call()
        except Waiting as waiting:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(min(waiting.retry_after_s, 0.2))
