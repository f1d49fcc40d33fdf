"""Which pods get a guard, and that no pod passes that has a way round it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from knhk.api import from_document
from knhk.decide.injection import (
    guard_faults,
    injected,
    patch_of,
    pod_faults,
    point_faults,
    point_of,
    taken_faults,
)
from knhk.model.faults import Fault, Refused
from knhk.model.resource import Resource
from knhk_templates.kubernetes.guard import Guard, Surroundings, guard_of

sys.path.insert(0, str(Path(__file__).parent))
from pods import PAST_THE_GUARD, app_pod, changed, point_spec

AROUND = Surroundings("registry.test/knhk-agent@sha256:" + "0" * 64)


def point(name: str = "orders", **changes: Any) -> Resource:
    document = {
        "apiVersion": "knhk.dev/v1alpha1",
        "kind": "EnforcementPoint",
        "metadata": {"name": name, "namespace": "erp"},
        "spec": {**point_spec(), **changes},
    }
    return from_document(document)


POINT = point()
GUARD = guard_of(POINT.name, POINT.spec, AROUND, native=True)


def refused(pod: dict[str, Any], points: list[Resource]) -> tuple[Fault, ...]:
    with pytest.raises(Refused) as caught:
        point_of(pod, points)
    return caught.value.faults


def test_a_pod_belongs_to_the_one_point_that_selects_it() -> None:
    other = point("billing", selector={"matchLabels": {"app": "billing"}})
    assert point_of(app_pod(), [other, POINT]) == POINT


def test_no_point_and_two_points_are_refused_with_names() -> None:
    (none,) = refused(app_pod(labels={"app": "x"}), [POINT, point("gate", mode="Gateway")])
    assert "must be selected by an EnforcementPoint" in none.must
    (two,) = refused(app_pod(labels={"app": "orders", "tier": "1"}), [POINT, point("second", selector={"matchLabels": {"tier": "1"}})])
    assert "orders and second" in two.must


def test_a_point_without_selector_selects_nothing() -> None:
    spec = point_spec()
    del spec["selector"]
    bare = Resource("EnforcementPoint", "erp", "bare", spec)
    assert refused(app_pod(), [bare])


def test_a_good_pod_has_no_faults_and_gets_its_guard_once() -> None:
    pod = app_pod()
    assert pod_faults(pod, POINT, GUARD) == () == taken_faults(pod, GUARD)
    once = injected(pod, GUARD)
    assert injected(once, GUARD) == once
    assert patch_of(once, injected(once, GUARD)) == []
    assert guard_faults(once, GUARD) == ()
    assert pod_faults(once, POINT, GUARD) == () == taken_faults(once, GUARD)
    assert [row["name"] for row in once["spec"]["initContainers"]] == ["knhk-agent", "knhk-envoy"]
    assert once["metadata"]["labels"]["knhk.dev/point"] == "orders"
    assert pod == app_pod()


@pytest.mark.parametrize("way", PAST_THE_GUARD)
def test_each_way_past_the_guard_is_refused_where_it_is(way: str) -> None:
    where, change = PAST_THE_GUARD[way]
    pod = changed(change)
    faults = (*pod_faults(pod, POINT, GUARD), *taken_faults(pod, GUARD))
    assert where in {fault.where for fault in faults}, faults
    assert all("must" in fault.must for fault in faults)


@pytest.mark.parametrize("what", ["containers", "volumes"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_guard_that_lacks_anything_is_no_guard(what: str, number: int) -> None:
    """Neither a missing part, nor one with a changed member."""
    name = "initContainers" if what == "containers" else "volumes"
    without = copy.deepcopy(injected(app_pod(), GUARD))
    del without["spec"][name][number]
    assert guard_faults(without, GUARD)
    altered = copy.deepcopy(injected(app_pod(), GUARD))
    altered["spec"][name][number]["more"] = 1
    assert guard_faults(altered, GUARD)


def test_every_member_of_the_guard_counts_but_what_a_limit_range_adds() -> None:
    for number, container in enumerate(GUARD.containers):
        for member in container:
            pod = copy.deepcopy(injected(app_pod(), GUARD))
            del pod["spec"]["initContainers"][number][member]
            assert guard_faults(pod, GUARD), member
    pod = copy.deepcopy(injected(app_pod(), GUARD))
    pod["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = "1"
    assert guard_faults(pod, GUARD) == ()


def test_nothing_of_a_pod_runs_before_its_guard_wherever_the_pod_puts_it() -> None:
    """A native sidecar before it would have the guard's port, which is the one that is open."""
    first_of_all = {"name": "mine", "image": "i", "restartPolicy": "Always"}
    pod = copy.deepcopy(injected(app_pod(), GUARD))
    pod["spec"]["initContainers"].insert(0, first_of_all)
    assert "spec.initContainers" in {fault.where for fault in guard_faults(pod, GUARD)}
    mended = injected(pod, GUARD)
    assert [row["name"] for row in mended["spec"]["initContainers"]] == ["knhk-agent", "knhk-envoy", "mine"]
    assert guard_faults(mended, GUARD) == ()
    assert patch_of(pod, mended) != []


def test_a_gateways_pod_is_its_guard_alone() -> None:
    gate = point("gate", mode="Gateway", upstream={"host": "orders.erp.svc", "port": 9000})
    guard = guard_of("gate", gate.spec, AROUND, native=False)
    labels = {"knhk.dev/point": "gate", "app.kubernetes.io/component": "gateway"}
    spec = {"initContainers": [guard.containers[0]], "containers": [guard.containers[1]], "volumes": list(guard.volumes)}
    pod: dict[str, Any] = {"metadata": {"labels": labels}, "spec": spec}
    assert point_of(pod, [POINT, gate]) == gate
    assert guard_faults(pod, guard) == ()
    spec["containers"] = [guard.containers[1], {"name": "more", "image": "x"}]
    assert guard_faults(pod, guard)


def test_whoever_calls_itself_a_gateway_must_be_one() -> None:
    pod = app_pod(labels={"app": "orders", "knhk.dev/point": "orders", "app.kubernetes.io/component": "gateway"})
    assert refused(pod, [POINT])


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("spec.listen.port", {"listen": {}}),
        ("spec.listen.port", {"listen": {"port": 443}}),
        ("spec.upstream.socket", {"upstream": {"socket": "/run/app.sock"}}),
        ("spec.upstream.host", {"upstream": {"host": "orders.erp.svc", "port": 9000}}),
        ("spec.attributes.jwt.jwks.file", {"attributes": {"jwt": {"issuer": "i", "audiences": ["a"], "jwks": {"file": "/k"}}}}),
        ("spec.listen.tls.key", {"listen": {"port": 8443, "tls": {"certificate": "/c", "key": "/k"}}}),
    ],
)
def test_a_point_that_cannot_stand_in_a_pod_says_why(where: str, changes: dict[str, Any]) -> None:
    assert where in {fault.where for fault in point_faults(point(**changes))}


def test_the_applications_port_is_held_on_the_pods_address_unless_the_guard_has_it() -> None:
    def hold(guard: Guard) -> str:
        return next(arg for arg in guard.containers[1]["args"] if arg.startswith("--hold="))

    assert hold(GUARD) == "--hold=9000"
    assert hold(guard_of("orders", point(upstream={"host": "127.0.0.1", "port": 8080}).spec, AROUND, native=True)) == "--hold=0"


def test_grace_and_the_applications_last_word() -> None:
    """A grace that is longer stays, and so does what an application does before it ends."""
    pod = app_pod()
    pod["spec"]["terminationGracePeriodSeconds"] = 300
    pod["spec"]["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["bye"]}}}
    spec = injected(pod, GUARD)["spec"]
    assert spec["terminationGracePeriodSeconds"] == 300
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"exec": {"command": ["bye"]}}}
    assert injected(app_pod(), GUARD)["spec"]["terminationGracePeriodSeconds"] == 60
