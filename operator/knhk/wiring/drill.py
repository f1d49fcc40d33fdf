"""A disaster, rehearsed: three regions of one machine as processes and folders, traffic, and the loss of one of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from knhk.model.phases import Event
from knhk.model.times import rfc3339
from knhk.reconcilers import evidence, replaying
from knhk.reconcilers.documents import pack_reference
from knhk.reconcilers.drilling import MISSED, Figures, Given, Goals, figures
from knhk.reconcilers.replaying import Replayed
from knhk.wiring import drill_bundle, packs
from knhk.wiring.drill_traffic import VERSIONS, Client, Consumed, Consumer, Live, Policy, Topic, policies, source_of
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import format_vkey, size_of
from knhk_runtime.tlog.served import Served
from knhk_runtime.witness.__main__ import load_key
from knhk_verify.evidence import Evidence

REGIONS = ("eu", "us", "ap")
READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 20.0  # a region that is gone refuses at once; one on a busy machine is only slow
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
    """One root, rollout and build key for all regions, and of each its own log key."""
    (region.folder / "keys").mkdir(parents=True)
    for name in ("root.key", "root.pub", "rollout.key", "build.key") if region is not first else ():
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


@dataclass(frozen=True)
class Result:
    """Of a drill; `receipt`: the file in the audit bundle. `doubles`: messages that a consumer which took over recognised; `replayed`:
    decisions that the survivors decide again to the same bytes."""

    figures: Figures
    goals: Goals
    survivor: str
    receipt: Path
    doubles: int
    replayed: Replayed

    @property
    def failed(self) -> bool:
        """Whether anything was lost, or is not what it was, or a goal was missed."""
        measured, dealt = self.figures.measured, self.figures.dealt
        amiss = (measured.lost, dealt.missing, dealt.twice, self.replayed.different, self.replayed.unrecorded)
        return any(amiss) or MISSED in self.goals.told(measured).values()


def survivors_of(struck: str) -> list[str]:
    """The regions that are left."""
    return [name for name in REGIONS if name != struck]


def look(out: Path, say: Say) -> None:
    """Whether a drill can be run here: its place is free, and its policies build. Nothing is started, and nothing stays. Raises Stalled,
    and KnhkError for policies that do not build."""
    folder = _free(out)
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        author = establish(folder / "keys", "knhk.dev/drill", datetime.now(UTC))
        say("building both versions of the policy")
        policies(folder / "registry", author, packs.keys(folder / "keys"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it was not made, or holds what another put there
                parent.rmdir()


def _free(out: Path) -> Path:
    """The folder that the regions are in meanwhile. Raises Stalled."""
    folder = out.with_name(f".{out.name}.drill")
    if out.exists() or folder.exists():
        raise Stalled("Out", f"{out if out.exists() else folder}: must not be there")
    return folder


def run(out: Path, struck: str, clients: int, seconds: float, goals: Goals, say: Say) -> Result:
    """Half of `seconds` of traffic, the strike, and the other half. `out`: an audit bundle with the drill's signed receipt, which says
    whether the goals were met. Raises Stalled, ValueError when it was too short to measure."""
    folder = _free(out)
    try:
        with _regions(folder) as regions:
            return _drill(regions, out, struck, clients, seconds, goals, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _drill(regions: dict[str, Region], out: Path, struck: str, clients: int, seconds: float, goals: Goals, say: Say) -> Result:
    survivors = [region for name, region in regions.items() if name != struck]
    author = survivors[0].signer()  # of policy: its keys are in no region, and good in each
    say("building both versions of the policy")
    known = policies(out.with_name(f".{out.name}.drill") / "registry", author, packs.keys(survivors[0].folder / "keys"))
    before, after = (known[version] for version in VERSIONS)
    for region in regions.values():
        region.log().append_event(author.bundle("rollout", _policy_event(Event.PROMOTED, before, struck)))
    traffic = Traffic(regions, Live(before), out.with_name(f".{out.name}.drill") / "outboxes")
    traffic.start(clients)
    change = author.bundle("rollout", _policy_event(Event.ROLLOUT_STARTED, after, struck))  # under way when the region goes
    regions[struck].log().append_event(change)
    time.sleep(seconds / 2)
    say(f"ending {struck}: processes and storage")
    regions[struck].end()
    struck_ns = time.time_ns()
    shutil.rmtree(regions[struck].folder)
    traffic.resume(struck)
    moved_change = survivors[0].log().append_event(change)
    survivors[0].log().append_event(author.bundle("rollout", _statement("DrillStruck", struck, {})))
    for region in survivors:
        region.log().append_event(author.bundle("rollout", _policy_event(Event.PROMOTED, after, struck)))
    traffic.live.policy = after
    time.sleep(seconds / 2)
    traffic.end()
    for region in survivors:
        _published(region, region.log().append_event(author.bundle("rollout", _statement("DrillEnds", region.name, {}))))
    logs = {region.name: list(log_entries(region.log_dir)) for region in survivors}
    given = Given(
        struck,
        struck_ns,
        {region.name: (region.origin, len(logs[region.name])) for region in survivors},
        traffic.moved(struck),
        tuple(source_of(number) for number in range(len(regions))),
        after.prefix,
        tuple(traffic.held()),
    )
    found = figures(given, logs)
    traffic.bring_outboxes()
    replayed = _replayed(survivors, known)
    told: dict[str, object] = {
        "struck": struck,
        "survivors": [region.name for region in survivors],
        "clients": str(clients),
        "moved": str(len(given.moved)),
        "given": sha256(given.files()[0]).hexdigest(),
        "policyEventMovedTo": str(moved_change),
        "packs": [before.digest, after.digest],
        "doublesRecognised": str(traffic.doubles()),
        "resumedAt": {str(number): str(each.resumed_at) for number, each in enumerate(traffic.consumed)},
        "replayed": str(replayed.replayed),
        "different": str(replayed.different),
        "unrecorded": str(replayed.unrecorded),
        "checkpoints": {region.name: region.log().checkpoint() for region in survivors},
        **found.told(),
        **goals.told(found.measured),
    }
    index = survivors[0].log().append_event(author.bundle("rollout", _statement(drill_bundle.COMPLETED, struck, told)))
    _published(survivors[0], index)
    receipt = _bundle(survivors[0], index, out)
    drill_bundle.add(out, given, [(region.name, region.log_dir, region.signer(), region.origin) for region in survivors])
    return Result(found, goals, survivors[0].name, receipt, traffic.doubles(), replayed)


def _replayed(survivors: Sequence[Region], known: Mapping[str, Policy]) -> Replayed:
    """Every decision of the surviving logs, again, from the O that is recorded beside them."""
    loaded, total = {policy.prefix: policy.evaluator for policy in known.values()}, Replayed()
    for region in survivors:
        one = replaying.replay(region.log_dir, log_entries(region.log_dir), lambda pack, bundle: loaded[pack], evaluator_digest())
        total.replayed, total.different = total.replayed + one.replayed, total.different + one.different
        total.unrecorded += one.unrecorded
    return total


@dataclass
class Traffic:
    """All who decide: clients, spread over the regions, and a consumer in each region, whose partition the next region holds too."""

    regions: dict[str, Region]
    live: Live
    outboxes: Path
    clients: list[Client] = field(default_factory=list)
    consumed: list[Consumed] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)

    def start(self, clients: int) -> None:
        self.clients = [Client(number % len(REGIONS), self.regions, self.live, self.outboxes / str(number)) for number in range(clients)]
        self.consumed = [Consumed() for _ in self.regions]
        self.consumers = [self._consumer(number, self._places(number), resumes=False) for number in range(len(self.regions))]
        for each in (*self.clients, *self.consumers):
            each.start()

    def resume(self, struck: str) -> None:
        """Consumers that lost one of their regions are begun anew where both of their partition's regions are."""
        for number, ended in enumerate(self.consumers):
            places = self._places(number)
            if struck in (place.name for place in places):
                ended.stopping.set()
                ended.join(READY_WITHIN_S)
                left = [place for place in places if place.name != struck]
                left += [region for region in self.regions.values() if region.name not in (struck, left[0].name)]
                self.consumers[number] = self._consumer(number, tuple(left), resumes=True)
                self.consumers[number].start()

    def end(self) -> None:
        everybody: list[Client | Consumer] = [*self.clients, *self.consumers]
        for each in everybody:
            each.stopping.set()
        for each in everybody:
            each.join(READY_WITHIN_S)

    def _places(self, number: int) -> tuple[Region, ...]:
        names = [*REGIONS[number:], *REGIONS[:number]]
        return tuple(self.regions[name] for name in names[:2])

    def _consumer(self, number: int, places: tuple[Region, ...], *, resumes: bool) -> Consumer:
        where = REGIONS.index(places[0].name)
        return Consumer(number, places, where, self.live, self.consumed[number], resumes=resumes, source=Topic())

    def held(self) -> list[bytes]:
        """Leaves that clients and consumers hold as acknowledged."""
        return [leaf for each in self.clients for leaf in each.held] + [leaf for each in self.consumed for leaf in each.held]

    def moved(self, struck: str) -> frozenset[bytes]:
        """Sources of those whose region was lost."""
        return frozenset({*(each.source for each in self.clients if each.home == struck), source_of(REGIONS.index(struck))})

    def doubles(self) -> int:
        """Messages that a consumer which took over did not decide again."""
        return sum(each.doubles for each in self.consumed)

    def bring_outboxes(self) -> None:
        """Clients' records come to lie beside the log of the region that they speak to."""
        for client in self.clients:
            shutil.copytree(client.outbox, self.regions[client.at].log_dir / "observations" / f"client-{client.outbox.name}")


def _policy_event(kind: Event, policy: Policy, struck: str) -> dict[str, object]:
    pack = pack_reference("drill", "orders", policy.version, policy.digest)
    subject = (f"pack/drill/orders@{policy.version}", policy.digest.removeprefix("sha256:"))
    return statement(PolicyEvent(kind.value, subject, "knhk drill run", _now(), pack=pack, evidence={"struck": struck}))


def _now() -> str:
    return rfc3339(time.time_ns())


def _published(region: Region, index: int) -> None:
    """Returns when a checkpoint that others cosigned covers the entry."""
    _until(lambda: size_of(region.log().checkpoint()) > index, f"{region.name} has published entry {index}")


def _statement(kind: str, struck: str, told: dict[str, object]) -> dict[str, object]:
    subject = (f"drill/{struck}", sha256(struck.encode()).hexdigest())
    return statement(PolicyEvent(kind, subject, "knhk drill run", _now(), evidence=told))


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
