"""Points in pods on the real API server: who may ask the exchange, and a pack that is rolled out over two pods, one of which dies."""

from __future__ import annotations

import base64
import contextlib
import http.client
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "system"))
sys.path.insert(2, str(Path(__file__).parents[2] / "examples" / "order_to_cash"))
sys.path.insert(3, str(Path(__file__).parents[1]))
from control_plane import Cluster
from guarded_pods import GuardedPod, end_pod, enforce, make_pod, there, token_of
from system_world import PACKS, PAYLOADS, Application, fast_pack

from identity import AUDIENCE, ISSUER, IdentityProvider
from knhk.adapters.callers_kube import BELIEVED_S, KubeAuthenticator
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, place
from knhk.adapters.shelf_kube import KubeShelf
from knhk.adapters.system import SystemClock
from knhk.model.faults import AlreadyExists, Conflict
from knhk.model.resource import Key
from knhk.ports.caller import ENFORCE_LABEL, UNGUARDED_LABEL, Denied
from loopback_ports import free_port
from traffic import Mix

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
NAMESPACE = "knhk-system"
WITHIN_S = 240.0
PACK, POINT = Key("PolicyPack", "erp", "invoice-controls"), Key("EnforcementPoint", "erp", "orders")
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def until(look: Callable[[], Any], said: Callable[[], str], within_s: float = WITHIN_S) -> Any:
    deadline_s = time.monotonic() + within_s
    while not (seen := look()):
        assert time.monotonic() < deadline_s, f"it did not come; {said()}"
        time.sleep(0.1)
    return seen


@dataclass
class Hasty:
    """The clock of this machine, and so much more."""

    ahead: timedelta = timedelta()

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + int(self.ahead.total_seconds() * 1e9)

    def sleep(self, duration_s: float) -> None:
        self.ahead += timedelta(seconds=duration_s)


# ---- who may ask ------------------------------------------------------------------------------------


def test_a_token_speaks_for_the_pod_that_it_is_bound_to(ours: KubeClient) -> None:
    uid = make_pod(ours, "one")
    caller = KubeAuthenticator(ours, SystemClock()).caller(token_of(ours, "one", uid))
    assert (caller.point, caller.pod, caller.uid) == ("erp/orders", "one", uid)
    assert caller.uri == "spiffe://knhk.dev/ns/erp/point/orders/pod/one"


def test_what_is_not_bound_to_a_pod_of_a_point_is_denied(ours: KubeClient) -> None:
    one, plain = make_pod(ours, "one"), make_pod(ours, "plain", point=None)
    denied = {
        "no token": "",
        "no token either": "abc",
        "a forged one": token_of(ours, "one", one)[:-8] + "AAAAAAAA",
        "another audience": token_of(ours, "one", one, "https://kubernetes.default.svc.cluster.local"),
        "no pod": token_of(ours, None),
        "a pod without a point": token_of(ours, "plain", plain),
    }
    for who, token in denied.items():
        with pytest.raises(Denied):
            print(who, KubeAuthenticator(ours, SystemClock()).caller(token))


def test_where_anybody_may_label_a_pod_no_pod_speaks_for_a_point(ours: KubeClient) -> None:
    """Injection is admission's in namespaces that ask for it; elsewhere, and for pods that are let out, a label says nothing."""
    token, out = token_of(ours, "one", make_pod(ours, "one")), make_pod(ours, "out", labels={UNGUARDED_LABEL: "true"})
    with pytest.raises(Denied, match=f"must not have label {UNGUARDED_LABEL}"):
        KubeAuthenticator(ours, SystemClock()).caller(token_of(ours, "out", out))
    enforce(ours, None)
    try:
        with pytest.raises(Denied, match=f"must have label {ENFORCE_LABEL}"):
            KubeAuthenticator(ours, SystemClock()).caller(token)
    finally:
        enforce(ours, "true")
    assert KubeAuthenticator(ours, SystemClock()).caller(token).pod == "one"


def test_a_pod_that_is_gone_is_denied_even_when_another_has_its_name(ours: KubeClient) -> None:
    clock = Hasty()
    authenticator, token = KubeAuthenticator(ours, clock), token_of(ours, "one", make_pod(ours, "one"))
    authenticator.caller(token)
    end_pod(ours, "one")
    make_pod(ours, "one")
    clock.sleep(BELIEVED_S + 1)
    with pytest.raises(Denied):
        authenticator.caller(token)


def test_pods_of_a_point_are_those_that_run(ours: KubeClient) -> None:
    one = make_pod(ours, "one")
    starting, ended = make_pod(ours, "starting", phase="Pending"), make_pod(ours, "ended", phase="Succeeded")
    make_pod(ours, "other", point="invoices")
    authenticator = KubeAuthenticator(ours, SystemClock())
    assert authenticator.pods("erp/orders") == {one: "one"}
    assert authenticator.there("erp/orders") == {one, starting, ended}


def test_what_is_published_outlives_the_operator_and_a_second_writer_is_told(ours: KubeClient) -> None:
    first = KubeShelf(ours, NAMESPACE)
    assert first.files("erp/orders") == {}
    first.put("erp/orders", "rollout.json", b"\x00one")
    second = KubeShelf(ours, NAMESPACE)
    assert second.files("erp/orders") == {"rollout.json": b"\x00one"}
    second.put("erp/orders", "rollout.json", b"two")
    with pytest.raises(Conflict):
        first.put("erp/orders", "rollout.json", b"three")
    assert first.files("erp/orders") == {"rollout.json": b"two"}


# ---- two pods ---------------------------------------------------------------------------------------


@dataclass
class World:
    """An operator, a log and an application as processes; pods as the test makes them."""

    client: KubeClient
    folder: Path
    app: Application
    provider: IdentityProvider
    ports: tuple[int, int, int]  # exchange, log, point
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pods: list[GuardedPod] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def said(self) -> str:
        logs = [
            path.read_text(errors="replace")[-3000:] for path in (self.folder / "operator.log", self.folder / "log.log") if path.exists()
        ]
        return "\n".join([*logs, *(pod.said() for pod in self.pods)])

    def start(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as out:
            self.running.append(subprocess.Popen([sys.executable, "-m", *argv], stdout=out, stderr=out))
        return self.running[-1]

    @property
    def log_key(self) -> Path:
        return self.home / "keys" / "log.key"

    def start_operator(self, cluster: Cluster, *more: str) -> subprocess.Popen[bytes]:
        exchange, log, _ = self.ports
        options = ("--exchange", f"127.0.0.1:{exchange}", "--log", f"https://127.0.0.1:{log}", "--namespace", NAMESPACE)
        guard = ("--guard-image", "registry.test/knhk-agent")
        own = ("--home", str(self.home), "--kubeconfig", str(cluster.kubeconfig))
        return self.start("operator", "knhk.handlers", *own, *options, *guard, *more)

    def start_log(self) -> None:
        """As its pod will: with the certificate that the operator keeps for it, and the key of the log."""
        secret = self.until(lambda: there(self.client, f"{SECRETS}/knhk-log-tls"))
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.folder / name).write_bytes(base64.b64decode(secret["data"][name]))
        self.until(self.log_key.exists)
        tls = [
            f"--{option}={self.folder / name}"
            for option, name in (("tls-cert", "tls.crt"), ("tls-key", "tls.key"), ("client-ca", "ca.crt"))
        ]
        own = [f"--dir={self.folder / 'log'}", f"--socket={self.folder / 's.sock'}", "--origin=knhk.dev/local", f"--key={self.log_key}"]
        self.start("log", "knhk_runtime.sequencer", *own, f"--listen=127.0.0.1:{self.ports[1]}", *tls)

    def until(self, look: Callable[[], Any]) -> Any:
        return until(look, self.said)

    def apply(self, document: dict[str, Any]) -> None:
        path = collection(document["kind"], "erp")
        try:
            self.client.call("POST", path, body=document)
        except AlreadyExists:
            name = f"{path}/{document['metadata']['name']}"
            before = self.client.call("GET", name)
            self.client.call("PUT", name, body={**before, "spec": document["spec"]})

    def apply_point(self) -> None:
        """The point of the application, and the data that its packs ask for."""
        point: dict[str, Any] = yaml.safe_load((PACKS / "orders.yaml").read_text())
        point["spec"] |= {
            "upstream": {"host": "127.0.0.1", "port": self.app.port},
            "listen": {"port": self.ports[2]},
            "selector": {"matchLabels": {"app": "orders"}},
        }
        point["spec"]["attributes"]["jwt"] |= {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": self.provider.jwks()}}
        self.apply(yaml.safe_load((PACKS / "finance-roles.yaml").read_text()))
        self.apply(point)

    def status(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = (there(self.client, place(key)) or {}).get("status") or {}
        return found

    def add_pod(self, name: str, address: str, point: str = "orders", pull: str = "") -> GuardedPod:
        trust = self.until(lambda: there(self.client, "/api/v1/namespaces/erp/configmaps/knhk-trust"))["data"]
        exchange, log = (f"https://127.0.0.1:{port}" for port in self.ports[:2])
        registry = Path(tempfile.mkdtemp(prefix="knhk-pulled-", dir=self.folder)) if pull else self.home / "registry"
        self.pods.append(GuardedPod(self.client, name, address, exchange, log, registry, trust, point, pull))
        self.pods[-1].start_agent()
        self.until(lambda: self.pods[-1].has_configuration)
        self.pods[-1].start_envoy()
        return self.pods[-1]

    def ready(self) -> str:
        rows = [row for row in self.status(POINT).get("conditions", []) if row["type"] == "Ready"]
        return str(rows[0]["status"]) if rows else ""

    def stop(self) -> None:
        for pod in self.pods:
            pod.remove()
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(60)
        self.app.stop()


@pytest.fixture
def world(ours: KubeClient, tmp_path: Path) -> Iterator[World]:
    app = Application(tmp_path / "application.db", 0)
    app.start()
    found = World(ours, tmp_path, app, IdentityProvider.new(), (free_port(), free_port(), free_port()))
    yield found
    found.stop()


@dataclass
class Callers:
    """Right invoices, one after another, to each address in turn; what an address does not answer is not counted."""

    provider: IdentityProvider
    addresses: list[str]
    port: int
    admitted: int = 0

    def __enter__(self) -> Callers:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        mix = (request for request in Mix(PAYLOADS, seed=7) if request.kind == "right")
        while not self._stop.is_set():
            for address in tuple(self.addresses):
                request = next(mix)
                headers = {"authorization": f"Bearer {self.provider.token(request.caller)}", "content-type": "application/json"}
                connection = http.client.HTTPConnection(address, self.port, timeout=5)
                with contextlib.suppress(OSError, http.client.HTTPException):
                    connection.request(request.method, request.path, request.body, headers)
                    self.admitted += connection.getresponse().status == 201
                connection.close()
            self._stop.wait(0.02)


def test_a_pack_is_rolled_out_over_two_pods_of_which_one_dies(world: World, cluster: Cluster) -> None:
    """Shadow, canary, promoted; a pod is killed and deleted in mid-canary, and what it had counted is not lost."""
    operator = world.start_operator(cluster)
    world.start_log()
    world.apply_point()
    pack = fast_pack("1.0.0", shadow=40, step=200)
    world.apply(pack)
    world.add_pod("one", "127.0.0.2")
    dying = world.add_pod("two", "127.0.0.3")
    world.until(lambda: world.status(POINT).get("instances") == {"live": 2, "current": 2, "silent": 0} and world.ready() == "True")
    with Callers(world.provider, ["127.0.0.2", "127.0.0.3"], world.ports[2]) as callers:
        world.until(lambda: world.status(PACK).get("revision", {}).get("arm") == "Canary")
        dying.die()
        end_pod(world.client, "two")
        callers.addresses.remove("127.0.0.3")
        revision = world.until(lambda: (found := world.status(PACK).get("revision", {})).get("phase") == "Live" and found)
        world.until(lambda: world.status(POINT).get("revisions") == [{"digest": revision["digest"], "instances": 1}])
        world.until(lambda: world.status(POINT).get("instances") == {"live": 1, "current": 1, "silent": 0} and world.ready() == "True")
    assert callers.admitted
    assert operator.poll() is None
    told = {row["spec"]["event"]: row["spec"] for row in world.client.call("GET", collection("Receipt", "erp"))["items"]}
    assert {"RolloutStarted", "StepAdvanced", "Promoted"} <= set(told)
