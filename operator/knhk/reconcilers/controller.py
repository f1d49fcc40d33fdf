"""The control plane's loop: changes and due times in, `converge(key)` out. Level-based; a missed event heals itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from knhk.model.faults import Conflict, Gap, KnhkError, NotFound, Waiting
from knhk.model.keeping import WITHOUT_BOUND, Keep
from knhk.model.resource import Key, Resource
from knhk.ports.telemetry import Result
from knhk.reconcilers.approvals import ApprovalReconciler
from knhk.reconcilers.bundles import BundleReconciler
from knhk.reconcilers.claims import data_named, points_named
from knhk.reconcilers.consent_book import ConsentBook
from knhk.reconcilers.consents import ConsentReconciler
from knhk.reconcilers.context import REQUESTED, Journal, Ports, say
from knhk.reconcilers.counting import REASON as NOT_MERGED
from knhk.reconcilers.counting import RESTS, not_counted, not_gone, rest
from knhk.reconcilers.deleting import deleted
from knhk.reconcilers.flags import FlagReconciler
from knhk.reconcilers.hooks import HookReconciler
from knhk.reconcilers.keeping import Keeping
from knhk.reconcilers.notarising import Notarising
from knhk.reconcilers.packs import PackReconciler, is_apart
from knhk.reconcilers.plans import Plans
from knhk.reconcilers.points import PointReconciler, rolls
from knhk.reconcilers.pulling import Git
from knhk.reconcilers.queue import Lane, WorkQueue
from knhk.reconcilers.repositories import NoGit, RepositoryReconciler, rolled_back
from knhk.reconcilers.retention import Retention
from knhk.reconcilers.schemas import SchemaReconciler

KINDS = (
    "SchemaVersion",
    "HookRegistry",
    "FeatureFlag",
    "Approval",
    "Consent",
    "DataBundle",
    "EnforcementPoint",
    "PolicyPack",
    "PolicyRepository",
)
FAULT_RETRY_S = 1.0
LOOK_S = 1.0  # at what runs for an object that was deleted by hand
LEAST_S = 1e-3
TICK_S = 0.05
TURN_S = 0.25  # then changes are looked at again, whatever is due
MAX_REQUEST = 64

_FAILED: Result = "error"

_log = logging.getLogger("knhk.controller")


class Reconciler(Protocol):
    """Brings the world to what a resource says; gives seconds until it wants to look again, None for only on a change."""

    def converge(self, resource: Resource) -> float | None: ...


@dataclass
class Controller:
    """Single-threaded but for builds. Errors of one object never stop the others."""

    ports: Ports
    git: Git | None = None
    keep: Keep = WITHOUT_BOUND
    queue: WorkQueue = field(default_factory=WorkQueue)
    _revision: int = -1
    _said: str = ""
    _known: dict[Key, Resource] = field(default_factory=dict)  # as last seen: what a deletion that nobody saw leaves behind
    _left: set[Key] = field(default_factory=set)  # points that were deleted by hand, and whose guards run on

    def __post_init__(self) -> None:
        self._notarising = Notarising(self.ports, lambda key: self._keeping.witnessed(key))
        self._keeping = Keeping(self.ports, self.keep, self._notarising.awaited)
        self.journal = Journal(self.ports, self._made)
        self._consents = ConsentBook(self.ports)
        points = PointReconciler(self.ports, self.journal, self._consents)
        plans = Plans(self.ports.registry, self.ports.clock)
        self._retention = Retention(self.ports)
        self._packs = PackReconciler(self.ports, self.journal, points, plans, self._retention)
        self._bundles = BundleReconciler(self.ports, self.journal)
        self._repositories = None if self.git is None else RepositoryReconciler(self.ports, self.journal, self.git)
        self._reconcilers: Mapping[str, Reconciler] = {
            "DataBundle": self._bundles,
            "EnforcementPoint": points,
            "PolicyPack": self._packs,
            "SchemaVersion": SchemaReconciler(self.ports, self.journal, plans),
            "HookRegistry": HookReconciler(self.ports, self.journal, plans),
            "PolicyRepository": NoGit(self.ports) if self._repositories is None else self._repositories,
            "FeatureFlag": FlagReconciler(self.ports, self.journal),
            "Approval": ApprovalReconciler(self.ports, self.journal),
            "Consent": ConsentReconciler(self.ports, self.journal, self._consents),
        }

    def tick(self) -> None:
        """One turn: what changed is queued, what is due is converged, receipts that are covered are written. Errors of the world
        outside are logged and met again at the next turn; nothing is raised."""
        try:
            self._observe()
            self._said = ""
        except (KnhkError, OSError) as error:
            self._say(f"changes cannot be read: {error}")
            self.ports.clock.sleep(TICK_S)
        until_s = self._now_s() + TURN_S
        while (now_s := self._now_s()) < until_s and (taken := self._taken(now_s)):
            self._converge(taken)
        self._beside(lambda: self.journal.settle(self._packs.building), "receipts wait")
        busy = self.queue.late_s(self._now_s()) > 0
        self._beside(lambda: self._keeping.turn(self._now_s(), busy=busy), "old receipts stay for now")
        self._beside(lambda: self._notarising.turn(self._now_s()), "receipts have nobody outside yet")
        self._beside(lambda: self._retention.turn(self._now_s()), "retired images stay for now")
        self.ports.telemetry.turned(len(self.queue), self.queue.late_s(self._now_s()))

    def _made(self, receipt: Resource) -> None:
        """A Receipt is new. Any thread."""
        self._keeping.made(receipt)
        self._notarising.made(receipt)

    def _beside(self, work: Callable[[], object], otherwise: str) -> None:
        """What is done at each turn beside objects, and keeps no turn from its end."""
        try:
            work()
        except (KnhkError, OSError) as error:
            _log.warning("%s: %s", otherwise, error)
        except Exception:  # as in _converge
            _log.exception("%s", otherwise)

    def _say(self, message: str) -> None:
        """Each message once, as long as nothing else is to be said."""
        if message != self._said:
            _log.warning("%s", message)
        self._said = message

    def _now_s(self) -> float:
        return self.ports.clock.monotonic_ns() / 1e9

    def _observe(self) -> None:
        while self._packs.ended:
            self._put(self._packs.ended.popleft(), self._now_s())
        try:
            if self._revision < 0:
                raise Gap("first look")
            wait_s = self.queue.wait_s(self._now_s(), TICK_S)
            changes, revision = self.ports.store.changes(self._revision, KINDS, wait_s)
        except Gap:
            self._list()
            return
        for change in changes:
            self._enqueue(change.resource)
            if change.type == "Deleted":
                self._deleted(change.resource)
            else:
                self._know(change.resource)
        self._revision = revision

    def _list(self) -> None:
        """The whole truth, at the start and after a gap."""
        listings = [self.ports.store.list(kind) for kind in KINDS]
        listed = {resource.key: resource for listing in listings for resource in listing.resources}
        self._outlive()
        for missing in [known for key, known in self._known.items() if key not in listed]:
            self._enqueue(missing)
            self._deleted(missing)
        for resource in listed.values():
            self._enqueue(resource)
            self._know(resource)
        names = {f"{key.namespace}/{key.name}" for key in (r.key for r in listings[KINDS.index("EnforcementPoint")].resources)}
        for point in sorted(self.ports.placement.placed() - names):
            namespace, _, name = point.partition("/")
            self._put(Key("EnforcementPoint", namespace, name), self._now_s())
        self._revision = min(listing.revision for listing in listings)

    def _outlive(self) -> None:
        """Takes over what is deleted as it was at the end; what is known of it here may be older."""
        for departed in self.ports.store.departed():
            self.journal.outlive(departed)

    def _know(self, resource: Resource) -> None:
        """Remembers an object; one of its name that had another uid is gone."""
        before = self._known.get(resource.key)
        if before is not None and before.uid != resource.uid:
            self._outlive()
            self._deleted(before)
        self._known[resource.key] = resource

    def _deleted(self, resource: Resource) -> None:
        known = self._known.get(resource.key)
        first = known is not None and known.uid == resource.uid
        # before anything is forgotten: what raises is met again
        event = deleted(self.ports, resource, self.journal.taken.get(resource.uid)) if first else None
        if first:
            del self._known[resource.key]
        self.journal.taken.pop(resource.uid, None)
        self._left.discard(resource.key)
        self.journal.outlive(resource)
        if event is not None:
            self.journal.end(resource, event)
        if resource.kind == "PolicyPack":
            self._packs.gone(resource)
        if resource.kind == "Consent":
            self._consents.gone(resource)
        if resource.kind == "DataBundle":
            self._bundles.gone(resource)
        if resource.kind == "PolicyRepository" and self._repositories is not None:
            self._repositories.gone(resource)

    def _enqueue(self, resource: Resource) -> None:
        """The object, and the points that it speaks of, as it was known and as it is."""
        now_s = self._now_s()
        self._put(resource.key, now_s, _lane(resource))
        if (source := rolled_back(resource)) is not None:
            self._put(source, now_s)
        for seen in (resource, self._known.get(resource.key)):
            for name in self._concerned(seen) if seen is not None else ():
                point = Key("EnforcementPoint", resource.namespace, name)
                if point in self._known:
                    self._put(point, now_s)

    def _concerned(self, resource: Resource) -> frozenset[str]:
        """Names of the points that a change of this object may change."""
        if resource.kind == "PolicyPack":
            return points_named(resource)
        if resource.kind == "DataBundle":
            packs = self.ports.store.list("PolicyPack", resource.namespace).resources
            return frozenset().union(*(points_named(pack) for pack in packs if resource.name in data_named(pack)))
        if resource.kind == "FeatureFlag":
            packs = self.ports.store.list("PolicyPack", resource.namespace).resources
            return frozenset().union(*(points_named(pack) for pack in packs if pack.name == resource.spec["pack"]))
        return frozenset()

    def _taken(self, now_s: float) -> list[tuple[Key, float]]:
        """The most urgent key that is due; packs that stand for themselves come together."""
        found: list[tuple[Key, float]] = []
        most = self.ports.together.most
        while len(found) < most and (head := self.queue.head(now_s)) is not None:
            apart = most > 1 and self._is_apart(head)
            if found and not apart:
                break
            found += [taken] if (taken := self.queue.take(now_s)) is not None else []
            if not apart:
                break
        return found

    def _is_apart(self, key: Key) -> bool:
        try:
            return key.kind == "PolicyPack" and is_apart(self.ports.store.get(key))
        except (KnhkError, OSError):
            return False

    def _converge(self, taken: Sequence[tuple[Key, float]]) -> None:
        again: list[tuple[Key, float, Lane]] = []

        def act(key: Key, due_s: float) -> None:
            again_s, lane = self._converged(key, due_s)
            if again_s is not None:
                again.append((key, self._now_s() + max(again_s, LEAST_S), lane))

        self.ports.together([partial(act, *one) for one in taken])
        if len(taken) > 1:
            self.ports.together([partial(self._deliver, key) for key, _ in taken])
        for key, due_s, lane in again:
            self._put(key, due_s, lane)

    def _deliver(self, key: Key) -> None:
        """What several wrote at once goes into the log at once; what hinders that is met, and said, when the object is next."""
        with suppress(KnhkError, OSError):
            self.journal.deliver(self.ports.store.get(key))

    def _converged(self, key: Key, due_s: float) -> tuple[float | None, Lane]:
        """When it wants to be looked at again, and how urgently."""
        begun_s = self._now_s()
        lane, result = Lane.NORMAL, None
        try:
            resource = self.ports.store.get(key)
            self._know(resource)
            lane = _lane(resource)
            again_s = self._rests(resource) or self._reconcilers[key.kind].converge(resource)
            self._handled(resource)
        except NotFound:
            again_s = self._gone(key)
        except Conflict:
            again_s = 0.0
        except Waiting as waiting:
            _log.info("%s waits: %s", key, waiting)
            again_s = waiting.retry_after_s
        except (KnhkError, OSError) as error:
            _log.warning("%s: %s", key, error)
            again_s, result = FAULT_RETRY_S, _FAILED
        except Exception:  # a bug of ours must not stop the other objects; it is logged whole and tried again
            _log.exception("%s: converge failed", key)
            again_s, result = FAULT_RETRY_S, _FAILED
        ended_s = self._now_s()
        self.ports.telemetry.reconciled(key.kind, result or _result(again_s), begun_s - due_s, ended_s - begun_s)
        return again_s, lane

    def _rests(self, resource: Resource) -> float | None:
        """Seconds until the next look at an object that does not count yet, and from which nothing is made before it does."""
        why = not_counted(self.ports, resource) if resource.kind in RESTS else ""
        if not why:
            return None
        self.journal.deliver(resource)
        return rest(self.ports, resource, why)

    def _put(self, key: Key, due_s: float, lane: Lane = Lane.NORMAL) -> None:
        self.queue.put(key, due_s, lane)
        self.ports.telemetry.queued()

    def _handled(self, resource: Resource) -> None:
        """Tells that a request to look at the object was met."""
        asked = resource.annotations.get(REQUESTED, "")[:MAX_REQUEST]
        if not asked or resource.status.get("lastHandledRequestedAt") == asked:
            return
        now = self.ports.store.get(resource.key)
        if now.status.get("lastHandledRequestedAt") != asked:
            self.ports.store.update_status(replace(now, status={**now.status, "lastHandledRequestedAt": asked}))

    def _gone(self, key: Key) -> float | None:
        """Ends what ran for an object that is not there (any more)."""
        try:
            self.ports.store.get(key)
            return 0.0
        except NotFound:
            pass
        except KnhkError as error:
            _log.warning("%s: %s", key, error)
            return FAULT_RETRY_S
        if key.kind != "EnforcementPoint":
            return None
        try:
            if why := not_gone(self.ports, key):
                return self._runs_on(key, why)
            self.ports.placement.remove(f"{key.namespace}/{key.name}")
        except (KnhkError, OSError) as error:
            _log.warning("%s is not ended yet: %s", key, error)
            return FAULT_RETRY_S
        return None

    def _runs_on(self, key: Key, why: str) -> float:
        """The guard of a point whose deletion does not count."""
        if key not in self._left:
            self._left.add(key)
            say(self.ports, key, NOT_MERGED, f"its guard runs on: {why}", warning=True)
        return LOOK_S


def _result(again_s: float | None) -> Result:
    if again_s is None:
        return "success"
    return "requeue" if again_s <= 0 else "requeue_after"


def _lane(resource: Resource) -> Lane:
    """A pack that rolls, or that has an event to deliver, goes first: a rollback may hang on it."""
    status = resource.status
    urgent = resource.kind == "PolicyPack" and (rolls(status.get("revision", {})) or "pending" in status)
    return Lane.URGENT if urgent else Lane.NORMAL
