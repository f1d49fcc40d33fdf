"""Objects of Kubernetes that a point judges, on the real API server: warned of in shadow, refused in our words, each with a receipt; and
no state of it keeps people from what they need to mend it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import place
from knhk.model.faults import KnhkError, NotFound, Stalled
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import parse_leaf

sys.path.insert(0, str(Path(__file__).parent))
from admission_process import OWN_NAMESPACE
from control_plane import Cluster
from objects_world import CONFIGURATION, DEPLOYMENTS, POINT, POLICY, SHOP, WORKSHOP, World, deployment, label, pack, review, world

from knhk.adapters.placement_objects import ALLOWED

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def judged(client: KubeClient, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(client, cluster, tmp_path_factory.mktemp("objects")) as found:
        yield found


@pytest.fixture(scope="module")
def live(judged: World) -> World:
    """The example's pack is enforced."""
    judged.shadow(pack())
    judged.promote("1.0.0")
    return judged


def kubectl(world: World, servers: dict[str, Path], document: dict[str, Any]) -> str:
    """What kubectl tells a person who creates it as a dry run."""
    command = [str(servers["kubectl"]), f"--kubeconfig={world.cluster.kubeconfig}", "create", "--dry-run=server", "-f", "-"]
    return subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False).stderr


def test_a_shadow_warns_and_lets_pass(judged: World, servers: dict[str, Path]) -> None:
    assert kubectl(judged, servers, deployment("no-limit")) == "", "no pack yet, and the point admits by its baseline"
    judged.shadow(pack())
    told = kubectl(judged, servers, deployment("no-limit"))
    assert "Warning: would be denied: k8s:memoryLimit: a container must have a memory limit" in told
    assert "Warning: would be denied by policy/workload-controls@1.0.0, receipt " in told
    assert "Error" not in told
    judged.create(deployment("good"))


def test_what_violates_is_refused_in_our_words_and_what_does_not_passes(live: World) -> None:
    with pytest.raises(Stalled) as refused:
        live.create(deployment("init-root"))
    said = str(refused.value)
    assert "k8s:runAsNonRoot: false: a container must not run as root (securityContext.runAsNonRoot: true)" in said
    assert "by policy/workload-controls@1.0.0, receipt " in said
    live.create(deployment("good"))
    live.create(deployment("root", WORKSHOP))  # no namespace of production


def test_an_update_is_asked_about_too(live: World) -> None:
    path = f"{DEPLOYMENTS.format(SHOP)}/kept"
    live.create(deployment("good", name="kept"), dry=False)
    try:
        without = [{"name": "app", "resources": {"limits": None}}]
        patch = {"spec": {"template": {"spec": {"containers": without}}}}
        with pytest.raises(Stalled, match="must have a memory limit"):
            live.client.call("PATCH", path, {}, patch, "application/strategic-merge-patch+json")
        live.client.call("PATCH", path, {}, {"spec": {"replicas": 0}}, MERGE)
    finally:
        live.client.call("DELETE", path)


def test_what_a_finalizer_keeps_from_going_is_still_asked_about(live: World) -> None:
    """Whoever may delete it could else make of it whatever he likes."""
    path = f"{DEPLOYMENTS.format(SHOP)}/leaving"
    held = deployment("good", name="leaving")
    live.create({**held, "metadata": {**held["metadata"], "finalizers": ["example.com/held"]}}, dry=False)
    live.client.call("DELETE", path)
    try:
        without = [{"name": "app", "resources": {"limits": None}}]
        patch = {"spec": {"template": {"spec": {"containers": without}}}}
        with pytest.raises(Stalled, match="must have a memory limit"):
            live.client.call("PATCH", path, {}, patch, "application/strategic-merge-patch+json")
    finally:
        live.client.call("PATCH", path, {}, {"metadata": {"finalizers": None}}, MERGE)


def test_an_answer_names_the_question_and_its_receipt(live: World) -> None:
    question = review("root")
    question["request"]["uid"] = "a-uid-of-mine"
    answer = live.ask(question)
    assert (answer["uid"], answer["allowed"], answer["status"]["code"]) == ("a-uid-of-mine", False, 403)
    assert [cause["field"] for cause in answer["status"]["details"]["causes"]] == ["k8s:runAsNonRoot"]
    assert answer["auditAnnotations"]["receipt"] in answer["status"]["message"]
    assert answer["auditAnnotations"]["pack"] == "policy/workload-controls@1.0.0"


def test_what_no_route_of_the_point_covers_is_refused(live: World) -> None:
    question = review("good")
    question["request"]["resource"]["resource"] = "statefulsets"
    answer = live.ask(question)
    assert not answer["allowed"]
    assert "No policy covers this route" in answer["status"]["message"]


def test_a_question_that_is_too_large_is_refused_with_a_receipt(live: World) -> None:
    question = review("good")
    question["request"]["object"]["metadata"]["annotations"] = {"a": "x" * (1 << 20)}
    answer = live.ask(question)
    assert not answer["allowed"]
    assert answer["auditAnnotations"]["receipt"]


def test_the_system_our_processes_and_the_points_own_namespace_are_never_asked_about(live: World) -> None:
    """Whatever labels they have."""
    spaces = ("kube-system", OWN_NAMESPACE, POLICY)
    for namespace in spaces:
        label(live.client, namespace, {"environment": "production"})
    try:
        for namespace in spaces:
            live.create(deployment("root", namespace))
    finally:
        for namespace in spaces:
            label(live.client, namespace, {"environment": None})


def test_a_configuration_that_was_changed_is_as_the_point_says_again(live: World) -> None:
    """Once the point changes; else within a minute."""
    path = place(POINT)
    condition = {"name": "not-by-nodes", "expression": "request.userInfo.username != 'nobody'"}
    live.client.call("PATCH", CONFIGURATION, {}, {"metadata": {"labels": {"mine": "1"}}}, MERGE)
    live.client.call("PATCH", path, {}, {"spec": {"admission": {"matchConditions": [condition]}}}, MERGE)

    def told() -> list[str]:
        (hook,) = live.client.call("GET", CONFIGURATION)["webhooks"]
        return [
            row["name"] for row in hook["matchConditions"] if row["expression"] == condition["expression"] or row["name"] == "knhk-stays"
        ]

    live.until(lambda: told() == ["knhk-stays", "not-by-nodes"])


def test_each_verdict_is_in_the_log_and_the_log_replays(live: World) -> None:
    """The last test with an operator: it ends it."""
    receipts = {live.ask(review(payload))["auditAnnotations"]["receipt"]: payload for payload in ("good", "root", "no-limit")}

    def leaves() -> dict[str, Any]:
        found = (parse_leaf(entry) for entry in log_entries(live.home / "log") if entry[:1] == b"\x01")
        return {leaf.receipt_id.hex(): leaf for leaf in found}

    logged = live.until(lambda: (known := leaves()).keys() >= receipts.keys() and known)
    assert {payload: logged[receipt].verdict for receipt, payload in receipts.items()} == {"good": 1, "root": 2, "no-limit": 2}
    live.end_operator()
    for verb in ("verify", "replay"):
        command = [sys.executable, "-m", "knhk.cli", "log", verb, str(live.home / "log"), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    live.start_operator()
    live.until(lambda: live.point_reason() == "Running" and live.ask(review("good"))["allowed"])


@pytest.mark.failure("admission", "traffic")
def test_while_nobody_answers_people_can_still_mend_it(live: World) -> None:
    """The last test: it ends admission. What is stored can go, other namespaces go on, and taking away one label ends all of it."""
    path = f"{DEPLOYMENTS.format(SHOP)}/held"
    held = deployment("good", name="held")
    live.create({**held, "metadata": {**held["metadata"], "finalizers": ["example.com/held"]}}, dry=False)
    live.admission.end()
    with pytest.raises(KnhkError, match=r"workloads\.policy\.objects\.knhk\.dev"):
        live.create(deployment("good"))
    live.create(deployment("root", WORKSHOP))
    live.client.call("DELETE", path)
    live.client.call("PATCH", path, {}, {"metadata": {"finalizers": None}}, MERGE)  # of what is on its way out
    with pytest.raises(NotFound):
        live.client.call("GET", path)
    label(live.client, POLICY, {ALLOWED: None})
    live.until(lambda: not live.asked())
    live.until(lambda: live.point_reason() == "NotAllowed")
    live.until(lambda: live.create(deployment("root")))
