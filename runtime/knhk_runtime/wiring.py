"""The agent: who is connected to whom, and in which order they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import secrets
import signal
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.model.faults import Corrupt, Fault, KnhkError, Refused, Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.envoy import listens
from knhk_runtime.exchange.documents import Beside, read_keys, read_rollout
from knhk_runtime.exchange.install import fetch
from knhk_runtime.exchange.loaded import CountedBinding, LoadedPacks
from knhk_runtime.exchange.loaded import Opener as PackOpener
from knhk_runtime.exchange.notice import notices
from knhk_runtime.exchange.watch import FILES, Exchange, Folders, load_accepted, must_seal, read_bootstrap
from knhk_runtime.http1 import Https
from knhk_runtime.log import log
from knhk_runtime.outbox.records import PARK, Entries, entries_of, payloads
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.outbox.settling import Settling
from knhk_runtime.outbox.shipping import Shipper, outbox_id
from knhk_runtime.outbox.upload import Outbox, Uploader
from knhk_runtime.outbox.witnessing import Unwitnessed
from knhk_runtime.packstore import PackStore, architecture
from knhk_runtime.parking.decisions import Decisions
from knhk_runtime.parking.judge import ArmJudge
from knhk_runtime.parking.message import Parked, left_aside, left_parked
from knhk_runtime.parking.server import ParkServer, Point
from knhk_runtime.point import parse_point
from knhk_runtime.record import SEGMENT_HEAD
from knhk_runtime.ring.drain import MOST_BATCH_BYTES, DrainLoop
from knhk_runtime.ring.drain import Opener as RingOpener
from knhk_runtime.ring.entries import Drained, RingRecord
from knhk_runtime.ring.heat import preload
from knhk_runtime.ring.observed import ObservedQueue
from knhk_runtime.sealing import BOX, CannotSeal, Sealer, Sealing, store_opener
from knhk_runtime.sequencer_client import SequencerClient, SequencerRefused, SequencerUnavailable
from knhk_runtime.statistics import Counters, receipt_at
from knhk_runtime.tiers.decide import TableDecision
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tiers.errors import Undecided
from knhk_runtime.tiers.pool import WarmEvaluator
from knhk_runtime.waiting import InClear
from knhk_verify.errors import Bad
from knhk_verify.note import unb64

if TYPE_CHECKING:
    from knhk_runtime.courier.courier import Courier

LOOK_EVERY_S, LOOK_AT_LEAST_EVERY_S = 0.05, 0.5  # at wishes: the latter where the kernel tells of them
GATHER_S = 0.02  # files are replaced one by one
STATS_EVERY_S = 0.2
STATS_AT_LEAST_EVERY_S = 1.0
FORGET_EVERY_S = 60.0
FLUSH_S = 5.0
POD_FLUSH_S = 30.0  # where the outbox goes with the pod: half of the grace that admission gives it
POD_SEGMENT_BYTES = 4 << 20  # the last one of each pod that is gone stays beside the log
LAST_WORD_S = 2.0
REBUILD_BYTES = 1 << 20
LAST_CHUNKS = 2 + 3 * MOST_BATCH_BYTES // REBUILD_BYTES  # the frames of a batch have less than three times its bytes


@dataclass(frozen=True)
class Options:
    """The command line of knhk-agent."""

    point_dir: Path
    registry: Path
    outbox: Path
    ring_dir: Path
    root_pub: Path
    sequencer_socket: Path | None = None  # or `log`
    socket: Path | None = None  # by default POINT_DIR/run/agent.sock; the path of a Unix socket must be short
    envoy_admin: Path | None = None
    exchange: str | None = None
    log: str | None = None
    pull: str | None = None
    pull_auth: Path | None = None
    pull_ca: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    instance: str = ""
    subject_keys: Path | None = None  # the folder of the key store, and the file of its own key: for points with privacy
    store_key: Path | None = None
    keys: str | None = None  # or the key service in their place
    keys_token: Path | None = None
    serving: Path | None = None  # a folder in memory, where Envoy is to find what it shows to who asks

    @property
    def seals(self) -> bool:
        return self.keys is not None or (self.subject_keys is not None and self.store_key is not None)


def root_key(path: Path) -> bytes:
    """The pinned root's raw public key. Raises Refused."""
    try:
        key = unb64(path.read_text(encoding="ascii").strip(), str(path))
    except (OSError, UnicodeDecodeError, Bad) as error:
        raise Refused([Fault(str(path), str(error), "must be a file with the root's public key, base64")]) from error
    if len(key) != 32:
        raise Refused([Fault(str(path), f"{len(key)} bytes", "must be a file with the root's public key, base64 of 32 bytes")])
    return key


@dataclass(frozen=True)
class Hot:
    """What the agent takes from the hot library: how to open rings and packs, and the shim that Envoy loads."""

    open_ring: RingOpener
    open_pack: PackOpener
    module: Path


def hot_library() -> Hot:
    """The native parts. Raises Stalled when they were not built."""
    from knhk_hot import shim_module
    from knhk_hot.drain import Ring
    from knhk_hot.pack import Pack, PackError

    module = shim_module()
    if module is None:
        raise Stalled("Shim", "the Envoy shim is not built: run `make setup`")

    def open_pack(path: Path, sha256: str, bundle: bytes | None) -> CountedBinding:
        try:
            return Checked(Pack.open(path, sha256).bind(bundle), PackError)
        except PackError as error:
            raise Corrupt(str(path), str(error)) from error

    return Hot(Ring.open, open_pack, module)


@dataclass(frozen=True)
class Checked:
    """A binding whose own errors are Undecided: the request stays parked."""

    binding: CountedBinding
    error: type[Exception]

    @property
    def predicates(self) -> tuple[str, ...]:
        return self.binding.predicates

    def decide(self, o: bytes) -> TableDecision:
        return self.binding.decide(o)

    def graph(self, o: bytes) -> bytes:
        try:
            return self.binding.graph(o)
        except self.error as error:
            raise Undecided(f"graph: {error}") from error

    def explain(self, o: bytes, a: bytes) -> Sequence[Mapping[str, str]]:
        try:
            return self.binding.explain(o, a)
        except self.error as error:
            raise Undecided(f"explain: {error}") from error


def courier_of(options: Options) -> Courier | None:
    """Who mirrors the exchange; None for an agent whose folders somebody else keeps. Raises Stalled."""
    if options.exchange is None:
        return None
    if options.token_file is None or options.ca_file is None:
        raise Stalled("Options", "--exchange: must have --token-file and --ca-file beside it")
    from knhk_runtime.courier.courier import Courier
    from knhk_runtime.courier.identity import Identity
    from knhk_runtime.courier.mirror import Mirror
    from knhk_runtime.pull import Stop, prune, pull
    from knhk_runtime.serving import Serving

    folders = Folders(options.point_dir)
    identity = Identity(options.token_file, options.ca_file, folders.state)
    url = options.pull

    def taken(digest: str, stop: Stop) -> None:
        pull(str(url), digest, options.registry, auth=options.pull_auth, tls=options.pull_ca, stop=stop)

    pulls = taken if url is not None else None
    mirror = Mirror(
        folders, root_key(options.root_pub), options.registry, architecture(), pulls, partial(prune, options.registry) if pulls else None
    )
    serving = Serving(options.serving) if options.serving is not None else None
    return Courier(Https.of(options.exchange, identity.trusting), identity, mirror, random.SystemRandom().random, serving)


def sequencer_of(options: Options, courier: Courier | None) -> Path | Https:
    """Where leaves go. Raises Stalled."""
    if options.log is not None and courier is not None:
        return Https.of(options.log, courier.identity.known)
    if options.sequencer_socket is None or options.log is not None:
        raise Stalled("Options", "must have --sequencer-socket, or --log with --exchange, whose certificates it asks for")
    return options.sequencer_socket


def sealer_of(options: Options) -> Sealer | None:
    """Who seals records at points with privacy; None for an agent that cannot. Raises Stalled."""
    if options.keys is not None:
        if options.keys_token is None or options.ca_file is None:
            raise Stalled("Options", "--keys: must have --keys-token and --ca-file beside it")
        from knhk_runtime.courier.identity import Identity
        from knhk_runtime.remote_keys import RemoteKeys

        identity = Identity(options.keys_token, options.ca_file, Folders(options.point_dir).state)
        server = Https.of(options.keys, identity.trusting)
        return Sealer(lambda point: RemoteKeys(server, identity.authorization, point))
    if options.subject_keys is not None and options.store_key is not None:
        return Sealer(store_opener(options.subject_keys, options.store_key))
    return None


def check_once(options: Options) -> dict[str, Any]:
    """Verifies what is desired and fetches it, writing nothing. Raises Refused and Corrupt."""
    folders, now = Folders(options.point_dir), datetime.now(UTC)
    paths = {name: folders.desired / name for name in FILES}
    try:
        data = {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise Refused([Fault(str(error.filename), str(error.strerror), "must be a readable file")]) from error
    accepted = load_accepted(folders)
    keys = read_keys(data["keys.json"], root_key(options.root_pub), now, accepted, str(paths["keys.json"]))
    point = parse_point(data["point.json"], str(paths["point.json"]))
    must_seal(point, options.seals, str(paths["point.json"]))
    beside = Beside(point, read_bootstrap(folders))
    rollout = read_rollout(data["rollout.json"], keys, now, beside, accepted, str(paths["rollout.json"]))
    rollout, _ = rollout.seen_by(options.instance)
    fetched = fetch(rollout, PackStore(options.registry), architecture(), keys)
    arms = {"stable": fetched.stable, "candidate": fetched.candidate}
    return {
        "point": point.point,
        "epoch": rollout.epoch,
        **{name: arm[1].index_digest if arm else None for name, arm in arms.items()},
        "data": rollout.data,
    }


class _Boxes:
    """Boxes of the point that runs."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self._clear = agent, InClear()

    def close(self, data: bytes, time_ns: int) -> bytes:
        asked = self._agent.asked()
        return asked[0].box(data, asked[1].point, time_ns) if asked else self._clear.close(data, time_ns)

    def open(self, data: bytes, where: str) -> bytes | None:
        return self._agent.opened(data, where) if data.startswith(BOX) else self._clear.open(data, where)

    def name(self, data: bytes) -> bytes:
        asked = self._agent.asked()
        return asked[0].named(data, asked[1].point) if asked else self._clear.name(data)


class Agent:
    """Everything of one enforcement point on this machine."""

    def __init__(self, options: Options, hot: Hot) -> None:
        """Opens the state of the run before. Raises Refused, Corrupt, Stalled and OSError."""
        self._folders = Folders(options.point_dir)
        self._socket = options.socket or self._folders.socket
        for folder in (self._folders.state, self._folders.desired):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(self._folders.state / "lock")
        segments = Segments(options.outbox, *((POD_SEGMENT_BYTES,) if options.log is not None else ()))
        if segments.cut_bytes:
            log("torn tail cut", path=str(segments.path(segments.durable.segment)), bytes=segments.cut_bytes)
        self._outbox = Outbox(segments)
        self._evaluator = WarmEvaluator()
        self._loaded = LoadedPacks(self._evaluator, hot.open_pack)
        self._counters = Counters(self._loaded.guard_names, last_receipts(segments))
        self._courier = courier_of(options)
        self._client = SequencerClient(sequencer_of(options, self._courier))
        beside = self._socket.with_name("envoy-admin.sock") if self._courier is not None else None  # as guards of pods have it
        self._envoy_admin = options.envoy_admin or beside
        self._envoy_listens = self._envoy_admin is None
        self._ending = False
        self._uploader = Uploader(self._outbox, Cursor(options.outbox / "acked", segments.start()), self._client)
        self._shipper = self._shipping(options, segments) if options.log is not None else None
        judge, boxes = ArmJudge(self._loaded, self._evaluator), _Boxes(self)
        self._observed = ObservedQueue(self._folders.state / "observed", judge.decide, self._commit, boxes)
        self._drain = DrainLoop(options.ring_dir, hot.open_ring, self._commit_drained, self._set_aside)
        observed = self._observed
        self._settling = Settling(lambda: segments.durable, lambda: observed.end, self._drain.hurry)
        self._settling.acked.move(self._uploader.cursor.position)
        self._settling.judged.move(observed.judged)
        self._unwitnessed: Unwitnessed | None = None  # where the point bounds it
        self._asking = SequencerClient(sequencer_of(options, self._courier))  # of its own: its answers may take their time
        self._decisions = Decisions(self._folders.state / "decisions.db", boxes)
        self._parking = ParkServer(judge, self._decisions, self._commit, self._point, self._settling)
        self._exchange = Exchange(
            self._folders,
            root_key(options.root_pub),
            PackStore(options.registry),
            self._loaded,
            architecture(),
            options.ring_dir,
            hot.module,
            self._outbox_end,
            self._preload,
            options.instance,
            seals=options.seals,
        )
        self._sealer = sealer_of(options)
        self._adopt: Callable[[Parked], None] = lambda parked: None
        self._boot = secrets.token_hex(8)
        self._acked_before = 0
        self._listening = self._counted = False
        self._last_stats: tuple[str, float] = ("", 0.0)
        self._wished, self._news = asyncio.Event(), asyncio.Event()
        self._notices: int | None = None
        self._on_counted: Callable[[], None] = lambda: None

    def _shipping(self, options: Options, segments: Segments) -> Shipper:
        """A pod's outbox goes with it, so a copy is kept beside the log. A connection of its own: leaves wait for no payload."""
        self._copying = SequencerClient(sequencer_of(options, self._courier), timeout_s=30.0)
        return Shipper(segments, self._uploader.cursor, self._copying, outbox_id(options.outbox))

    def _durable(self) -> None:
        self._uploader.wake()
        self._news.set()

    def _kept(self) -> None:
        if self._shipper is not None:
            self._shipper.wake()
        self._news.set()

    def _acknowledged(self, end: Position, indexes: Iterable[int]) -> None:
        self._settling.acknowledged(end, indexes)
        if self._unwitnessed is not None:
            self._unwitnessed.acknowledged(end, self._settling.bound)

    def asked(self) -> tuple[Sealer, Sealing] | None:
        """Who seals, and as the point says; None at a point without privacy. Raises CannotSeal."""
        running = self._exchange.running
        if running is None or running.point.privacy is None:
            return None
        if self._sealer is None:
            raise CannotSeal(f"{running.point.point} has privacy, and this agent no key store")
        return self._sealer, Sealing(running.point.point, running.point.privacy)

    def opened(self, boxed: bytes, where: str) -> bytes | None:
        """What a box holds, of whatever point: it may have another now. Raises CannotSeal and Corrupt."""
        if self._sealer is None:
            raise CannotSeal(f"{where} is sealed, and this agent has no key store")
        return self._sealer.unbox(boxed, where)

    def _commit(self, made: Entries) -> Position:
        if asked := self.asked():
            made = asked[0].entries(made, asked[1])
        end = self._outbox.commit(made)
        self._counters.reach(end)
        self._counters.take(made.frames)
        self._counters.mark()
        return end

    def _commit_drained(self, made: Entries, drained: Drained) -> None:
        asked = self.asked()
        sealed, counted = asked[0].batch(made, drained, asked[1]) if asked else (made, drained)
        self._counters.reach(self._outbox.commit(sealed))
        self._counters.take_drained(counted)
        self._counters.mark()
        if any(kind == PARK for _, kind, _, _ in drained.counts):
            for parked in left_parked(drained.frames):
                self._adopt(parked)

    def _set_aside(self, records: Sequence[RingRecord]) -> None:
        self._observed.put(records)
        for parked in left_aside(records):
            self._adopt(parked)

    def _point(self) -> Point | None:
        running = self._exchange.running
        if running is None:
            return None
        return Point(running.point.region_index, running.point.park_timeout_ms, running.point.durable_timeout_ms)

    def _preload(self, stable: bytes, candidate: bytes, from_bundle: Sequence[str]) -> tuple[str, ...]:
        return preload(self._drain.heat, stable, candidate, from_bundle, self._loaded.predicates(stable))

    def _heat(self) -> dict[str, Any]:
        """`heat` of stats.json."""
        found = self._drain.heat
        return {
            pack.hex(): {"samples": samples, "predicates": found.named(pack, self._loaded.predicates(pack))}
            for pack, (samples, _) in found.packs.items()
        }

    def _outbox_end(self) -> tuple[int, int]:
        end = self._outbox.segments.durable
        return end.segment, end.offset

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; then drains, flushes and uploads for at most FLUSH_S, in a pod POD_FLUSH_S."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGIO, self._wished.set)
        self._notices = notices(self._folders.desired)
        self._outbox.on_durable = lambda: _soon(loop, self._durable)
        self._adopt = lambda parked: _soon(loop, self._parking.adopt, parked)
        settling = self._settling
        self._observed.on_judged = lambda position: _soon(loop, settling.judged.move, position)
        self._drain.on_drained = lambda source, tail: _soon(loop, settling.drained, source, tail)
        self._drain.on_gone = lambda source: _soon(loop, settling.gone, source)
        self._uploader.on_kept = self._kept
        self._uploader.on_acked, self._uploader.on_left_out = self._acknowledged, settling.left_out
        self._drain.on_ring = lambda source: _soon(loop, self._uploader.claim, source)
        self._on_counted = lambda: _soon(loop, self._news.set)
        counting = threading.Thread(
            target=self._count_again, args=(self._outbox.segments.durable, self._uploader.cursor.position), name="count", daemon=True
        )
        counting.start()
        self._observed.start()
        self._drain.start()
        await self._parking.start(self._socket)
        self._listening = True
        tasks = [asyncio.create_task(self._uploader.run()), asyncio.create_task(self._follow()), asyncio.create_task(self._tell())]
        tasks += [asyncio.create_task(self._watch_log()), asyncio.create_task(self._forget_expired())]
        if self._courier is not None:
            tasks.append(asyncio.create_task(self._courier.run()))
        if self._shipper is not None:
            tasks.insert(1, asyncio.create_task(self._shipper.run()))
        stopped = asyncio.create_task(ended.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await self._stop(tasks)
        for task in done - {stopped}:
            task.result()

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        self._listening = False
        log("stopping")
        writing = 1 if self._shipper is None else 2  # those that end what the others made
        for task in tasks[writing:]:
            task.cancel()
        await self._parking.stop()
        await asyncio.to_thread(self._drain.stop)
        await asyncio.to_thread(self._observed.stop)
        until_s = time.monotonic() + (FLUSH_S if self._shipper is None else POD_FLUSH_S)
        await self._uploader.flush(until_s - time.monotonic())
        if self._shipper is not None:
            await self._shipper.flush(until_s - time.monotonic())
        for task in tasks[:writing]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        await self._asking.close()
        if self._shipper is not None:
            await self._copying.close()
        if self._notices is not None:
            os.close(self._notices)
        self._ending = True
        self._write_stats(time.monotonic())
        if self._courier is not None:
            await self._courier.last_word(LAST_WORD_S)
        self._evaluator.close()
        self._decisions.close()
        self._outbox.segments.close()
        if self._sealer is not None:
            self._sealer.close()
        self._socket.unlink(missing_ok=True)
        log("stopped", idle=self._uploader.idle)

    async def _follow(self) -> None:
        """The control plane's wishes, as soon as the kernel tells of them."""
        pause_s = LOOK_EVERY_S if self._notices is None else LOOK_AT_LEAST_EVERY_S
        while True:
            self._wished.clear()
            before = self._exchange.running, self._exchange.refused
            await asyncio.to_thread(self._look)
            if before != (self._exchange.running, self._exchange.refused):
                self._news.set()
            await _within(pause_s, self._wished)
            if self._wished.is_set():
                await asyncio.sleep(GATHER_S)

    def _look(self) -> None:
        self._exchange.look(time.monotonic())
        self._close_erased()

    async def _watch_log(self) -> None:
        """How far the log's entries have come, for as long as somebody wants to know."""
        known: tuple[int, int] | None = None
        while True:
            running = self._exchange.running
            if running is None or not (self._settling.wants_regions.is_set() or running.point.max_unwitnessed_s):
                known = None
                await _within(STATS_AT_LEAST_EVERY_S, self._settling.wants_regions)
                continue
            try:
                told = await self._asking.stages(known)
            except (SequencerUnavailable, SequencerRefused):  # the uploader tells it
                await asyncio.sleep(STATS_EVERY_S)
                continue
            published, regions = known = int(told["published"]), int(told["regions"])
            self._settling.held(regions)
            if self._unwitnessed is not None:
                self._unwitnessed.published(published, int(told["durable"]))

    def _look_for_witnesses(self, now_s: float) -> None:
        """Whether producers are to be told that the oldest record has waited for too long."""
        running = self._exchange.running
        most_s = running.point.max_unwitnessed_s if running is not None else 0
        self._unwitnessed = (self._unwitnessed or Unwitnessed(self._uploader.cursor.position)) if most_s else None
        unwitnessed = False
        if self._unwitnessed is not None:
            self._unwitnessed.looked(self._outbox.segments.durable, now_s)
            unwitnessed = self._unwitnessed.seconds(now_s) > most_s
        if unwitnessed != self._drain.unwitnessed:
            log("witnesses", unwitnessed=unwitnessed)
            self._drain.unwitnessed = unwitnessed
            self._drain.hurry()

    def _close_erased(self) -> None:
        """What was erased lies in closed segments, which others may rewrite: the next record begins a new one."""
        try:
            if (asked := self.asked()) and asked[0].moved(asked[1].point):
                self._outbox.segments.rotate()
        except (KnhkError, OSError) as error:
            log("erasure", fault=str(error))

    async def _forget_expired(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._decisions.forget, time.time_ns())
            except sqlite3.Error as error:
                log("park", fault=str(error))
            await asyncio.sleep(FORGET_EVERY_S)

    async def _tell(self) -> None:
        """stats.json, when it changed or once a second."""
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            if self._envoy_admin is not None:
                self._envoy_listens = await listens(self._envoy_admin)
            self._look_for_witnesses(time.monotonic())
            told_s = loop.time()
            try:
                await asyncio.to_thread(self._write_stats, time.monotonic())
            except OSError as error:
                log("statistics", fault=str(error))
            is_calm = self._envoy_listens and self._unwitnessed is None
            await _within(STATS_AT_LEAST_EVERY_S if is_calm else STATS_EVERY_S, self._news)
            await asyncio.sleep(told_s + STATS_EVERY_S - loop.time())

    def _write_stats(self, now_s: float) -> None:
        text = json.dumps(self.statistics(), separators=(",", ":"))
        if text != self._last_stats[0] or now_s - self._last_stats[1] >= STATS_AT_LEAST_EVERY_S:
            replace_file(self._folders.stats, text.encode(), 0o644, sync=False)
            self._last_stats = (text, now_s)

    def statistics(self) -> Mapping[str, Any]:
        """stats.json of formats/agent.md."""
        running = self._exchange.running
        self._counters.cover(self._uploader.cursor.position)
        pairs, decisions = self._counters.documents()
        leaves = self._counters.leaves
        faults = [{"what": what, "where": where, "must": "must be whole"} for where, what in self._drain.totals.faults.items()]
        if self._drain.storage_fault:
            faults.append({"what": self._drain.storage_fault, "where": str(self._outbox.segments.folder), "must": "must have room"})
        said = (
            (self._uploader.fault, "must acknowledge"),
            (self._uploader.conflict, "must be this pod's, and as they were the first time"),
            (self._shipper.fault if self._shipper else "", "must keep a copy of the records"),
        )
        upload = [{"what": what, "where": "sequencer", "must": must} for what, must in said if what]
        courier = self._courier.faults if self._courier else []
        return {
            "version": 1,
            "point": running.point.point if running else "",
            "boot": self._boot,
            "epoch": running.epoch if running else 0,
            "evaluator": evaluator_digest().hex(),
            "ready": self._listening and running is not None,
            "listening": self._envoy_listens,
            "counted": self._counted,
            "ending": self._ending,
            "inWave": running.in_wave if running else None,
            "running": {name: getattr(running, name, None) for name in ("stable", "candidate", "data")},
            "refused": [*self._exchange.refused, *faults, *upload, *courier],
            "drained": leaves,
            "durable": leaves,
            "acked": min(leaves, self._acked_before + self._uploader.uploaded),
            "ringFull": self._drain.ring_full,
            "pairs": pairs,
            "decisions": decisions,
            "absent": self._drain.heat.absent,
            "heat": self._heat(),
        }

    def _count_again(self, end: Position, acked: Position) -> None:
        """Counts of the current pair out of the outbox, up to where outbox and acknowledgements ended when this run began."""
        running = self._exchange.running
        at = Position(*running.since) if running else end
        self._counters.reach(end)
        try:
            while at < end:
                frames, following = self._outbox.segments.read(at, REBUILD_BYTES)
                frames, following = _until(frames, following, acked if at < acked < end else end)
                self._counters.recount(frames)
                if following <= acked:
                    self._acked_before += entries_of(frames).count
                at = following
        except Corrupt as error:
            log("count", fault=str(error))
            self._drain.totals.faults[error.where] = error.what
        self._counters.mark()
        self._counted = True
        self._on_counted()


def last_receipts(segments: Segments) -> frozenset[bytes]:
    """Receipts of the last frames: more than one batch of a ring, and only one can be durable without having left its ring."""
    end = segments.durable
    before = [number for number in segments.numbers() if number < end.segment]
    at = Position(before[-1] if before and end.offset < REBUILD_BYTES * LAST_CHUNKS else end.segment, SEGMENT_HEAD)
    chunks: deque[bytes] = deque(maxlen=LAST_CHUNKS)
    try:
        while at < end:
            frames, at = segments.read(at, REBUILD_BYTES)
            chunks.append(frames)
    except Corrupt as error:  # a batch may then count twice, which is no reason to stop the point; verify and replay report the place
        log("count", fault=str(error))
    return frozenset(receipt_at(frames, start) for frames in chunks for start, _ in payloads(frames))


def _until(frames: bytes, following: Position, end: Position) -> tuple[bytes, Position]:
    """Frames before `end` only."""
    if following <= end:
        return frames, following
    if following.segment > end.segment:
        return b"", end
    return frames[: len(frames) - (following.offset - end.offset)], end


async def _within(limit_s: float, event: asyncio.Event) -> None:
    """Returns when it is set, after `limit_s` at the latest."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """From any thread; while the loop is being closed there is nobody to call."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *arguments)


def _lock(path: Path) -> int:
    """One agent for each folder; the lock ends with the process. Raises Stalled."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Stalled("Running", f"{path}: another agent runs on this folder; stop it first") from None
    return handle


def run(options: Options) -> None:
    """Runs the agent to its end. Raises as Agent."""
    asyncio.run(Agent(options, hot_library()).run())
