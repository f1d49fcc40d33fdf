"""What goes wrong between an operator and the real API server, or in either: status is true afterwards, and nothing happened twice."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.model.faults import NotFound
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
from control_plane import Cluster
from faulty_proxy import Faults, proxy
from fleet_world import PACK, World, forks
from rollout_world import pack, point

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(3600)]
SEED = 20_261_126
KILLS = int(os.environ.get("KNHK_KILLS", "6"))
LONGEST_LIFE_S = 2.5
GOOD, BAD = "1.{}.0", "1.{}.1"


@pytest.fixture
def world(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path, cluster.kubeconfig, clean, forks())
    found.start()
    yield found
    found.close()


def roll(world: World, n: int) -> None:
    """A version that is good and one that is bad, the first version of a story included."""
    world.agents.bad |= {BAD.format(n)}
    world.apply(pack(GOOD.format(n), constraint=f"sh:minCount {2 * n + 1}"))
    world.until_phase("Live", GOOD.format(n))
    world.apply(pack(BAD.format(n), constraint=f"sh:minCount {2 * n + 2}"))
    world.until_phase("RolledBack", BAD.format(n))


def ends_true(world: World, last: int) -> None:
    """Every event told, the laws kept, and the point runs what the pack says is live."""
    world.until_settled()
    live = world.get().status["live"]
    assert live["version"] == GOOD.format(last)
    world.until(lambda: world.get(Key("EnforcementPoint", "erp", "p1")).status.get("stable") == live["digest"], "the point says what runs")
    world.check()


@pytest.mark.failure("API server", "rollout")
def test_answers_that_are_errors_late_or_lost_and_watches_that_break(world: World, cluster: Cluster, tmp_path: Path) -> None:
    """A quarter of the requests fails or is lost after it was done; watches break; what is deleted meanwhile is seen to be gone."""
    faults = Faults(random.Random(SEED))
    with proxy(cluster, faults, tmp_path) as kubeconfig:
        world.operator(kubeconfig=kubeconfig)
        world.apply(point(), point("p2"), pack("1.0.0", name="gone", targets="{point: p2}"))
        roll(world, 0)
        world.until(lambda: "live" in world.get(Key("PolicyPack", "erp", "gone")).status, "the second pack is live")
        faults.share, faults.lost, faults.late_s = 0.2, 0.05, 0.01
        roll(world, 1)
        faults.blind = True
        faults.cut()
        world.store.delete(Key("PolicyPack", "erp", "gone"))
        world.until(lambda: faults.told["503"] > 5, "kopf tries to list")
        faults.blind = False
        roll(world, 2)
        two = Key("EnforcementPoint", "erp", "p2")
        world.until(lambda: "stable" not in world.get(two).status, "the point of a pack that is gone has none")
        faults.share = faults.lost = 0.0
        ends_true(world, 2)
        assert all(faults.told[kind] for kind in ("409", "410", "429", "500", "503", "lost", "cut")), faults.told


@pytest.mark.failure("API server", "rollout")
@pytest.mark.failure("sequencer", "rollout")
@pytest.mark.failure("registry", "rollout")
def test_servers_that_die_under_a_rollout_and_a_registry_that_cannot_be_written(world: World, cluster: Cluster) -> None:
    world.apply(point())
    (world.folder / "registry").write_text("in the way")
    world.operator()
    world.apply(pack(GOOD.format(0)))

    def says_why() -> bool:
        return any(row["reason"] == "BuildFailed" for row in world.get().status.get("conditions", ()))

    world.until(says_why, "the status says that the registry cannot be written")
    (world.folder / "registry").unlink()
    world.until_phase("Live", GOOD.format(0))
    for n, name in enumerate(("kube-apiserver", "etcd"), start=1):
        world.agents.bad |= {BAD.format(n)}
        world.apply(pack(GOOD.format(n), constraint=f"sh:minCount {2 * n + 1}"))
        world.until(lambda: "arm" in world.get().status.get("revision", {}), "it rolls")
        os.kill(cluster.pid(name), signal.SIGKILL)
        world.until_phase("Live", GOOD.format(n))
    world.apply(pack(BAD.format(2), constraint="sh:minCount 9"))
    world.until(lambda: "arm" in world.get().status.get("revision", {}), "it rolls")
    world.log_down()
    world.start()
    world.until_phase("RolledBack", BAD.format(2))
    ends_true(world, 2)


@pytest.mark.failure("operator", "rollout")
def test_an_operator_that_is_killed_at_random_moments(world: World) -> None:
    """KNHK_KILLS SIGKILLs while packs roll, good ones and bad ones; the next operator goes on from what is written."""
    chance = random.Random(SEED)
    world.apply(point())
    operator, n, version = world.operator(), 0, GOOD.format(0)
    world.apply(pack(version))
    for number in range(KILLS):
        time.sleep(chance.uniform(0.0, LONGEST_LIFE_S))  # when it is killed is what is random
        operator.signal(signal.SIGKILL)
        operator.ended()
        if world.is_phase("Live" if version == GOOD.format(n) else "RolledBack", version):
            n += version == BAD.format(n)
            version = BAD.format(n) if version == GOOD.format(n) and "live" in world.get().status else GOOD.format(n)
            world.agents.bad |= {BAD.format(n)}
            world.apply(pack(version, constraint=f"sh:minCount {number + 2}"))
        operator = world.operator()
    world.until_phase("Live" if version == GOOD.format(n) else "RolledBack", version)
    world.until_settled()
    live = world.get(PACK).status["live"]
    world.until(lambda: world.get(Key("EnforcementPoint", "erp", "p1")).status.get("stable") == live["digest"], "the point says what runs")
    world.check()


@pytest.mark.failure("operator", "receipts")
def test_what_is_deleted_while_no_operator_runs_loses_no_event(world: World) -> None:
    """Events are pending, for the log is down; the operator dies, the pack is deleted, and the next operator tells them all."""
    operator = world.operator()
    world.until(lambda: operator.get("readyz")[0] == 200, "it is ready")
    world.log_down()
    world.apply(pack(GOOD.format(0)))
    world.until(lambda: len(world.get().status.get("pending", ())) == 3, "three events wait for the log")
    operator.signal(signal.SIGKILL)
    operator.ended()
    world.client.call("DELETE", place(PACK))
    kept = world.client.call("GET", place(PACK))["metadata"]
    assert (kept["finalizers"], "deletionTimestamp" in kept) == (["knhk.dev/receipts"], True)
    world.start()
    world.operator()
    world.until(lambda: not is_there(world), "it is gone when all is told")
    receipts = world.client.call("GET", collection("Receipt", "erp"))["items"]
    assert {row["spec"]["event"] for row in receipts} == {"Compiled", "Built", "Signed"}
    world.check()


def test_an_uninstalled_operator_holds_nothing_that_owes_nothing_and_the_rest_is_released_by_hand(world: World) -> None:
    operator = world.operator()
    world.apply(point(), pack(GOOD.format(0)))
    world.until_phase("Live", GOOD.format(0))
    world.until_settled()
    world.until(lambda: not world.client.call("GET", place(PACK))["metadata"].get("finalizers"), "nothing is held")
    world.log_down()
    world.apply(pack(GOOD.format(1), constraint="sh:minCount 3"))
    world.until(lambda: bool(world.get().status.get("pending")), "events wait for the log")
    operator.signal(signal.SIGKILL)
    operator.ended()
    world.client.call("DELETE", place(PACK))
    assert is_there(world)
    world.client.call("PATCH", place(PACK), {}, {"metadata": {"finalizers": None}}, MERGE)
    assert not is_there(world)


def is_there(world: World) -> bool:
    try:
        world.client.call("GET", place(PACK))
    except NotFound:
        return False
    return True
