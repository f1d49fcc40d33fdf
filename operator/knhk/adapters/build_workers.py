"""Builds in warm processes of their own (knhk.wiring.build_worker): one queue, bounded, the urgent first; an order that is asked for again
joins the build that is there.

Each order and each answer is a line of JSON (formats/builder.md). A process that ends in the middle of a build is replaced, and the order's
outcome is Waiting; the third time Stalled. What takes longer than its time is ended. Nothing survives this process: the registry does.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk.model.faults import Stalled, Waiting
from knhk.packaging.builds import error_document, order_id

LINE_BYTES = 16 << 20
STARTS_WITHIN_S = 120.0
ENDS_WITHIN_S = 20.0
KEPT_S = 60.0  # how long an outcome can be asked for again
TRIES = 3
AGAIN_AFTER_S = 1.0
QUEUED, RUNNING, DONE = "Queued", "Running", "Done"

_log = logging.getLogger("knhk.builder")


@dataclass
class Job:
    """One order. `outcome`: formats/builder.md, when it is done; `number`: of its changes."""

    id: str
    order: Mapping[str, Any]
    state: str = QUEUED
    step: str = ""
    outcome: Mapping[str, Any] | None = None
    number: int = 0
    done_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, state: str, step: str = "", outcome: Mapping[str, Any] | None = None) -> None:
        self.state, self.step, self.outcome, self.number = state, step or self.step, outcome, self.number + 1
        self.changed.set()
        self.changed = asyncio.Event()
        if state == DONE:
            self.ended.set()


class BuildWorkers:
    """`argv` runs a worker, in `environment`; `workers` of them build at the same time, each order for at most `within_s` seconds; at most
    `most` orders wait. One event loop."""

    def __init__(self, argv: tuple[str, ...], environment: Mapping[str, str], workers: int, most: int, within_s: float) -> None:
        self._argv, self._environment, self._within_s = argv, dict(environment), within_s
        self._workers, self._most = workers, most
        self._jobs: dict[str, Job] = {}
        self._queue: list[tuple[bool, int, Job]] = []
        self._count = 0
        self._any = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []
        self._warm = 0
        self._tries: dict[str, int] = {}
        self._ending = False

    @property
    def warm(self) -> int:
        """Workers that are ready, or build."""
        return self._warm

    def counts(self) -> dict[str, int]:
        """Orders by state."""
        states = [job.state for job in self._jobs.values()]
        return {state: states.count(state) for state in (QUEUED, RUNNING, DONE)}

    def start(self) -> None:
        """Starts the workers; returns at once."""
        self._tasks = [asyncio.create_task(self._work(), name=f"worker {n}") for n in range(self._workers)]

    async def close(self) -> None:
        """Takes no orders any more, lets builds end for a while, then ends every worker, whatever it does."""
        self._ending = True
        deadline_s = self._now_s() + ENDS_WITHIN_S
        for job in [job for job in self._jobs.values() if job.state == RUNNING]:
            while job.state == RUNNING and self._now_s() < deadline_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(job.changed.wait(), max(0.0, deadline_s - self._now_s()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, order: Mapping[str, Any], urgent: bool) -> Job:
        """The build of this order: the one that is there, or a new one. Raises Waiting when too many wait."""
        if self._ending:
            raise Waiting("Ending", "the builder ends", AGAIN_AFTER_S)
        self._forget()
        ident = order_id(order)
        job = self._jobs.get(ident)
        if job is None or (job.state == DONE and not _is_result(job.outcome)):
            if self.counts()[QUEUED] >= self._most:
                raise Waiting("BuilderBusy", f"{self._most} orders wait already", AGAIN_AFTER_S)
            job = self._jobs[ident] = Job(ident, order)
            self._put(job, urgent)
        elif urgent and job.state == QUEUED:
            self._put(job, urgent)  # the place further back is passed over
        return job

    def job(self, ident: str) -> Job | None:
        return self._jobs.get(ident)

    def cancel(self, ident: str) -> bool:
        """Takes an order back that has not begun; whether it did."""
        job = self._jobs.get(ident)
        if job is None or job.state != QUEUED:
            return False
        del self._jobs[ident]
        job.move(DONE, outcome=error_document(Waiting("Cancelled", "the order was taken back", AGAIN_AFTER_S)))
        return True

    def forget(self) -> None:
        """What is done must be looked up in the registry again."""
        for ident in [ident for ident, job in self._jobs.items() if job.state == DONE]:
            del self._jobs[ident]

    def _forget(self) -> None:
        now_s = self._now_s()
        for ident in [ident for ident, job in self._jobs.items() if job.state == DONE and now_s - job.done_s > KEPT_S]:
            del self._jobs[ident]

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _put(self, job: Job, urgent: bool) -> None:
        self._count += 1
        heapq.heappush(self._queue, (not urgent, self._count, job))
        self._any.release()

    async def _next(self) -> Job:
        while True:
            await self._any.acquire()
            _, _, job = heapq.heappop(self._queue)
            if job.state == QUEUED:
                return job

    # ---- one worker ----------------------------------------------------------------------------

    async def _work(self) -> None:
        """A process after the other, an order after the other."""
        while True:
            async with _process(self._argv, self._environment) as process:
                if not await self._is_warm(process):
                    await asyncio.sleep(AGAIN_AFTER_S)
                    continue
                self._warm += 1
                try:
                    while await self._one(process):
                        pass
                finally:
                    self._warm -= 1

    async def _is_warm(self, process: asyncio.subprocess.Process) -> bool:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                return (await process.stdout.readline()).endswith(b"\n")
        except TimeoutError:
            return False

    async def _one(self, process: asyncio.subprocess.Process) -> bool:
        """Builds the next order; whether the process can go on."""
        job = await self._next()
        job.move(RUNNING)
        outcome: Mapping[str, Any] | None = None
        try:
            async with asyncio.timeout(self._within_s):
                outcome = await self._asked(process, job)
            late = False
        except TimeoutError:
            late = True
        except asyncio.CancelledError:
            job.move(DONE, outcome=error_document(Waiting("Ending", "the builder ends", AGAIN_AFTER_S)))
            raise
        goes_on = outcome is not None
        if outcome is None:
            outcome = error_document(self._ended(job, late))
            _log.warning("%s: %s", job.id[:16], outcome)
        else:
            self._tries.pop(job.id, None)
        job.done_s = self._now_s()
        job.move(DONE, outcome=outcome)
        return goes_on

    async def _asked(self, process: asyncio.subprocess.Process, job: Job) -> Mapping[str, Any] | None:
        """The outcome; None when the process ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job.order).encode() + b"\n")
            await process.stdin.drain()
            while (line := await process.stdout.readline()).endswith(b"\n"):
                told: dict[str, Any] = json.loads(line)
                if "step" not in told:
                    return told
                job.move(RUNNING, told["step"])
        except ConnectionError:
            pass
        return None

    def _ended(self, job: Job, late: bool) -> Waiting | Stalled:
        if late:
            return Stalled("DeadlineExceeded", f"the build took longer than {self._within_s:g} s")
        tries = self._tries.pop(job.id, 0) + 1
        if tries >= TRIES:
            return Stalled("BuildFailed", f"the process that builds ended {tries} times, after step {job.step or 'none'}")
        self._tries[job.id] = tries
        return Waiting("WorkerEnded", f"the process that builds ended, after step {job.step or 'none'}; it is tried again", AGAIN_AFTER_S)


def _is_result(outcome: Mapping[str, Any] | None) -> bool:
    return outcome is not None and ("signed" in outcome or "data" in outcome)


@contextlib.asynccontextmanager
async def _process(argv: tuple[str, ...], environment: dict[str, str]) -> Any:
    """A worker, ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True, limit=LINE_BYTES
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
