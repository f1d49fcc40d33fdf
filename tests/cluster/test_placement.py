"""Points on the real API server: what a Gateway and a Sidecar have of their own, that it goes with them, and what their pods tell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection
from knhk.adapters.placement_kube import PATHS, KubePlacement, child_name
from knhk.decide.injection import injected
from knhk.model.faults import NotFound, Stalled, Waiting
from knhk.ports.placement import Placed
from knhk_templates.kubernetes.guard import Surroundings, guard_of

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "placement"))
sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
import placement_contract as contract
from placed_points import GATEWAY, NS, POINT, Documents, stored
from pods import app_pod, point_spec
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
AROUND = Surroundings("registry.test/knhk-agent@sha256:" + "0" * 64)
WITHIN_S = 240.0


@dataclass
class Moving:
    """A clock that the test moves."""

    ns: int = 10**12

    def now_ns(self) -> int:
        return self.ns

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, duration_s: float) -> None:
        self.ns += int(duration_s * 10**9)


@pytest.fixture
def clock() -> Moving:
    return Moving()


@pytest.fixture
def placement(clean: KubeClient, clock: Moving) -> Iterator[KubePlacement]:
    found = KubePlacement(Documents(), clean, AROUND, clock)
    yield found
    found.remove(POINT)
    for pod in clean.call("GET", f"/api/v1/namespaces/{NS}/pods")["items"]:
        with contextlib.suppress(NotFound):  # its owner is being collected
            clean.call("DELETE", f"/api/v1/namespaces/{NS}/pods/{pod['metadata']['name']}", {"gracePeriodSeconds": "0"})


def child(client: KubeClient, kind: str) -> dict[str, Any]:
    base, plural = PATHS[kind]
    return client.call("GET", f"{base}/namespaces/{NS}/{plural}/{child_name('orders')}")


def children(client: KubeClient) -> set[str]:
    found = set()
    for kind in PATHS:
        try:
            child(client, kind)
            found.add(kind)
        except NotFound:
            continue
    return found


@pytest.mark.parametrize("changes", [{}, GATEWAY], ids=["sidecar", "gateway"])
def test_it_keeps_the_promises_of_the_port(clean: KubeClient, placement: KubePlacement, changes: dict[str, Any]) -> None:
    spec = stored(clean, **changes)
    contract.ensuring_twice_is_ensuring_once(placement, POINT, spec)
    contract.what_was_removed_is_gone_and_may_be_removed_again(placement, POINT, spec)
    contract.what_a_person_must_mend_is_stalled(placement, POINT, {**spec, "listen": {**spec["listen"], "port": 0}})
    assert children(clean) == set()


def test_a_gateway_is_a_deployment_with_all_that_keeps_it_up(clean: KubeClient, placement: KubePlacement) -> None:
    placed = placement.ensure(POINT, stored(clean, **GATEWAY))
    assert placed.address == "knhk-orders.erp.svc:8080"
    assert children(clean) == set(PATHS)
    until(lambda: child(clean, "Deployment").get("spec", {}).get("replicas") == 3, WITHIN_S)  # as the autoscaler says
    template = child(clean, "Deployment")["spec"]["template"]
    assert [row["name"] for row in template["spec"]["initContainers"]] == ["knhk-agent"]
    assert [row["name"] for row in template["spec"]["containers"]] == ["knhk-envoy"]
    assert template["metadata"]["labels"]["knhk.dev/point"] == "orders"
    assert child(clean, "Service")["spec"]["ports"][0]["port"] == 8080
    assert child(clean, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert child(clean, "NetworkPolicy")["spec"]["ingress"] == [{"ports": [{"port": 8080, "protocol": "TCP"}]}]
    managers = {row["manager"] for row in child(clean, "Service")["metadata"]["managedFields"]}
    assert managers == {"knhk"}


def test_what_a_point_has_goes_with_it_even_without_an_operator(clean: KubeClient, placement: KubePlacement) -> None:
    placement.ensure(POINT, stored(clean, **GATEWAY))
    clean.call("DELETE", f"{collection('EnforcementPoint', NS)}/orders")
    until(lambda: children(clean) == set(), WITHIN_S)


def test_another_mode_leaves_nothing_of_the_one_before(clean: KubeClient, placement: KubePlacement) -> None:
    spec = dict(stored(clean, **GATEWAY))
    placement.ensure(POINT, spec)
    sidecar = {**spec, **point_spec()}
    placement.ensure(POINT, {**sidecar, "listen": spec["listen"]})
    until(lambda: children(clean) == {"NetworkPolicy"}, WITHIN_S)


def test_what_a_person_changed_is_put_back(clean: KubeClient, placement: KubePlacement, clock: Moving) -> None:
    spec = stored(clean)
    placement.ensure(POINT, spec)
    path = f"{PATHS['NetworkPolicy'][0]}/namespaces/{NS}/networkpolicies/knhk-orders"
    clean.call("PATCH", path, {"fieldManager": "person"}, {"spec": {"ingress": [{}]}}, MERGE)
    clock.sleep(61)
    placement.ensure(POINT, spec)
    assert child(clean, "NetworkPolicy")["spec"]["ingress"] == [{"ports": [{"port": 8080, "protocol": "TCP"}]}]


def test_another_life_knows_what_was_placed(clean: KubeClient, placement: KubePlacement, clock: Moving) -> None:
    placement.ensure(POINT, stored(clean))
    assert POINT in KubePlacement(Documents(), clean, AROUND, clock).placed()


def test_nothing_of_somebody_elses_is_removed(clean: KubeClient, placement: KubePlacement) -> None:
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "knhk-orders"}, "spec": {"ports": [{"port": 80}]}}
    clean.call("POST", f"/api/v1/namespaces/{NS}/services", body=theirs)
    try:
        placement.ensure(POINT, stored(clean))
        placement.remove(POINT)
        assert child(clean, "Service")["spec"]["ports"][0]["port"] == 80
    finally:
        clean.call("DELETE", f"/api/v1/namespaces/{NS}/services/knhk-orders")


def test_an_unchanged_point_costs_the_cluster_nothing(clean: KubeClient, placement: KubePlacement, clock: Moving) -> None:
    """It is ensured twice a second."""
    spec = stored(clean)
    placement.ensure(POINT, spec)
    base, plural = PATHS["NetworkPolicy"]
    clean.call("DELETE", f"{base}/namespaces/{NS}/{plural}/knhk-orders")
    clock.sleep(0.5)
    placement.ensure(POINT, spec)
    assert children(clean) == set()  # it was not even looked at


def test_pods_tell_what_is_wrong_with_them(clean: KubeClient, placement: KubePlacement, clock: Moving) -> None:
    spec = stored(clean)
    assert placement.ensure(POINT, spec) == Placed("pods.erp:8080")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}}
    service["spec"] = {"selector": {"app": "orders"}, "ports": [{"port": 80, "targetPort": "http"}]}
    clean.call("POST", f"/api/v1/namespaces/{NS}/services", body=service)
    try:
        clean.call("POST", f"/api/v1/namespaces/{NS}/pods", body=app_pod("bare"))
        old = guard_of("orders", spec, Surroundings("old"), native=True)
        clean.call("POST", f"/api/v1/namespaces/{NS}/pods", body=injected(app_pod("old"), old))
        clock.sleep(5)
        placed = placement.ensure(POINT, spec)
        assert placed.address == "shop.erp.svc:80"
        told = "\n".join(placed.trouble)
        assert "pod bare: must have its guard" in told
        assert f"pod old: knhk-envoy has image old, must have {AROUND.image}" in told
        assert "pod old: knhk-agent: not started" in told
        assert "namespace erp: must have label knhk.dev/enforce=true" in told
    finally:
        clean.call("DELETE", f"/api/v1/namespaces/{NS}/services/shop")


def test_a_point_that_is_gone_is_waited_for(clean: KubeClient, placement: KubePlacement) -> None:
    spec = stored(clean)
    clean.call("DELETE", f"{collection('EnforcementPoint', NS)}/orders")
    with pytest.raises((Waiting, Stalled)):
        placement.ensure(POINT, spec)
