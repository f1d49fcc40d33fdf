"""A leader that is stopped between its look at the lease and its request: the real API server refuses what it sends when it wakes, also of
objects that nobody has touched since."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient, Configuration

from knhk.adapters.endpoints_kube import KubeEndpoints
from knhk.adapters.kube_client import APPLY, KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_leader import proclaim
from knhk.adapters.kube_lease import Lease
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.api import parse
from knhk.model.faults import AlreadyExists, Deposed, NotFound, Stalled, Waiting
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from control_plane import ISSUER, Cluster
from guarded_pods import token_of
from rollout_world import pack, point
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
BASE = Path(__file__).parents[2] / "manifests" / "base"
SYSTEM, OPERATOR = "knhk-system", "knhk-operator"
CORE = f"/api/v1/namespaces/{SYSTEM}"
TOKENS = f"{CORE}/serviceaccounts/{OPERATOR}/token"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{OPERATOR}"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/leaders.knhk.dev"
LEADER = f"/apis/knhk.dev/v1alpha1/namespaces/{SYSTEM}/leaders/{OPERATOR}"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{SYSTEM}/endpointslices"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
PACK, POINT = Key("PolicyPack", "erp", "orders"), Key("EnforcementPoint", "erp", "p1")
REFUSED = "must come from the operator that leads"
WITHIN_S = 240.0


@dataclass
class Operators:
    """Pods of the operator's account, which no node runs."""

    admin: KubeClient
    cluster: Cluster
    folder: Path

    def kubeconfig(self, pod: str) -> Path:
        """What the process in this pod, which is made anew for each test, is known by."""
        path = self.folder / f"{pod}.conf"
        if path.exists():
            return path
        with suppress(NotFound):
            self.admin.call("DELETE", f"{CORE}/pods/{pod}", {"gracePeriodSeconds": "0"})
        spec = {"serviceAccountName": OPERATOR, "containers": [{"name": "operator", "image": "registry.test/operator"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec}
        uid = self.admin.call("POST", f"{CORE}/pods", body=body)["metadata"]["uid"]
        token = token_of(self.admin, pod, uid, audience=ISSUER, tokens=TOKENS)
        found = yaml.safe_load(self.cluster.kubeconfig.read_text())
        found["users"] = [{"name": row["name"], "user": {"token": token}} for row in found["users"]]
        path.write_text(yaml.safe_dump(found))
        path.chmod(0o600)
        return path

    def client(self, pod: str) -> KubeClient:
        return KubeClient(api_client(self.kubeconfig(pod)))


def make(client: KubeClient, path: str, document: dict[str, Any]) -> None:
    with suppress(AlreadyExists):
        client.call("POST", path, body=document)


def remove(client: KubeClient, *paths: str) -> None:
    for path in paths:
        with suppress(NotFound):
            client.call("DELETE", path)


@pytest.fixture
def operators(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> Iterator[Operators]:
    """With the policy in force until the test ends; the account may do everything, so that only the policy refuses."""
    make(clean, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
    make(clean, f"{CORE}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": OPERATOR}})
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "leading-test"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": SYSTEM}],
    }
    make(clean, BINDINGS, rights)
    remove(clean, LEASE)
    slices = [row for row in yaml.safe_load_all((BASE / "operator" / "deployment.yaml").read_text()) if row["kind"] == "EndpointSlice"]
    definition, policy, binding = yaml.safe_load_all((BASE / "admission" / "leading.yaml").read_text())
    made = {
        DEFINITION: definition,
        f"{SLICES}/knhk-exchange": slices[0],
        f"{POLICIES}/validatingadmissionpolicies/{policy['metadata']['name']}": policy,
        f"{POLICIES}/validatingadmissionpolicybindings/{binding['metadata']['name']}": binding,
    }
    try:
        for path, document in made.items():
            clean.call("PATCH", path, {"fieldManager": "kubectl", "fieldValidation": "Strict"}, document, APPLY)
        until(lambda: served(clean), WITHIN_S)
        yield Operators(clean, cluster, tmp_path)
    finally:  # or another test's operator may do everything
        for pod in ("first", "second"):
            with suppress(NotFound):
                clean.call("DELETE", f"{CORE}/pods/{pod}", {"gracePeriodSeconds": "0"})
        remove(clean, LEADER, *reversed(made), LEASE, f"{BINDINGS}/leading-test")
    until(lambda: is_gone(clean, DEFINITION), WITHIN_S)  # one that is applied while it ends would end, too


def is_gone(client: KubeClient, path: str) -> bool:
    try:
        client.call("GET", path)
    except NotFound:
        return True
    except Waiting:
        return False
    return False


def served(client: KubeClient) -> bool:
    try:
        client.call("GET", LEADER.rpartition("/")[0])
    except (Stalled, Waiting):
        return False
    return True


def store_of(client: KubeClient) -> KubeStore:
    return KubeStore(client, ChangeFeed(), SystemClock())


def passes(act: Callable[[], object]) -> bool:
    """Whether a process may act already, or still; anything but the policy's refusal is an error."""
    try:
        act()
    except Waiting as waiting:
        if waiting.reason != "NotLeading" or REFUSED not in str(waiting):
            raise
        return False
    return True


@pytest.mark.failure("operator", "rollout")
def test_what_a_leader_sends_that_slept_after_its_look_is_refused_also_of_what_nobody_touched(operators: Operators) -> None:
    """SIGSTOP between the look at the lease and the request; another leads and has not written that object when the first wakes."""
    admin = store_of(operators.admin)
    for text in (point(), pack("1.0.0")):
        for resource in parse(text, "test.yaml"):
            admin.apply(resource)
    command = [sys.executable, str(Path(__file__).parent / "sleeping_leader.py"), str(operators.kubeconfig("first")), "first_1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline().strip() == "looked"
            until(lambda: stopped(first.pid), WITHIN_S)
            client = operators.client("second")
            second = Lease(client, SYSTEM, OPERATOR, "second_1", lambda: None)
            assert second.wait(threading.Event(), lambda: None)
            second.proclaim()
            store = store_of(client)
            touched = replace(store.get(POINT), status={"observedGeneration": 1})
            until(lambda: passes(lambda: store.update_status(touched)), WITHIN_S)
            first.send_signal(signal.SIGCONT)
            said = first.stdout.readline().strip()
        finally:
            first.kill()
    assert (said.partition(":")[0], REFUSED in said) == ("NotLeading", True), said
    assert admin.get(PACK).status == {}
    second.release()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_guards_are_led_to_the_pod_that_the_lease_names_whatever_another_says(operators: Operators) -> None:
    first, second = (KubeEndpoints(operators.client(name), SYSTEM, "knhk-exchange") for name in ("first", "second"))
    proclaim(operators.client("second"), SYSTEM, OPERATOR, "second_1", lambda: None)
    until(lambda: passes(lambda: second.lead_to("10.1.2.4")), WITHIN_S)
    until(lambda: not passes(lambda: first.lead_to("10.1.2.3")), WITHIN_S)
    second.lead_to("10.1.2.4")
    assert not passes(lambda: first.lead_to("10.1.2.3"))
    rows = operators.admin.call("GET", f"{SLICES}/knhk-exchange")["endpoints"]
    assert [address for row in rows for address in row["addresses"]] == ["10.1.2.4"]


def test_who_slept_before_it_said_that_it_leads_says_so_no_more(operators: Operators) -> None:
    """Another took the lease meanwhile, and has said so."""
    first, second = operators.client("first"), operators.client("second")
    looks: list[int] = []

    def asleep() -> None:
        looks.append(1)
        if len(looks) > 1:
            raise Deposed("another leads")
        proclaim(second, SYSTEM, OPERATOR, "second_1", lambda: None)

    for there in (False, True):
        looks.clear()
        if there:
            proclaim(first, SYSTEM, OPERATOR, "first_0", lambda: None)
        with pytest.raises(Deposed):
            proclaim(first, SYSTEM, OPERATOR, "first_1", asleep)
        assert operators.admin.call("GET", LEADER)["spec"] == {"holder": "second_1"}


def test_who_leads_may_write_whatever_its_host_is_called(operators: Operators) -> None:
    """In the node's network a pod has the node's name."""
    first, second = (KubeEndpoints(operators.client(name), SYSTEM, "knhk-exchange") for name in ("first", "second"))
    proclaim(operators.client("second"), SYSTEM, OPERATOR, "node-7.example_1", lambda: None)
    until(lambda: not passes(lambda: first.lead_to("10.1.2.3")), WITHIN_S)
    until(lambda: passes(lambda: second.lead_to("10.1.2.4")), WITHIN_S)
    assert operators.admin.call("GET", LEADER)["spec"] == {"holder": "second_1"}


def test_who_leads_says_so_again_when_the_leader_was_altered_or_removed(operators: Operators) -> None:
    """By hand, or by a tool that brings a backup back: nobody need be told before the operator goes on."""
    client = operators.client("first")
    lease = Lease(client, SYSTEM, OPERATOR, "first_1", lambda: None)
    assert lease.wait(threading.Event(), lambda: None)
    lease.proclaim()
    endpoints = KubeEndpoints(client, SYSTEM, "knhk-exchange")
    until(lambda: passes(lambda: endpoints.lead_to("10.1.2.3")), WITHIN_S)
    found = operators.admin.call("GET", LEADER)
    operators.admin.call("PUT", LEADER, {}, {**found, "spec": {"holder": "gone_7"}})
    until(lambda: operators.admin.call("GET", LEADER)["spec"] == {"holder": "first_1"}, WITHIN_S)
    until(lambda: passes(lambda: endpoints.lead_to("10.1.2.4")), WITHIN_S)
    remove(operators.admin, LEADER)
    until(lambda: not is_gone(operators.admin, LEADER), WITHIN_S)
    lease.release()


def test_who_cannot_say_that_it_leads_ends_when_it_is_deposed() -> None:
    """The API server does not answer, and the lease is over meanwhile."""
    looks: list[int] = []

    def check() -> None:
        looks.append(1)
        if len(looks) > 1:
            raise Deposed("another leads")

    with socket.socket() as nobody:  # bound, and never listens
        nobody.bind(("127.0.0.1", 0))
        configuration = Configuration(host=f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(Deposed):
            proclaim(KubeClient(ApiClient(configuration)), SYSTEM, OPERATOR, "first_1", check)


def test_persons_and_a_cluster_whose_leader_is_not_told_are_not_held_up(operators: Operators) -> None:
    """An API server that has nothing to compare with takes what carries the version that it has, as before."""
    first = store_of(operators.client("first"))
    proclaim(operators.client("second"), SYSTEM, OPERATOR, "second_1", lambda: None)
    person = store_of(operators.admin)
    (made,) = (person.apply(resource) for resource in parse(pack("1.0.0"), "test.yaml"))
    until(lambda: not passes(lambda: first.update_status(replace(made, resource_version="", status={"observedGeneration": 1}))), WITHIN_S)
    person.update_status(replace(person.get(PACK), status={"observedGeneration": 2}))
    remove(operators.admin, LEADER)
    until(lambda: passes(lambda: first.update_status(replace(first.get(PACK), status={"observedGeneration": 3}))), WITHIN_S)
