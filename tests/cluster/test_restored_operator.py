"""API server and store of a cluster are lost under a control plane: guards decide on, and an operator goes on in a new cluster from what
`knhk restore` made there of Git, registry and log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import place
from knhk.adapters.signer_local import read_root_pub
from knhk.wiring import packs, restore_cluster
from knhk.wiring.restore import Done, Left
from knhk_runtime.exchange.documents import Accepted, Beside, read_keys, read_rollout
from knhk_runtime.point import parse_point

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "reconcilers"))
sys.path.insert(2, str(Path(__file__).parents[1] / "gitops"))
sys.path.insert(3, str(Path(__file__).parents[1] / "store"))
sys.path.insert(4, str(Path(__file__).parents[1]))
from control_plane import Cluster, owned
from definitions import install
from fleet_world import PACK, World, forks
from git_repo import Repo
from guarded_pods import enforce, there
from played_pods import TRUST, PlayedPods, Pod
from rollout_world import pack, point

from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]
NAMES = ("orders-0", "orders-1")
POINT = point("orders").replace("  baseline:", "  listen: {port: 8080}\n  baseline:")
TARGETS = "{point: orders}"
BAD = pack("1.1.0", constraint="sh:minCount 2", targets=TARGETS)
NEXT = pack("1.2.0", constraint="sh:minCount 3", targets=TARGETS)


@pytest.fixture
def pods(ours: KubeClient, tmp_path: Path) -> Iterator[PlayedPods]:
    found = PlayedPods(tmp_path, client=ours, exchange=f"127.0.0.1:{free_port()}", bad=frozenset({"1.1.0"}), bad_at="erp/orders")
    yield found
    found.close()


@pytest.fixture
def world(ours: KubeClient, cluster: Cluster, tmp_path: Path, pods: PlayedPods) -> Iterator[World]:
    """1.0.0 is live on two pods, the commit's 1.1.0 was rolled back."""
    found = World(tmp_path, cluster.kubeconfig, ours, forks(), pods)
    found.compiler = packs.compiler  # of images that are real, restoring looks into them
    try:
        found.start()
        found.apply(POINT)  # its namespace gets what pods trust
        begin(found, pods)
        found.apply(pack("1.0.0", targets=TARGETS))
        found.until_phase("Live", "1.0.0")
        found.apply(BAD)
        found.until_phase("RolledBack", "1.1.0")
        found.until(lambda: standing(pods) == {("1.0.0", "")}, "all pods are back")
        found.until_settled()
        yield found
    finally:
        found.close()


@pytest.fixture
def anew(servers: dict[str, Path], tmp_path: Path) -> Iterator[Cluster]:
    """Another control plane, whose store is empty. To be named before `world`, whose operators then end before it."""
    with owned(tmp_path / "anew") as found:
        client = KubeClient(api_client(found.kubeconfig))
        install(client)
        for name in ("erp", "knhk-system"):
            client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        enforce(client, "true")
        yield found


def begin(world: World, pods: PlayedPods) -> None:
    """An operator and pods of its cluster."""
    world.operator(exchange=pods.exchange)
    world.until(lambda: there(pods.client, TRUST) is not None, "what pods trust is there")
    world.until(lambda: there(pods.client, "/api/v1/namespaces/erp/serviceaccounts/default") is not None, "pods have an account")
    for name in NAMES:
        pods.add(name, "orders")


def standing(pods: PlayedPods) -> set[tuple[str, str]]:
    return {pod.stands for pod in pods.at("orders")}


def told(pod: Pod) -> dict[str, Any]:
    """What a pod's document says, but for when."""
    return {name: value for name, value in pod.document.items() if name not in ("epoch", "issued", "notAfter", "bootstrap")}


def restored(world: World, pods: PlayedPods, repo: Repo, cluster: Cluster) -> Done:
    guards = tuple(pod.folders.desired.parent for pod in pods.at("orders"))
    log, registry, keys = world.folder / "log", world.folder / "registry", world.folder / "keys"
    left = Left(repo.folder, "main", (), (), str(log), registry, keys, guards=guards)
    return restore_cluster.applied(Path(cluster.kubeconfig), left, lambda line: None)


def accepts(new: Pod, old: Pod, root: bytes) -> int:
    """The epoch that a guard which ran on accepts of what the new control plane publishes. Raises Refused."""
    now, desired = datetime.now(UTC), new.folders.desired
    before = Accepted(1, old.document["epoch"], "", old.document["origin"])
    keys = read_keys((desired / "keys.json").read_bytes(), root, now, before, "keys.json")
    bootstrap = (desired / "envoy.json").read_bytes() if (desired / "envoy.json").exists() else None
    beside = Beside(parse_point((desired / "point.json").read_bytes(), "point.json"), bootstrap)
    return read_rollout((desired / "rollout.json").read_bytes(), keys, now, beside, before, "rollout.json").epoch


@pytest.mark.failure("API server", "rollout")
def test_an_operator_goes_on_in_a_new_cluster_and_guards_never_stop(anew: Cluster, world: World, pods: PlayedPods, tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo")
    repo.commit({"point.yaml": POINT, "pack.yaml": BAD})
    before, entries = world.get().status, len(world.statements())
    world.operators[-1].process.kill()  # the control plane is gone, and with its API server whatever tokens of pods were good for
    world.operators[-1].process.join()
    old = pods.at("orders")
    documents = {pod.name: told(pod) for pod in old}

    done = restored(world, pods, repo, anew)
    assert (done.plan.held, done.plan.epoch) == (2, max(pod.document["epoch"] for pod in old))
    client = KubeClient(api_client(anew.kubeconfig))
    found = client.call("GET", place(PACK))["status"]
    assert [found["live"]["digest"], found["denyList"][0]["digest"]] == [before["live"]["digest"], before["denyList"][0]["digest"]]
    assert standing(pods) == {("1.0.0", "")}  # nobody told them anything meanwhile

    pods_anew = PlayedPods(tmp_path / "moved", client=client, exchange=f"127.0.0.1:{free_port()}")
    try:
        world.moves_to(Path(anew.kubeconfig), client, pods_anew)
        begin(world, pods_anew)
        world.until(lambda: standing(pods_anew) == {("1.0.0", "")}, "the new pods enforce what the old ones do")
        world.until_settled()
        kinds = [statement["predicate"]["kind"] for statement in world.statements()[entries:]]
        assert kinds.count("Restored") == 1
        assert not {"Compiled", "Built", "Signed", "RolloutStarted", "Promoted", "RolledBack", "Stalled"} & set(kinds)
        root = read_root_pub(world.folder / "keys" / "root.pub")
        for pod in pods_anew.at("orders"):
            assert told(pod) == documents[pod.name]
            assert all(accepts(pod, each, root) > each.document["epoch"] for each in old)

        world.store.delete(PACK)  # what was denied is denied under a new object of its name, too
        world.apply(BAD)
        world.until(lambda: "DenyListed" in [row["reason"] for row in world.get().status.get("conditions", ())], "1.1.0 is refused")
        assert not any("1.1.0" in pod.ran for pod in pods_anew.at("orders"))
        world.apply(NEXT)
        world.until_phase("Live", "1.2.0")
        world.until(lambda: standing(pods_anew) == {("1.2.0", "")}, "the next version goes its way")
        world.until_settled()
        world.check()
    finally:
        world.moves_to(Path(anew.kubeconfig), client, pods)
        pods_anew.close()
