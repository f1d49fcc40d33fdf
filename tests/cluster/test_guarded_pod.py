"""On a real node: an application's pod gets its guard, answers through it with a receipt, cannot be reached past it, and drains.

A second point has four such pods: a step of a rollout in waves over them outlives `kubectl drain` and a pod that is made anew.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parent))
from admission_process import Admission, applied, manifests
from guarded_world import EXCHANGE, LOG, SYSTEM, Load, World, document, pack, pod, post
from node_pods import RESTRICTED, Node, has_ended, is_ready
from pods import app_pod, point_spec

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.model.faults import AlreadyExists, Refused, Stalled, Waiting

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
NS, PODS = "shop", "/api/v1/namespaces/shop/pods"
FLEET, MANY = "fleet", 4
LISTENS = "import socket; socket.create_connection(('127.0.0.1', 9000), 5).close()"
CALLER = """
import json, socket, sys
for address, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((address, port), 10).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")
"""


@pytest.fixture(scope="module")
def world(node: Node, guard_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    packs = f"{node.cluster.registry}/shop/packs"
    found = World(node, folder, guard_image, NS, "app=orders", packs=packs)
    with node.namespace(NS), contextlib.ExitStack() as stack:
        labels = {"knhk.dev/enforce": "true", "pod-security.kubernetes.io/enforce": "restricted"}
        node.kubectl("label", "namespace", NS, *(f"{name}={value}" for name, value in labels.items()))
        with contextlib.suppress(AlreadyExists):
            node.client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        found.start_operator()
        stack.callback(found.stop)
        found.start_log()
        node.apply(document("EnforcementPoint", NS, "orders", {**point_spec(), "baseline": "Admit"}))
        arguments = ("--image", guard_image, "--exchange", EXCHANGE, "--log", LOG, "--registry", packs)
        (folder / "admission").mkdir()
        admission = Admission(folder / "admission", node.cluster.kubeconfig, *arguments)
        stack.callback(admission.end)
        stack.enter_context(applied(node.client, manifests(admission.url, guard_image)))
        found.until(lambda: tried(node.client, pod(guard_image, "orders", "127.0.0.1")))
        yield found


def tried(client: KubeClient, document: dict[str, Any]) -> dict[str, Any]:
    """The pod, when it was made; an API server takes a moment to see new webhooks and their authority."""
    try:
        return client.call("POST", PODS, {"dryRun": "All"}, document)
    except (Refused, Stalled, Waiting):
        return {}


@pytest.fixture(scope="module")
def address(world: World) -> str:
    """IP of a guarded pod that is ready."""
    world.client.call("POST", PODS, body=pod(world.image, "orders", "127.0.0.1"))
    ready = world.until(lambda: (found := world.there(f"{PODS}/orders")) and is_ready(found) and found)
    return str(ready["status"]["podIP"])


def test_the_application_answers_through_its_guard_with_a_receipt(world: World, address: str) -> None:
    world.until(lambda: post(address)[0] == 200)  # the guard is ready before the application listens
    status, receipt = post(address)
    assert status == 200
    world.until(lambda: receipt in world.logged())
    assert post(address, path="/other")[0] == 403


def test_there_is_no_way_round(world: World, address: str) -> None:
    """Not by the application's own port at the pod's address; not by a pod whose application listens on all of them: it cannot."""
    with pytest.raises(ConnectionRefusedError):
        post(address, 9000)
    world.client.call("POST", PODS, body=pod(world.image, "wrong", "0.0.0.0"))
    wrong = world.until(lambda: (found := world.there(f"{PODS}/wrong")) and failed(found) and found)
    assert not is_ready(wrong)
    # It is started again and again: its last words are those of a run that has ended, or that has just begun.
    world.until(lambda: "Address already in use" in world.node.kubectl("-n", NS, "logs", "wrong", "-c", "app"))
    with pytest.raises(ConnectionRefusedError):
        post(wrong["status"]["podIP"], 9000)
    bare = app_pod("bare", {"app": "bare"})
    with pytest.raises((Refused, Stalled)):
        world.client.call("POST", PODS, body=bare)


def test_no_other_pod_gets_round(world: World, address: str) -> None:
    """Not by the application's port, not by a Service that leads there, not through the API server; only by the guard."""
    leads = {"selector": {"app": "orders"}, "ports": [{"port": 9000, "targetPort": 9000}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "round"}, "spec": leads}
    behind = world.client.call("POST", f"/api/v1/namespaces/{NS}/services", body=service)["spec"]["clusterIP"]
    ways = [(address, 8080), (address, 9000), (behind, 9000)]
    caller = {"name": "caller", "image": world.image, "command": ["python3", "-c", CALLER, json.dumps(ways)], "securityContext": RESTRICTED}
    with world.node.namespace("outside") as outside:
        spec = {"containers": [caller], "restartPolicy": "Never"}
        world.node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "namespace": outside}, "spec": spec})
        world.node.pod(outside, "caller", has_ended)
        assert world.node.kubectl("-n", outside, "logs", "caller").split() == ["open", "refused", "refused"]
    with pytest.raises(AssertionError, match="knhk-no-way-round"):
        world.node.kubectl("-n", NS, "port-forward", "pod/orders", ":9000")


def failed(found: dict[str, Any]) -> bool:
    """The application has ended and does not run: one that was started again is ready for as long as it takes to fail."""
    rows = [row for row in found["status"].get("containerStatuses") or () if row["name"] == "app"]
    states = [(row.get("state") or {}, row.get("lastState") or {}) for row in rows]
    return any("terminated" in now or ("waiting" in now and "terminated" in last) for now, last in states)


def test_the_point_tells_what_its_pods_lack(world: World, address: str) -> None:
    path = f"{collection('EnforcementPoint', NS)}/orders"
    found = world.until(lambda: (told := (world.there(path) or {}).get("status", {})).get("address") and told)
    assert found["address"] == f"pods.{NS}:8080"


def test_a_pod_that_is_deleted_drains_and_loses_no_receipt(world: World, address: str) -> None:
    """The last test: requests go on coming while it ends."""
    before = [post(address)[1] for _ in range(20)]
    world.client.call("DELETE", f"{PODS}/orders", {}, {"gracePeriodSeconds": 30})
    after: list[str] = []
    while (found := world.there(f"{PODS}/orders")) is not None:
        assert "deletionTimestamp" in found["metadata"]
        with contextlib.suppress(OSError):
            status, receipt = post(address)
            after += [receipt] if status == 200 else []
        time.sleep(0.02)
    assert after, "it was deleted, and answered while it drained"
    world.until(lambda: {*before, *after} <= world.logged())


# ---- four pods and a rollout -----------------------------------------------------------------------


def fleet_documents(image: str) -> list[dict[str, Any]]:
    """What an application team has: a Deployment, its Service, its disruption budget; and the point before them."""
    labels = {"app": FLEET}
    template = pod(image, FLEET, "127.0.0.1")
    template["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["python3", "-c", LISTENS]}, "periodSeconds": 1}
    selector = {"matchLabels": labels}
    deployment = {"replicas": MANY, "selector": selector, "template": {"metadata": {"labels": labels}, "spec": template["spec"]}}
    service = {"selector": labels, "ports": [{"port": 8080, "targetPort": 8080}]}
    parts = (
        ("apps/v1", "Deployment", deployment),
        ("v1", "Service", service),
        ("policy/v1", "PodDisruptionBudget", {"maxUnavailable": 1, "selector": selector}),
    )
    made = [{"apiVersion": api, "kind": kind, "metadata": {"name": FLEET, "namespace": NS}, "spec": spec} for api, kind, spec in parts]
    return [document("EnforcementPoint", NS, FLEET, {**point_spec(app_label=FLEET), "baseline": "Admit"}), *made]


@pytest.fixture(scope="module")
def fleet(world: World) -> World:
    """1.0.0 is live in four pods behind a Service."""
    found = replace(world, selector=f"app={FLEET}", point=FLEET)
    world.node.kubectl("label", "namespace", NS, "knhk.dev/unguarded=allow")  # its pods are looked into
    world.node.apply(*fleet_documents(world.image))
    found.until(lambda: found.ready(MANY) and found.instances().get("live") == MANY)
    with load(found).coming():
        world.node.apply(pack(NS, FLEET, "1.0.0", {"weight": 100, "minPairs": 20}))
        found.until(lambda: found.revision().get("phase") == "Live")
    return found


def load(fleet: World) -> Load:
    return Load(fleet.client.call("GET", f"/api/v1/namespaces/{NS}/services/{FLEET}")["spec"]["clusterIP"])


def stands(fleet: World) -> set[tuple[str, str | None]]:
    """How the pods stand: the pack that they enforce, and the one in canary."""
    rows = [fleet.told(name)["running"] for name in fleet.pods()]
    return {(row["stable"], row["candidate"]) for row in rows}


def test_a_step_in_waves_outlives_a_drain_and_a_pod_made_anew(fleet: World) -> None:
    """The new version is in two of four pods. These are drained from their node by kubectl, one at a time as their budget allows, and one
    of the others is deleted, under load: others take their places, the step goes on, and nobody was answered otherwise."""
    (node,) = fleet.client.call("GET", "/api/v1/nodes")["items"]
    name = node["metadata"]["name"]
    with load(fleet).coming() as callers:
        fleet.node.apply(pack(NS, FLEET, "1.1.0", {"weight": 100, "minPairs": 1_000_000, "wave": 50}, {"weight": 100, "minPairs": 20}))
        fleet.until(lambda: fleet.revision().get("arm") == "Canary" and fleet.instances().get("wave") == 2)
        before, wave = fleet.revision(), fleet.in_wave()
        assert len(wave) == 2
        (other, *_) = set(fleet.pods()) - set(wave)
        fleet.node.kubectl("-n", NS, "label", "pod", *wave, "leaves=now")
        with drained(fleet, name, "leaves=now") as draining:
            fleet.until(lambda: len(set(wave) & set(fleet.pods())) < 2)
            assert set(wave) & set(fleet.pods()), "one at a time: no other node takes the first one's successor"
            fleet.node.kubectl("uncordon", name)
            fleet.until(lambda: draining.poll() is not None)
            assert draining.returncode == 0, draining.communicate()
        fleet.node.kubectl("-n", NS, "delete", "pod", other)
        fleet.until(lambda: fleet.ready(MANY) and fleet.instances().items() >= {"live": MANY, "current": MANY, "silent": 0}.items())
        fleet.until(lambda: fleet.instances()["wave"] >= 2 and len(fleet.in_wave()) >= 2)
        assert not {*wave, other} & set(fleet.pods())
        after = fleet.revision()
        kept = ("version", "phase", "arm", "step", "weight", "phaseSince", "digest")
        assert {field: after[field] for field in kept} == {field: before[field] for field in kept}
        fleet.node.apply(pack(NS, FLEET, "1.1.0", {"weight": 100, "minPairs": 20, "wave": 50}, {"weight": 100, "minPairs": 20}))
        fleet.until(lambda: fleet.revision().get("phase") == "Live")
        fleet.until(lambda: stands(fleet) == {(before["digest"], None)})
    accounted_for(fleet, callers)


@contextlib.contextmanager
def drained(fleet: World, node: str, selector: str) -> Iterator[subprocess.Popen[str]]:
    """`kubectl drain` of the pods that the selector chooses; in the end the node takes pods again."""
    arguments = ("drain", node, f"--pod-selector={selector}", "--delete-emptydir-data", "--timeout=240s")
    command = [str(fleet.node.program), f"--kubeconfig={fleet.node.cluster.kubeconfig}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as draining:
        try:
            yield draining
        finally:
            draining.terminate()
            fleet.node.kubectl("uncordon", node)


def accounted_for(fleet: World, callers: Load) -> None:
    """No request got another answer than the application's; each of these has its receipt in the log."""
    assert (callers.others, callers.lost) == ([], [])
    assert callers.admitted
    fleet.until(lambda: {*callers.admitted} <= fleet.logged())


def test_a_bad_version_is_taken_back_from_all_pods(fleet: World) -> None:
    """It denies what nobody sent while it was in shadow."""
    good = fleet.revision()["digest"]
    with load(fleet).coming():
        bad = pack(NS, FLEET, "1.2.0", {"weight": 100, "minPairs": 1_000_000, "wave": 50}, total="sh:minCount 1 ; sh:maxInclusive 9")
        fleet.node.apply(bad)
        fleet.until(lambda: fleet.revision().get("arm") == "Canary" and fleet.instances().get("wave") == 2)
        in_wave = {(good, fleet.revision()["digest"])}
        fleet.until(lambda: in_wave < stands(fleet))
    with replace(load(fleet), body=b'{"total": 10}').coming() as callers:
        fleet.until(lambda: fleet.revision().get("phase") == "RolledBack")
        fleet.until(lambda: stands(fleet) == {(good, None)})
        assert {status for status, _ in callers.others} <= {403}
    status = fleet.get("PolicyPack")["status"]
    assert [row["digest"] for row in status["denyList"]] == [status["revision"]["digest"]]
    assert post(load(fleet).address, body=b'{"total": 10}')[0] == 200
