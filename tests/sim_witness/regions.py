"""Three regions under a seed: each a log and a witness of the others' logs, on disks that forget, with messages that are lost, late and
forged, machines that die, and one log whose key somebody else has too. The code of log, witness and asking is the real one.

Laws, looked at after every step (`Regions.look`):
- history: no witness ever gives away cosignatures of two histories of one log, whatever it forgot;
- quorum: what a log shows is cosigned by as many different witnesses as its policy wants;
- monotone: what a log shows only grows, and nothing that it showed is ever of another history;
- acknowledged: an entry that was acknowledged keeps its index;
- proof: who is shown another history than it cosigned keeps the proof, where there is one, for ever;
- live: when faults have ceased, every log shows all that it has."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from regions_disk import Disk
from remembering import signatures_remembered

from knhk.model.faults import Corrupt
from knhk_runtime.record import encode_leaf, entry_key
from knhk_runtime.sequencer.core import Log, LogKey, Taken
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer.witnesses import Witnesses
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.notes import format_vkey, size_of
from knhk_runtime.tlog.policy import Policy, parse_policy
from knhk_runtime.tlog.tree import range_root
from knhk_runtime.witness.core import Refusal, Witness, WitnessKey
from knhk_runtime.witness.follow import Followed
from knhk_verify.errors import Bad
from knhk_verify.leaf import Leaf
from knhk_verify.note import COSIGNATURE, Proof, Verifier, open_checkpoint, open_note, parse_path
from knhk_verify.tree import leaf_hash, node_hash

PLACES = ("eu", "us", "ap")
STEPS, CALM = 50, 3
LOG, WITNESS = Path("/log"), Path("/witness")


class Broken(Exception):
    """A law does not hold."""

    def __init__(self, law: str, what: str) -> None:
        super().__init__(what)
        self.law = law


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def _log_key(number: int) -> LogKey:
    key = _key(100 + number)
    return LogKey(Verifier(f"log.example/{PLACES[number]}", key.public_key().public_bytes_raw()), key.sign)


def _witness_key(number: int) -> WitnessKey:
    key = _key(200 + number)
    return WitnessKey(Verifier(f"witness.example/{PLACES[number]}", key.public_key().public_bytes_raw(), COSIGNATURE), key.sign)


LOGS, WITNESSES = [_log_key(n) for n in range(3)], [_witness_key(n) for n in range(3)]  # keys cost, and are no matter of the seed


def leaf(source: int, number: int) -> bytes:
    id_ = b"SOURCE" + source.to_bytes(2, "big") + number.to_bytes(8, "big")
    return encode_leaf(Leaf(1, 1, 1, 1, 0, 0, id_ * 2, id_ * 2, bytes(20), 7, id_))


@dataclass
class Writer:
    """One who writes a log: the region, or who has its key and a copy of its disk."""

    region: int
    name: str
    disk: Disk
    log: Log
    witnesses: Witnesses
    source: int
    acked: dict[bytes, int] = field(default_factory=dict)
    shown: int = 0
    seen: str = ""  # the checkpoint that was looked at last
    late: list[str] = field(default_factory=list)  # cosigned checkpoints that are not published yet
    hashes: list[bytes] = field(default_factory=list)  # of the leaves of its history
    _nodes: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _roots: dict[int, bytes] = field(default_factory=dict)

    def root(self, size: int) -> bytes | None:
        """Of the first `size` entries of its history; None when it has fewer."""
        if size > len(self.hashes):
            return None
        if size not in self._roots:
            self._roots[size] = range_root(self._node, 0, size)
        return self._roots[size]

    def _node(self, level: int, index: int) -> bytes:
        if level == 0:
            return self.hashes[index]
        if (level, index) not in self._nodes:
            self._nodes[level, index] = node_hash(self._node(level - 1, 2 * index), self._node(level - 1, 2 * index + 1))
        return self._nodes[level, index]


@dataclass
class Watcher:
    """A witness. `given`: of each log the trees that it has given cosignatures of away. `owed`: origins of which it has seen a provable
    split view."""

    region: int
    disk: Disk
    witness: Witness
    given: dict[str, dict[int, bytes]] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)


class Regions:
    """The world of one seed."""

    def __init__(self, seed: int, traced: bool = False) -> None:
        self.chance, self.trace, self.traced = random.Random(seed), list[str](), traced
        self.loss = self.chance.choice((0.0, 0.1, 0.3))
        self.lies = self.chance.choice((0.0, 0.15))
        self.need = self.chance.choice((1, 2))
        self.fork_at = self.chance.randrange(5, STEPS // 2) if self.chance.random() < 0.7 else -1
        self.steps, self.now_s = 0, 1_700_000_000
        self.loop = asyncio.new_event_loop()
        self.queue: list[tuple[int, bytes]] = []  # requests that are still on their way
        self.watchers = [self._watcher(n, Disk(self.chance)) for n in range(3)]
        self.writers = [self._writer(n, PLACES[n], Disk(self.chance), n) for n in range(3)]

    # ---- making ------------------------------------------------------------------------------

    def _open_witness(self, region: int, disk: Disk) -> Witness:
        logs = {LOGS[n].verifier.name: [LOGS[n].verifier] for n in range(3) if n != region}
        return Witness(WITNESS, WITNESSES[region], logs, disk, lambda: self.now_s)

    def _watcher(self, region: int, disk: Disk) -> Watcher:
        return Watcher(region, disk, self._open_witness(region, disk))

    def _policy(self, region: int) -> Policy:
        others = [n for n in range(3) if n != region]
        lines = [f"witness W{n} {format_vkey(WITNESSES[n].verifier)} http://{n}" for n in others]
        return parse_policy("\n".join([*lines, f"group G {self.need} W{others[0]} W{others[1]}", "quorum G"]).encode())

    def _writer(self, region: int, name: str, disk: Disk, source: int) -> Writer:
        log = Log(LOG, LOGS[region], disk, witnessed=True)
        return Writer(region, name, disk, log, self._asking(region), source)

    def _asking(self, region: int) -> Witnesses:
        return Witnesses(self._policy(region), LOGS[region].verifier, self._post, within_s=60)

    # ---- messages ----------------------------------------------------------------------------

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """To a witness: lost, late, answered in vain, answered by a liar, or answered."""
        to = int(url.removeprefix("http://").partition("/")[0])
        if self.chance.random() < self.loss:
            if self.chance.random() < 0.5:
                self.queue.append((to, body))
            if self.chance.random() < 0.5:
                self._deliver(to, body)
            raise OSError("no answer")
        if self.chance.random() < self.lies:
            other = self.chance.choice([n for n in range(3) if n != to and LOGS[n].verifier.name.encode() not in body])
            return self._deliver(other, body)
        return self._deliver(to, body)

    def _deliver(self, to: int, body: bytes) -> tuple[int, bytes]:
        """What the witness says. Whatever it gives away counts, whether it arrives or not."""
        watcher = self.watchers[to]
        asked = parse_path(body.decode(), "old", "body")
        origin, size = asked.checkpoint.split("\n")[0], size_of(asked.checkpoint)
        before = watcher.witness.latest(origin)
        try:
            line = watcher.witness.add_checkpoint(body)
        except Refusal as refusal:
            self._owe(watcher, origin, before.tree.size if before else 0, asked)
            if refusal.size is not None:
                return int(refusal.status), b"%d\n" % refusal.size
            return int(refusal.status), str(refusal).encode()
        tree = open_checkpoint(asked.checkpoint, next(key.verifier for key in LOGS if key.verifier.name == origin))
        watcher.given.setdefault(origin, {})[size] = tree.root
        self._tell(f"{PLACES[to]} cosigns {origin} {size}")
        return 200, line.encode()

    def _owe(self, watcher: Watcher, origin: str, old: int, asked: Proof) -> None:
        """Whether what was refused proves a split view: another root of the size cosigned last, or a larger tree of another history, asked
        for with its own proof from that size, which is no power of two or has that tree's root before it."""
        note = asked.checkpoint
        size, given = size_of(note), watcher.given.get(origin, {})
        ours = self._history_of(origin, given)
        theirs = self._history_of(origin, {size: open_checkpoint(note, self._verifier(origin)).root})
        if old not in given or ours is None or theirs is None or ours is theirs or ours.root(old) == theirs.root(old):
            return
        if size == old or (asked.start == old and size > old and (old & (old - 1) or theirs.root(old) in asked.path[:1])):
            watcher.owed.add(origin)

    def _verifier(self, origin: str) -> Verifier:
        return next(key.verifier for key in LOGS if key.verifier.name == origin)

    # ---- the truth ---------------------------------------------------------------------------

    def _history_of(self, origin: str, trees: dict[int, bytes]) -> Writer | None:
        """Of whose history all of these trees are; None when of nobody's."""
        own = [writer for writer in self.writers if LOGS[writer.region].verifier.name == origin]
        return next((writer for writer in own if all(writer.root(size) == root for size, root in trees.items())), None)

    # ---- what happens ------------------------------------------------------------------------

    def step(self) -> None:
        """One thing, of those that can happen now."""
        self.steps += 1
        self.now_s += self.chance.randrange(3)
        writer = self.chance.choice(self.writers)
        watcher = self.chance.choice(self.watchers)
        if self.steps == self.fork_at:
            self._fork()
            return
        happenings: list[tuple[int, Callable[[], None]]] = [
            (30, lambda: self._append(writer)),
            (30, lambda: self._ask(writer)),
            (15, lambda: self._publish(writer)),
            (12, lambda: self._follow(watcher)),
            (8, lambda: self._late()),
            (6, lambda: self._kill_log(writer)),
            (8, lambda: self._kill_witness(watcher)),
        ]
        weights, acts = [weight for weight, _ in happenings], [act for _, act in happenings]
        self.chance.choices(acts, weights)[0]()

    def _append(self, writer: Writer) -> None:
        rows = [leaf(writer.source, len(writer.acked) + n) for n in range(self.chance.choice((1, 1, 2, 3, 40)))]
        (found,) = writer.log.commit([parse_append(encode_batch(rows))])
        assert not isinstance(found, Taken)
        writer.acked |= dict(zip(map(entry_key, rows), found, strict=True))
        writer.hashes += map(leaf_hash, rows)
        self._tell(f"{writer.name} has {writer.log.durable}")

    def _ask(self, writer: Writer) -> None:
        writer.log.integrate()
        if not writer.log.signed or (size := size_of(writer.log.signed)) <= writer.log.published:
            return
        tree = open_checkpoint(writer.log.signed, LOGS[writer.region].verifier)
        if writer.root(size) != tree.root:
            raise Broken("monotone", f"{writer.name} has signed another tree of size {size} than its history's")

        async def prove(old: int, new: int) -> list[bytes]:
            return writer.log.consistency(old, new)

        note = self._run(writer.witnesses.cosigned(writer.log.signed, size, prove))
        self._tell(f"{writer.name} asks for {size}: {'a quorum' if note else 'no quorum'}")
        if note is not None:
            writer.late.append(note)

    def _run(self, asked: Awaitable[str | None]) -> str | None:
        return self.loop.run_until_complete(asked)

    def _publish(self, writer: Writer) -> None:
        """One of those that a quorum has cosigned; a process that was stopped meanwhile may come with an old one."""
        if writer.late:
            writer.log.publish(writer.late.pop(self.chance.randrange(len(writer.late))))

    def _follow(self, watcher: Watcher) -> None:
        """It is shown one of those who write a log that it watches."""
        writer = self.chance.choice([writer for writer in self.writers if writer.region != watcher.region])
        origin, disk = LOGS[writer.region].verifier.name, writer.disk

        def fetch(path: str) -> bytes | None:
            return disk.live[LOG / path].data if LOG / path in disk.live else None

        def add(body: bytes) -> str:
            status, told = self._deliver(watcher.region, body)
            if status != 200:
                raise Refusal(HTTPStatus(status), "", told.decode())
            return told.decode()

        Followed({origin: lambda: fetch}, watcher.witness.latest, add).look_at(origin)
        self._tell(f"{PLACES[watcher.region]} looks at {writer.name}")

    def _late(self) -> None:
        if self.queue:
            self._deliver(*self.queue.pop(self.chance.randrange(len(self.queue))))

    def _kill_log(self, writer: Writer) -> None:
        self._tell(f"{writer.name} dies")
        writer.late.clear()
        writer.disk.crash()
        try:
            writer.log = Log(LOG, LOGS[writer.region], writer.disk, witnessed=True)
        except Corrupt as error:
            raise Broken("acknowledged", f"{writer.name} does not start: {error}") from error
        if any(writer.log.index_of(key) != index for key, index in writer.acked.items()):
            raise Broken("acknowledged", f"{writer.name} has lost or moved an entry that it acknowledged")
        writer.witnesses = self._asking(writer.region)

    def _kill_witness(self, watcher: Watcher) -> None:
        self._tell(f"witness {PLACES[watcher.region]} dies")
        watcher.disk.crash()
        try:
            watcher.witness = self._open_witness(watcher.region, watcher.disk)
        except (Corrupt, Bad) as error:
            raise Broken("history", f"witness {PLACES[watcher.region]} does not start: {error}") from error

    def _fork(self) -> None:
        """Somebody has the key of a log and a copy of its disk, and goes on by himself."""
        writer = self.chance.choice(self.writers[:3])
        twin = self._writer(writer.region, f"{writer.name}'", writer.disk.copy(), 10 + writer.region)
        twin.hashes = list(writer.hashes)
        self.writers.append(twin)
        self._tell(f"{writer.name} is forked at {writer.log.durable}")

    def _tell(self, what: str) -> None:
        if self.traced:
            self.trace.append(f"{self.steps:4} {what}")

    # ---- laws --------------------------------------------------------------------------------

    def look(self) -> None:
        """Raises Broken."""
        for watcher in self.watchers:
            for origin, trees in watcher.given.items():
                if self._history_of(origin, trees) is None:
                    raise Broken("history", f"witness {PLACES[watcher.region]} has cosigned two histories of {origin}")
                if origin in watcher.owed and not watcher.witness.split_views:
                    raise Broken("proof", f"witness {PLACES[watcher.region]} has no proof that {origin} has forked")
        for writer in self.writers:
            self._look_at(writer)

    def _look_at(self, writer: Writer) -> None:
        note = writer.disk.read(LOG / "checkpoint").decode()
        if note == writer.seen:
            return
        writer.seen = note
        tree = open_checkpoint(note, LOGS[writer.region].verifier)
        if tree.size < writer.shown:
            raise Broken("monotone", f"{writer.name} shows {tree.size} after {writer.shown}")
        if writer.root(tree.size) != tree.root:
            raise Broken("monotone", f"{writer.name} shows a tree that is not of its history")
        if tree.size > writer.shown:
            others = [WITNESSES[n].verifier for n in range(3) if n != writer.region]
            signed = open_note(note, others)[1]
            if len(signed) < self.need:
                raise Broken("quorum", f"{writer.name} shows {tree.size} with {len(signed)} witnesses of {self.need}")
        writer.shown = tree.size

    def calm(self) -> None:
        """Faults cease: all that is acknowledged is shown, unless the log was forked and its witnesses went with the other."""
        self.loss = self.lies = 0.0
        for _ in range(CALM):
            for writer in self.writers:
                self._ask(writer)
                while writer.late:
                    self._publish(writer)
                self.look()
        for writer in self.writers:
            alone = not any(other is not writer and other.region == writer.region for other in self.writers)
            if alone and writer.log.published != writer.log.durable:
                raise Broken("live", f"{writer.name} shows {writer.log.published} of {writer.log.durable}")


@dataclass(frozen=True)
class Outcome:
    """How a seed ended. `law`: empty when all held."""

    seed: int
    law: str
    broken: str
    steps: int
    trace: tuple[str, ...] = ()


def play(seed: int, traced: bool = False, focus: Mapping[str, float] = MappingProxyType({})) -> Outcome:
    """A seed and a commit give the same run everywhere. ValueError for a `focus`: this world has no weather that could be said."""
    if focus:
        raise ValueError(f"--focus {', '.join(focus)}: must be left out, regions have no such weather")
    regions, steps, law, told = Regions(seed, traced), 0, "", ""
    try:
        with signatures_remembered():
            while steps < STEPS:
                steps += 1
                regions.step()
                regions.look()
            regions.calm()
    except Broken as broken:
        law, told = broken.law, str(broken)
    finally:
        regions.loop.close()
    return Outcome(seed, law, told, steps, tuple(regions.trace))
