"""Who may do what: the roles of people and the accounts of our processes, on the real API server, each verb on each kind tried."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import MERGE, KubeClient, api_client
from knhk.adapters.kube_documents import collection
from knhk.adapters.placement_kube import PATHS
from knhk.api import KINDS
from knhk.model.faults import AlreadyExists, KnhkError, NotFound

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
READ = frozenset({"get", "list", "watch"})
WRITE = frozenset({"create", "update", "patch", "delete"})
VERBS = READ | WRITE | {"deletecollection"}
PLURALS = {
    "policypacks",
    "hookregistries",
    "schemaversions",
    "databundles",
    "enforcementpoints",
    "featureflags",
    "approvals",
    "policyrepositories",
    "receipts",
}
# What each role may write; all four read every kind of ours, and none writes a status or a receipt.
MAY_WRITE: Mapping[str, Mapping[str, frozenset[str]]] = {
    "policy-engineering": dict.fromkeys(("policypacks", "hookregistries", "policyrepositories"), WRITE)
    | {"approvals": frozenset({"create"})},
    "ontology-ops": dict.fromkeys(("schemaversions", "databundles", "hookregistries"), WRITE) | {"approvals": frozenset({"create"})},
    "sre": dict.fromkeys(("enforcementpoints", "featureflags"), WRITE) | {"approvals": frozenset({"create"})},
    "risk": {"approvals": frozenset({"create"})},
}
# (group, resource) → verbs, beside the kinds of ours. Whatever is not here is denied.
BESIDE: Mapping[str, Mapping[tuple[str, str], frozenset[str]]] = {
    "policy-engineering": {("", "events"): READ},
    "ontology-ops": {("", "events"): READ},
    "sre": {("", "events"): READ},
    "risk": {},
}
# Each is asked of every person and every account, in the namespace of an application.
SENSITIVE = (
    ("", "secrets"),
    ("", "configmaps"),
    ("", "pods"),
    ("", "pods/exec"),
    ("", "pods/log"),
    ("", "pods/portforward"),
    ("", "events"),
    ("", "serviceaccounts/token"),
    ("apps", "deployments"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
)

roles = pytest.mark.parametrize("role", MAY_WRITE)


@pytest.fixture(scope="module")
def applied(client: KubeClient, cluster: Cluster, servers: dict[str, Path]) -> KubeClient:
    """The accounts and roles of manifests/base are there; a person of each role is bound in namespace erp."""
    kubectl(cluster, servers, "apply", "--server-side", "-k", str(ROOT / "manifests" / "base"))
    with contextlib.suppress(AlreadyExists):
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "erp"}})
    for role in MAY_WRITE:
        bound = f"--clusterrole=knhk-{role}"
        binding = kubectl(
            cluster, servers, "create", "rolebinding", role, "-n", "erp", bound, f"--user={role}", "--dry-run=client", "-o=yaml"
        )
        kubectl(cluster, servers, "apply", "-f", "-", text=binding)
    return client


def kubectl(cluster: Cluster, servers: dict[str, Path], *arguments: str, text: str = "") -> str:
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def allowed(client: KubeClient, user: Mapping[str, Any], namespace: str, group: str, resource: str, verb: str, name: str = "") -> bool:
    """What the API server's authorizer says; without a name: of all objects."""
    plural, _, sub = resource.partition("/")
    asked = {"namespace": namespace, "group": group, "resource": plural, "subresource": sub, "verb": verb, "name": name}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {**user, "resourceAttributes": asked}}
    return bool(client.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body=review)["status"]["allowed"])


def granted(
    client: KubeClient, user: Mapping[str, Any], namespace: str, of: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], frozenset[str]]:
    """(group, resource) → verbs that are allowed; nothing is left out that is."""
    found = {(g, r): frozenset(v for v in VERBS if allowed(client, user, namespace, g, r, v)) for g, r in of}
    return {asked: verbs for asked, verbs in found.items() if verbs}


@roles
def test_a_person_may_do_what_the_role_says_and_nothing_else(applied: KubeClient, role: str) -> None:
    resources = [("knhk.dev", plural) for plural in PLURALS] + [("knhk.dev", f"{plural}/status") for plural in PLURALS] + list(SENSITIVE)
    writes = MAY_WRITE[role]
    expected = {("knhk.dev", plural): READ | writes.get(plural, frozenset()) for plural in PLURALS} | dict(BESIDE[role])
    assert granted(applied, {"user": role}, "erp", resources) == expected


@roles
def test_outside_its_namespace_a_role_may_nothing(applied: KubeClient, role: str) -> None:
    assert granted(applied, {"user": role}, "a", [("knhk.dev", plural) for plural in PLURALS]) == {}


@roles
def test_every_denied_verb_is_denied_when_it_is_done(applied: KubeClient, cluster: Cluster, role: str) -> None:
    """Not only by the authorizer's word: each denied request is made, and refused as forbidden."""
    person = KubeClient(api_client(cluster.user(role)))
    for kind, declared in KINDS.items():
        for verb in sorted(WRITE - MAY_WRITE[role].get(declared.plural, frozenset())):
            with pytest.raises(KnhkError) as refused:
                attempt(person, kind, verb)
            assert "forbidden" in str(refused.value), (kind, verb, str(refused.value))


def attempt(person: KubeClient, kind: str, verb: str) -> None:
    """The request of a verb; admission would come after authorization, so a name that is not there serves."""
    path = collection(kind, "erp")
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": kind, "metadata": {"name": "nobodys", "namespace": "erp"}}
    dry = {"dryRun": "All"}
    if verb == "create":
        person.call("POST", path, dry, document)
    elif verb == "update":
        person.call("PUT", f"{path}/nobodys", dry, document)
    elif verb == "patch":
        person.call("PATCH", f"{path}/nobodys", dry, {"metadata": {"labels": {"a": "b"}}}, MERGE)
    else:
        person.call("DELETE", f"{path}/nobodys", dry)


def test_what_a_role_allows_is_done(applied: KubeClient, cluster: Cluster) -> None:
    """The same requests by who may make them fail later: there is no such object."""
    engineer = KubeClient(api_client(cluster.user("policy-engineering")))
    with pytest.raises(NotFound):
        attempt(engineer, "PolicyPack", "delete")
    assert engineer.call("GET", collection("Receipt", "erp"))["kind"] == "ReceiptList"


ACCOUNTS: Mapping[str, Mapping[tuple[str, str], frozenset[str]]] = {
    "knhk-log": {},
    "knhk-builder": {},
    "knhk-admission": {("knhk.dev", "enforcementpoints"): frozenset({"get", "list"})},
}


@pytest.mark.parametrize("account", ACCOUNTS)
def test_our_processes_have_the_least(applied: KubeClient, account: str) -> None:
    resources = [("knhk.dev", plural) for plural in PLURALS] + list(SENSITIVE) + [("authentication.k8s.io", "tokenreviews")]
    assert granted(applied, service_account(account), "erp", resources) == ACCOUNTS[account]


@pytest.mark.parametrize("account", ACCOUNTS)
def test_who_serves_reads_and_writes_no_secret_of_ours(applied: KubeClient, account: str) -> None:
    """Whoever read the authority's key could sign itself a certificate as any other component; what a process needs is mounted."""
    user = service_account(account)
    for name in ("", "knhk-ca", "knhk-admission-tls", "knhk-keys-rollout"):
        may = [verb for verb in VERBS if allowed(applied, user, "knhk-system", "", "secrets", verb, name)]
        assert may == [], name


def test_the_operator_reads_no_secret_and_grants_nothing(applied: KubeClient) -> None:
    may = granted(applied, service_account("knhk-operator"), "erp", [*SENSITIVE, *(("knhk.dev", plural) for plural in PLURALS)])
    for resource in ("secrets", "pods/exec", "pods/log", "pods/portforward", "serviceaccounts/token"):
        assert ("", resource) not in may
    assert not any(group in ("rbac.authorization.k8s.io", "admissionregistration.k8s.io") for group, _ in may)
    assert may["", "pods"] == READ
    assert may["knhk.dev", "receipts"] == READ | {"create", "delete"}
    assert may["knhk.dev", "approvals"] == READ
    assert not any("deletecollection" in verbs for verbs in may.values())


def test_the_operator_may_keep_all_that_points_have_of_their_own(applied: KubeClient) -> None:
    children = [(base.removeprefix("/apis/").removeprefix("/api/").rpartition("/")[0], plural) for base, plural in PATHS.values()]
    may = granted(applied, service_account("knhk-operator"), "erp", children)
    assert {child: may.get(child, frozenset()) >= {"get", "list", "create", "patch", "delete"} for child in children} == dict.fromkeys(
        children, True
    )


def service_account(name: str) -> dict[str, Any]:
    groups = ["system:serviceaccounts", "system:serviceaccounts:knhk-system", "system:authenticated"]
    return {"user": f"system:serviceaccount:knhk-system:{name}", "groups": groups}
