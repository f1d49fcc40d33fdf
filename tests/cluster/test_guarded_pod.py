"""On a real node: an application's pod gets its guard, answers through it with a receipt, cannot be reached past it, and drains."""

from __future__ import annotations

import base64
import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parent))
import images
import node_machine as machine
from admission_process import Admission, applied, manifests
from node_pods import Node, is_ready
from pods import app_pod, point_spec

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.model.faults import AlreadyExists, NotFound, Refused, Stalled, Waiting
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import parse_leaf

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
SYSTEM, NS, PODS = "knhk-system", "shop", "/api/v1/namespaces/shop/pods"
EXCHANGE_PORT, LOG_PORT = 28_443, 28_445
EXCHANGE, LOG = f"https://{machine.HOST}:{EXCHANGE_PORT}", f"https://{machine.HOST}:{LOG_PORT}"
WITHIN_S = 120.0
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


@dataclass
class World:
    """Operator, log and admission as processes of this machine; pods on the node."""

    node: Node
    folder: Path
    image: str
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client(self) -> KubeClient:
        return self.node.client

    def start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as out:
            self.running.append(subprocess.Popen([sys.executable, "-m", *argv], stdout=out, stderr=out))

    def start_operator(self) -> None:
        pods = ("--exchange", f"{machine.HOST}:{EXCHANGE_PORT}", "--log", LOG, "--namespace", SYSTEM)
        guard = ("--guard-image", self.image, "--guard-exchange", EXCHANGE, "--guard-log", LOG)
        kubeconfig = str(self.node.cluster.kubeconfig)
        self.start("operator", "knhk.handlers", "--home", str(self.folder / "home"), "--kubeconfig", kubeconfig, *pods, *guard)

    def start_log(self) -> None:
        secret = self.until(lambda: self.there(f"/api/v1/namespaces/{SYSTEM}/secrets/knhk-log-tls"))
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.folder / name).write_bytes(base64.b64decode(secret["data"][name]))
        key = self.folder / "home" / "keys" / "log.key"
        self.until(key.exists)
        files = (("tls-cert", "tls.crt"), ("tls-key", "tls.key"), ("client-ca", "ca.crt"))
        tls = [f"--{option}={self.folder / name}" for option, name in files]
        own = [f"--dir={self.folder / 'log'}", f"--socket={self.folder / 's.sock'}", "--origin=knhk.dev/local", f"--key={key}"]
        self.start("log", "knhk_runtime.sequencer", *own, f"--listen={machine.HOST}:{LOG_PORT}", *tls)

    def there(self, path: str) -> Any:
        try:
            return self.client.call("GET", path)
        except (NotFound, Waiting):
            return None

    def until(self, look: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + WITHIN_S
        while not (seen := look()):
            assert time.monotonic() < deadline_s, self.said()
            time.sleep(0.1)
        return seen

    def said(self) -> str:
        logs = [path.read_text(errors="replace")[-2500:] for path in sorted(self.folder.glob("*.log"))]
        containers = [self.logs(container) for container in ("knhk-agent", "knhk-envoy", "app")]
        return "\n".join([*logs, self.node.kubectl("-n", NS, "get", "pods", "-o", "wide"), *containers])

    def logs(self, container: str) -> str:
        with contextlib.suppress(AssertionError):
            return f"{container}: " + self.node.kubectl("-n", NS, "logs", "-l", "app=orders", "-c", container, "--tail=20")
        return ""

    def logged(self) -> set[str]:
        """Receipt ids of decisions in the log."""
        return {parse_leaf(entry).receipt_id.hex() for entry in log_entries(self.folder / "log") if entry[:1] == b"\x01"}

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)


def pod(image: str, name: str, address: str) -> dict[str, Any]:
    """The application listening on `address`."""
    found = app_pod(name)
    found["spec"]["containers"][0] |= {"image": image, "command": ["python3", "-c", APPLICATION, address]}
    del found["spec"]["containers"][0]["readinessProbe"]
    return found


@pytest.fixture(scope="module")
def image(node: Node) -> str:
    return node.push(images.build(images.IMAGES["knhk-agent"]).artifact, "knhk-agent:1")


@pytest.fixture(scope="module")
def world(node: Node, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guarded")
    found = World(node, folder, image)
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
        arguments = ("--image", image, "--exchange", EXCHANGE, "--log", LOG)
        (folder / "admission").mkdir()
        admission = Admission(folder / "admission", node.cluster.kubeconfig, *arguments)
        stack.callback(admission.end)
        stack.enter_context(applied(node.client, manifests(admission.url, image)))
        found.until(lambda: tried(node.client, pod(image, "orders", "127.0.0.1")))
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


def post(address: str, port: int = 8080, path: str = "/invoices") -> tuple[int, str]:
    """HTTP status and receipt. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("POST", path, b"{}", {"content-type": "application/json", "connection": "close"})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("knhk-receipt", "")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


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


def failed(found: dict[str, Any]) -> bool:
    rows = [row for row in found["status"].get("containerStatuses") or () if row["name"] == "app"]
    return any("terminated" in (row.get("lastState") or {}) or "terminated" in (row.get("state") or {}) for row in rows)


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
