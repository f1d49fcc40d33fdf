"""An agent whose only way to the control plane is the exchange: it gets what is desired, tells what it does, and outlives the operator."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agent_process import GUARDS
from agent_rings import Request
from agent_world import Packs, World, make_packs, observation, until
from exchange_world import Callers, Served, exchange

from knhk.adapters.certificates import Pair, new_authority
from knhk.ports.shelf import DOCUMENT
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm
from knhk_runtime.serving import Serving
from knhk_runtime.tiers.action import action_bytes

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
POINT = "erp/orders"


@dataclass
class Pod:
    """An agent in a pod, as far as it can tell. What it is told to run comes from `served`."""

    world: World
    callers: Callers
    authority: Pair
    base: Path
    port: int = 0

    @property
    def token(self) -> Path:
        return self.base / "token"

    def start(self, served: Served, **more: str) -> Any:
        self.port = served.port
        (self.base / "ca.crt").write_bytes(self.authority.certificate)
        return self.world.start_agent(exchange=served.url, token_file=self.token, ca_file=self.base / "ca.crt", **more)

    def serving(self) -> Any:
        """An operator's exchange; the second one takes the port of the first."""
        return exchange(self.base / "points", self.authority, self.callers, self.port)

    def publish(self, served: Served, rollout: bytes, point: bytes | None = None) -> None:
        served.fleet.publish_keys(POINT, self.world.packs.signer.keys_json())
        served.fleet.publish_config(POINT, point or self.world.point_json())
        served.fleet.publish_document(POINT, rollout)


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def pod(packs: Packs, tmp_path: Path) -> Iterator[Pod]:
    world = World.make(tmp_path, packs)
    world.start_sequencer()
    found = Pod(world, Callers(), new_authority(datetime.now(UTC)), tmp_path)
    found.token.write_text(found.callers.add(POINT, "one") + "\n")
    yield found
    world.close()


def decide_one(pod: Pod) -> None:
    """As the shim leaves an admitted request."""
    ring, pack = pod.world.ring(), bytes.fromhex(pod.world.packs.digests["1.0.0"].removeprefix("sha256:"))[:20]
    assert ring.put(
        Request(ring.next_receipt(), 0, 7, observation(b"fine"), (Arm(pack, DECISION, 1, 1, ENFORCED, 0, action_bytes(GUARDS, [])),))
    )


def told(served: Served, name: str) -> Any:
    statistics = served.fleet.statistics(POINT)
    return statistics.document[name] if statistics is not None else None


def test_what_is_published_runs_and_what_runs_is_told(pod: Pod) -> None:
    with pod.serving() as served:
        agent = pod.start(served)
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 1 and told(served, "ready"), "epoch 1 is told")
        decide_one(pod)
        until(lambda: told(served, "acked") == 1, "a decision is counted")
        pod.callers.tokens["token-new"] = pod.callers.tokens.pop(pod.token.read_text().strip())
        pod.token.write_text("token-new")
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 2, "epoch 2 is told under the new token")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
        assert told(served, "instances")["live"] == 0
        assert told(served, "drained") == 1


def test_what_envoy_shows_lies_there_outlives_the_agent_and_is_made_anew_when_its_authority_went(pod: Pod) -> None:
    folder = pod.base / "serving"
    with pod.serving() as served:
        agent = pod.start(served, serving=str(folder))
        until(lambda: not Serving(folder).is_due(pod.authority.certificate, datetime.now(UTC)), "a certificate is shown")
        assert b64(pod.authority.certificate) in b64((folder / "authorities.json").read_bytes())
        ended(agent)
        shown = (folder / "identity.json").read_bytes()
        agent = pod.start(served, serving=str(folder))
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 1, "it runs again")
        assert (folder / "identity.json").read_bytes() == shown
        ended(agent)
    pod.authority = new_authority(datetime.now(UTC))
    with pod.serving() as served:
        pod.start(served, serving=str(folder))
        until(lambda: not Serving(folder).is_due(pod.authority.certificate, datetime.now(UTC)), "one of the new authority is shown")


def ended(agent: Any) -> None:
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(60) == 0


def b64(pem: bytes) -> bytes:
    """Of a PEM, or of JSON with one, without its line ends."""
    return pem.replace(b"\\n", b"").replace(b"\n", b"")


@pytest.mark.failure("operator", "traffic")
def test_a_point_goes_on_while_the_operator_is_away_and_finds_it_again(pod: Pod) -> None:
    """In a pod: parked requests are decided, and the next operator's document arrives."""
    with pod.serving() as served:
        pod.start(served)
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 1, "epoch 1 is told")
    decide_one(pod)
    until(lambda: pod.world.stats()["acked"] == 1, "decisions are recorded meanwhile")
    with pod.serving() as served:
        until(lambda: told(served, "acked") == 1, "it tells the new operator")
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 2, "it runs what the new operator wants")


def test_a_lying_exchange_is_a_lying_folder(pod: Pod) -> None:
    """Signatures, epochs and points are judged by the agent: it says what it refuses, and goes on with what it had."""
    with pod.serving() as served:
        pod.start(served)
        old = pod.world.sign(pod.world.rollout())
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 2, "epoch 2 is told")
        lies = {
            "rollout.json: epoch": (old, None),
            "must be a rollout document in canonical form, signed by a key of role rollout": (
                pod.world.sign(pod.world.rollout(), role="build"),
                None,
            ),
            "rollout.json: point": (pod.world.sign(pod.world.rollout(point="erp/others")), None),
            "rollout.json: pointConfig": (pod.world.sign(pod.world.rollout()), pod.world.point_json(failure="Open")),
        }
        for what, (rollout, point) in lies.items():
            served.fleet.publish_config(POINT, point or pod.world.point_json())
            served.fleet._put(POINT, DOCUMENT, rollout)  # publish_document would refuse the first of them
            until(lambda what=what: what in str(told(served, "refused")), what)
            assert told(served, "epoch") == 2
            assert told(served, "refused")[0]["pod"] == "one"


@pytest.mark.failure("registry", "rollout")
def test_a_rollback_arrives_while_a_registry_dribbles(pod: Pod) -> None:
    """In a pod: a registry that sends one byte and no more holds up the document whose image it has, and no newer one."""
    with pod.serving() as served, dribbling() as (url, asked):
        pod.start(served, pull=url)
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 1, "epoch 1 is told")
        missing = {**pod.world.pack("1.0.0"), "version": "2.0.0", "digest": f"sha256:{1:064x}"}
        pod.publish(served, pod.world.sign(pod.world.rollout(stable=missing)))
        assert asked.wait(60)
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: told(served, "epoch") == 3, "the rollback runs")


@contextmanager
def dribbling() -> Iterator[tuple[str, threading.Event]]:
    """A registry that begins an answer and goes on with it for ever, a byte at a time; and whether it was asked."""
    asked, ended = threading.Event(), threading.Event()

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            with suppress(OSError):
                while not ended.wait(0.5):
                    self.wfile.write(b"x")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


GUARDED, BARE = b'{"static_resources":{"filters":["knhk"]}}', b'{"static_resources":{"filters":[]}}'


def test_who_holds_the_exchange_gives_no_pod_an_envoy_without_its_guard(pod: Pod) -> None:
    """The bootstrap that Envoy starts with is the one that the rollout key signed: with another one beside it, or none, a document is
    refused and told, and the last good one stays, for a restarted agent too."""
    verified, signed = pod.world.point / "private" / "envoy.json", hashlib.sha256(GUARDED).hexdigest()
    with pod.serving() as served:
        agent = pod.start(served)
        served.fleet.publish_bootstrap(POINT, GUARDED)
        pod.publish(served, pod.world.sign(pod.world.rollout(bootstrap=signed)))
        until(lambda: told(served, "epoch") == 1, "epoch 1 is told")
        assert verified.read_bytes() == GUARDED
        served.fleet.publish_bootstrap(POINT, BARE)
        until(lambda: "rollout.json: bootstrap" in str(told(served, "refused")), "another bootstrap is refused")
        pod.publish(served, pod.world.sign(pod.world.rollout(bootstrap=hashlib.sha256(BARE).hexdigest()), role="build"))
        until(lambda: "role rollout" in str(told(served, "refused")), "a bootstrap that another key signs is refused")
        agent.kill()
        agent.wait()
        before = pod.world.stats()["boot"]
        pod.start(served)
        until(lambda: (s := pod.world.stats())["boot"] != before and "role rollout" in str(s["refused"]), "a new one says so again")
        assert (verified.read_bytes(), pod.world.stats()["epoch"]) == (GUARDED, 1)
        served.fleet.publish_bootstrap(POINT, GUARDED)
        served.fleet._put(POINT, DOCUMENT, pod.world.sign(pod.world.rollout(bootstrap=signed)))
        until(lambda: told(served, "epoch") == 3 and not told(served, "refused"), "what is signed runs, and nothing is refused")


def test_an_agent_that_nobody_knows_says_so_and_starts_when_it_is_known(pod: Pod) -> None:
    caller = pod.callers.tokens.pop("token-one")
    with pod.serving() as served:
        pod.start(served)
        pod.publish(served, pod.world.sign(pod.world.rollout()))
        until(lambda: "unauthenticated" in str(pod.world.stats().get("refused")), "it says that it is not known")
        pod.callers.tokens["token-one"] = caller
        until(lambda: told(served, "epoch") == 1, "epoch 1 is told")
