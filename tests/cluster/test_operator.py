"""The operator's process on the real API server: what kubectl applies is built, and its status, receipts and events say so."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.model.faults import NotFound, Waiting
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster

from loopback_ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[2] / "examples" / "packs" / "invoice-controls"
WITHIN_S = 240.0
PACK = Key("PolicyPack", "erp", "invoice-controls")


class Operator:
    """The process, as its Deployment will start it."""

    def __init__(self, home: Path, kubeconfig: Path, *more: str) -> None:
        self.home = home
        self._health = f"127.0.0.1:{free_port()}"
        options = ["--home", str(home), "--kubeconfig", str(kubeconfig), "--health", self._health, *more]
        self._command = [sys.executable, "-m", "knhk.handlers", *options]
        self._log = home.parent / "operator.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=out)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self._health}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def counted(self, metric: str) -> float:
        """The sum over all labels of a metric."""
        rows = [line for line in self.get("metrics")[1].splitlines() if re.match(rf"{metric}[{{ ]", line)]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@pytest.fixture
def operator(clean: KubeClient, cluster: Cluster, tmp_path: Path) -> Iterator[Operator]:
    found = Operator(tmp_path / "home", cluster.kubeconfig)
    yield found
    if found.process.poll() is None:
        assert found.end(signal.SIGTERM) == 0, found.said()


@pytest.fixture
def kubectl(cluster: Cluster, servers: dict[str, Path]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", "--namespace=erp", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def seen(client: KubeClient, operator: Operator, path: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The document at `path`, as soon as it is so."""
    deadline_s = time.monotonic() + WITHIN_S
    document: dict[str, Any] = {}
    while time.monotonic() < deadline_s:
        assert operator.process.poll() is None, operator.said()
        try:
            document = client.call("GET", path)
            if holds(document):
                return document
        except (NotFound, Waiting):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{path} is not so: {json.dumps(document.get('status', document))[:2000]}\n{operator.said()}")


def phase(document: dict[str, Any]) -> str:
    return str(document.get("status", {}).get("revision", {}).get("phase", ""))


def events(receipts: dict[str, Any]) -> set[str]:
    return {row["spec"]["event"] for row in receipts["items"]}


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


def rests(found: dict[str, Any]) -> bool:
    """Signed, and nothing is owed any more."""
    return phase(found) == "Signed" and "pending" not in found["status"] and not found["metadata"].get("finalizers")


def until(holds: Callable[[], bool], operator: Operator) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, operator.said()
        time.sleep(0.1)


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
