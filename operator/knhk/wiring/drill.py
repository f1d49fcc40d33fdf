"""A disaster, rehearsed: three regions of one machine as processes and folders, traffic, and the loss of one of them."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from knhk.adapters.log_reading import of_folder
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import Stalled, Waiting
from knhk.reconcilers import evidence
from knhk.reconcilers.drilling import Measured, digest, measured, merged
from knhk_runtime.record import encode_leaf
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import format_vkey, size_of
from knhk_runtime.tlog.served import Served
from knhk_runtime.witness.__main__ import load_key
from knhk_verify.evidence import Evidence
from knhk_verify.leaf import Leaf

REGIONS = ("eu", "us", "ap")
READY_WITHIN_S = 60.0
PAUSE_S = 0.002  # between two decisions of a client
ANSWER_WITHIN_S = 2.0
PACK = sha256(b"drill").digest()[:20]
Say = Callable[[str], None]


@dataclass
class Region:
    """A log, its keys and its witness of the others."""

    name: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"knhk.dev/drill/{self.name}"

    @property
    def log_dir(self) -> Path:
        return self.folder / "log"

    def log(self) -> SequencerLog:
        return SequencerLog(self.folder / "s", ANSWER_WITHIN_S)

    def signer(self) -> LocalSigner:
        return LocalSigner(self.folder / "keys")

    def start(self, *words: str) -> None:
        """Runs a module of the runtime; what it says goes to a file."""
        with (self.folder / f"{words[0]}.log").open("ab") as said:
            command = [sys.executable, "-m", f"knhk_runtime.{words[0]}", *words[1:]]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said))

    def end(self) -> None:
        """By force; nothing of it runs when this returns."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.processes.clear()


@contextmanager
def _regions(folder: Path) -> Iterator[dict[str, Region]]:
    """Three that cosign each other: each publishes with the cosignature of one other. Raises Stalled."""
    regions = {name: Region(name, folder / name) for name in REGIONS}
    with ExitStack() as stack:
        for region in regions.values():
            _keys(region, regions[REGIONS[0]])
            stack.callback(region.end)
        lines = {name: f"log {region.signer().vkey(region.origin)}\n" for name, region in regions.items()}
        witnesses = {
            name: _witness(region, "".join(lines[other] for other in REGIONS if other != name)) for name, region in regions.items()
        }
        for name, region in regions.items():
            others = [other for other in REGIONS if other != name]
            text = lines[name] + "".join(f"witness {other} {witnesses[other]}\n" for other in others)
            (region.folder / "policy").write_text(f"{text}group others 1 {' '.join(others)}\nquorum others\n")
            key, policy = region.signer().key_file("log"), region.folder / "policy"
            words = ["--dir", str(region.log_dir), "--socket", str(region.folder / "s"), "--origin", region.origin, "--key", str(key)]
            region.start("sequencer", *words, "--witnesses", str(policy), "--checkpoint-interval-s", "0.1")
        for region in regions.values():
            _until(lambda region=region: region.log().checkpoint() != "", f"the log of {region.name} answers")  # type: ignore[misc]
        yield regions


def _keys(region: Region, first: Region) -> None:
    """One root and one rollout key for all regions, and of each its own log key."""
    (region.folder / "keys").mkdir(parents=True)
    for name in ("root.key", "root.pub", "rollout.key") if region is not first else ():
        shutil.copy(first.folder / "keys" / name, region.folder / "keys" / name)
    establish(region.folder / "keys", region.origin, datetime.now(UTC))


def _witness(region: Region, watched: str) -> str:
    """Starts it; its key and URL as a policy names them. Its key is the region's own of role data, which signs nothing else here."""
    key = region.signer().key_file("data")
    (region.folder / "watched").write_text(f"{watched}quorum none\n")
    name = f"knhk.dev/drill/witness/{region.name}"
    words = ["--dir", str(region.folder / "witness"), "--name", name, "--key", str(key), "--policy", str(region.folder / "watched")]
    region.start("witness", *words, "--listen", "127.0.0.1:0")
    said = region.folder / "witness.log"
    _until(lambda: '"witness serves"' in said.read_text(), f"the witness of {region.name} serves")
    line = next(line for line in said.read_text().splitlines() if '"witness serves"' in line)
    return f"{format_vkey(load_key(key, name).verifier)} http://{json.loads(line)['listen']}"


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        with suppress(Waiting, FileNotFoundError):
            if holds():
                return
        time.sleep(0.02)
    raise Stalled("Drill", f"not within {READY_WITHIN_S:g} s: {what}")


class Client(threading.Thread):
    """Decides one thing after another, each answered when a log has acknowledged its leaf. It keeps its outbox: when its region is lost, it
    moves to the next, and brings there what the lost one had acknowledged."""

    def __init__(self, home: int, regions: dict[str, Region]) -> None:
        super().__init__(daemon=True)
        self.source, self.home = secrets.token_bytes(8), REGIONS[home]
        self.held: list[bytes] = []  # acknowledged
        self.moved_to = ""
        self.stopping = threading.Event()
        self._logs = {name: region.log() for name, region in regions.items()}
        self._order = [*REGIONS[home:], *REGIONS[:home]]

    def run(self) -> None:
        while not self.stopping.wait(PAUSE_S):
            leaf = self._leaf(len(self.held))
            while not self._acknowledged(leaf):
                self._order.append(self._order.pop(0))
                self.moved_to = self._order[0]
            self.held.append(leaf)

    def _acknowledged(self, leaf: bytes) -> bool:
        outbox = self.held if self.moved_to else []
        try:
            self._logs[self._order[0]].append_leaves([*outbox, leaf])
        except Waiting:
            return False
        return True

    def _leaf(self, number: int) -> bytes:
        id_ = self.source + number.to_bytes(8, "big")
        h_o, h_a = sha256(b"o" + id_).digest(), sha256(b"a" + id_).digest()
        return encode_leaf(Leaf(1, 1, 1, 1, 0, REGIONS.index(self.home), h_o, h_a, PACK, time.time_ns(), id_))


@dataclass(frozen=True)
class Result:
    """Of a drill; `receipt`: the file in the audit bundle."""

    measured: Measured
    order: str
    survivor: str
    receipt: Path


def run(out: Path, struck: str, clients: int, seconds: float, say: Say) -> Result:
    """Half of `seconds` of traffic, the strike, and the other half. `out`: an audit bundle with the drill's signed receipt. Raises Stalled,
    ValueError when it was too short to measure."""
    folder = out.with_name(f".{out.name}.drill")
    if out.exists() or folder.exists():
        raise Stalled("Out", f"{out if out.exists() else folder}: must not be there")
    try:
        with _regions(folder) as regions:
            return _drill(regions, out, struck, clients, seconds, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drill(regions: dict[str, Region], out: Path, struck: str, clients: int, seconds: float, say: Say) -> Result:
    running = [Client(number % len(REGIONS), regions) for number in range(clients)]
    survivors = [region for name, region in regions.items() if name != struck]
    author, change = survivors[0].signer(), dict[str, object]()  # of policy: its keys are in no region, and good in each
    for client in running:
        client.start()
    first = author.bundle("rollout", _statement("DrillBegan", struck, change))
    regions[struck].log().append_event(first)
    time.sleep(seconds / 2)
    say(f"ending {struck}: processes and storage")
    regions[struck].end()
    struck_ns = time.time_ns()
    shutil.rmtree(regions[struck].folder)
    moved_change = survivors[0].log().append_event(first)
    survivors[0].log().append_event(author.bundle("rollout", _statement("DrillStruck", struck, change)))
    time.sleep(seconds / 2)
    for client in running:
        client.stopping.set()
    for client in running:
        client.join(READY_WITHIN_S)
    for region in survivors:
        _published(region, region.log().append_event(author.bundle("rollout", _statement("DrillEnds", region.name, change))))
    logs = {region.origin: list(log_entries(region.log_dir)) for region in survivors}
    moved = frozenset(client.source for client in running if client.home == struck)
    found = measured(
        [leaf for client in running for leaf in client.held], moved, [entry for log in logs.values() for entry in log], struck_ns
    )
    order = digest(merged(logs))
    told: dict[str, object] = {
        "struck": struck,
        "survivors": [region.name for region in survivors],
        "clients": str(clients),
        "moved": str(len(moved)),
        "rtoMs": str(-(-found.rto_ns // 1_000_000)),
        "rpoMs": str(-(-found.rpo_ns // 1_000_000)),
        "acknowledged": str(found.acknowledged),
        "lost": str(found.lost),
        "policyEventMovedTo": str(moved_change),
        "merged": order,
        "checkpoints": {region.name: region.log().checkpoint() for region in survivors},
    }
    index = survivors[0].log().append_event(author.bundle("rollout", _statement("DrillCompleted", struck, told)))
    _published(survivors[0], index)
    return Result(found, order, survivors[0].name, _bundle(survivors[0], index, out))


def _published(region: Region, index: int) -> None:
    """Returns when a checkpoint that others cosigned covers the entry."""
    _until(lambda: size_of(region.log().checkpoint()) > index, f"{region.name} has published entry {index}")


def _statement(kind: str, struck: str, told: dict[str, object]) -> dict[str, object]:
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return statement(PolicyEvent(kind, (f"drill/{struck}", sha256(struck.encode()).hexdigest()), "knhk drill run", at, evidence=told))


def _bundle(region: Region, index: int, out: Path) -> Path:
    """The receipt of the drill and its proof, verified before it is written. Raises Stalled."""
    note = region.log().checkpoint()
    bundle, signer = evidence.Bundle(), region.signer()
    bundle.prove(Served(str(region.log_dir), of_folder(region.log_dir), size_of(note)), index, note)
    judged = Evidence(signer.root_public(), signer.keys_json(), datetime.now(UTC))
    if not evidence.judge(judged, bundle.files()):
        raise Stalled("Drill", "; ".join(step.detail for step in judged.steps if not step.ok))
    evidence.write(out, bundle, signer.keys_json())
    (out / "root.pub").write_text((region.folder / "keys" / "root.pub").read_text())
    return out / sorted(bundle.files())[0]
