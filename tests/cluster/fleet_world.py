"""Operators over a real API server that share a log, keys, registry and fleet, as replicas of a Deployment do; agents that judge as told.

Compiler and prover are the fakes of tests/reconcilers, unless a test says otherwise, so that a rollout takes seconds. Operators are forked
from a process that has imported everything; each can be killed, stopped and continued.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "reconcilers"))
sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from fakes import FakeCompiler, FakeProver
from rollout_world import check_allowed, payload

from knhk.adapters.fleet_folder import FolderFleet
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import establish
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.api import parse
from knhk.handlers.seeing import watched
from knhk.model.faults import KnhkError, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.ports.compiler import Compiler
from knhk.ports.placement import Placed
from knhk.reconcilers.context import Ports, statement_of
from knhk.reconcilers.controller import Controller
from knhk.reconcilers.workshop import Bench, Retirement, Workshop
from knhk.wiring.cluster import Options, led
from knhk.wiring.pods import Adapt, PodOptions, pods
from knhk_runtime.tlog.folder import log_entries
from loopback_ports import free_port

ORIGIN = "knhk.dev/test"
WITHIN_S = 240.0
LOOK_S = 0.05
PER_LOOK = 12  # requests that an agent judges between two looks
PACK = Key("PolicyPack", "erp", "orders")


class Elsewhere:
    """knhk.ports.placement.Placement of points that others run."""

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        return b""

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        return Placed("127.0.0.1:8443")

    def remove(self, point: str) -> None:
        pass

    def placed(self) -> frozenset[str]:
        return frozenset()


def operate(folder: Path, options: Options, compiler: Callable[[], Compiler]) -> None:
    """The process of an operator: exits with 0 after SIGTERM, with 1 when it must not go on."""
    out = os.open(folder / "operators.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    logging.basicConfig(level=logging.INFO, format=f"{os.getpid()} %(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with led(options, watched, stop) as found:
            if found is not None:
                client, store, adapt, check = found
                root_pub = (folder / "keys" / "root.pub").read_bytes
                exchange = pods(client, options.pods, SystemClock(), root_pub, check) if options.pods.exchange else nullcontext(_as_is)
                with exchange as in_pods:
                    _turn(folder, stop, store, compiler(), lambda ports: adapt(in_pods(ports)))
    except (KnhkError, OSError) as error:
        logging.error("%s", error)
        sys.exit(1)


def _as_is(ports: Ports) -> Ports:
    return ports


def _turn(folder: Path, stop: threading.Event, store: KubeStore, compiler: Compiler, adapt: Adapt) -> None:
    registry, signer = LayoutRegistry(folder / "registry"), establish(folder / "keys", ORIGIN, datetime.now(UTC))
    with ThreadPoolExecutor(1) as executor:
        ports = Ports(
            store=store,
            log=SequencerLog(folder / "log.sock", timeout_s=2.0),
            signer=signer,
            registry=registry,
            builder=Workshop(
                Bench(compiler, FakeProver(), registry, signer, "generator"), executor, executor, Retirement(registry, SystemClock())
            ),
            fleet=FolderFleet(folder / "points"),
            placement=Elsewhere(),
            clock=SystemClock(),
            origin=ORIGIN,
            actor="test",
            reviews=True,
        )
        controller = Controller(adapt(ports))
        while not stop.is_set():
            controller.tick()


@dataclass
class Operator:
    """One operator's process."""

    process: Any
    health: str

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self, within_s: float = WITHIN_S) -> int | None:
        """The exit code, None when it still runs."""
        self.process.join(within_s)
        code: int | None = self.process.exitcode
        return code

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of its health port; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self.health}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def leads(self) -> bool:
        return 'leader_election_master_status{name="operator"} 1.0' in self.get("metrics")[1]


@dataclass
class Agents:
    """What the agents of all points do: judge requests by the document that is out. They note each document that they took,
    and as real ones do refuse an older one: that none comes but from a leader that slept is what is tested."""

    folder: Path
    bad: frozenset[str] = frozenset()
    counts: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    met: dict[str, list[bytes]] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        for point in sorted(self.folder.glob("points/*/desired/rollout.json")):
            name = point.parents[1].name.replace(".", "/", 1)
            envelope = point.read_bytes()
            taken = self.met.setdefault(name, [b""])
            if taken[-1] and payload(envelope)["epoch"] < payload(taken[-1])["epoch"]:
                self.refused.add(envelope)
            elif taken[-1] != envelope:
                taken.append(envelope)
            self._judge(name, payload(taken[-1]), point.parents[1] / "stats.json")

    def _judge(self, name: str, document: dict[str, Any], into: Path) -> None:
        stable, candidate = ((document[arm] or {}).get("digest", "").removeprefix("sha256:")[:40] for arm in ("stable", "candidate"))
        if candidate:
            row = self.counts.setdefault((name, stable or "0" * 40, candidate), [0, 0])
            row[0] += PER_LOOK
            version = self.versions[candidate] = document["candidate"]["version"]
            row[1] += PER_LOOK // 3 if stable and version in self.bad else 0
        told = {"version": 1, "point": name, "epoch": document["epoch"], "ready": True, "refused": [], "durable": 1 << 40}
        pairs = [pair_row(one, other, *counted) for (where, one, other), counted in self.counts.items() if where == name]
        temporary = into.with_suffix(".tmp")
        temporary.write_text(json.dumps(told | {"pairs": pairs, "decisions": {}}))
        temporary.rename(into)


def pair_row(stable: str, candidate: str, n: int, worse: int) -> dict[str, Any]:
    """A row of `pairs` (formats/agent.md) of packs that differ in new denials alone."""
    return {
        **{"stable": stable, "candidate": candidate, "pairs": n, "covered": n, "clusters": n, "errors": 0},
        "guards": {"shapes.S.total.minCount": {"newDenials": worse, "newAdmits": 0}},
        "any": {"newDenials": worse, "newAdmits": 0},
        "samples": {"newDenials": ["ab" * 16] if worse else [], "newAdmits": []},
        "classes": {"stable": {"R1": n}, "candidate": {"R1": n}, "bothR1": n},
        "latency": {"stable": {"50": n}, "candidate": {"50": n}},
    }


class World:
    """A namespace of a cluster with one log, one fleet and any number of operators."""

    def __init__(self, folder: Path, kubeconfig: Path, client: KubeClient, forks: Any, agents: Agents | None = None) -> None:
        self.folder, self.kubeconfig, self.client = folder, kubeconfig, client
        self.agents = agents or Agents(folder)
        self.store = KubeStore(client, ChangeFeed(), SystemClock())
        self.operators: list[Operator] = []
        self.compiler: Callable[[], Compiler] = FakeCompiler  # of operators that are begun from now on
        self._forks = forks
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._sequencer: subprocess.Popen[bytes] | None = None
        self.broken: list[BaseException] = []

    # ---- processes -----------------------------------------------------------------------------

    def start(self) -> None:
        """The log and the agents."""
        signer = establish(self.folder / "keys", ORIGIN, datetime.now(UTC))
        (self.folder / "log").mkdir(exist_ok=True)
        key = str(signer.key_file("log"))
        places = ["--dir", str(self.folder / "log"), "--socket", str(self.folder / "log.sock")]
        command = [sys.executable, "-m", "knhk_runtime.sequencer", *places, "--origin", ORIGIN, "--key", key]
        with (self.folder / "sequencer.log").open("ab") as out:
            self._sequencer = subprocess.Popen(command, stdout=out, stderr=out)
        if not self._thread.is_alive():
            self._thread.start()

    def log_down(self) -> None:
        assert self._sequencer is not None
        self._sequencer.kill()
        self._sequencer.wait()

    def operator(self, *, lease: bool = False, kubeconfig: Path | None = None, exchange: str = "") -> Operator:
        """A new one, begun. `exchange`: HOST:PORT where it serves pods; "": points are folders."""
        health = f"127.0.0.1:{free_port()}"
        options = Options(kubeconfig or self.kubeconfig, health, "erp/operator" if lease else "", PodOptions(exchange))
        process = self._forks.Process(target=operate, args=(self.folder, options, self.compiler))
        process.start()
        self.operators.append(Operator(process, health))
        return self.operators[-1]

    def moves_to(self, kubeconfig: Path, client: KubeClient, agents: Agents) -> None:
        """Another cluster, with the same log, keys and registry."""
        self.kubeconfig, self.client, self.agents = kubeconfig, client, agents
        self.store = KubeStore(client, ChangeFeed(), SystemClock())

    def close(self) -> None:
        """Ends all of them."""
        for operator in self.operators:
            if operator.process.is_alive():
                operator.signal(signal.SIGCONT)
                operator.signal(signal.SIGKILL)
            operator.process.join()
        self._halt.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._sequencer is not None:
            self.log_down()
        assert not self.broken, self.broken

    def _live(self) -> None:
        try:
            while not self._halt.wait(LOOK_S):
                self.agents.look()
        except BaseException as error:
            self.broken.append(error)

    # ---- what people do ------------------------------------------------------------------------

    def apply(self, *texts: str) -> None:
        for text in texts:
            for resource in parse(text, "test.yaml"):
                self.patiently(partial(self.store.apply, replace(resource, status={})))

    def get(self, key: Key = PACK) -> Resource:
        found: Resource = self.patiently(lambda: self.store.get(key))
        return found

    def patiently(self, call: Callable[[], Any]) -> Any:
        """What it gives, as soon as the API server answers."""
        deadline_s = time.monotonic() + WITHIN_S
        while True:
            try:
                return call()
            except (Waiting, Stalled):
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)

    def until(self, holds: Callable[[], bool], what: str = "") -> None:
        deadline_s = time.monotonic() + WITHIN_S
        while not holds():
            if time.monotonic() > deadline_s or self.broken:
                raise AssertionError(f"not so: {what}; {self.describe()}; {self.broken}")
            time.sleep(0.03)

    def is_phase(self, phase: str, version: str) -> bool:
        pack = self.get()
        revision = pack.status.get("revision", {})
        current = revision.get("generation") == pack.generation
        return bool(current and (revision["phase"], revision["version"]) == (phase, version))

    def until_phase(self, phase: str, version: str) -> None:
        self.until(lambda: self.is_phase(phase, version), f"{version} {phase}")

    def until_settled(self) -> None:
        """Every event that is owed has its Receipt."""

        def settled() -> bool:
            kinds = ("PolicyPack", "EnforcementPoint")
            resources = [r for kind in kinds for r in self.patiently(partial(self.store.list, kind, "erp")).resources]
            return not any(resource.status.get("pending") for resource in resources)

        self.until(settled, "all events have receipts")

    def describe(self) -> str:
        try:
            status: Mapping[str, Any] = self.store.get(PACK).status
        except KnhkError as error:
            status = {"error": str(error)}
        log = self.folder / "operators.log"
        said = log.read_text(errors="replace")[-4000:] if log.exists() else ""
        return json.dumps({"revision": status.get("revision"), "conditions": status.get("conditions"), "error": status.get("error")}) + said

    # ---- laws ----------------------------------------------------------------------------------

    def statements(self) -> list[dict[str, Any]]:
        """What the log says, in order; every entry is a policy event."""
        return [statement_of(entry.decode()) for entry in log_entries(self.folder / "log")]

    def check(self, slept: int = 0) -> None:
        """Epochs only grow, and name one document each; what was enforced was ordered before; nothing was promoted twice; every event of
        the log has one Receipt. Leaders that `slept` may each bring one older document when they wake (ADR 36): agents refuse it."""
        assert len(self.agents.refused) <= slept, [payload(envelope)["epoch"] for envelope in self.agents.refused]
        statements = self.statements()
        for name, documents in self.agents.met.items():
            newest = -1
            for envelope in documents[1:]:
                document = payload(envelope)
                assert document["epoch"] > newest, f"{name}: epoch {document['epoch']} after {newest}"
                newest = document["epoch"]
                check_allowed(document, statements[: newest + 1])
        promoted = [s["subject"][0]["digest"]["sha256"] for s in statements if s["predicate"]["kind"] == "Promoted"]
        assert len(promoted) == len(set(promoted)), "a pack was promoted twice"
        self.until(lambda: self.receipted() == list(range(len(self.statements()))), "every event has its Receipt")

    def receipted(self) -> list[int]:
        """Indexes of the events that have a Receipt; of an object that is deleted they come after it went."""
        return sorted(row["spec"]["logIndex"] for row in self.client.call("GET", collection("Receipt", "erp"))["items"])


def forks() -> Any:
    """Where operators are forked from: a process that has imported all that they need."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
    return found
