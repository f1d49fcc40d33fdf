"""What every reconciler works with: the ports, and the events that it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from knhk.api import condition, with_condition
from knhk.lockchain import PolicyEvent, receipt_spec, statement
from knhk.model.faults import Waiting
from knhk.model.resource import Key, Resource
from knhk.ports.clock import Clock
from knhk.ports.compiler import Compiler
from knhk.ports.fleet import Fleet
from knhk.ports.log import Log
from knhk.ports.placement import Placement
from knhk.ports.registry import Registry
from knhk.ports.signer import Signer
from knhk.ports.store import Event, Store

NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Ports:
    """One adapter for each port; `origin` names the log, `actor` who acts in policy events."""

    store: Store
    log: Log
    signer: Signer
    registry: Registry
    compiler: Compiler
    fleet: Fleet
    placement: Placement
    clock: Clock
    origin: str
    actor: str


def rfc3339(ns: int) -> str:
    """UTC to the second, as signed documents carry it."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_ns(ns: int) -> str:
    """UTC with nanoseconds, as status carries it."""
    return f"{rfc3339(ns)[:-1]}.{ns % 1_000_000_000:09d}Z"


def from_rfc3339_ns(text: str) -> int:
    """Nanoseconds since 1970 of what `rfc3339_ns` wrote."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])


@dataclass
class Journal:
    """Policy events: into the log first, then, when a checkpoint covers them, Receipt resources."""

    ports: Ports
    _uncovered: list[tuple[int, bytes, Mapping[str, Any], str]] = field(default_factory=list)

    def append(self, event: PolicyEvent, namespace: str) -> int:
        """Index of the event in the log, durable. The Receipt follows by `settle`."""
        document = statement(event)
        bundle = self.ports.signer.bundle("rollout", document)
        index = self.ports.log.append_event(bundle)
        self._uncovered.append((index, bundle, document, namespace))
        return index

    def settle(self) -> bool:
        """Makes Receipts of the events that a checkpoint covers by now; true when none is left."""
        left = []
        for index, bundle, document, namespace in self._uncovered:
            try:
                proof = self.ports.log.proof(index)
            except Waiting:
                left.append((index, bundle, document, namespace))
                continue
            spec = receipt_spec(bundle, document, index, proof)
            name = f"{spec['event'].lower()}-{index:08d}"
            labels = {"event": spec["event"]} | {k: spec[k] for k in ("pack", "point") if k in spec}
            self.ports.store.apply(Resource("Receipt", namespace, name, spec, labels=labels))
        self._uncovered = left
        return not left


def say(ports: Ports, key: Key, reason: str, message: str, *, warning: bool = False) -> None:
    """An Event for people on an object."""
    ports.store.record(Event(key, "Warning" if warning else "Normal", reason, message))


def write_status(
    ports: Ports, resource: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str
) -> Resource:
    """Status with its conditions by kstatus: Ready always, Reconciling while it is Unknown, Stalled when it is False.

    Nothing is written when nothing changed."""
    now = rfc3339(ports.clock.now_ns())
    conditions = list(resource.status.get("conditions", []))
    for kind, value in (("Ready", ready), ("Reconciling", ready is None), ("Stalled", ready is False)):
        made = condition(kind, value, reason, message, resource.generation, now)
        conditions = with_condition(conditions, made)
    wanted = {**status, "conditions": conditions, "observedGeneration": resource.generation}
    if wanted == resource.status:
        return resource
    return ports.store.update_status(replace(resource, status=wanted))
