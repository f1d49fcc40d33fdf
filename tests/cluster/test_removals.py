"""Where only merged commits count, the real API server lets nobody delete what counted but the operator, and nothing is locked by that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import place
from knhk.adapters.namespaces_kube import LABEL
from knhk.model.faults import NotFound
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
POLICY = ROOT / "manifests" / "base" / "admission" / "removals.yaml"
HELD, OPERATOR = "held", "system:serviceaccount:knhk-system:knhk-operator"
WITHIN_S = 240.0
FLAG = {"pack": "orders", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
REFUSED = "must be taken away by a merged commit"

Run = Callable[..., subprocess.CompletedProcess[str]]


def flag(name: str, **metadata: object) -> str:
    about = {"name": name, "namespace": HELD, **metadata}
    return json.dumps({"apiVersion": "knhk.dev/v1alpha1", "kind": "FeatureFlag", "metadata": about, "spec": FLAG})


def told(client: KubeClient, name: str, reason: str) -> None:
    """The status that the operator would write."""
    condition = {"type": "Ready", "status": "Unknown", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    client.call("PATCH", f"{place(Key('FeatureFlag', HELD, name))}/status", {}, {"status": {"conditions": [condition]}}, MERGE)


@pytest.fixture
def kubectl(clean: KubeClient, cluster: Cluster, servers: dict[str, Path]) -> Iterator[Run]:
    """With the policy in force and a namespace of its own that wants merged commits, until the test ends."""

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    def refused() -> bool:
        return REFUSED in run("delete", "featureflags", "probe", f"--namespace={HELD}", "--dry-run=server").stderr

    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "removals-test"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
    }
    labelled = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HELD, "labels": {LABEL: "true"}}}
    until(lambda: run("apply", "-f", "-", text=yaml.safe_dump_all([rights, labelled])).returncode == 0, WITHIN_S)
    assert run("create", "-f", "-", text=flag("probe")).returncode == 0
    assert run("apply", "-f", str(POLICY)).returncode == 0
    until(refused, WITHIN_S)
    yield run
    assert run("label", "namespace", HELD, f"{LABEL}=true", "--overwrite").returncode == 0
    assert run("delete", "namespace", HELD, f"--timeout={WITHIN_S:g}s").returncode == 0  # with all that is held in it
    assert run("delete", "-f", str(POLICY), "--wait").returncode == 0
    assert run("delete", "clusterrolebinding", "removals-test").returncode == 0


def gone(client: KubeClient, path: str) -> bool:
    try:
        client.call("GET", path)
    except NotFound:
        return True
    return False


def test_nobody_deletes_what_counted_but_the_operator_or_who_lifts_the_label(kubectl: Run, clean: KubeClient) -> None:
    for name in ("one", "two"):
        assert kubectl("create", "-f", "-", text=flag(name)).returncode == 0
        told(clean, name, "Evaluated")
    for words in (("one",), ("--all",)):
        refused = kubectl("delete", "featureflags", f"--namespace={HELD}", *words)
        assert (refused.returncode, REFUSED in refused.stderr) == (1, True), refused.stderr
    allowed = kubectl("delete", "featureflags", "one", f"--namespace={HELD}", f"--as={OPERATOR}")
    assert allowed.returncode == 0, allowed.stderr
    assert kubectl("label", "namespace", HELD, f"{LABEL}-").returncode == 0
    until(lambda: kubectl("delete", "featureflags", "two", f"--namespace={HELD}").returncode == 0, WITHIN_S)


def test_what_was_made_by_hand_and_never_counted_may_be_taken_back(kubectl: Run, clean: KubeClient) -> None:
    for name in ("new", "edited"):
        assert kubectl("create", "-f", "-", text=flag(name)).returncode == 0
        told(clean, name, "NotMerged")
    turned = '{"spec": {"defaultVariant": "on"}}'
    assert kubectl("patch", "featureflags", "edited", f"--namespace={HELD}", "--type=merge", f"--patch={turned}").returncode == 0
    refused = kubectl("delete", "featureflags", "edited", f"--namespace={HELD}")
    assert (refused.returncode, REFUSED in refused.stderr) == (1, True), refused.stderr
    allowed = kubectl("delete", "featureflags", "new", f"--namespace={HELD}")
    assert allowed.returncode == 0, allowed.stderr


def test_the_garbage_collector_takes_what_had_an_owner_and_nothing_gets_one(kubectl: Run, clean: KubeClient) -> None:
    assert kubectl("create", "configmap", "owner", f"--namespace={HELD}").returncode == 0
    uid = clean.call("GET", f"/api/v1/namespaces/{HELD}/configmaps/owner")["metadata"]["uid"]
    owned = {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]}
    refused = kubectl("create", "-f", "-", text=flag("child", **owned))
    assert (refused.returncode, "must have no owner" in refused.stderr) == (1, True), refused.stderr
    given = kubectl("patch", "featureflags", "probe", f"--namespace={HELD}", "--type=merge", f"--patch={json.dumps({'metadata': owned})}")
    assert (given.returncode, "must have no other owner" in given.stderr) == (1, True), given.stderr
    assert kubectl("label", "namespace", HELD, f"{LABEL}-").returncode == 0
    until(lambda: kubectl("create", "-f", "-", text=flag("child", **owned)).returncode == 0, WITHIN_S)
    assert kubectl("label", "namespace", HELD, f"{LABEL}=true").returncode == 0
    until(lambda: REFUSED in kubectl("delete", "featureflags", "child", f"--namespace={HELD}", "--dry-run=server").stderr, WITHIN_S)
    assert kubectl("delete", "configmap", "owner", f"--namespace={HELD}").returncode == 0
    until(partial(gone, clean, place(Key("FeatureFlag", HELD, "child"))), WITHIN_S)
