"""Who may do what: the roles of people and the accounts of our processes, on the real API server: all that they may, and each verb that
they may not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import yaml

from knhk.adapters.endpoints_kube import KubeEndpoints
from knhk.adapters.kube_client import MERGE, KubeClient, api_client
from knhk.adapters.kube_documents import collection
from knhk.adapters.placement_kube import PATHS
from knhk.api import KINDS
from knhk.model.faults import AlreadyExists, KnhkError, NotFound

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from rights import ACCOUNTS, OWN, PEOPLE, WRITE, Rights, in_namespace, told
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests" / "base"
ALL: Mapping[str, Rights] = {**PEOPLE, **ACCOUNTS}
GROUPS = ("system:serviceaccounts", "system:serviceaccounts:knhk-system")
POLICIES_GO_WITHIN_S = 240.0
IN_OURS = ("sre-control-plane", "eraser-way")  # Roles of our own namespace
KEYS = ("knhk-keys-rollout", "knhk-keys-build", "knhk-keys-log", "knhk-keys-ahead", "knhk-keys-now")
SECRETS = ("knhk-ca", *KEYS, "knhk-exchange-tls", "knhk-admission-tls")


@pytest.fixture(scope="module")
def applied(client: KubeClient, cluster: Cluster, servers: dict[str, Path]) -> Iterator[KubeClient]:
    """The accounts and roles of manifests/base are there; a person of each role is bound in namespace erp, or in ours. Its admission
    policies, which other tests of this cluster do not expect, are gone at the end."""
    kubectl(cluster, servers, "apply", "--server-side", "-k", str(BASE))
    for file in ("receipts/rbac", "witness/rbac", "keys/rbac", "keys/people", "turning/rbac"):
        kubectl(cluster, servers, "apply", "--server-side", "-f", str(BASE.parent / "components" / f"{file}.yaml"))
    kubectl(cluster, servers, "delete", "-f", str(BASE / "admission" / "webhooks.yaml"))  # nobody answers here
    with contextlib.suppress(AlreadyExists):
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "erp"}})
    for secret in SECRETS:  # of servers that ran before: what may be read must not be there
        with contextlib.suppress(NotFound):
            client.call("DELETE", f"/api/v1/namespaces/{OWN}/secrets/{secret}")
    for role in PEOPLE:
        bound, where = (f"--role=knhk-{role}", OWN) if role in IN_OURS else (f"--clusterrole=knhk-{role}", "erp")
        binding = kubectl(
            cluster, servers, "create", "rolebinding", role, "-n", where, bound, f"--user={role}", "--dry-run=client", "-o=yaml"
        )
        kubectl(cluster, servers, "apply", "-f", "-", text=binding)
    yield client
    kubectl(cluster, servers, "delete", "validatingadmissionpolicies,validatingadmissionpolicybindings", "--all")
    for kind in ("Approval", "Consent"):
        until(partial(goes_in, client, kind), POLICIES_GO_WITHIN_S)


def goes_in(client: KubeClient, kind: str) -> bool:
    """Whether the example, which names another user than who writes it, is let in: a policy counts a moment longer than it is there."""
    document = yaml.safe_load((ROOT / "manifests" / "examples" / f"{kind.lower()}.yaml").read_text())
    document["metadata"] |= {"name": "nobodys", "namespace": "erp"}
    try:
        client.call("POST", collection(kind, "erp"), {"dryRun": "All"}, document)
    except KnhkError:
        return False
    return True


def kubectl(cluster: Cluster, servers: dict[str, Path], *arguments: str, text: str = "") -> str:
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def client_of(cluster: Cluster, who: str) -> KubeClient:
    """Requests as a person, or as an account of ours."""
    user = (who,) if who not in ACCOUNTS else (f"system:serviceaccount:{OWN}:{who}", GROUPS)
    return KubeClient(api_client(cluster.user(*user)))


def granted(who: KubeClient, namespace: str) -> dict[str, frozenset[str]]:
    """All that the API server grants there."""
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    status = who.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body=body)["status"]
    assert not status["incomplete"]
    return told(status)


@pytest.mark.parametrize("who", ALL)
def test_each_may_do_what_the_matrix_says_and_nothing_else(applied: KubeClient, cluster: Cluster, who: str) -> None:
    """Beside what everybody may who is known: to ask what oneself may."""
    anybody = granted(KubeClient(api_client(cluster.user("anybody", GROUPS))), "erp")
    assert set(anybody) == {f"selfsubject{kind}reviews.authorization.k8s.io" for kind in ("access", "rules")} | {
        "selfsubjectreviews.authentication.k8s.io"
    }
    for namespace in ("erp", OWN):
        found = granted(client_of(cluster, who), namespace)
        bound = who in ACCOUNTS or namespace == (OWN if who in IN_OURS else "erp")
        expected = in_namespace(ALL[who], namespace) if bound else {}
        assert {resource: verbs for resource, verbs in found.items() if resource not in anybody} == expected, namespace


@pytest.mark.parametrize("who", ALL)
def test_every_denied_verb_is_denied_when_it_is_done(applied: KubeClient, cluster: Cluster, who: str) -> None:
    """Not only by the authorizer's word: each denied request is made, and refused as forbidden."""
    asking, may = client_of(cluster, who), in_namespace(ALL[who], "erp")
    for kind, declared in KINDS.items():
        for verb in sorted(WRITE - may.get(f"{declared.plural}.knhk.dev", frozenset())):
            with pytest.raises(KnhkError) as refused:
                attempt(asking, kind, verb)
            assert "forbidden" in str(refused.value), (kind, verb, str(refused.value))


def attempt(who: KubeClient, kind: str, verb: str) -> None:
    """The request of a verb; admission would come after authorization, so a name that is not there serves."""
    path = collection(kind, "erp")
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": kind, "metadata": {"name": "nobodys", "namespace": "erp"}}
    dry = {"dryRun": "All"}
    if verb == "create":
        who.call("POST", path, dry, document)
    elif verb == "update":
        who.call("PUT", f"{path}/nobodys", dry, document)
    elif verb == "patch":
        who.call("PATCH", f"{path}/nobodys", dry, {"metadata": {"labels": {"a": "b"}}}, MERGE)
    else:
        who.call("DELETE", f"{path}/nobodys", dry)


@pytest.mark.parametrize("who", ALL)
def test_no_secret_is_read_but_ones_own_and_none_elsewhere(applied: KubeClient, cluster: Cluster, who: str) -> None:
    """Keys are mounted by the kubelet: no account reads them, its own neither."""
    asking, may = client_of(cluster, who), in_namespace(ALL[who], OWN)
    for name in SECRETS:
        with pytest.raises(KnhkError) as refused:
            asking.call("GET", f"/api/v1/namespaces/{OWN}/secrets/{name}")
        assert isinstance(refused.value, NotFound) == (f"secrets={name}" in may), (name, str(refused.value))
        assert isinstance(refused.value, NotFound) or "forbidden" in str(refused.value)
    for path in ("/api/v1/namespaces/erp/secrets", f"/api/v1/namespaces/{OWN}/secrets", "/api/v1/secrets"):
        with pytest.raises(KnhkError, match="forbidden"):
            asking.call("GET", path)


def test_what_a_role_allows_is_done(applied: KubeClient, cluster: Cluster) -> None:
    """The same requests by who may make them fail later: there is no such object."""
    engineer = client_of(cluster, "policy-engineering")
    with pytest.raises(NotFound):
        attempt(engineer, "PolicyPack", "delete")
    assert engineer.call("GET", collection("Receipt", "erp"))["kind"] == "ReceiptList"


def test_the_operator_says_where_the_exchange_is_and_moves_no_other_service(applied: KubeClient, cluster: Cluster) -> None:
    operator = client_of(cluster, "knhk-operator")
    KubeEndpoints(operator, OWN, "knhk-exchange").lead_to("10.1.2.3")
    found = applied.call("GET", f"/apis/discovery.k8s.io/v1/namespaces/{OWN}/endpointslices/knhk-exchange")
    assert [endpoint["addresses"] for endpoint in found["endpoints"]] == [["10.1.2.3"]]
    with pytest.raises(KnhkError, match="forbidden"):
        KubeEndpoints(operator, OWN, "knhk-builder").lead_to("10.1.2.3")


def test_the_operator_may_keep_all_that_points_have_of_their_own() -> None:
    may = in_namespace(ACCOUNTS["knhk-operator"], "erp")
    for base, plural in PATHS.values():
        group = base.removeprefix("/apis/").removeprefix("/api/").rpartition("/")[0]
        assert may[f"{plural}.{group}" if group else plural] >= {"get", "list", "create", "patch", "delete"}
