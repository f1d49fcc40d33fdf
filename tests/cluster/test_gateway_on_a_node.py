"""A gateway in pods of a real node: it judges what comes through its Service, is rolled out in waves, and survives a drain and a restart.

Until the last test the autoscaler decides nothing, for there is no metrics API: its minimum is kept, and what a person scales to. Then it
scales out and in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import http.server
import logging
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine
from guarded_world import BODY, SYSTEM, Load, World, document, pack, post
from metrics_process import CannotBuild, MetricsServer
from node_pods import Node

from knhk.adapters.certificate_files import CertificateFiles, ClientFiles
from knhk.adapters.placement_kube import PATHS, child_name
from knhk.adapters.placement_objects import ALLOWED
from knhk.adapters.point_client import PointClient
from knhk.model.faults import AlreadyExists, Waiting

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
NS, POINT, CHILD = "gate", "orders", child_name("orders")
PODS, PORT = f"/api/v1/namespaces/{NS}/pods", 8080
JUDGE, OBJECTS = "workloads", "/apps/deployments/CREATE/shop"
AT_ONCE = {"cpuPercent": 180, "scaleInAfterSeconds": 0}


def point(upstream_port: int, **scaling: int) -> dict[str, Any]:
    spec = {
        "mode": "Gateway",
        "listen": {"port": PORT},
        "upstream": {"host": machine.HOST, "port": upstream_port},
        "match": [{"name": "submit", "method": "POST", "path": "/invoices", "action": "submit"}],
        "baseline": "Admit",
        "gateway": {"minReplicas": 1, "maxReplicas": 2, **scaling},
    }
    return document("EnforcementPoint", NS, POINT, spec)


class Application(http.server.ThreadingHTTPServer):
    """Behind the gateway, on this machine: remembers the receipt of each request that it answered."""

    daemon_threads = True
    request_queue_size = 128  # with five, connections of two Envoys at once are not taken in time

    def __init__(self) -> None:
        super().__init__((machine.HOST, 0), _Answer)
        self.answered: set[str] = set()


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Application

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.answered.add(self.headers["knhk-receipt"])
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Gateway(World):
    """The point `orders` of mode Gateway, and its pods."""

    address: str = ""

    def child(self, kind: str) -> dict[str, Any]:
        base, plural = PATHS[kind]
        found: dict[str, Any] = self.there(f"{base}/namespaces/{NS}/{plural}/{CHILD}") or {}
        return found

    def evict(self, pod: str) -> bool:
        """As `kubectl drain` does; False when the budget does not allow it."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NS}}
        try:
            self.client.call("POST", f"{PODS}/{pod}/eviction", body=body)
        except Waiting:
            return False
        return True

    def said(self) -> str:
        return f"{super().said()}\n{self.node.kubectl('-n', NS, 'describe', 'hpa')}"

    def sizes(self) -> set[str]:
        """What the autoscaler says that it did, and why."""
        rows = self.client.call("GET", f"/api/v1/namespaces/{NS}/events", {"fieldSelector": "reason=SuccessfulRescale"})["items"]
        return {row["message"] for row in rows if row["involvedObject"]["kind"] == "HorizontalPodAutoscaler"}


@pytest.fixture(scope="module")
def application(node: Node) -> Iterator[Application]:
    server = Application()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gateway(node: Node, guard_image: str, application: Application, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """1.0.0 is live in one pod."""
    folder = tmp_path_factory.mktemp("gateway")
    found = Gateway(node, folder, guard_image, NS, f"knhk.dev/point={POINT}", packs=f"{node.cluster.registry}/gate/packs")
    with node.namespace(NS), contextlib.ExitStack() as stack:
        node.kubectl("label", "namespace", NS, "knhk.dev/enforce=true", "knhk.dev/unguarded=allow")  # its pods are looked into
        with contextlib.suppress(AlreadyExists):
            node.client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        found.start_operator()
        stack.callback(found.stop)
        found.start_log()
        node.apply(point(application.server_port), pack(NS, POINT, "1.0.0", {"weight": 100, "minPairs": 20}))
        found.until(lambda: found.ready(1))
        found.address = found.until(lambda: found.child("Service").get("spec", {}).get("clusterIP"))
        with Load(found.address).coming():
            found.until(lambda: found.revision().get("phase") == "Live")
        yield found


def test_what_comes_through_the_service_is_judged_and_leaves_a_receipt(gateway: Gateway, application: Application) -> None:
    status, receipt = post(gateway.address, PORT, body=BODY)
    assert (status, receipt in application.answered) == (200, True)
    gateway.until(lambda: receipt in gateway.logged())
    assert post(gateway.address, PORT, body=b"{}")[0] == 403
    kinds = {kind for kind in PATHS if gateway.child(kind)}
    assert kinds == set(PATHS)
    assert gateway.child("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 1


def judge() -> dict[str, Any]:
    spec = {
        "mode": "Gateway",
        "listen": {"port": PORT},
        "admission": {
            "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"]}],
            "namespaceSelector": {"matchLabels": {"environment": "nowhere"}},
        },
        "match": [{"name": "deployments", "method": "POST", "path": "/apps/deployments/{operation}/{namespace}", "action": "deploy"}],
        "baseline": "Admit",
        "gateway": {"minReplicas": 1, "maxReplicas": 1},
    }
    return document("EnforcementPoint", NS, JUDGE, spec)


def test_a_point_that_judges_objects_answers_admission_and_nobody_else(gateway: Gateway, tmp_path: Path) -> None:
    """In a pod: its certificate is of the exchange, and what admission shows of the operator's making."""
    node, path = gateway.node, f"/api/v1/namespaces/{NS}/services/{child_name(JUDGE)}"
    node.kubectl("label", "namespace", NS, f"{ALLOWED}=allow")
    node.apply(judge())
    try:
        secret = gateway.until(lambda: gateway.there(f"/api/v1/namespaces/{SYSTEM}/secrets/knhk-admission-client"))
        files = CertificateFiles(*(tmp_path / name for name in ("tls.crt", "tls.key", "ca.crt")))
        for file in ("tls.crt", "tls.key", "ca.crt"):
            (tmp_path / file).write_bytes(base64.b64decode(secret["data"][file]))
        shows = ClientFiles(files, logging.getLogger())
        shows.look()
        service = gateway.until(lambda: gateway.there(path))["spec"]
        assert service["ports"][0]["name"] == "https"
        address = f"{service['clusterIP']}:{PORT}"
        receipt = gateway.until(lambda: asked(address, shows))
        gateway.until(lambda: receipt in gateway.logged())
        stranger = ssl.create_default_context(cafile=str(files.authority))
        assert not asked(address, lambda: stranger)
        with pytest.raises((OSError, http.client.HTTPException)):
            post(service["clusterIP"], PORT, path=OBJECTS, body=b"{}")
    finally:
        node.kubectl("delete", "enforcementpoint", "-n", NS, JUDGE)
        gateway.until(lambda: gateway.there(path) is None)


def asked(address: str, shows: Callable[[], ssl.SSLContext]) -> str:
    """The receipt of a question that was admitted; "" while there is no answer."""

    async def told() -> str:
        client = PointClient(lambda *_: address, shows)
        try:
            answer = await client.ask(NS, JUDGE, OBJECTS, b"{}")
            return answer.receipt if answer.status == 200 else ""
        except Waiting:
            return ""
        finally:
            await client.aclose()

    return asyncio.run(told())


def test_a_rollout_in_waves_outlives_a_drain(gateway: Gateway, application: Application) -> None:
    """Scaled to two by hand. The new version is in one of them; that one is evicted from a cordoned node under load, the other one may
    not be; the step goes on in the pods that are left, to the end."""
    gateway.node.kubectl("-n", NS, "scale", f"deployment/{CHILD}", "--replicas=2")
    gateway.until(lambda: gateway.ready(2) and gateway.instances().get("live") == 2)
    held = pack(NS, POINT, "1.1.0", {"weight": 100, "minPairs": 1_000_000, "wave": 50}, {"weight": 100, "minPairs": 20})
    (nodes,) = gateway.client.call("GET", "/api/v1/nodes")["items"]
    name = nodes["metadata"]["name"]
    with Load(gateway.address).coming() as load:
        gateway.node.apply(held)
        gateway.until(lambda: gateway.revision().get("arm") == "Canary" and gateway.instances().get("wave") == 1)
        (inside,) = gateway.in_wave()
        addresses = {pod: row["status"]["podIP"] for pod, row in gateway.pods().items()}
        receipts = {pod: post(address, PORT, body=BODY)[1] for pod, address in addresses.items()}
        gateway.until(lambda: {*receipts.values()} <= gateway.logged())
        assert {pod: gateway.arms(receipt) for pod, receipt in receipts.items()} == {pod: 1 + (pod == inside) for pod in addresses}
        before = gateway.revision()
        gateway.until(lambda: gateway.child("PodDisruptionBudget")["status"]["disruptionsAllowed"] == 1)
        gateway.node.kubectl("cordon", name)
        try:
            (other,) = set(addresses) - {inside}
            assert gateway.evict(inside)
            assert not gateway.evict(other)
            until_gone = [post(addresses[inside], PORT, body=BODY)[1]]
            with contextlib.suppress(OSError):
                while gateway.there(f"{PODS}/{inside}") is not None:
                    until_gone.append(post(addresses[inside], PORT, body=BODY)[1])
            gateway.until(lambda: gateway.there(f"{PODS}/{inside}") is None)
            assert {*until_gone} <= gateway.logged(), "a drained pod delivers its ring and outbox before it goes"
        finally:
            gateway.node.kubectl("uncordon", name)
        gateway.until(lambda: gateway.ready(2) and gateway.instances().get("live") == 2 and gateway.instances().get("wave", 0) >= 1)
        after = gateway.revision()
        kept = ("version", "phase", "arm", "step", "weight", "phaseSince", "digest")
        assert {field: after[field] for field in kept} == {field: before[field] for field in kept}
        gateway.node.apply(pack(NS, POINT, "1.1.0", {"weight": 100, "minPairs": 20, "wave": 50}, {"weight": 100, "minPairs": 20}))
        gateway.until(lambda: gateway.revision().get("phase") == "Live")
    _accounted_for(gateway, application, load)
    assert gateway.get("PolicyPack")["status"]["live"]["version"] == "1.1.0"


def test_a_restart_under_load_loses_no_request(gateway: Gateway, application: Application) -> None:
    before = set(gateway.pods())
    with Load(gateway.address).coming() as load:
        gateway.node.kubectl("-n", NS, "rollout", "restart", f"deployment/{CHILD}")
        gateway.until(lambda: gateway.ready(2) and not before & set(gateway.pods()))
        gateway.until(lambda: not any(gateway.there(f"{PODS}/{name}") for name in before))
        time_of_the_last = len(load.admitted)
        gateway.until(lambda: len(load.admitted) > time_of_the_last)
    _accounted_for(gateway, application, load)


@pytest.fixture
def metrics(node: Node, tmp_path: Path) -> Iterator[MetricsServer]:
    try:
        found = MetricsServer(node, tmp_path / "metrics-server")
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    yield found
    found.end()


def test_the_autoscaler_makes_fewer_pods_of_idle_ones_and_more_under_load(
    gateway: Gateway, application: Application, metrics: MetricsServer
) -> None:
    """By the CPU that the kubelet measures. What pods judged that came and went meanwhile is in the log, and counts for the rollout."""
    held = pack(NS, POINT, "1.2.0", {"weight": 100, "minPairs": 20}, shadow=1_000_000)
    gateway.node.apply(point(application.server_port, **AT_ONCE), held)
    gateway.node.kubectl("-n", NS, "scale", f"deployment/{CHILD}", "--replicas=2")
    gateway.until(lambda: gateway.ready(2) and gateway.revision().get("arm") == "Shadow" and heard(gateway) == (2, 2, 0))
    with metrics.served():
        gateway.until(lambda: gateway.ready(1) and heard(gateway) == (1, 1, 0))
        (first,) = gateway.pods()
        with Load(gateway.address, callers=12).coming() as load:
            gateway.until(lambda: gateway.ready(2) and heard(gateway) == (2, 2, 0))
            (added,) = set(gateway.pods()) - {first}
            _, receipt = post(gateway.pods()[added]["status"]["podIP"], PORT, body=BODY)
            gateway.until(lambda: gateway.arms(receipt) == 2)
        gateway.until(lambda: gateway.ready(1) and heard(gateway) == (1, 1, 0))
    assert gateway.sizes() == {
        "New size: 2; reason: cpu resource utilization (percentage of request) above target",
        "New size: 1; reason: All metrics below target",
    }
    _accounted_for(gateway, application, load)
    digest = gateway.revision()["digest"]
    gateway.until(lambda: gateway.revision()["pairs"] == gateway.judged(digest))


def heard(gateway: Gateway) -> tuple[int, ...]:
    """Pods that live, have what is wanted, and say nothing."""
    return tuple(gateway.instances().get(name, -1) for name in ("live", "current", "silent"))


def _accounted_for(gateway: Gateway, application: Application, load: Load) -> None:
    """No request got another answer than the application's; each of these has its receipt in the log."""
    assert (load.others, load.lost) == ([], [])
    assert load.admitted
    assert {*load.admitted} <= application.answered
    gateway.until(lambda: application.answered <= gateway.logged())
