"""Approval: recorded once, as a policy receipt; only what is recorded counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.api.conditions import ready_of
from knhk.decide.approvals import LOCAL
from knhk.lockchain import PolicyEvent
from knhk.model.faults import NotFound
from knhk.model.resource import Key, Resource
from knhk.model.rollout import Approved
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Journal, Ports, say, write_status
from knhk.reconcilers.documents import pack_reference

WAIT_FOR_REVISION_S = 1.0
RECORDED = "Recorded"


@dataclass(frozen=True)
class ApprovalReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Writes the receipt of an approval when its revision is there. Gives seconds until it is looked for again."""
        self.journal.deliver(resource)
        if _reason(resource) == RECORDED:
            return None
        spec = resource.spec
        local = spec["approver"].startswith(LOCAL)
        if local is self.ports.reviews:
            must = "be the user who creates it" if local else f"begin with {LOCAL}, for an embedded home knows no other user"
            write_status(self.ports, resource, {}, False, "Refused", f"spec.approver must {must}")
            return None
        revision = self._revision(resource)
        if revision is None:
            message = f"PolicyPack {resource.namespace}/{spec['pack']} must have the revision {spec['revision']}"
            write_status(self.ports, resource, {}, None, "Waiting", message)
            return WAIT_FOR_REVISION_S
        self._record(resource, revision, local)
        return None

    def _revision(self, resource: Resource) -> Mapping[str, Any] | None:
        try:
            pack = self.ports.store.get(Key("PolicyPack", resource.namespace, resource.spec["pack"]))
        except NotFound:
            return None
        parts = (pack.status.get("revision") or {}, pack.status.get("live") or {})
        found = next((part for part in parts if part.get("digest") == resource.spec["revision"]), None)
        return found or self._loosening(resource, pack)

    def _loosening(self, resource: Resource, pack: Resource) -> Mapping[str, Any] | None:
        """What the pack, or a point, is to promise less, if that is what is approved."""
        version = (pack.status.get("live") or {}).get("version", pack.spec["version"])
        points = self.ports.store.list("EnforcementPoint", resource.namespace).resources
        found = (one.status.get("loosening", {}) for one in (pack, *points))
        return next(({"version": version, **row} for row in found if row.get("digest") == resource.spec["revision"]), None)

    def _record(self, resource: Resource, revision: Mapping[str, Any], local: bool) -> None:
        spec = resource.spec
        digest, version = spec["revision"], revision["version"]
        evidence: dict[str, Any] = {"approval": resource.name, "by": self.ports.actor}
        evidence |= {"comment": spec["comment"]} if "comment" in spec else {}
        evidence |= {"unreviewed": True} if local else {}
        evidence |= {"loosened": list(revision["changes"])} if "changes" in revision else {}
        event = PolicyEvent(
            "Approved",
            (f"pack/{resource.namespace}/{spec['pack']}@{version}", digest.removeprefix("sha256:")),
            spec["approver"],
            rfc3339(self.ports.clock.now_ns()),
            pack=pack_reference(resource.namespace, spec["pack"], version, digest),
            stage=spec["stage"],
            evidence=evidence,
        )
        kept = {k: v for k, v in resource.status.items() if k == "pending"}
        status = self.journal.pend(kept | ({"unreviewed": True} if local else {}), event)
        message = f"{spec['approver']} approved {version} for {spec['stage']}"
        resource = write_status(self.ports, resource, status, True, RECORDED, message)
        say(self.ports, resource.key, "Approved", message)
        self.journal.deliver(resource)


def _reason(resource: Resource) -> str:
    return str(ready_of(resource.status).get("reason", ""))


def approvals_of(ports: Ports, pack: Resource, digest: str) -> tuple[Approved, ...]:
    """Recorded approvals of one revision of a pack."""
    found = recorded(ports, pack, digest)
    return tuple(Approved(one.spec["stage"], one.spec["approver"], bool(one.status.get("unreviewed"))) for one in found)


def recorded(ports: Ports, pack: Resource, digest: str) -> tuple[Resource, ...]:
    """Approvals of one revision of a pack whose event is in their status; the log has it when the journal has delivered them."""
    found = ports.store.list("Approval", pack.namespace).resources
    asked = (pack.name, digest)
    return tuple(one for one in found if (one.spec["pack"], one.spec["revision"]) == asked and _reason(one) == RECORDED)
