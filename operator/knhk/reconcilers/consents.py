"""Consent: each change of its state is a policy event; only what is recorded counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from knhk.api.conditions import ready_of
from knhk.decide.approvals import LOCAL
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.consents import EVENTS
from knhk.model.resource import Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.consent_book import ConsentBook
from knhk.reconcilers.context import Journal, Ports, write_status

RECORDED, RECORDING = "Recorded", "Recording"
NONE_BEFORE = -1


@dataclass(frozen=True)
class ConsentReconciler:
    ports: Ports
    journal: Journal
    book: ConsentBook

    def converge(self, resource: Resource) -> float | None:
        """Writes the event of a new state into the log, tells the points, then says that it is recorded: who waited for that knows that
        documents are out. Never looked at again by itself."""
        ordered = self.journal.deliver(resource)
        if _ready(resource, RECORDED):
            return None
        spec = resource.spec
        local = spec["actor"].startswith(LOCAL)
        if local is self.ports.reviews:
            must = "be the user who writes it" if local else f"begin with {LOCAL}, for an embedded home knows no other user"
            write_status(self.ports, resource, _told(resource), False, "Refused", f"spec.actor must {must}")
            return None
        if not _ready(resource, RECORDING) or not ordered:
            status = self.journal.pend(_told(resource), self._event(resource))
            resource = write_status(self.ports, resource, status, None, RECORDING, f"{spec['state']} is on its way into the log")
            ordered = self.journal.deliver(resource)
        newest = ordered[-1]
        self.book.took(resource, spec["state"], newest.index)
        status = {"state": spec["state"], "recorded": newest.time, "index": newest.index}
        write_status(self.ports, resource, status, True, RECORDED, f"{spec['state']}: {spec['purpose']}")
        return None

    def _event(self, resource: Resource) -> PolicyEvent:
        """`after` keeps two events of one second apart: equal bytes are one entry of the log."""
        spec = resource.spec
        said = {name: spec[name] for name in ("purpose", "controller", "basis", "document") if name in spec}
        evidence = said | {"consent": resource.name, "by": self.ports.actor, "after": resource.status.get("index", NONE_BEFORE)}
        return PolicyEvent(
            EVENTS[spec["state"]],
            (f"consent/{resource.namespace}/{spec['subject']}", sha256_hex(canonical(evidence))),
            spec["actor"],
            rfc3339(self.ports.clock.now_ns()),
            evidence=evidence,
        )


def _told(resource: Resource) -> dict[str, Any]:
    """What was recorded last; it counts until something newer is."""
    return {name: resource.status[name] for name in ("state", "recorded", "index", "pending") if name in resource.status}


def _ready(resource: Resource, reason: str) -> bool:
    """Whether that is what became of this generation."""
    found = ready_of(resource.status)
    return (found.get("reason"), found.get("observedGeneration")) == (reason, resource.generation)
