"""The traffic of a drill: decisions of a real pack by the compiled code that Envoy runs, called as a library, with what they were made of
recorded as agents record it; by clients, and by consumers of an ordered source."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.prover_process import ProcessProver
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import LocalSigner
from knhk.api import parse, to_sources
from knhk.model.arrows import SignedPack
from knhk.model.faults import NotFound, Waiting
from knhk.model.observation import Observation
from knhk.packaging.builds import PackOrder
from knhk.ports.prover import Budget
from knhk.ports.source import Message, Positions, Source
from knhk.reconcilers.evaluators import Evaluator, load
from knhk.reconcilers.workshop import Bench
from knhk.wiring import packs
from knhk_runtime.durable import replace_file
from knhk_runtime.outbox.records import DECISION, ENFORCED, ENTRY_SIZE, Arm, Entries, encode
from knhk_runtime.outbox.segments import Segments
from knhk_runtime.packstore import PackStore
from knhk_runtime.tiers.decide import decide
from knhk_verify.leaf import LEAF_SIZE
from knhk_verify.signed import Keys

PAUSE_S = 0.002  # between two decisions of a client
COMMIT_EVERY = 20  # messages of a partition
PREFIX = 20  # bytes of a pack's digest that a leaf has
VERSIONS = ("1.0.0", "1.1.0")
LIMITS = {"1.0.0": 1000, "1.1.0": 900}  # what the change of policy changes
PACK = """apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {{name: orders, namespace: drill}}
spec:
  version: {version}
  sources:
    - name: shapes
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/drill#> .
        @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
        ex:OrderShape a sh:NodeShape ; sh:targetClass ex:Order ;
          sh:property [ sh:path ex:total ; sh:minCount 1 ; sh:datatype xsd:integer ; sh:maxInclusive {limit} ;
            sh:message "An order has a total within its limit." ] .
    - name: order
      kind: mapping
      inline: |
        prefixes: {{ex: "https://example.com/drill#"}}
        maps:
          - id: order
            iterator: $
            subject: {{blank: true}}
            class: ex:Order
            properties: {{ex:total: $.total}}
  routes: [{{name: orders, mapping: order}}]
  targets: [{{point: gate}}]
"""


@dataclass(frozen=True)
class Policy:
    """A pack that is loaded; `prefix`: its name in leaves."""

    version: str
    digest: str
    evaluator: Evaluator

    @property
    def prefix(self) -> bytes:
        return bytes.fromhex(self.digest.removeprefix("sha256:"))[:PREFIX]


def policies(registry: Path, signer: LocalSigner, keys: Keys | None) -> dict[str, Policy]:
    """Both versions, compiled, proven, signed and published in a registry folder, and read back from it, verified. Raises KnhkError."""
    prover = ProcessProver((sys.executable, "-P", "-m", "knhk.wiring.prover"), packs.host_arch(), Budget(20, 10.0))
    try:
        bench = Bench(packs.compiler(), prover, LayoutRegistry(registry), signer, packs.generator())
        return {version: _loaded(registry, keys, _built(bench, version)) for version in VERSIONS}
    finally:
        prover.close()


def _built(bench: Bench, version: str) -> SignedPack:
    (resource,) = parse(PACK.format(version=version, limit=LIMITS[version]), "drill.yaml")
    return bench.pack(PackOrder(to_sources(resource)), lambda step: None)


def _loaded(registry: Path, keys: Keys | None, made: SignedPack) -> Policy:
    fetched = PackStore(registry).fetch_pack(made.image.digest, packs.host_arch(), keys)
    return Policy(made.image.version, made.image.digest, load(fetched.so, fetched.plan, None))


@dataclass
class Live:
    """What is in force; who decides asks each time."""

    policy: Policy


@dataclass(frozen=True)
class Decided:
    """Of one request: its leaf, and the outbox frame with O and A."""

    leaf: bytes
    frames: bytes


def decided(policy: Policy, receipt: bytes, region: str, number: int, body: bytes) -> Decided:
    """One decision, as a guard makes and records it. Raises InputRefused."""
    o = Observation(time.time_ns(), "orders", body, {"sub": "drill"}, region=region).encode()
    found = decide(policy.evaluator, policy.evaluator.judge, o)
    arm = Arm(policy.prefix, DECISION, found.klass, found.verdict, ENFORCED, 0, found.a)
    made: Entries = encode(receipt, number, 0, o, (arm,))
    return Decided(made.entries[ENTRY_SIZE - LEAF_SIZE :], made.frames)


def body_of(partition: int, offset: int) -> bytes:
    """An order; some of each hundred are above the limit of 1.0.0, and more above that of 1.1.0."""
    return json.dumps({"total": (partition * 37 + offset * 61) % 1100}).encode()


class Place(Protocol):
    """A region, as its traffic sees it."""

    name: str

    @property
    def folder(self) -> Path: ...

    @property
    def log_dir(self) -> Path: ...

    def log(self) -> SequencerLog: ...


class Client(threading.Thread):
    """Decides one thing after another, each answered when a log has acknowledged its leaf. It keeps its outbox: when its region is lost, it
    moves to the next, and brings there what the lost one had acknowledged."""

    def __init__(self, home: int, regions: Mapping[str, Place], live: Live, outbox: Path) -> None:
        super().__init__(daemon=True)
        names = list(regions)
        self.source, self.home, self.outbox = secrets.token_bytes(8), names[home], outbox
        self.held: list[bytes] = []  # acknowledged
        self.stopping = threading.Event()
        self._moved, self._live, self._segments = False, live, Segments(outbox)
        self._logs = {name: region.log() for name, region in regions.items()}
        self._numbers = {name: number for number, name in enumerate(names)}
        self._order = [*names[home:], *names[:home]]

    @property
    def at(self) -> str:
        """The region that it speaks to."""
        return self._order[0]

    def run(self) -> None:
        while not self.stopping.wait(PAUSE_S):
            number = len(self.held)
            receipt = self.source + number.to_bytes(8, "big")
            made = decided(self._live.policy, receipt, self.home, self._numbers[self.home], body_of(0, number))
            self._segments.sync(self._segments.append(made.frames))
            while not self._acknowledged(made.leaf):
                self._order.append(self._order.pop(0))
                self._moved = True
            self.held.append(made.leaf)

    def _acknowledged(self, leaf: bytes) -> bool:
        outbox = self.held if self._moved else []
        try:
            self._logs[self.at].append_leaves([*outbox, leaf])
        except Waiting:
            return False
        return True


class Topic:
    """`Source` of made-up orders, kept by nobody whom a drill strikes. A broker's adapter takes its place (none is there yet)."""

    def read(self, partition: int, offset: int) -> Message:
        """See the port."""
        return Message(partition, offset, body_of(partition, offset))


class FilePositions:
    """`Positions` in a folder of a region."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def position(self, partition: int) -> int:
        """See the port."""
        path = self._folder / str(partition)
        return int(path.read_text()) if path.exists() else 0

    def commit(self, partition: int, position: int) -> None:
        """See the port."""
        replace_file(self._folder / str(partition), str(position).encode())


def source_of(partition: int) -> bytes:
    """First half of the receipt ids of a partition; the second is the offset: the same message has the same receipt anywhere."""
    return b"DRILL" + partition.to_bytes(3, "big")


@dataclass
class Consumed:
    """What consumers of a partition hold as acknowledged by both of its regions, and how many messages the second one recognised."""

    held: list[bytes] = field(default_factory=list)
    resumed_at: int = 0
    doubles: int = 0


class Consumer(threading.Thread):
    """Consumes a partition in its order, in `places[0]`, and acknowledges a message when its leaf is in both logs; now and then it commits
    its position in both regions, leaves first. It ends with its region. `resumes`: it takes over where the position says, and leaves out
    what the log has by receipt id."""

    def __init__(
        self, partition: int, places: tuple[Place, ...], number: int, live: Live, told: Consumed, *, resumes: bool, source: Source
    ) -> None:
        super().__init__(daemon=True)
        self._partition, self._places, self._number, self._live, self._told = partition, places, number, live, told
        self._source, self._resumes = source, resumes
        self._positions: list[Positions] = [FilePositions(place.folder / "positions") for place in places]
        self.stopping = threading.Event()

    def run(self) -> None:
        at = self._positions[0].position(self._partition)
        if self._resumes:
            self._told.resumed_at = at
        logs = [place.log() for place in self._places]
        records = [Segments(place.log_dir / "observations" / f"partition-{self._partition}") for place in self._places]
        while not self.stopping.wait(PAUSE_S):
            try:
                self._consume(at, logs, records)
            except (Waiting, OSError):
                return  # one of its regions is gone: another one takes over
            at += 1
            if at % COMMIT_EVERY == 0:
                for positions in self._positions:
                    positions.commit(self._partition, at)

    def _consume(self, at: int, logs: list[SequencerLog], records: list[Segments]) -> None:
        message = self._source.read(self._partition, at)
        receipt = source_of(self._partition) + at.to_bytes(8, "big")
        if self._resumes and self._is_there(logs[0], receipt):
            self._told.doubles += 1
            return
        made = decided(self._live.policy, receipt, self._places[0].name, self._number, message.body)
        for segments, log in zip(records, logs, strict=True):
            segments.sync(segments.append(made.frames))
            log.append_leaves([made.leaf])
        self._told.held.append(made.leaf)

    @staticmethod
    def _is_there(log: SequencerLog, receipt: bytes) -> bool:
        try:
            log.index_of(receipt + b"\0")
        except NotFound:
            return False
        return True
