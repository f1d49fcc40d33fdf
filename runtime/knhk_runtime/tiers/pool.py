"""The evaluator in a warm process of its own: what does not end in time is killed, and the next request finds a fresh one.

The kernel ends the process too, by an alarm a little after the budget: a parent that was killed cannot, and native code may not give way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from knhk_runtime.tiers.errors import ShapeError, Undecided
from knhk_runtime.tiers.judgement import Judgement, Plan

START_LIMIT_S = 30.0
DEFAULT_BUDGET_S = 0.5
ALARM_AFTER_S = 1.0
DEFAULT_WAIT_S = 30.0


class _Process(Protocol):
    """The part of multiprocessing's process that is used here."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


def _serve(pipe: Connection) -> None:
    """Child: each request is (budget, what, …): ("plan", digest, plan) loads, ("judge", digest, graph, only) judges; it answers
    ("ok", value), ("shape", where, what) or ("error", kind, what)."""
    from knhk_runtime.tiers.evaluator import Evaluator

    loaded: dict[str, Evaluator] = {}
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    pipe.send(("ok", None))
    while True:
        try:
            budget_s, *request = pipe.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, budget_s + ALARM_AFTER_S)
        try:
            if request[0] == "plan":
                loaded[request[1]] = Evaluator(request[2])
                answer: tuple[Any, ...] = ("ok", None)
            elif request[0] == "forget":
                loaded.pop(request[1], None)
                answer = ("ok", None)
            else:
                answer = ("ok", loaded[request[1]].judge(request[2], request[3]))
        except ShapeError as error:
            answer = ("shape", error.where, error.what)
        except Exception as error:  # the answer names it; the parent decides that nothing was decided
            answer = ("error", type(error).__name__, str(error)[:500])
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(answer)


class WarmEvaluator:
    """One child process and the plans it holds. Threads take turns; `judge` raises Undecided when the budget ends first."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._plans: dict[str, Plan] = {}
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._pipe: Connection | None = None
        self.killed = 0
        self._closed = False

    def load(self, digest: str, plan: Plan) -> None:
        """Loads a plan under its digest. Raises ShapeError when it cannot be evaluated."""
        with self._lock:
            if digest in self._plans:
                return
            self._ask(("plan", digest, plan), START_LIMIT_S)
            self._plans[digest] = plan

    def forget(self, digest: str) -> None:
        with self._lock:
            if self._plans.pop(digest, None) is not None and self._pipe is not None:
                self._ask(("forget", digest), START_LIMIT_S)

    def judge(self, digest: str, graph: bytes, only: Sequence[int] | None, budget_s: float, wait_s: float) -> Judgement:
        """Raises Undecided when no turn came within `wait_s`, and when the answer took longer than `budget_s`."""
        if not self._lock.acquire(timeout=max(0.0, wait_s)):
            raise Undecided(f"no evaluator became free within {wait_s:.3f} s")
        try:
            answer = self._ask(("judge", digest, graph, only), budget_s)
        finally:
            if self._process is None:  # it was ended: make the next one before the next request needs it
                threading.Thread(target=self.warm, name="evaluator", daemon=True).start()
            self._lock.release()
        assert isinstance(answer, Judgement)
        return answer

    def warm(self) -> None:
        """Starts the child if there is none; what fails here is told to the next that asks."""
        with self._lock, contextlib.suppress(Undecided, ShapeError, OSError):
            if self._process is None and not self._closed:
                self._start()

    def close(self) -> None:
        """Ends the child for good."""
        self._closed = True
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join(5.0)
        self._process = self._pipe = None

    def _start(self) -> Connection:
        here, there = self._context.Pipe()
        process: _Process = self._context.Process(target=_serve, args=(there,), daemon=True, name="knhk-evaluator")
        process.start()
        there.close()
        self._process, self._pipe = process, here
        self._receive(here, START_LIMIT_S)
        for digest, plan in self._plans.items():
            here.send((START_LIMIT_S, "plan", digest, plan))
            self._receive(here, START_LIMIT_S)
        return here

    def _ask(self, request: tuple[Any, ...], budget_s: float) -> Any:
        if self._process is not None and not self._process.is_alive():
            self._stop()
        pipe = self._pipe or self._start()
        try:
            pipe.send((budget_s, *request))
        except OSError as error:
            self._stop()
            raise Undecided(f"the evaluator process ended: {error}") from error
        return self._receive(pipe, budget_s)

    def _receive(self, pipe: Connection, budget_s: float) -> Any:
        try:
            answer = pipe.recv() if pipe.poll(max(0.0, budget_s)) else None
        except (EOFError, OSError) as error:
            self._stop()
            raise Undecided("the evaluator process ended") from error
        if answer is None:
            self.killed += 1
            self._stop()
            raise Undecided(f"the evaluator did not decide within {budget_s:.3f} s and was ended")
        if answer[0] == "shape":
            raise ShapeError(answer[1], answer[2])
        if answer[0] == "error":
            raise Undecided(f"{answer[1]}: {answer[2]}")
        return answer[1]


class PooledJudge:
    """A plan in a WarmEvaluator, as the `Judge` of one request. Each question may take `budget_s` once its turn has come."""

    def __init__(
        self, evaluator: WarmEvaluator, digest: str, plan: Plan, budget_s: float = DEFAULT_BUDGET_S, wait_s: float = DEFAULT_WAIT_S
    ) -> None:
        self._evaluator = evaluator
        self._digest = digest
        self._budget_s = budget_s
        self._end = time.monotonic() + wait_s
        self.plan = plan

    def judge(self, graph_ntriples: bytes, only: Sequence[int] | None = None) -> Judgement:
        return self._evaluator.judge(self._digest, graph_ntriples, only, self._budget_s, self._end - time.monotonic())
