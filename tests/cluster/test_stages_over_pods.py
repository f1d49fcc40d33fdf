"""A pack over two stages of several pods each, on the real API server and exchange: by waves, by approval, through a drain, and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import collection
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))
sys.path.insert(2, str(Path(__file__).parents[1] / "reconcilers"))
sys.path.insert(3, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(4, str(Path(__file__).parents[1]))
from control_plane import Cluster
from fleet_world import World, forks
from guarded_pods import there
from played_pods import TRUST, PlayedPods, Pod
from rollout_world import STEPS, pack, point

from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
EAST, WEST = "east", "west"
PODS = {EAST: 3, WEST: 4}
TARGETS = "{point: east, stage: staging}, {point: west}"
AT_ONCE = "steps: [{weight: 100, minPairs: 20}]"
WAVES = "steps: [{weight: 50, minPairs: 20, wave: 25}, {weight: 100, minPairs: 20}]"
CAREFUL = "steps: [{weight: 50, minPairs: 1000, wave: 25}, {weight: 100, minPairs: 20}]"  # a wave of one pod must tell
APPROVED = f"{WAVES}\n    approvals: [{{stage: production, notAuthor: false}}]"
ADA = "ada@example.com"


def staged(version: str, steps: str, constraint: str) -> str:
    return pack(version, targets=TARGETS, constraint=constraint).replace(STEPS, steps)


def listening(name: str) -> str:
    return point(name).replace("  baseline:", "  listen: {port: 8080}\n  baseline:")


@pytest.fixture
def pods(ours: KubeClient, tmp_path: Path) -> Iterator[PlayedPods]:
    found = PlayedPods(tmp_path, client=ours, exchange=f"127.0.0.1:{free_port()}")
    yield found
    found.close()


@pytest.fixture
def world(ours: KubeClient, cluster: Cluster, tmp_path: Path, pods: PlayedPods) -> Iterator[World]:
    """1.0.0 is live on seven pods of two points."""
    found = World(tmp_path, cluster.kubeconfig, ours, forks(), pods)
    found.start()
    found.operator(exchange=pods.exchange)
    found.apply(listening(EAST), listening(WEST))
    found.until(lambda: there(ours, TRUST) is not None, "what pods trust is there")
    for name, number in PODS.items():
        for n in range(number):
            pods.add(f"{name}-{n}", name)
    found.apply(staged("1.0.0", AT_ONCE, "sh:minCount 1"))
    found.until_phase("Live", "1.0.0")
    found.until(lambda: everywhere(pods, EAST, WEST) == {("1.0.0", "")}, "all pods enforce 1.0.0")
    yield found
    found.close()


def everywhere(pods: PlayedPods, *points: str) -> set[tuple[str, str]]:
    """How the pods of these points stand: the stable version, and the one in canary."""
    return {pod.stands for name in points for pod in pods.at(name)}


def canaries(pods: PlayedPods, name: str, version: str) -> list[Pod]:
    return [pod for pod in pods.at(name) if pod.stands[1] == version]


def revision(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.get().status.get("revision", {})
    return found


def reason(world: World) -> str:
    return next((row["reason"] for row in world.get().status["conditions"] if row["type"] == "Ready"), "")


def instances(world: World, name: str) -> dict[str, int]:
    found: dict[str, int] = world.get(Key("EnforcementPoint", "erp", name)).status.get("instances", {})
    return found


def approve(cluster: Cluster, world: World) -> None:
    of = revision(world)
    spec = {"pack": "orders", "revision": of["digest"], "stage": "production", "approver": ADA}
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": "Approval", "metadata": {"name": f"orders-{of['generation']}-ada"}, "spec": spec}
    KubeClient(api_client(cluster.user(ADA, ("system:masters",)))).call("POST", collection("Approval", "erp"), body=document)


def test_stages_of_pods_follow_one_another_and_a_bad_version_leaves_all_of_them(world: World, pods: PlayedPods, cluster: Cluster) -> None:
    world.apply(staged("1.1.0", APPROVED, "sh:minCount 2"))
    world.until(lambda: len(canaries(pods, EAST, "1.1.0")) == 1, "a wave of one pod in the first stage")
    assert everywhere(pods, WEST) == {("1.0.0", "")}

    world.until(lambda: reason(world) == "Unapproved", "the second stage asks for an approval")
    world.until(lambda: everywhere(pods, EAST) == {("1.1.0", "")}, "the first stage has passed, on all of its pods")
    world.until(lambda: revision(world)["pairs"] > 400, "there is evidence enough in the second stage")
    world.until(lambda: reason(world) == "Unapproved", "it asks for the approval still")
    assert not any("1.1.0" in pod.ran for pod in pods.at(WEST))

    pods.idle = True  # so that the step waits for pairs while a pod goes
    world.until(lambda: revision(world)["pairs"] == pods.judged(WEST), "all that was judged is known")
    approve(cluster, world)
    world.until(
        lambda: instances(world, WEST) == {"live": 4, "current": 4, "silent": 0, "wave": 1}, "a wave of one pod in the second stage"
    )
    (gone,) = canaries(pods, WEST, "1.1.0")
    before = revision(world)
    pods.drain(gone)
    pods.add(gone.name, WEST)
    world.until(lambda: instances(world, WEST).items() >= {"live": 4, "current": 4, "silent": 0}.items(), "it was made anew")
    world.until(lambda: instances(world, WEST)["wave"] >= 1 and len(canaries(pods, WEST, "1.1.0")) >= 1, "the wave has its share")
    after = revision(world)
    assert [after[name] for name in ("stage", "arm", "step", "phaseSince")] == [
        before[name] for name in ("stage", "arm", "step", "phaseSince")
    ]
    pods.idle = False
    world.until_phase("Live", "1.1.0")
    world.until(lambda: everywhere(pods, EAST, WEST) == {("1.1.0", "")}, "all pods enforce 1.1.0")

    pods.bad, pods.bad_at = frozenset({"1.2.0"}), f"erp/{WEST}"
    world.apply(staged("1.2.0", CAREFUL, "sh:minCount 3"))
    world.until(
        lambda: (revision(world)["version"], reason(world)) == ("1.2.0", "Unapproved"), "those whom the live version asks are asked"
    )
    approve(cluster, world)
    world.until_phase("RolledBack", "1.2.0")
    world.until(lambda: everywhere(pods, EAST, WEST) == {("1.1.0", "")}, "all pods are back")
    assert all("1.2.0" in pod.ran for pod in pods.at(EAST))
    assert sum("1.2.0" in pod.ran for pod in pods.at(WEST)) == 1
    assert [row["digest"] for row in world.get().status["denyList"]] == [revision(world)["digest"]]
    world.until_settled()
    world.check()
