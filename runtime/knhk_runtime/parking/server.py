"""POST /park and /durable on the agent's Unix socket: bounded, answered below the shim's time-outs, and durable before the answer."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from knhk.model.faults import Fault, Refused
from knhk_runtime.exchange.install import PROBLEM_BASE
from knhk_runtime.log import log
from knhk_runtime.outbox.records import DECISION, PARK, RESUMED, UNAVAILABLE, Arm, Entries, encode, time_of
from knhk_runtime.outbox.segments import Position
from knhk_runtime.outbox.settling import DISK, Settling
from knhk_runtime.parking.decisions import EXPIRY_S, Decisions, Judged, Late
from knhk_runtime.parking.judge import ArmJudge, by_shim
from knhk_runtime.parking.message import DECIDE, DENY, MAX_MESSAGE, NO_DECISION, Parked, answer, parse_awaited, parse_parked
from knhk_runtime.record import o_key, parse_action, parse_observation
from knhk_verify.errors import Bad

MAX_WAITING = 64
MAX_LATE = 256
MAX_AWAITED = 4096
STOP_WITHIN_S = 5.0
WORKERS = 4
MARGIN_S = 0.06
LEAST_WAIT_S = 0.02
_AGENT = {"x-knhk-agent": "1"}


@dataclass(frozen=True)
class Point:
    """What the server needs of the point: region of the leaves, and how long the shim waits."""

    region_index: int
    park_timeout_ms: int
    durable_timeout_ms: int


Commit = Callable[[Entries], Position]


class ParkServer:
    """`commit` makes entries durable (blocking), counts them and gives their end. `point` is asked at each request; None: not ready,
    nothing is parked."""

    def __init__(
        self, judge: ArmJudge, decisions: Decisions, commit: Commit, point: Callable[[], Point | None], settling: Settling
    ) -> None:
        self._judge = judge
        self._decisions = decisions
        self._commit = commit
        self._point = point
        self._settling = settling
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="park")
        self._waiting = self._awaited = 0
        self._jobs: dict[bytes, tuple[_Job, asyncio.Task[None]]] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self, socket: Path) -> None:
        """Listens with mode 0600; a socket file that was left behind is replaced."""
        app = web.Application(client_max_size=MAX_MESSAGE)
        app.router.add_post("/park", self._handle)
        app.router.add_post("/durable", self._durable)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_WITHIN_S)
        await self._runner.setup()
        await asyncio.to_thread(_make_room, socket)
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, os.fspath(socket)).start()
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Ends listening; late decisions that are under way are finished."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._late:
            await asyncio.wait(self._late, timeout=2.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.Request) -> web.Response:
        point = self._point()
        if point is None or self._waiting >= MAX_WAITING or len(self._late) >= MAX_LATE:
            return web.Response(status=503)  # without our header: the shim parks by itself
        self._waiting += 1
        try:
            return await self._park(parse_checked(await request.read()), point)
        except Refused as error:
            log("park", refused=[str(fault) for fault in error.faults])
            return web.Response(status=400)
        except OSError as error:
            log("park", fault=str(error))
            return web.Response(status=500)
        finally:
            self._waiting -= 1

    async def _durable(self, request: web.Request) -> web.Response:
        point = self._point()
        if point is None or self._awaited >= MAX_AWAITED:
            return web.Response(status=503)
        self._awaited += 1
        try:
            awaited = parse_awaited(await request.read())
            settled = self._settling.of_ring(awaited.receipt, awaited.position, awaited.level, awaited.is_open)
            in_time = await self._in_time(settled, point)
            return web.Response(status=204, headers=_AGENT) if in_time else web.Response(status=503)
        except Refused as error:
            log("durable", refused=[str(fault) for fault in error.faults])
            return web.Response(status=400)
        finally:
            self._awaited -= 1

    @staticmethod
    async def _in_time(settled: Awaitable[bool], point: Point) -> bool:
        try:
            async with asyncio.timeout(max(LEAST_WAIT_S, point.durable_timeout_ms / 1000 - MARGIN_S)):
                return await settled
        except TimeoutError:
            return False

    async def _park(self, parked: Parked, point: Point) -> web.Response:
        wait_s = max(LEAST_WAIT_S, point.park_timeout_ms / 1000 - MARGIN_S)
        if parked.decision != NO_DECISION:
            return await self._resume(parked, point, wait_s)
        return await self._decide(parked, point, self._start(parked), wait_s)

    def _start(self, parked: Parked) -> asyncio.Future[tuple[Judged, ...]]:
        return asyncio.get_running_loop().run_in_executor(self._pool, self._judge.judge, parked)

    async def _decide(self, parked: Parked, point: Point, job: asyncio.Future[tuple[Judged, ...]], wait_s: float) -> web.Response:
        done, _ = await asyncio.wait({job}, timeout=wait_s)
        judged = job.result() if done else None
        if judged is not None and judged[parked.enforced].kind != UNAVAILABLE:
            durable = await self._kept(parked, judged, point, parked.o, 0)
            return self._answer(parked, judged, parked.o, durable)
        await self._write(parked, _left_open(parked, judged), point, parked.o, 0)
        if judged is None:
            self._follow(parked, _Job(_asked(parked), parked.o, job))
        return web.Response(status=202, headers=_AGENT)

    def _follow(self, parked: Parked, job: _Job) -> None:
        task = asyncio.create_task(self._finish(parked, job))
        self._jobs[parked.receipt] = job, task
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def adopt(self, parked: Parked) -> None:
        """Decides a request that the shim answered 202 by itself, so that it may pass when it is repeated. From the event loop's thread."""
        age_s = time.time() - time_of(parked.o) / 10**9
        if len(self._late) < MAX_LATE and age_s < EXPIRY_S and parked.receipt not in self._jobs:
            self._follow(parked, _Job(_asked(parked), parked.o, self._start(parked)))

    async def _finish(self, parked: Parked, job: _Job) -> None:
        try:
            judged = await job.judged
            if judged[parked.enforced].kind != UNAVAILABLE:
                now_ns = time.time_ns()
                late = Late(parked.receipt, o_key(job.o), now_ns + EXPIRY_S * 10**9, job.o, judged)
                await asyncio.to_thread(self._decisions.keep, late, now_ns)
        except Exception as error:  # nothing was promised to the client but 410
            log("park", fault=repr(error))
        finally:
            self._jobs.pop(parked.receipt, None)

    async def _resume(self, parked: Parked, point: Point, wait_s: float) -> web.Response:
        """A repeated request passes once; one whose decision is still being made waits for it and may be sent away again."""
        following = self._jobs.get(parked.decision)
        if following is not None and (answered := await self._too_early(parked, point, wait_s, *following)):
            return answered
        packs = b"".join(arm.pack for arm in parked.arms)
        late = await asyncio.to_thread(self._decisions.find, parked.decision, o_key(parked.o), packs, time.time_ns())
        if late is None or not await asyncio.to_thread(self._decisions.use, parked.decision):
            return web.Response(status=410, headers=_AGENT)
        durable = await self._kept(parked, late.arms, point, late.o, RESUMED)
        return self._answer(parked, late.arms, late.o, durable)

    async def _too_early(self, parked: Parked, point: Point, wait_s: float, job: _Job, kept: asyncio.Task[None]) -> web.Response | None:
        """The answer to a repetition while its decision is being made; None when it was made within the time."""
        if job.asked != _asked(parked):
            return web.Response(status=410, headers=_AGENT)  # another request may not inherit the decision
        done, _ = await asyncio.wait({kept}, timeout=wait_s)
        if done:
            return None
        await self._write(parked, _left_open(parked, None), point, parked.o, 0)
        self._follow(parked, job)
        return web.Response(status=202, headers=_AGENT)

    async def _kept(self, parked: Parked, judged: tuple[Judged, ...], point: Point, o: bytes, flag: int) -> bool:
        """Writes the leaves; whether they became as sure as the pack wants in time. On this disk they are in any case."""
        end = await self._write(parked, judged, point, o, flag)
        return parked.level <= DISK or await self._in_time(self._settling.of_outbox(parked.receipt, end, parked.level), point)

    async def _write(self, parked: Parked, judged: tuple[Judged, ...], point: Point, o: bytes, flag: int) -> Position:
        arms = tuple(
            Arm(made.pack, made.kind, made.klass, made.verdict, arm.mode, arm.flags | flag, made.a)
            for arm, made in zip(parked.arms, judged, strict=True)
        )
        made = await asyncio.to_thread(encode, parked.receipt, point.region_index, parked.cluster, o, arms)
        return await asyncio.to_thread(self._commit, made)

    def _answer(self, parked: Parked, judged: tuple[Judged, ...], o: bytes, durable: bool) -> web.Response:
        made = judged[parked.enforced]
        problem = self._problem(parked.receipt, made, o) if made.verdict == DENY else b""
        body = answer(parked.receipt, made.verdict, problem, durable)
        return web.Response(status=200, body=body, headers=_AGENT, content_type="application/octet-stream")

    def _problem(self, receipt: bytes, made: Judged, o: bytes) -> bytes:
        head = {"type": PROBLEM_BASE + "denied", "title": "Denied by policy", "status": 403, "receipt": receipt.hex()}
        body = {**head, "pack": self._judge.label(made.pack, o), "violations": json.loads(made.violations)}
        return json.dumps(body, ensure_ascii=False).encode()


@dataclass(frozen=True)
class _Job:
    """A decision that is being made: of which request (`asked`: O-key and packs), over which O."""

    asked: bytes
    o: bytes
    judged: asyncio.Future[tuple[Judged, ...]]


def _asked(parked: Parked) -> bytes:
    return o_key(parked.o) + b"".join(arm.pack for arm in parked.arms)


def _make_room(socket: Path) -> None:
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)


def parse_checked(data: bytes) -> Parked:
    """The message with its O and A's checked: nothing else may get into the outbox. Raises Refused."""
    parked = parse_parked(data)
    try:
        parse_observation(parked.o, "KNPK O")
        for arm in parked.arms:
            if arm.a:
                parse_action(arm.a, "KNPK A")
    except Bad as error:
        raise Refused([Fault(error.where, error.what, "must be canonical")]) from error
    return parked


def _left_open(parked: Parked, judged: tuple[Judged, ...] | None) -> tuple[Judged, ...]:
    """Arms of a request that is answered 202: PARK for what is not decided."""
    settled = judged or tuple(by_shim(arm) for arm in parked.arms)
    return tuple(
        Judged(made.pack, PARK, 0, 0, b"", b"[]") if arm.mode == 1 or (arm.state == DECIDE and made.kind != DECISION) else made
        for arm, made in zip(parked.arms, settled, strict=True)
    )
