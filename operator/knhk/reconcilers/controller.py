"""The control plane's loop: changes and due times in, `converge(key)` out. Level-based; a missed event heals itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from knhk.model.faults import Conflict, Gap, KnhkError, NotFound, Waiting
from knhk.model.resource import Key, Resource
from knhk.reconcilers.bundles import BundleReconciler
from knhk.reconcilers.context import Journal, Ports
from knhk.reconcilers.packs import PackReconciler
from knhk.reconcilers.points import PointReconciler
from knhk.reconcilers.queue import Lane, WorkQueue

KINDS = ("DataBundle", "EnforcementPoint", "PolicyPack")
FAULT_RETRY_S = 2.0
TICK_S = 0.05

_log = logging.getLogger("knhk.controller")


class Reconciler(Protocol):
    """Brings the world to what a resource says; gives seconds until it wants to look again, None for only on a change."""

    def converge(self, resource: Resource) -> float | None: ...


@dataclass
class Controller:
    """Single-threaded but for builds. Errors of one object never stop the others."""

    ports: Ports
    executor: Executor
    queue: WorkQueue = field(default_factory=WorkQueue)
    _revision: int = -1

    def __post_init__(self) -> None:
        self.journal = Journal(self.ports)
        points = PointReconciler(self.ports, self.journal)
        self._reconcilers: Mapping[str, Reconciler] = {
            "DataBundle": BundleReconciler(self.ports, self.journal),
            "EnforcementPoint": points,
            "PolicyPack": PackReconciler(self.ports, self.journal, points, self.executor),
        }

    def tick(self) -> None:
        """One turn: what changed is queued, what is due is converged, receipts that are covered are written."""
        self._observe()
        now_s = self.ports.clock.monotonic_ns() / 1e9
        while (key := self.queue.take(now_s)) is not None:
            self._converge(key, now_s)
        try:
            self.journal.settle()
        except KnhkError as error:
            _log.warning("receipts wait: %s", error)

    def _observe(self) -> None:
        now_s = self.ports.clock.monotonic_ns() / 1e9
        try:
            if self._revision < 0:
                raise Gap("first look")
            wait_s = self.queue.wait_s(now_s, TICK_S)
            changes, self._revision = self.ports.store.changes(self._revision, KINDS, wait_s)
            for change in changes:
                self._enqueue(change.resource, now_s)
        except Gap:
            for kind in KINDS:
                listing = self.ports.store.list(kind)
                self._revision = listing.revision if self._revision < 0 else min(self._revision, listing.revision)
                for resource in listing.resources:
                    self._enqueue(resource, now_s)

    def _enqueue(self, resource: Resource, now_s: float) -> None:
        rolling = resource.status.get("revision", {}).get("phase") == "Rolling"
        self.queue.put(resource.key, now_s, Lane.URGENT if rolling else Lane.NORMAL)
        if resource.kind != "EnforcementPoint":
            for point in self.ports.store.list("EnforcementPoint", resource.namespace).resources:
                self.queue.put(point.key, now_s)

    def _converge(self, key: Key, now_s: float) -> None:
        try:
            resource = self.ports.store.get(key)
        except NotFound:
            self._gone(key)
            return
        try:
            again_s = self._reconcilers[key.kind].converge(resource)
        except Conflict:
            again_s = 0.0
        except Waiting as waiting:
            _log.info("%s waits: %s", key, waiting)
            again_s = waiting.retry_after_s
        except KnhkError as error:
            _log.warning("%s: %s", key, error)
            again_s = FAULT_RETRY_S
        except Exception:  # a bug of ours must not stop the other objects; it is logged whole and tried again
            _log.exception("%s: converge failed", key)
            again_s = FAULT_RETRY_S
        if again_s is not None:
            rolling = key.kind == "PolicyPack"
            self.queue.put(key, now_s + max(again_s, 1e-3), Lane.URGENT if rolling else Lane.NORMAL)

    def _gone(self, key: Key) -> None:
        if key.kind == "EnforcementPoint":
            self.ports.placement.remove(f"{key.namespace}/{key.name}")
