"""On a real node: an application's pod gets its guard, answers through it with a receipt, cannot be reached past it, and drains."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parent))
from admission_process import Admission, applied, manifests
from guarded_world import EXCHANGE, LOG, SYSTEM, World, post
from node_pods import RESTRICTED, Node, has_ended, is_ready
from pods import app_pod, point_spec

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.model.faults import AlreadyExists, Refused, Stalled, Waiting

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
NS, PODS = "shop", "/api/v1/namespaces/shop/pods"
APPLICATION = """
import http.server, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.end_headers(); self.wfile.write(self.headers["knhk-receipt"].encode())
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer((sys.argv[1], 9000), Answer).serve_forever()
"""


def pod(image: str, name: str, address: str) -> dict[str, Any]:
    """The application listening on `address`."""
    found = app_pod(name)
    found["spec"]["containers"][0] |= {"image": image, "command": ["python3", "-c", APPLICATION, address]}
    del found["spec"]["containers"][0]["readinessProbe"]
    return found


CALLER = """
import json, socket, sys
for address, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((address, port), 10).close()
        print("open")
    except ConnectionRefusedError:
        print("refused")
"""


@pytest.fixture(scope="module")
def world(node: Node, guard_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    found = World(node, folder, guard_image, NS, "app=orders")
    with node.namespace(NS), contextlib.ExitStack() as stack:
        labels = {"knhk.dev/enforce": "true", "pod-security.kubernetes.io/enforce": "restricted"}
        node.kubectl("label", "namespace", NS, *(f"{name}={value}" for name, value in labels.items()))
        with contextlib.suppress(AlreadyExists):
            node.client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})
        found.start_operator()
        stack.callback(found.stop)
        found.start_log()
        document = {"apiVersion": "knhk.dev/v1alpha1", "kind": "EnforcementPoint", "metadata": {"name": "orders"}}
        node.client.call("POST", collection("EnforcementPoint", NS), body={**document, "spec": {**point_spec(), "baseline": "Admit"}})
        arguments = ("--image", guard_image, "--exchange", EXCHANGE, "--log", LOG)
        (folder / "admission").mkdir()
        admission = Admission(folder / "admission", node.cluster.kubeconfig, *arguments)
        stack.callback(admission.end)
        stack.enter_context(applied(node.client, manifests(admission.url, guard_image)))
        found.until(lambda: tried(node.client, pod(guard_image, "orders", "127.0.0.1")))
        yield found


def tried(client: KubeClient, document: dict[str, Any]) -> dict[str, Any]:
    """The pod, when it was made; an API server takes a moment to see new webhooks and their authority."""
    try:
        return client.call("POST", PODS, {"dryRun": "All"}, document)
    except (Refused, Stalled, Waiting):
        return {}


@pytest.fixture(scope="module")
def address(world: World) -> str:
    """IP of a guarded pod that is ready."""
    world.client.call("POST", PODS, body=pod(world.image, "orders", "127.0.0.1"))
    ready = world.until(lambda: (found := world.there(f"{PODS}/orders")) and is_ready(found) and found)
    return str(ready["status"]["podIP"])


def test_the_application_answers_through_its_guard_with_a_receipt(world: World, address: str) -> None:
    world.until(lambda: post(address)[0] == 200)  # the guard is ready before the application listens
    status, receipt = post(address)
    assert status == 200
    world.until(lambda: receipt in world.logged())
    assert post(address, path="/other")[0] == 403


def test_there_is_no_way_round(world: World, address: str) -> None:
    """Not by the application's own port at the pod's address; not by a pod whose application listens on all of them: it cannot."""
    with pytest.raises(ConnectionRefusedError):
        post(address, 9000)
    world.client.call("POST", PODS, body=pod(world.image, "wrong", "0.0.0.0"))
    wrong = world.until(lambda: (found := world.there(f"{PODS}/wrong")) and failed(found) and found)
    assert not is_ready(wrong)
    # It is started again and again: its last words are those of a run that has ended, or that has just begun.
    world.until(lambda: "Address already in use" in world.node.kubectl("-n", NS, "logs", "wrong", "-c", "app"))
    with pytest.raises(ConnectionRefusedError):
        post(wrong["status"]["podIP"], 9000)
    bare = app_pod("bare", {"app": "bare"})
    with pytest.raises((Refused, Stalled)):
        world.client.call("POST", PODS, body=bare)


def test_no_other_pod_gets_round(world: World, address: str) -> None:
    """Not by the application's port, not by a Service that leads there, not through the API server; only by the guard."""
    leads = {"selector": {"app": "orders"}, "ports": [{"port": 9000, "targetPort": 9000}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "round"}, "spec": leads}
    behind = world.client.call("POST", f"/api/v1/namespaces/{NS}/services", body=service)["spec"]["clusterIP"]
    ways = [(address, 8080), (address, 9000), (behind, 9000)]
    caller = {"name": "caller", "image": world.image, "command": ["python3", "-c", CALLER, json.dumps(ways)], "securityContext": RESTRICTED}
    with world.node.namespace("outside") as outside:
        spec = {"containers": [caller], "restartPolicy": "Never"}
        world.node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "caller", "namespace": outside}, "spec": spec})
        world.node.pod(outside, "caller", has_ended)
        assert world.node.kubectl("-n", outside, "logs", "caller").split() == ["open", "refused", "refused"]
    with pytest.raises(AssertionError, match="knhk-no-way-round"):
        world.node.kubectl("-n", NS, "port-forward", "pod/orders", ":9000")


def failed(found: dict[str, Any]) -> bool:
    """The application has ended and does not run: one that was started again is ready for as long as it takes to fail."""
    rows = [row for row in found["status"].get("containerStatuses") or () if row["name"] == "app"]
    states = [(row.get("state") or {}, row.get("lastState") or {}) for row in rows]
    return any("terminated" in now or ("waiting" in now and "terminated" in last) for now, last in states)


def test_the_point_tells_what_its_pods_lack(world: World, address: str) -> None:
    path = f"{collection('EnforcementPoint', NS)}/orders"
    found = world.until(lambda: (told := (world.there(path) or {}).get("status", {})).get("address") and told)
    assert found["address"] == f"pods.{NS}:8080"


def test_a_pod_that_is_deleted_drains_and_loses_no_receipt(world: World, address: str) -> None:
    """The last test: requests go on coming while it ends."""
    before = [post(address)[1] for _ in range(20)]
    world.client.call("DELETE", f"{PODS}/orders", {}, {"gracePeriodSeconds": 30})
    after: list[str] = []
    while (found := world.there(f"{PODS}/orders")) is not None:
        assert "deletionTimestamp" in found["metadata"]
        with contextlib.suppress(OSError):
            status, receipt = post(address)
            after += [receipt] if status == 200 else []
        time.sleep(0.02)
    assert after, "it was deleted, and answered while it drained"
    world.until(lambda: {*before, *after} <= world.logged())
