"""What every reconciler works with: the ports, and the events that it leaves behind."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import dropwhile
from typing import Any

from knhk.api import condition, with_condition
from knhk.decide.keeping import DELETED
from knhk.lockchain import PolicyEvent, receipt_labels, receipt_name, receipt_spec, statement
from knhk.model.commits import Source
from knhk.model.faults import AlreadyExists, Conflict, KnhkError, NotFound, Refused, Stalled, Waiting
from knhk.model.phases import Event as Moved
from knhk.model.resource import Key, Resource
from knhk.model.times import from_rfc3339_ns, rfc3339
from knhk.ports.builder import Builder
from knhk.ports.clock import Clock
from knhk.ports.fleet import Fleet
from knhk.ports.log import Log
from knhk.ports.namespaces import Namespaces, NoDemands
from knhk.ports.notary import Notary
from knhk.ports.placement import Placement
from knhk.ports.registry import Registry
from knhk.ports.secrets import NoSecrets, Secrets
from knhk.ports.signer import Signer
from knhk.ports.store import Event, Store
from knhk.ports.telemetry import Silent, Telemetry
from knhk.ports.together import Act, InTurn, Together
from knhk.ports.trust import Trusts, TrustsNobody
from knhk.reconcilers.claims import Claims

NO_DIGEST = "0" * 64
_log = logging.getLogger("knhk.journal")
MAX_HISTORY = 16
REQUESTED = "knhk.dev/requestedAt"  # annotation: look at the object again, and begin anew what waits for a person
_STAYS = ("pending", "history", "lastHandledRequestedAt")
RECEIPTS_AT_ONCE = 8  # what is urgent waits no longer than for so many,
ENDINGS_AT_ONCE = 16  # deletions are signed so many at a turn
RECEIPTS_EACH = 3  # or for so many of each hand that writes
GIVES_WAY_S = 10.0  # what a finished build left waits so long for its Receipt, while others are built
KEPT = (Moved.ROLLED_BACK.value, DELETED)  # events whose Receipts say what binds a pack that is made again
BUILD_ENDED = frozenset((Moved.COMPILED.value, Moved.BUILT.value, Moved.SIGNED.value))


@dataclass(frozen=True)
class Ports:
    """One adapter for each port; `origin` names the log, `actor` who acts in policy events. `reviews`: the store knows who wrote what, as
    an API server does; else approvals and promotions are marked unreviewed. `notary`: who bears witness outside to Receipts, if anybody.
    `regions`: those that points may be of, by the log's numbers; none: any, and all have number 0."""

    store: Store
    log: Log
    signer: Signer
    registry: Registry
    builder: Builder
    fleet: Fleet
    placement: Placement
    clock: Clock
    origin: str
    actor: str
    telemetry: Telemetry = field(default_factory=Silent)
    claims: Claims = field(default_factory=Claims)
    reviews: bool = False
    namespaces: Namespaces = field(default_factory=NoDemands)
    trusts: Trusts = field(default_factory=TrustsNobody)
    together: Together = field(default_factory=InTurn)
    notary: Notary | None = None
    secrets: Secrets = field(default_factory=NoSecrets)
    regions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ordered:
    """A policy event that is in the log: its index, its time (RFC 3339), the SHA-256 of its subject, and what happened."""

    index: int
    time: str
    subject: str
    kind: str

    def gives_way(self, now_ns: int) -> bool:
        """Whether its Receipt may wait for builds: it tells of one that ended, a little while ago. When the clock went back none waits."""
        return self.kind in BUILD_ENDED and 0 <= now_ns - from_rfc3339_ns(self.time) < GIVES_WAY_S * 1e9


_Slot = tuple[Key, str]  # an object, and the bundle of an event of it


@dataclass
class Journal:
    """Policy events, exactly once.

    An event is signed and kept in the status that it belongs to, in the same write (`pend`): that write is the commit point, and a
    conflicting one leaves no event. From there it goes into the log (`deliver`; appending the same bytes again gives the same
    index). When a checkpoint covers it, it becomes a Receipt and leaves the status (`settle`). After a crash all three go on from
    the status alone.
    """

    ports: Ports
    made: Callable[[Resource], None] = lambda receipt: None  # is told of each Receipt that is new; by any thread
    taken: dict[str, Source] = field(default_factory=dict)  # by uid: what a commit took away, until its deletion is seen
    _delivered: dict[_Slot, Ordered] = field(default_factory=dict)
    _orphans: list[Resource] = field(default_factory=list)
    _departed: dict[str, Resource] = field(default_factory=dict)
    _told: dict[Key, set[str]] = field(default_factory=dict)  # have their Receipt, and leave their status at the next turn
    _willing: set[str] = field(default_factory=set)  # namespaces that took a Receipt at the last turn
    _kept: dict[tuple[str, str], dict[str, dict[str, Resource]]] = field(default_factory=dict)  # event, namespace → pack → name → Receipt
    _endings: list[tuple[Resource, PolicyEvent]] = field(default_factory=list)

    def outlive(self, resource: Resource) -> None:
        """Takes over the pending events of a deleted object: they get their receipts without it, and then the store may forget it."""
        if resource.uid in self._departed:
            return
        self._departed[resource.uid] = resource
        if resource.status.get("pending"):
            self._orphans.append(resource)

    def owes(self, key: Key) -> bool:
        """Whether events of this object, or of a deleted one of its name, are no Receipts yet."""
        left = [*self._orphans, *(resource for resource, _ in self._endings)]
        return any(key == of for of, _ in list(self._delivered)) or any(key == resource.key for resource in left)

    def end(self, resource: Resource, event: PolicyEvent) -> None:
        """The event of a deletion that was seen, after all that the object owed. Nothing keeps it but this process, and the log."""
        self._endings.append((resource, event))

    def _end(self) -> None:
        """Signs the events of what is gone indeed. What was seen late, or from memory, may be older than what it seemed to replace: then
        the object is there, or it is asked for again."""
        for ending in self._endings[:ENDINGS_AT_ONCE]:
            resource, event = ending
            if (gone := self._is_gone(resource)) is None:
                continue
            if gone:
                self._orphans.append(replace(resource, status=self.pend({}, event)))
            self._endings = [other for other in self._endings if other is not ending]

    def _is_gone(self, resource: Resource) -> bool | None:
        """None while that cannot be told: what is there under its name was read before it."""
        try:
            there = self.ports.store.get(resource.key)
        except NotFound:
            return True
        if there.uid == resource.uid:
            return False
        return True if int(there.resource_version) > int(resource.resource_version) else None

    def kept(self, event: str, namespace: str, pack: str) -> tuple[Resource, ...]:
        """The Receipts of an event of KEPT under a pack's name, oldest first. Listed once for a namespace: all later ones are made here."""
        if (event, namespace) not in self._kept:
            found: dict[str, dict[str, Resource]] = {}
            for receipt in self.ports.store.list("Receipt", namespace, {"event": event}).resources:
                found.setdefault(receipt.labels.get("pack", ""), {})[receipt.name] = receipt
            self._kept[event, namespace] = found
        return tuple(receipt for _, receipt in sorted(self._kept[event, namespace].get(pack, {}).items()))

    def pend(self, status: Mapping[str, Any], *events: PolicyEvent) -> dict[str, Any]:
        """The status with these events signed and pending."""
        if not events:
            return dict(status)
        rows = [{"bundle": self.ports.signer.bundle("rollout", statement(event)).decode()} for event in events]
        return {**status, "pending": [*status.get("pending", ()), *rows]}

    def deliver(self, resource: Resource) -> tuple[Ordered, ...]:
        """The pending events of an object, in the log now, oldest first. Raises Waiting when the log cannot take them."""
        slots = _slots(resource)
        self._append(slots)
        return tuple(self._delivered[slot] for slot in slots)

    def _append(self, slots: Iterable[_Slot]) -> None:
        if new := [slot for slot in slots if slot not in self._delivered]:
            for slot, index in zip(new, self.ports.log.append_events([bundle.encode() for _, bundle in new]), strict=True):
                self._delivered[slot] = ordered = _ordered(index, slot[1])
                self.ports.telemetry.moved(ordered.kind)

    def settle(self, building: bool = False) -> bool:
        """Delivers what deleted objects left, and makes Receipts of delivered events that a checkpoint covers by now, a few at a time;
        true when none is left. `building`: packs are being built, and what may wait gives way to them."""
        self._end()
        self._append(slot for orphan in self._orphans for slot in _slots(orphan))
        self._orphans.clear()
        told, self._told = self._told, {}
        clears = [partial(self._clear, key, bundles) for key, bundles in told.items()]
        for key, bundle in self._receipted([slot for slot in self._due(building) if slot[1] not in told.get(slot[0], ())], clears):
            self._told.setdefault(key, set()).add(bundle)
        self._release()
        return not (self._delivered or self._endings)

    def _due(self, building: bool) -> Collection[_Slot]:
        """Delivered events whose Receipts are made now. An object's events leave its status in their order, so they go together; those of
        a deleted one keep it from its end, and wait for nobody."""
        if not building:
            return self._delivered
        now_ns = self.ports.clock.now_ns()
        due = {key for (key, _), event in self._delivered.items() if not event.gives_way(now_ns)}
        due |= {resource.key for resource in self._departed.values()}
        return [slot for slot in self._delivered if slot[0] in due]

    def _receipted(self, due: Collection[_Slot], beside: Sequence[Act]) -> tuple[_Slot, ...]:
        """Makes Receipts of the oldest due events; those that have one now. The first of each namespace that took none at the last turn go
        before the others: of one that takes no receipt now no more are tried, so that none of another waits for it. `beside`: other acts
        that may meet them; together there is more at hand for whoever is done first."""
        slots = sorted(due, key=lambda slot: self._delivered[slot].index)
        left = max(RECEIPTS_AT_ONCE, RECEIPTS_EACH * self.ports.together.most)
        firsts: dict[str, _Slot] = {}
        for slot in slots:
            if slot[0].namespace not in self._willing:
                firsts.setdefault(slot[0].namespace, slot)
        heads = list(firsts.values())[:left]
        found = self._made(heads)
        willing, tried = self._willing | {key.namespace for key, _ in found}, set(heads)
        rest = [slot for slot in slots if slot not in tried and slot[0].namespace in willing]
        found = (*found, *self._made(rest[: left - len(heads)], beside))
        self._willing = {key.namespace for key, _ in found}
        return found

    def _made(self, slots: Collection[_Slot], beside: Sequence[Act] = ()) -> tuple[_Slot, ...]:
        """Those of these slots, oldest first, that have their Receipt now."""
        found: list[_Slot] = []
        waits: list[int] = []

        def act(slot: _Slot, proof: str) -> None:
            (key, bundle), index = slot, self._delivered[slot].index
            if any(index > other for other in waits):
                return  # whoever stores them is busy, or away
            try:
                self._receipt(key.namespace, bundle, index, proof)
                found.append(slot)
            except Waiting:
                waits.append(index)
            except (Refused, Stalled) as error:
                _log.warning("receipts of namespace %s wait: %s", key.namespace, error)

        self.ports.together([*beside, *(partial(act, slot, proof) for slot, proof in self._proven(slots))])
        return tuple(found)

    def _proven(self, slots: Collection[_Slot]) -> list[tuple[_Slot, str]]:
        """Those that a checkpoint covers by now, with their proofs; none while the log is away."""
        try:
            proofs = self.ports.log.proofs([self._delivered[slot].index for slot in slots]) if slots else ()
        except Waiting:
            return []
        return [(slot, proof) for slot, proof in zip(slots, proofs, strict=True) if proof is not None]

    def _release(self) -> None:
        """Deleted objects whose events all have receipts."""
        for resource in list(self._departed.values()):
            if not self._delivered.keys() & set(_slots(resource)):
                self.ports.store.release(resource)
                del self._departed[resource.uid]

    def _receipt(self, namespace: str, bundle: str, index: int, proof: str) -> None:
        receipt = receipt_of(namespace, bundle, index, proof)
        name, spec = receipt.name, receipt.spec
        try:
            self.made(self._created(receipt))
        except NotFound as error:  # the namespace is gone, or going: the log alone keeps the event
            _log.warning("%s/%s is only in the log: %s", namespace, name, error)
            for kept in KEPT:
                self._kept.pop((kept, namespace), None)
            return
        if (found := self._kept.get((spec["event"], namespace))) is not None:
            found.setdefault(spec.get("pack", ""), {})[name] = receipt

    def _created(self, receipt: Resource) -> Resource:
        """As it is stored: one that was made though it was said to have failed is as new as any."""
        try:
            return self.ports.store.create(receipt)
        except AlreadyExists:
            return self.ports.store.get(receipt.key)

    def _clear(self, key: Key, bundles: set[str]) -> None:
        """Takes settled events out of their status, oldest first: the last that is pending is the last that was ordered. An object that
        changed meanwhile is met again at the next turn."""
        try:
            resource = self.ports.store.get(key)
            left = list(dropwhile(lambda row: row["bundle"] in bundles, resource.status.get("pending", ())))
            bundles = bundles - {row["bundle"] for row in left}
            if not bundles:
                return
            rest = {k: v for k, v in resource.status.items() if k != "pending"}
            self.ports.store.update_status(replace(resource, status=rest | ({"pending": left} if left else {})))
        except NotFound:
            pass
        except Conflict:
            return
        for bundle in bundles:
            self._delivered.pop((key, bundle), None)


def receipt_of(namespace: str, bundle: str, index: int, proof: str) -> Resource:
    """The Receipt of an event."""
    document = statement_of(bundle)
    spec = receipt_spec(bundle.encode(), document, index, proof)
    name = receipt_name(document["predicate"]["kind"], index)
    return Resource("Receipt", namespace, name, spec, labels=receipt_labels(spec, document))


def statement_of(bundle: str) -> dict[str, Any]:
    """The in-toto statement in a bundle of ours, unverified."""
    document: dict[str, Any] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    return document


def _slots(resource: Resource) -> list[_Slot]:
    return [(resource.key, row["bundle"]) for row in resource.status.get("pending", ())]


def _ordered(index: int, bundle: str) -> Ordered:
    document = statement_of(bundle)
    predicate = document["predicate"]
    return Ordered(index, predicate["time"], document["subject"][0]["digest"]["sha256"], predicate["kind"])


def fault_rows(refused: Refused) -> tuple[list[dict[str, str]], str]:
    """Faults as status carries them, within its bounds, and one line that says how many and which is the first."""
    rows = [{"where": f.where[:512], "value": f.value[:512], "must": f.must[:1024]} for f in refused.faults[:64]]
    return rows, f"{len(refused.faults)} faults; {rows[0]['where']}: {rows[0]['value']}: {rows[0]['must']}"


def say(ports: Ports, key: Key, reason: str, message: str, *, warning: bool = False) -> None:
    """An Event for people on an object. Where none can be made (a quota, a namespace that is going) nothing else waits for it."""
    try:
        ports.store.record(Event(key, "Warning" if warning else "Normal", reason, message))
    except KnhkError as error:
        _log.warning("%s: %s: %s is not told as an Event: %s", key, reason, message, error)


def remembered(status: Mapping[str, Any], digest: str, outcome: str, time: str, reason: str) -> list[dict[str, str]]:
    """The history in a status with what the object came to now, if that is new."""
    rows: list[dict[str, str]] = [dict(row) for row in status.get("history", ())]
    if rows and (rows[0]["digest"], rows[0]["outcome"]) == (digest, outcome):
        return rows
    return [{"digest": digest, "outcome": outcome, "time": time, "reason": reason[:1024]}, *rows][:MAX_HISTORY]


def write_status(ports: Ports, resource: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str) -> Resource:
    """Status with its conditions by kstatus: Ready always, Reconciling while it is Unknown, Stalled when it is False.

    Events that are pending, the history and the last request that was handled stay unless `status` names them. Nothing is written when
    nothing changed."""
    status = {**{name: resource.status[name] for name in _STAYS if name in resource.status}, **status}
    wanted = conditioned(resource, status, ready, reason, message, rfc3339(ports.clock.now_ns()))
    if wanted == resource.status:
        return resource
    return ports.store.update_status(replace(resource, status=wanted))


def conditioned(resource: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str, now: str) -> dict[str, Any]:
    """The status with its conditions, as `write_status` writes it."""
    conditions = list(resource.status.get("conditions", []))
    for kind, value in (("Ready", ready), ("Reconciling", ready is None), ("Stalled", ready is False)):
        made = condition(kind, value, reason, message, resource.generation, now)
        conditions = with_condition(conditions, made)
    return {**status, "conditions": conditions, "observedGeneration": resource.generation}
