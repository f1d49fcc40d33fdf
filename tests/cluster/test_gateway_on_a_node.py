"""A gateway in pods of a real node: it judges what comes through its Service, is rolled out in waves, and survives a drain and a restart.

The autoscaler decides nothing here: the node has no metrics API. Its minimum is kept, and what a person scales to.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine
from guarded_world import SYSTEM, World, post
from node_pods import Node, is_ready

from knhk.adapters.kube_documents import collection
from knhk.adapters.placement_kube import PATHS, child_name
from knhk.model.faults import AlreadyExists, Waiting

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
NS, POINT, CHILD = "gate", "orders", child_name("orders")
PODS, PORT, CALLERS = f"/api/v1/namespaces/{NS}/pods", 8080, 3
BODY = b'{"total": 7}'
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix ex: <https://example.com/ns#> .
ex:S a sh:NodeShape ; sh:targetClass ex:Order ;
  sh:property [ sh:path ex:total ; sh:minCount 1 ; sh:message "an order needs a total" ] .
"""
MAPPING = """prefixes: {ex: "https://example.com/ns#"}
unknownMembers: Allow
maps: [{id: order, iterator: $, subject: {blank: true}, class: ex:Order, properties: {ex:total: $.total}}]
"""


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "knhk.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NS}, "spec": spec}


def pack(version: str, *steps: dict[str, int]) -> dict[str, Any]:
    spec = {
        "version": version,
        "sources": [
            {"name": "shapes", "kind": "shapes", "inline": SHAPES},
            {"name": "body", "kind": "mapping", "inline": MAPPING},
        ],
        "routes": [{"name": "submit", "mapping": "body"}],
        "targets": [{"point": POINT}],
        "rollout": {"shadow": {"minPairs": 20}, "steps": list(steps)},
    }
    return document("PolicyPack", POINT, spec)


class Application(http.server.ThreadingHTTPServer):
    """Behind the gateway, on this machine: remembers the receipt of each request that it answered."""

    daemon_threads = True

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
class Load:
    """Callers of the Service, each request by a connection of its own. `lost`: requests that got no answer, and why."""

    address: str
    admitted: list[str] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def coming(self) -> Iterator[Load]:
        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(self._call) for _ in range(CALLERS)]
            try:
                yield self
            finally:
                self._stop.set()
        for call in running:
            call.result()

    def _call(self) -> None:
        while not self._stop.wait(0.02):
            try:
                status, receipt = post(self.address, PORT, body=BODY)
            except OSError as error:
                self.lost.append(str(error))
                continue
            if status == 200:
                self.admitted.append(receipt)
            else:
                self.others.append(status)


@dataclass
class Gateway(World):
    """The point `orders` of mode Gateway, and its pods."""

    address: str = ""

    def get(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = self.there(f"{collection(kind, NS)}/{POINT}") or {}
        return found

    def revision(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("PolicyPack").get("status", {}).get("revision", {})
        return found

    def instances(self) -> dict[str, int]:
        found: dict[str, int] = self.get("EnforcementPoint").get("status", {}).get("instances", {})
        return found

    def child(self, kind: str) -> dict[str, Any]:
        base, plural = PATHS[kind]
        found: dict[str, Any] = self.there(f"{base}/namespaces/{NS}/{plural}/{CHILD}") or {}
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """Those that are not on their way out."""
        rows = self.client.call("GET", PODS, {"labelSelector": self.selector})["items"]
        return {row["metadata"]["name"]: row for row in rows if "deletionTimestamp" not in row["metadata"]}

    def ready(self, many: int) -> bool:
        found = self.pods().values()
        return len(found) == many and all(map(is_ready, found))

    def told(self, pod: str) -> dict[str, Any]:
        """The statistics of a pod's agent."""
        show = "print(open('/var/lib/knhk/point/stats.json').read())"
        found: dict[str, Any] = json.loads(self.node.kubectl("-n", NS, "exec", pod, "-c", "knhk-agent", "--", "python3", "-c", show))
        return found

    def in_wave(self) -> list[str]:
        return [name for name in self.pods() if self.told(name)["inWave"]]

    def evict(self, pod: str) -> bool:
        """As `kubectl drain` does; False when the budget does not allow it."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NS}}
        try:
            self.client.call("POST", f"{PODS}/{pod}/eviction", body=body)
        except Waiting:
            return False
        return True

    def arms(self, receipt: str) -> int:
        """Leaves of one request."""
        return sum(leaf.receipt_id.hex() == receipt for leaf in self.leaves())


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
    found = Gateway(node, folder, guard_image, NS, f"knhk.dev/point={POINT}", f"{node.cluster.registry}/gate/packs")
    with node.namespace(NS), contextlib.ExitStack() as stack:
        node.kubectl("label", "namespace", NS, "knhk.dev/enforce=true", "knhk.dev/unguarded=allow")  # its pods are looked into
        with contextlib.suppress(AlreadyExists):
            node.client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        found.start_operator()
        stack.callback(found.stop)
        found.start_log()
        spec = {
            "mode": "Gateway",
            "listen": {"port": PORT},
            "upstream": {"host": machine.HOST, "port": application.server_port},
            "match": [{"name": "submit", "method": "POST", "path": "/invoices", "action": "submit"}],
            "baseline": "Admit",
            "gateway": {"minReplicas": 1, "maxReplicas": 2},
        }
        node.apply(document("EnforcementPoint", POINT, spec), pack("1.0.0", {"weight": 100, "minPairs": 20}))
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


def test_a_rollout_in_waves_outlives_a_drain(gateway: Gateway, application: Application) -> None:
    """Scaled to two by hand. The new version is in one of them; that one is evicted from a cordoned node under load, the other one may
    not be; the step goes on in the pods that are left, to the end."""
    gateway.node.kubectl("-n", NS, "scale", f"deployment/{CHILD}", "--replicas=2")
    gateway.until(lambda: gateway.ready(2) and gateway.instances().get("live") == 2)
    held = pack("1.1.0", {"weight": 100, "minPairs": 1_000_000, "wave": 50}, {"weight": 100, "minPairs": 20})
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
        gateway.node.apply(pack("1.1.0", {"weight": 100, "minPairs": 20, "wave": 50}, {"weight": 100, "minPairs": 20}))
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


def _accounted_for(gateway: Gateway, application: Application, load: Load) -> None:
    """No request got another answer than the application's; each of these has its receipt in the log."""
    assert (load.others, load.lost) == ([], [])
    assert load.admitted
    assert {*load.admitted} <= application.answered
    gateway.until(lambda: application.answered <= gateway.logged())
