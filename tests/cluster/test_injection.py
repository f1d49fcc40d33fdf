"""Guards in pods on the real API server (no node is needed to store one): who gets one, who is refused, and when nobody answers."""

from __future__ import annotations

import base64
import copy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient, api_client
from knhk.adapters.kube_documents import collection
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.system import SystemClock
from knhk.model.faults import AlreadyExists, NotFound, Refused, Stalled, Waiting
from knhk.wiring.pods import ADMISSION_SERVICE

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parent))
from admission_process import IMAGE, OWN_NAMESPACE, Admission, applied, apply, manifests, path_of
from control_plane import Cluster
from pods import PAST_THE_GUARD, app_pod, changed, first, point_spec

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ENFORCED = {"knhk.dev/enforce": "true", "pod-security.kubernetes.io/enforce": "restricted"}
NS = "guarded"
PODS = f"/api/v1/namespaces/{NS}/pods"
DRY = {"dryRun": "All", "fieldValidation": "Strict"}
WITHIN_S = 240.0


@pytest.fixture(scope="module")
def admission(cluster: Cluster, client: KubeClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admission]:
    """With a certificate of our own authority, from the Secret that the operator makes."""
    folder = tmp_path_factory.mktemp("admission")
    namespace(client, OWN_NAMESPACE, {})
    ServingCertificates(client, OWN_NAMESPACE, SystemClock()).leaf(ADMISSION_SERVICE, ("127.0.0.1",))
    secret = client.call("GET", f"/api/v1/namespaces/{OWN_NAMESPACE}/secrets/{ADMISSION_SERVICE}-tls")
    for file in ("tls.crt", "tls.key", "ca.crt"):
        (folder / file).write_bytes(base64.b64decode(secret["data"][file]))
    found = Admission(folder, cluster.kubeconfig)
    found.until_ready()
    yield found
    if found.process.poll() is None:
        assert found.end() == 0, found.said()


@pytest.fixture(scope="module")
def documents(admission: Admission) -> list[dict[str, Any]]:
    return manifests(admission.url)


@pytest.fixture(scope="module")
def guarded(client: KubeClient, admission: Admission, documents: list[dict[str, Any]]) -> Iterator[KubeClient]:
    """A namespace that asked for guards, a point in it, and everything that watches over it."""
    namespace(client, NS, ENFORCED)
    point(client, "orders")
    with applied(client, documents):
        until(lambda: "knhk-agent" in str(try_create(client, app_pod())), admission)
        until(lambda: "must be guarded" in said(client, unguarded()), admission)  # the policies are there, too
        until(lambda: "must be reached" in said_of_port_forward(client), admission)
        yield client
    client.call("DELETE", f"/api/v1/namespaces/{NS}")


def until(holds: Callable[[], bool], admission: Admission) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, admission.said()
        time.sleep(0.1)


def namespace(client: KubeClient, name: str, labels: dict[str, str]) -> None:
    try:
        client.call(
            "POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )
    except AlreadyExists:
        client.call("PATCH", f"/api/v1/namespaces/{name}", {}, {"metadata": {"labels": labels}}, MERGE)
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        try:
            client.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")
            return
        except NotFound:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def point(client: KubeClient, name: str, **changes: Any) -> None:
    document = {
        "apiVersion": "knhk.dev/v1alpha1",
        "kind": "EnforcementPoint",
        "metadata": {"name": name},
        "spec": {**point_spec(), **changes},
    }
    client.call("POST", collection("EnforcementPoint", NS), body=document)


def unguarded() -> dict[str, Any]:
    return app_pod(labels={"app": "orders", "knhk.dev/unguarded": "true"})


def create(client: KubeClient, pod: dict[str, Any], query: dict[str, str] | None = None, ns: str = NS) -> dict[str, Any]:
    return client.call("POST", f"/api/v1/namespaces/{ns}/pods", DRY if query is None else query, pod)


def try_create(client: KubeClient, pod: dict[str, Any]) -> dict[str, Any]:
    try:
        return create(client, pod)
    except (Refused, Stalled, Waiting):
        return {}


def said(client: KubeClient, pod: dict[str, Any], ns: str = NS) -> str:
    """Why the pod is not stored; nothing when it is."""
    try:
        create(client, pod, ns=ns)
    except (Refused, Stalled, Waiting) as error:
        return str(error)
    return ""


def said_of_port_forward(client: KubeClient) -> str:
    return said_of_connecting(client, "portforward", {"ports": "9000"})


def said_of(client: KubeClient, way: str, container: str) -> str:
    """Why nobody gets into a container by exec or attach."""
    return said_of_connecting(client, way, {"stdout": "true", "command": "id"} | ({"container": container} if container else {}))


def said_of_connecting(client: KubeClient, way: str, query: dict[str, str]) -> str:
    try:
        client.call("POST", f"{PODS}/stored/{way}", query)
    except (Refused, Stalled, Waiting, NotFound) as error:
        return str(error)
    return ""


@pytest.fixture
def stored(guarded: KubeClient) -> Iterator[dict[str, Any]]:
    """A pod with its guard, as the API server keeps it."""
    yield create(guarded, app_pod("stored"), {})
    guarded.call("DELETE", f"{PODS}/stored", {"gracePeriodSeconds": "0"})


def test_a_pod_gets_its_guard_first_and_pod_security_restricted_lets_it_through(stored: dict[str, Any]) -> None:
    spec = stored["spec"]
    assert [(row["name"], row["restartPolicy"]) for row in spec["initContainers"]] == [("knhk-agent", "Always"), ("knhk-envoy", "Always")]
    assert {row["image"] for row in spec["initContainers"]} == {IMAGE}
    assert stored["metadata"]["labels"] == {"app": "orders", "knhk.dev/point": "orders"}
    assert spec["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}
    mounts = {row["name"]: {mount["mountPath"] for mount in row["volumeMounts"]} for row in [*spec["initContainers"], *spec["containers"]]}
    assert mounts["app"] == {"/var/run/secrets/kubernetes.io/serviceaccount"}
    assert all(
        mount["name"] == "knhk-none"
        for row in spec["initContainers"]
        for mount in row["volumeMounts"]
        if "serviceaccount" in mount["mountPath"]
    )


def test_what_is_stored_passes_again_unchanged(guarded: KubeClient, stored: dict[str, Any]) -> None:
    """As `kubectl get -o yaml` gives it, or a webhook of somebody else's asks for another look."""
    again = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "again", "labels": stored["metadata"]["labels"]},
        "spec": stored["spec"],
    }
    again = copy.deepcopy(again)
    again["spec"].pop("nodeName", None)
    made = create(guarded, again)
    assert made["spec"]["initContainers"] == stored["spec"]["initContainers"]
    assert made["spec"]["volumes"] == stored["spec"]["volumes"]
    assert made["spec"]["containers"] == stored["spec"]["containers"]


def test_each_way_past_the_guard_is_refused_where_it_is(guarded: KubeClient) -> None:
    for way, (where, change) in PAST_THE_GUARD.items():
        if "x" in str(changed(change)["spec"].get("volumes", "")):  # no pod of Kubernetes
            continue
        words = said(guarded, changed(change))
        assert where in words, (way, words)


def test_a_pod_of_no_point_or_of_two_is_refused(guarded: KubeClient) -> None:
    assert "must be selected by an EnforcementPoint" in said(guarded, app_pod(labels={"app": "other"}))
    point(guarded, "second", selector={"matchLabels": {"tier": "front"}})
    assert "not by orders and second" in said(guarded, app_pod(labels={"app": "orders", "tier": "front"}))


def test_a_point_that_cannot_stand_in_a_pod_says_so_at_its_pods(guarded: KubeClient) -> None:
    point(guarded, "socket", selector={"matchLabels": {"app": "socket"}}, upstream={"socket": "/run/app.sock"})
    assert "spec.upstream.socket" in said(guarded, app_pod(labels={"app": "socket"}))


def test_nobody_opts_out_alone(guarded: KubeClient) -> None:
    """The pod's label counts only while the namespace, which others may not label, says so."""
    assert "must be guarded" in said(guarded, unguarded())
    namespace(guarded, NS, {**ENFORCED, "knhk.dev/unguarded": "allow"})
    try:
        until_said(guarded, unguarded(), "")
        speaks = {**unguarded()["metadata"]["labels"], "knhk.dev/point": "orders"}
        assert "must not have label knhk.dev/point" in said(guarded, app_pod(labels=speaks))
    finally:
        guarded.call("PATCH", f"/api/v1/namespaces/{NS}", {}, {"metadata": {"labels": {"knhk.dev/unguarded": None}}}, MERGE)
    until_said(guarded, unguarded(), "must be guarded")


def test_who_writes_configmaps_of_a_namespace_does_not_choose_whom_its_guards_trust(guarded: KubeClient, cluster: Cluster) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}
    role = {"metadata": {"name": "editor"}, "rules": [rule]}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "editor"}
    subject = {"kind": "User", "name": "editor", "apiGroup": "rbac.authorization.k8s.io"}
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NS}"
    guarded.call("POST", f"{rbac}/roles", body=role)
    guarded.call("POST", f"{rbac}/rolebindings", body={"metadata": {"name": "editor"}, "roleRef": ref, "subjects": [subject]})
    editor, maps = KubeClient(api_client(cluster.user("editor"))), f"/api/v1/namespaces/{NS}/configmaps"

    def trust(name: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"root.pub": "mine"}}

    editor.call("POST", maps, {}, trust("other"))
    with pytest.raises((Refused, Stalled), match="must be written by the operator alone"):
        editor.call("POST", maps, {}, trust("knhk-trust"))
    made = guarded.call("POST", maps, {}, trust("knhk-trust"))
    with pytest.raises((Refused, Stalled), match="must be written by the operator alone"):
        editor.call("PUT", f"{maps}/knhk-trust", {}, {**made, "data": {}})
    with pytest.raises((Refused, Stalled), match="must be written by the operator alone"):
        editor.call("PATCH", f"{maps}/knhk-trust", {}, {"data": {"root.pub": "theirs"}}, MERGE)


def until_said(client: KubeClient, pod: dict[str, Any], words: str) -> None:
    """Returns when the pod is refused in these words; with none, when it is not refused."""
    deadline_s = time.monotonic() + WITHIN_S
    while (found := said(client, pod)) != "" if not words else words not in (found := said(client, pod)):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"knhk.dev/point": "other"}}},
        {"metadata": {"labels": {"knhk.dev/point": None}}},
        {"metadata": {"labels": {"knhk.dev/unguarded": "true"}}},
        [{"op": "replace", "path": "/spec/initContainers/1/image", "value": "mine"}],
    ],
    ids=["another point", "no point", "unguarded", "another image"],
)
def test_a_guarded_pod_stays_guarded(guarded: KubeClient, stored: dict[str, Any], change: Any) -> None:
    media = "application/json-patch+json" if isinstance(change, list) else MERGE
    with pytest.raises((Refused, Stalled), match="must stay as they were"):
        guarded.call("PATCH", f"{PODS}/stored", {}, change, media)


def test_what_does_not_touch_the_guard_may_change(guarded: KubeClient, stored: dict[str, Any]) -> None:
    guarded.call("PATCH", f"{PODS}/stored", {}, {"metadata": {"labels": {"more": "1"}}}, MERGE)
    guarded.call(
        "PATCH",
        f"{PODS}/stored",
        {},
        [{"op": "replace", "path": "/spec/containers/0/image", "value": "app:2"}],
        "application/json-patch+json",
    )


def test_no_container_and_no_port_forward_enters_a_guarded_pod(guarded: KubeClient, stored: dict[str, Any]) -> None:
    pod = copy.deepcopy(stored)
    del pod["metadata"]["resourceVersion"]
    pod["spec"]["ephemeralContainers"] = [
        {"name": "debug", "image": "busybox", "securityContext": first(app_pod()["spec"])["securityContext"]}
    ]
    with pytest.raises((Refused, Stalled), match="must be reached through its guard"):
        guarded.call("PUT", f"{PODS}/stored/ephemeralcontainers", {}, pod)
    assert "must be reached through its guard" in said_of_port_forward(guarded)


@pytest.mark.parametrize("way", ["exec", "attach"])
@pytest.mark.parametrize("container", ["knhk-agent", "knhk-envoy", ""])
def test_nobody_gets_into_the_guards_own_containers(guarded: KubeClient, stored: dict[str, Any], way: str, container: str) -> None:
    """There lie its token and its client's key. Without a name the API server chooses, and in a gateway that is the guard's."""
    assert "must name a container that is not the guard's" in said_of(guarded, way, container)
    assert "does not have a host" in said_of(guarded, way, stored["spec"]["containers"][0]["name"])  # let through; there is no node


def test_without_the_mutating_webhook_a_bare_pod_is_refused_and_so_is_a_guard_of_ones_own_making(
    guarded: KubeClient, documents: list[dict[str, Any]], stored: dict[str, Any]
) -> None:
    """A person deleted it, or its failurePolicy was changed to Ignore while it was down."""
    mutating, validating = documents[0], documents[1]
    metadata = {"name": "forged", "labels": stored["metadata"]["labels"]}
    forged: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    forged["spec"] = copy.deepcopy({k: v for k, v in stored["spec"].items() if k != "nodeName"})
    forged["spec"]["initContainers"][1]["args"] = ["run", "--no-guard"]
    try:
        guarded.call("DELETE", path_of(mutating))
        until_said(guarded, app_pod(), "must have the guard's containers")
        until_said(guarded, forged, "as the guard's template says")
        guarded.call("DELETE", path_of(validating))
        until_said(guarded, app_pod(), "must have the guard's containers")
    finally:
        for document in (validating, mutating):
            apply(guarded, document)
    until_said(guarded, app_pod(), "")


def test_while_an_upgrade_is_on_its_way_the_image_before_counts_too(
    guarded: KubeClient, admission: Admission, documents: list[dict[str, Any]], stored: dict[str, Any]
) -> None:
    """Without webhooks, so that the policy alone judges."""
    made: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "made", "labels": stored["metadata"]["labels"]}}
    made["spec"] = copy.deepcopy({k: v for k, v in stored["spec"].items() if k != "nodeName"})
    newer = IMAGE.replace("0", "1")
    try:
        for document in documents[:2]:
            guarded.call("DELETE", path_of(document))
        for before, words in (("", "must have the guard's containers"), (IMAGE, "")):
            for document in manifests(admission.url, newer, before)[2:]:
                apply(guarded, document)
            until_said(guarded, made, words)
    finally:
        for document in documents:
            apply(guarded, document)
    until_said(guarded, app_pod(), "")


@pytest.mark.failure("admission", "traffic")
def test_without_the_process_no_bare_pod_starts_where_guards_are_asked_for_and_all_others_do(
    guarded: KubeClient, admission: Admission, documents: list[dict[str, Any]], stored: dict[str, Any]
) -> None:
    """Guarded pods go on: they can be changed and deleted. The last test of this file: it ends the process."""
    assert admission.end(signal.SIGTERM) == 0, admission.said()
    assert "failed calling webhook" in said(guarded, app_pod())
    namespace(guarded, "free", {})
    create(guarded, app_pod(), ns="free")
    create(guarded, app_pod(), ns="kube-system")
    guarded.call("PATCH", f"{PODS}/stored", {}, {"metadata": {"labels": {"more": "2"}}}, MERGE)
    for document in documents:  # breaking the glass, as docs/cluster.md says
        if document["kind"] != "ValidatingAdmissionPolicy":
            guarded.call("DELETE", path_of(document))
    until_said(guarded, app_pod(), "")
