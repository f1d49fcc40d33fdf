"""knhk.ports.telemetry.Telemetry for Prometheus, by the names of controller-runtime and client-go where they have one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics, generate_latest

from knhk.ports.clock import Clock
from knhk.ports.telemetry import Result

NAME = "knhk"
RECONCILE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
QUEUE_S = (1e-3, 1e-2, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60)
BUILD_S = (0.5, 1, 2, 5, 10, 30, 60, 180)


class PrometheusTelemetry:
    """Counters of this process. Beside the port it tells when the loop turned last, for health."""

    def __init__(self, clock: Clock) -> None:
        disable: Any = disable_created_metrics  # not typed
        disable()
        self._clock = clock
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._turned_ns = 0
        self._late_s = 0.0
        r = self.registry
        self._reconciles = Counter("controller_runtime_reconcile", "Reconciliations", ("controller", "result"), registry=r)
        self._errors = Counter("controller_runtime_reconcile_errors", "Reconciliations that failed", ("controller",), registry=r)
        self._times = Histogram(
            "controller_runtime_reconcile_time_seconds", "Length of a reconciliation", ("controller",), registry=r, buckets=RECONCILE_S
        )
        self._depth = Gauge("workqueue_depth", "Keys in the work queue", ("name",), registry=r)
        self._adds = Counter("workqueue_adds", "Keys put into the work queue", ("name",), registry=r)
        self._waits = Histogram(
            "workqueue_queue_duration_seconds", "How long a key was due before it was taken", ("name",), registry=r, buckets=QUEUE_S
        )
        self._work = Histogram("workqueue_work_duration_seconds", "How long a key took", ("name",), registry=r, buckets=QUEUE_S)
        self._leads = Gauge("leader_election_master_status", "1 while this process leads", ("name",), registry=r)
        self._turns_end = Gauge("knhk_keys_turns_end_timestamp_seconds", "When the last turn of keys that was made ahead comes", registry=r)
        self._named = Gauge("knhk_keys_named_timestamp_seconds", "Since when keys.json names the keys that are in force", registry=r)
        for gauge in (self._turns_end, self._named):
            gauge.set(math.nan)
        self._requests = Counter("rest_client_requests", "Requests to the API server", ("code", "method", "host"), registry=r)
        self._builds = Counter("knhk_builds", "Builds that ended", ("outcome",), registry=r)
        self._build_s = Histogram("knhk_build_seconds", "Length of a build", registry=r, buckets=BUILD_S)
        self._events = Counter("knhk_policy_events", "Policy events", ("event",), registry=r)
        self._verdicts = Counter("knhk_judge_verdicts", "Verdicts of the judge that were acted on", ("outcome",), registry=r)
        self._rollbacks = Histogram(
            "knhk_rollback_seconds", "From the verdict to the last document that takes a pack back", registry=r, buckets=RECONCILE_S
        )
        self._unwitnessed = Gauge("knhk_receipts_unwitnessed", "Receipts that still are to have a sigstore's witness", registry=r)
        self._left = Counter("knhk_receipts_left_unwitnessed", "Receipts removed before they had a sigstore's witness", registry=r)

    # ---- the port ------------------------------------------------------------------------------

    def turned(self, depth: int, late_s: float) -> None:
        """See the port."""
        self._turned_ns, self._late_s = self._clock.monotonic_ns(), late_s
        self._depth.labels(NAME).set(depth)

    def queued(self) -> None:
        """See the port."""
        self._adds.labels(NAME).inc()

    def reconciled(self, kind: str, result: Result, waited_s: float, took_s: float) -> None:
        """See the port."""
        controller = kind.lower()
        self._reconciles.labels(controller, result).inc()
        if result == "error":
            self._errors.labels(controller).inc()
        self._times.labels(controller).observe(took_s)
        self._waits.labels(NAME).observe(waited_s)
        self._work.labels(NAME).observe(took_s)

    def built(self, outcome: str, took_s: float) -> None:
        """See the port."""
        self._builds.labels(outcome).inc()
        self._build_s.observe(took_s)

    def judged(self, outcome: str) -> None:
        """See the port."""
        self._verdicts.labels(outcome).inc()

    def moved(self, event: str) -> None:
        """See the port."""
        self._events.labels(event).inc()

    def rolled_back(self, took_s: float) -> None:
        """See the port."""
        self._rollbacks.observe(took_s)

    def unwitnessed(self, receipts: int) -> None:
        """See the port."""
        self._unwitnessed.set(receipts)

    def left_unwitnessed(self) -> None:
        """See the port."""
        self._left.inc()

    # ---- of the process ------------------------------------------------------------------------

    def requested(self, method: str, host: str, code: int) -> None:
        """The API server answered; 0: it did not."""
        self._requests.labels(str(code or "<error>"), method, host).inc()

    def leads(self, name: str, of: Callable[[], bool]) -> None:
        """Who tells whether this process leads."""
        self._leads.labels(name).set_function(of)

    def turns(self, named: Callable[[], float], end: Callable[[], float]) -> None:
        """Who tells since when keys are in force, and when the last turn comes; NaN where none were made ahead."""
        self._named.set_function(named)
        self._turns_end.set_function(end)

    def silent_s(self) -> float | None:
        """Seconds since the loop turned; None while it has not begun."""
        return (self._clock.monotonic_ns() - self._turned_ns) / 1e9 if self._turned_ns else None

    def late_s(self) -> float:
        """For how long the oldest key was due when the loop turned last."""
        return self._late_s

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
