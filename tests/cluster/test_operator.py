"""The operator's process on the real API server: what kubectl applies is built, and its status, receipts and events say so."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from operator_process import EXAMPLES, PACK, WITHIN_S, Operator, events, phase, rests, seen, until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]


def test_a_pack_that_kubectl_applies_is_built_and_signed(clean: KubeClient, operator: Operator, kubectl: Callable[..., str]) -> None:
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
    pack = seen(clean, operator, place(PACK), lambda found: phase(found) == "Signed")
    conditions = {row["type"]: row for row in pack["status"]["conditions"]}
    assert set(conditions) == {"Ready", "Reconciling"}
    assert (conditions["Ready"]["status"], conditions["Ready"]["observedGeneration"]) == ("Unknown", pack["metadata"]["generation"])
    assert pack["status"]["revision"]["digest"].startswith("sha256:")
    receipts = seen(clean, operator, collection("Receipt", "erp"), lambda found: events(found) >= {"Compiled", "Built", "Signed"})
    assert all(row["spec"]["proof"] and row["spec"]["checkpoint"] for row in receipts["items"])
    pack = seen(clean, operator, place(PACK), lambda found: "pending" not in found["status"] and not found["metadata"].get("finalizers"))
    assert "kopf" not in json.dumps(pack["metadata"])


def test_a_bundle_becomes_ready_and_kubectl_wait_sees_it(clean: KubeClient, operator: Operator, kubectl: Callable[..., str]) -> None:
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"))
    kubectl("wait", "--for=condition=Ready", "databundles", "--all", f"--timeout={WITHIN_S:.0f}s")
    assert "True" in kubectl("get", "databundles")


def test_schemas_hooks_and_flags_become_ready_and_kubectl_wait_sees_it(
    clean: KubeClient, operator: Operator, kubectl: Callable[..., str]
) -> None:
    examples = Path(__file__).parents[2] / "manifests" / "examples"
    files = (examples / name for name in ("invoice-schema.yaml", "finance-hooks.yaml", "invoice-canary.yaml", "invoice-controls.yaml"))
    kubectl("apply", *(word for file in files for word in ("-f", str(file))))
    kubectl("wait", "--for=condition=Ready", "schemaversions,hookregistries,featureflags", "--all", f"--timeout={WITHIN_S:.0f}s")
    assert "Compatible" in kubectl("get", "schema")
    kubectl("annotate", "schema", "invoice-1-1", "knhk.dev/requestedAt=now")
    path = place(Key("SchemaVersion", "erp", "invoice-1-1"))
    seen(clean, operator, path, lambda found: found["status"].get("lastHandledRequestedAt") == "now")


def test_a_faulty_pack_is_stalled_with_all_its_faults_and_mending_it_goes_on(
    clean: KubeClient, operator: Operator, kubectl: Callable[..., str]
) -> None:
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "faulty" / "pack.yaml"))
    (row,) = clean.call("GET", collection("PolicyPack", "erp"))["items"]
    path = f"{collection('PolicyPack', 'erp')}/{row['metadata']['name']}"
    pack = seen(clean, operator, path, lambda found: phase(found) == "Stalled" and "pending" not in found["status"])
    assert len(pack["status"]["faults"]) > 1
    assert all("must" in fault["must"] for fault in pack["status"]["faults"])
    assert {row["type"]: row["status"] for row in pack["status"]["conditions"]} == {"Ready": "False", "Stalled": "True"}
    kubectl("replace", "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
    mended = seen(clean, operator, path, lambda found: phase(found) == "Signed")
    assert "faults" not in mended["status"]


def test_a_point_runs_until_it_is_deleted(clean: KubeClient, operator: Operator, kubectl: Callable[..., str]) -> None:
    kubectl("apply", "-f", str(EXAMPLES / "orders.yaml"))
    kubectl("wait", "--for=condition=Ready", "enforcementpoint/orders", f"--timeout={WITHIN_S:.0f}s")
    host, _, port = clean.call("GET", place(Key("EnforcementPoint", "erp", "orders")))["status"]["address"].rpartition(":")
    until(lambda: listens(host, int(port)), operator)
    kubectl("delete", "enforcementpoint", "orders")
    until(lambda: not listens(host, int(port)), operator)


def test_what_does_not_change_is_looked_at_without_a_request(clean: KubeClient, operator: Operator, kubectl: Callable[..., str]) -> None:
    """A signed pack that waits for its point is looked at every second. Health and metrics say how it fares."""
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
    told = seen(clean, operator, place(PACK), rests)
    before, looked = operator.counted("rest_client_requests_total"), operator.counted("controller_runtime_reconcile_total")
    until(lambda: operator.counted("controller_runtime_reconcile_total") >= looked + 3, operator)
    assert (operator.counted("rest_client_requests_total"), before > 0) == (before, True)
    assert clean.call("GET", place(PACK))["metadata"]["resourceVersion"] == told["metadata"]["resourceVersion"]
    assert [operator.get(path) for path in ("healthz", "readyz")] == [(200, "ok\n")] * 2
    assert operator.get("elsewhere")[0] == 404
    names = ("workqueue_adds_total", "knhk_builds_total", "knhk_policy_events_total", "process_resident_memory_bytes")
    assert all(operator.counted(name) > 0 for name in names)


def test_an_operator_whose_credentials_are_refused_fails(cluster: Cluster, client: KubeClient, tmp_path: Path) -> None:
    """It must not go on blind."""
    found = json.loads(cluster.kubeconfig.read_text())
    found["users"][0]["user"] = {"token": "nobody"}
    (tmp_path / "nobody").write_text(json.dumps(found))
    operator = Operator(tmp_path / "home", tmp_path / "nobody")
    assert operator.process.wait(WITHIN_S) == 1
    assert "Unauthorized" in operator.said() or "refused the credentials of this process" in operator.said()


def listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.failure("API server", "rollout")
def test_a_build_outlives_the_death_of_the_api_server(
    clean: KubeClient, operator: Operator, kubectl: Callable[..., str], cluster: Cluster
) -> None:
    """The operator waits for it, and goes on where it was; nothing is told twice."""
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
    seen(clean, operator, place(PACK), lambda found: phase(found) == "Pending")
    os.kill(cluster.pid("kube-apiserver"), signal.SIGKILL)
    seen(clean, operator, place(PACK), lambda found: phase(found) == "Signed")
    receipts = seen(clean, operator, collection("Receipt", "erp"), lambda found: events(found) >= {"Compiled", "Built", "Signed"})
    assert len(receipts["items"]) == len(events(receipts))


@pytest.mark.failure("operator", "rollout")
def test_an_operator_that_is_killed_while_it_builds_goes_on_where_it_was(
    clean: KubeClient, operator: Operator, kubectl: Callable[..., str]
) -> None:
    """On a cluster: nothing is told twice, and the next operator finishes."""
    kubectl("apply", "-f", str(EXAMPLES / "finance-roles.yaml"), "-f", str(EXAMPLES / "1.0.0" / "pack.yaml"))
    seen(clean, operator, place(PACK), lambda found: phase(found) == "Pending")
    operator.end(signal.SIGKILL)
    operator.start()
    seen(clean, operator, place(PACK), lambda found: phase(found) == "Signed")
    receipts = seen(clean, operator, collection("Receipt", "erp"), lambda found: events(found) >= {"Compiled", "Built", "Signed"})
    assert len(receipts["items"]) == len(events(receipts))
