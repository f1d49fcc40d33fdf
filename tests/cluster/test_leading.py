"""Several operators on the real API server: one acts, the others are warm, and one that was asleep does nothing when it wakes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_lease import Lease
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.api import parse
from knhk.model.faults import Conflict, Deposed, NotFound

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
from control_plane import Cluster
from fleet_world import PACK, World, forks
from rollout_world import pack, point

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]
LEASES = "/apis/coordination.k8s.io/v1/namespaces/erp/leases"


@pytest.fixture
def world(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    forget(clean, "operator", "other")
    found = World(tmp_path, cluster.kubeconfig, clean, forks())
    found.start()
    yield found
    found.close()


def forget(client: KubeClient, *names: str) -> None:
    for name in names:
        try:
            client.call("DELETE", f"{LEASES}/{name}")
        except NotFound:
            continue


@pytest.mark.failure("operator", "rollout")
def test_a_standby_goes_on_and_a_leader_that_slept_does_nothing_when_it_wakes(world: World) -> None:
    """The first is stopped in mid-rollout; the second promotes, and takes the next, bad pack back; the first wakes, and fails."""
    first = world.operator(lease=True)
    world.until(first.leads, "the first leads")
    second = world.operator(lease=True)
    world.until(lambda: second.get("readyz")[0] == 200, "the second is warm")
    assert not second.leads()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live", "1.0.0")
    world.agents.bad = frozenset({"1.2.0"})
    world.apply(pack("1.1.0", constraint="sh:minCount 2"))
    world.until(lambda: "arm" in world.get().status.get("revision", {}), "1.1.0 rolls")
    first.signal(signal.SIGSTOP)
    world.until_phase("Live", "1.1.0")
    assert second.leads()
    world.apply(pack("1.2.0", constraint="sh:minCount 3"))
    world.until_phase("RolledBack", "1.2.0")
    world.until_settled()
    before, said = world.get(), world.statements()
    first.signal(signal.SIGCONT)
    assert first.ended() == 1
    assert (world.get().status, world.statements()) == (before.status, said)
    world.until_settled()  # what a leader that slept wrote of what nobody had touched since (ADR 36; ADR 91 is not in force here)
    second.signal(signal.SIGTERM)
    assert second.ended() == 0
    world.check(slept=1)


def test_a_leader_that_is_told_to_end_lets_the_next_one_act_at_once(world: World) -> None:
    first, second = world.operator(lease=True), world.operator(lease=True)
    world.until(lambda: first.leads() or second.leads(), "one leads")
    assert not (first.leads() and second.leads())
    leader, standby = (first, second) if first.leads() else (second, first)
    leader.signal(signal.SIGTERM)
    assert leader.ended() == 0
    holder = world.client.call("GET", f"{LEASES}/operator")["spec"]["leaseDurationSeconds"]
    assert holder in (1, 10)  # given up, or taken already
    world.until(standby.leads, "the standby leads")
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live", "1.0.0")


def test_what_a_deposed_leader_writes_is_refused(clean: KubeClient, cluster: Cluster) -> None:
    """It looked at the lease, fell asleep, and writes what it had decided: the version of the object it decided on has passed."""
    forget(clean, "other")
    client, stop = KubeClient(api_client(cluster.kubeconfig)), threading.Event()
    lost = threading.Event()
    lease = Lease(client, "erp", "other", "first", lost.set)
    assert lease.wait(stop, lambda: None)
    lease.check()
    store, other = (KubeStore(clean, ChangeFeed(), SystemClock()) for _ in range(2))
    (made,) = (store.apply(resource) for resource in parse(pack("1.0.0"), "test.yaml"))
    document = clean.call("GET", f"{LEASES}/other")
    clean.call("PUT", f"{LEASES}/other", body={**document, "spec": {**document["spec"], "holderIdentity": "second"}})
    other.update_status(replace(made, status={"observedGeneration": 1}))
    with pytest.raises(Conflict):
        store.update_status(replace(made, status={"observedGeneration": 9}))
    assert store.get(PACK).status == {"observedGeneration": 1}
    assert lost.wait(60)
    with pytest.raises(Deposed, match="erp/other"):
        lease.check()
    lease.release()
    assert clean.call("GET", f"{LEASES}/other")["spec"]["holderIdentity"] == "second"
