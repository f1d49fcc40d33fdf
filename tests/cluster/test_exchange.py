"""Points in pods on the real API server: who may ask the exchange, and a pack that is rolled out over two pods, one of which dies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))
sys.path.insert(2, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(3, str(Path(__file__).parents[1]))
from control_plane import Cluster
from exchange_on_a_cluster import NAMESPACE, PACK, POINT, Callers, World
from guarded_pods import end_pod, enforce, make_pod, token_of
from system_world import Application, fast_pack

from identity import IdentityProvider
from knhk.adapters.callers_kube import BELIEVED_S, KubeAuthenticator
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.adapters.shelf_kube import KubeShelf
from knhk.adapters.system import SystemClock
from knhk.model.faults import Conflict
from knhk.ports.caller import ENFORCE_LABEL, UNGUARDED_LABEL, Denied
from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]


@dataclass
class Hasty:
    """The clock of this machine, and so much more."""

    ahead: timedelta = timedelta()

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + int(self.ahead.total_seconds() * 1e9)

    def sleep(self, duration_s: float) -> None:
        self.ahead += timedelta(seconds=duration_s)


# ---- who may ask ------------------------------------------------------------------------------------


def test_a_token_speaks_for_the_pod_that_it_is_bound_to(ours: KubeClient) -> None:
    uid = make_pod(ours, "one")
    caller = KubeAuthenticator(ours, SystemClock()).caller(token_of(ours, "one", uid))
    assert (caller.point, caller.pod, caller.uid) == ("erp/orders", "one", uid)
    assert caller.uri == "spiffe://knhk.dev/ns/erp/point/orders/pod/one"


def test_what_is_not_bound_to_a_pod_of_a_point_is_denied(ours: KubeClient) -> None:
    one, plain = make_pod(ours, "one"), make_pod(ours, "plain", point=None)
    denied = {
        "no token": "",
        "no token either": "abc",
        "a forged one": token_of(ours, "one", one)[:-8] + "AAAAAAAA",
        "another audience": token_of(ours, "one", one, "https://kubernetes.default.svc.cluster.local"),
        "no pod": token_of(ours, None),
        "a pod without a point": token_of(ours, "plain", plain),
    }
    for who, token in denied.items():
        with pytest.raises(Denied):
            print(who, KubeAuthenticator(ours, SystemClock()).caller(token))


def test_where_anybody_may_label_a_pod_no_pod_speaks_for_a_point(ours: KubeClient) -> None:
    """Injection is admission's in namespaces that ask for it; elsewhere, and for pods that are let out, a label says nothing."""
    token, out = token_of(ours, "one", make_pod(ours, "one")), make_pod(ours, "out", labels={UNGUARDED_LABEL: "true"})
    with pytest.raises(Denied, match=f"must not have label {UNGUARDED_LABEL}"):
        KubeAuthenticator(ours, SystemClock()).caller(token_of(ours, "out", out))
    enforce(ours, None)
    try:
        with pytest.raises(Denied, match=f"must have label {ENFORCE_LABEL}"):
            KubeAuthenticator(ours, SystemClock()).caller(token)
    finally:
        enforce(ours, "true")
    assert KubeAuthenticator(ours, SystemClock()).caller(token).pod == "one"


def test_a_pod_that_is_gone_is_denied_even_when_another_has_its_name(ours: KubeClient) -> None:
    clock = Hasty()
    authenticator, token = KubeAuthenticator(ours, clock), token_of(ours, "one", make_pod(ours, "one"))
    authenticator.caller(token)
    end_pod(ours, "one")
    make_pod(ours, "one")
    clock.sleep(BELIEVED_S + 1)
    with pytest.raises(Denied):
        authenticator.caller(token)


def test_pods_of_a_point_are_those_that_run(ours: KubeClient) -> None:
    one = make_pod(ours, "one")
    starting, ended = make_pod(ours, "starting", phase="Pending"), make_pod(ours, "ended", phase="Succeeded")
    make_pod(ours, "other", point="invoices")
    authenticator = KubeAuthenticator(ours, SystemClock())
    assert authenticator.pods("erp/orders") == {one: "one"}
    assert authenticator.there("erp/orders") == {one, starting, ended}


def test_what_is_published_outlives_the_operator_and_a_second_writer_is_told(ours: KubeClient) -> None:
    first = KubeShelf(ours, NAMESPACE)
    assert first.files("erp/orders") == {}
    first.put("erp/orders", "rollout.json", b"\x00one")
    second = KubeShelf(ours, NAMESPACE)
    assert second.files("erp/orders") == {"rollout.json": b"\x00one"}
    second.put("erp/orders", "rollout.json", b"two")
    with pytest.raises(Conflict):
        first.put("erp/orders", "rollout.json", b"three")
    assert first.files("erp/orders") == {"rollout.json": b"two"}


# ---- two pods ---------------------------------------------------------------------------------------


@pytest.fixture
def world(ours: KubeClient, tmp_path: Path) -> Iterator[World]:
    app = Application(tmp_path / "application.db", 0)
    app.start()
    found = World(ours, tmp_path, app, IdentityProvider.new(), (free_port(), free_port(), free_port()))
    yield found
    found.stop()


def test_a_pack_is_rolled_out_over_two_pods_of_which_one_dies(world: World, cluster: Cluster) -> None:
    """Shadow, canary, promoted; a pod is killed and deleted in mid-canary, and what it had counted is not lost."""
    operator = world.start_operator(cluster)
    world.start_log()
    world.apply_point()
    pack = fast_pack("1.0.0", shadow=40, step=200)
    world.apply(pack)
    world.add_pod("one", "127.0.0.2")
    dying = world.add_pod("two", "127.0.0.3")
    world.until(lambda: world.status(POINT).get("instances") == {"live": 2, "current": 2, "silent": 0} and world.ready() == "True")
    with Callers(world.provider, ["127.0.0.2", "127.0.0.3"], world.ports[2]) as callers:
        world.until(lambda: world.status(PACK).get("revision", {}).get("arm") == "Canary")
        dying.die()
        end_pod(world.client, "two")
        callers.addresses.remove("127.0.0.3")
        revision = world.until(lambda: (found := world.status(PACK).get("revision", {})).get("phase") == "Live" and found)
        world.until(lambda: world.status(POINT).get("revisions") == [{"digest": revision["digest"], "instances": 1}])
        world.until(lambda: world.status(POINT).get("instances") == {"live": 1, "current": 1, "silent": 0} and world.ready() == "True")
    assert callers.admitted
    assert operator.poll() is None
    told = {row["spec"]["event"]: row["spec"] for row in world.client.call("GET", collection("Receipt", "erp"))["items"]}
    assert {"RolloutStarted", "StepAdvanced", "Promoted"} <= set(told)
