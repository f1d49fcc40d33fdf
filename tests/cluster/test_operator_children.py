"""What RBAC cannot say of the operator, on the real API server as its account: it writes objects of its own alone, and runs guards."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters.kube_client import MERGE, KubeClient, api_client
from knhk.adapters.placement_kube import PATHS, KubePlacement, child_name
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.shelf_kube import KubeShelf
from knhk.adapters.system import SystemClock
from knhk.model.faults import AlreadyExists, Refused, Stalled
from knhk_templates.kubernetes.guard import Surroundings

sys.path.insert(0, str(Path(__file__).parent))
from admission_process import applied
from control_plane import Cluster
from placed_points import GATEWAY, Documents, stored
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
OPERATOR = Path(__file__).parents[2] / "manifests" / "base" / "operator"
IMAGE = "registry.example.com/knhk-agent@sha256:" + "0" * 64
OWN, NS, POINT = "knhk-system", "erp", "erp/orders"
LABELS = {"app.kubernetes.io/managed-by": "knhk", "app.kubernetes.io/part-of": "knhk"}
MAPS = f"/api/v1/namespaces/{NS}/configmaps"
SECRETS = f"/api/v1/namespaces/{OWN}/secrets"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NS}/deployments/{child_name('orders')}"
SECURITY = {"privileged": False, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
WITHIN_S = 240.0


@pytest.fixture
def operator(clean: KubeClient, cluster: Cluster) -> Iterator[KubeClient]:
    """Requests as the operator's account, with all that its RBAC gives, while the policies are in force."""
    with contextlib.suppress(AlreadyExists):
        clean.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN}})
    policies = list(yaml.safe_load_all((OPERATOR / "children.yaml").read_text()))
    rbac = list(yaml.safe_load_all((OPERATOR / "rbac.yaml").read_text()))
    with applied(clean, [*rbac, *policies]):
        found = KubeClient(api_client(cluster.user(f"system:serviceaccount:{OWN}:knhk-operator", ("system:serviceaccounts",))))
        until(lambda: "names begin with knhk-" in said(lambda: found.call("POST", MAPS, {"dryRun": "All"}, config("theirs"))), WITHIN_S)
        deployments = DEPLOYMENT.rpartition("/")[0]
        until(lambda: "run the guard's image" in said(lambda: found.call("POST", deployments, {"dryRun": "All"}, forged())), WITHIN_S)
        until(lambda: "of its certificates" in said(lambda: found.call("POST", SECRETS, {"dryRun": "All"}, secret("mine"))), WITHIN_S)
        yield found


def said(call: Callable[[], Any]) -> str:
    """Why it is refused; nothing when it is not."""
    try:
        call()
    except (Refused, Stalled) as error:
        return str(error)
    return ""


def config(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": LABELS if labels is None else labels}}


def secret(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **more.pop("metadata", {})}, **more}


def container(image: str = IMAGE, name: str = "a", **security: Any) -> dict[str, Any]:
    return {"name": name, "image": image, "securityContext": {**SECURITY, **security}}


def forged(image: str = "mine", **pod: Any) -> dict[str, Any]:
    labels = {**LABELS, "app": "forged"}
    spec = {"automountServiceAccountToken": False, "containers": [container(image)], **pod}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "knhk-forged", "labels": labels},
        "spec": {"selector": {"matchLabels": {"app": "forged"}}, "template": template},
    }


def test_all_that_the_operator_keeps_passes(clean: KubeClient, operator: KubeClient) -> None:
    """A gateway with all of its children, what is published for it, and what its guards trust; made, changed, and taken away."""
    spec = stored(clean, **GATEWAY)
    clock = SystemClock()
    placement = KubePlacement(Documents(), operator, Surroundings(IMAGE, keys="https://knhk-keys.knhk-system.svc:8448"), clock)
    placement.ensure(POINT, spec)
    placement.ensure(POINT, {**spec, "gateway": {"minReplicas": 4}})
    shelf = KubeShelf(operator, OWN)
    for data in (b"1", b"2"):
        shelf.put(POINT, "rollout.json", data)
        ServingCertificates(operator, OWN, clock).publish_trust(data, NS)
    placement.remove(POINT)
    for base, plural in PATHS.values():
        assert child_name("orders") not in [
            row["metadata"]["name"] for row in clean.call("GET", f"{base}/namespaces/{NS}/{plural}")["items"]
        ]


def test_what_is_not_its_own_it_neither_makes_nor_changes_nor_takes_away(clean: KubeClient, operator: KubeClient) -> None:
    for document in (config("theirs", {}), config("knhk-theirs", {})):
        name = document["metadata"]["name"]
        words = "names begin with knhk-" if name == "theirs" else "managed-by=knhk"
        assert words in said(lambda: operator.call("POST", MAPS, {}, document))  # noqa: B023
        clean.call("POST", MAPS, {}, document)
        try:
            # To put the labels on first is a change of what is not its own, too.
            assert words in said(lambda: operator.call("PATCH", f"{MAPS}/{name}", {}, {"metadata": {"labels": LABELS}}, MERGE))  # noqa: B023
            assert words in said(lambda: operator.call("DELETE", f"{MAPS}/{name}"))  # noqa: B023
        finally:
            clean.call("DELETE", f"{MAPS}/{name}")
    ours = config("knhk-ours")
    operator.call("POST", MAPS, {}, ours)
    assert "managed-by=knhk" in said(
        lambda: operator.call("PATCH", f"{MAPS}/knhk-ours", {}, {"metadata": {"labels": dict.fromkeys(LABELS)}}, MERGE)
    )
    operator.call("DELETE", f"{MAPS}/knhk-ours")
    service = {"metadata": {"name": "knhk-x", "labels": LABELS}, "spec": {"type": "ExternalName", "externalName": "example.com"}}
    assert "must be of type ClusterIP" in said(lambda: operator.call("POST", f"/api/v1/namespaces/{NS}/services", {}, service))
    taken = {**service, "spec": {"ports": [{"port": 443}], "externalIPs": ["192.0.2.1"]}}
    assert "without addresses of others" in said(lambda: operator.call("POST", f"/api/v1/namespaces/{NS}/services", {}, taken))


RUNS, POWERS, TRUSTS, SHARES, MOUNTS = (
    "run the guard's image alone",
    "no powers over the node",
    "no account and no token",
    "must not share the node's namespaces",
    "must mount what a guard does",
)
PAST: tuple[tuple[dict[str, Any], str], ...] = (
    ({"image": "mine"}, RUNS),
    ({"initContainers": [{"name": "b", "image": "mine"}]}, RUNS),
    ({"containers": [container(privileged=True, allowPrivilegeEscalation=True)]}, POWERS),
    ({"containers": [container(allowPrivilegeEscalation=True)]}, POWERS),
    ({"containers": [container(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]})]}, POWERS),
    ({"containers": [{"name": "a", "image": IMAGE}]}, POWERS),
    ({"initContainers": [container(name="b", capabilities={"add": ["SYS_PTRACE"], "drop": ["ALL"]})]}, POWERS),
    ({"automountServiceAccountToken": True}, TRUSTS),
    ({"serviceAccountName": "powerful"}, TRUSTS),
    ({"hostNetwork": True}, SHARES),
    ({"hostPID": True}, SHARES),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, MOUNTS),
    ({"volumes": [{"name": "v", "secret": {"secretName": "theirs"}}]}, MOUNTS),
    ({"volumes": [{"name": "v", "configMap": {"name": "theirs"}}]}, MOUNTS),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "theirs"}}]}}]}, MOUNTS),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, MOUNTS),
)


def test_its_deployments_are_guards_and_nothing_more(operator: KubeClient) -> None:
    def said_of(**pod: Any) -> str:
        document = forged(**{"image": IMAGE, **pod})
        return said(lambda: operator.call("POST", DEPLOYMENT.rpartition("/")[0], {"dryRun": "All"}, document))

    assert said_of() == ""
    for pod, words in PAST:
        assert words in said_of(**pod), pod


def test_others_are_not_asked(clean: KubeClient, operator: KubeClient) -> None:
    clean.call("POST", MAPS, {"dryRun": "All"}, config("theirs", {}))


def test_the_operator_may_make_what_it_may_read() -> None:
    """RBAC and the policy name the same Secrets."""
    (role,) = [one for one in yaml.safe_load_all((OPERATOR / "rbac.yaml").read_text()) if one["kind"] == "Role"]
    named = {name for rule in role["rules"] if "secrets" in rule["resources"] for name in rule.get("resourceNames", ())}
    told = [one for one in yaml.safe_load_all((OPERATOR / "children.yaml").read_text()) if one["metadata"]["name"].endswith("certificates")]
    expression = told[0]["spec"]["validations"][1]["expression"]
    assert set(re.findall(r"'(knhk-[a-z-]+)'", expression)) == named


def test_the_operator_makes_no_secret_that_a_controller_fills(operator: KubeClient) -> None:
    """With the token of another account, for one, under the name of a certificate that is not there yet."""
    annotated = {"annotations": {"kubernetes.io/service-account.name": "knhk-builder"}}
    token = secret("knhk-keys-tls", type="kubernetes.io/service-account-token", metadata=annotated)
    assert "must be of type Opaque" in said(lambda: operator.call("POST", SECRETS, {"dryRun": "All"}, token))
    assert "of its certificates" in said(lambda: operator.call("POST", SECRETS, {"dryRun": "All"}, secret("default-token")))
    with contextlib.suppress(AlreadyExists):
        assert said(lambda: operator.call("POST", SECRETS, {"dryRun": "All"}, secret("knhk-keys-tls", type="Opaque"))) == ""
