"""What is deleted leaves an event: who took it away, as far as that is known here, what it said, and what it had promised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from knhk.decide.keeping import DELETED
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical
from knhk.model.commits import Source
from knhk.model.resource import Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Ports, statement_of
from knhk.reconcilers.counting import not_gone
from knhk.reconcilers.documents import pack_reference
from knhk.reconcilers.provenance import spec_digest

SUBJECTS: Mapping[str, str] = {
    "PolicyPack": "pack",
    "EnforcementPoint": "point",
    "FeatureFlag": "flag",
    "DataBundle": "data",
    "SchemaVersion": "schema",
    "HookRegistry": "hooks",
}
MAX_SAID = 24_576  # an entry of the log has 65,535 bytes at most
VERSIONED = ("PolicyPack", "DataBundle", "SchemaVersion")


def deleted(ports: Ports, resource: Resource, by: Source | None) -> PolicyEvent | None:
    """The event of an object as it was at its end; None of kinds that leave none, and of what nobody had worked on. `by`: the commit that
    took it away."""
    if resource.kind not in SUBJECTS or resource.status.get("observedGeneration", -1) < 0:
        return None
    name = f"{SUBJECTS[resource.kind]}/{resource.namespace}/{resource.name}"
    evidence: dict[str, Any] = {"uid": resource.uid, "generation": resource.generation}
    if by is not None:
        evidence["by"] = {"repository": by.repository, "commit": by.commit}
    elif why := not_gone(ports, resource.key):
        evidence["stays"] = why
    live = resource.status.get("live") or {}
    if resource.kind == "PolicyPack" and (live or "promises" in resource.status):
        evidence["promises"] = promised_by(resource)
    return PolicyEvent(
        DELETED,
        (f"{name}@{resource.spec['version']}" if resource.kind in VERSIONED else name, spec_digest(resource)),
        ports.actor,
        rfc3339(ports.clock.now_ns()),
        pack=pack_reference(resource.namespace, resource.name, live["version"], live["digest"]) if "digest" in live else None,
        point=f"{resource.namespace}/{resource.name}" if resource.kind == "EnforcementPoint" else "",
        evidence=evidence,
    )


def promised_by(pack: Resource) -> dict[str, Any]:
    """What a pack, or the one of its name before it, promised: member `promises` of a status that goes on with it. Where an event cannot
    hold the names of all who may approve, their number stands."""
    live, kept = pack.status.get("live") or {}, pack.status.get("promises", {})
    level = live.get("durability") if live else kept.get("durability")
    found = {**kept, **({"durability": level} if level else {})}
    if len(canonical(found)) > MAX_SAID:
        found["approvals"] = [{name: value for name, value in row.items() if name != "approvers"} for row in found["approvals"]]
    return found


def promised_before(receipts: Iterable[Resource]) -> dict[str, Any]:
    """What was promised under a pack's name, by the Receipts of its deletions, oldest first; nothing where none says so."""
    said = [statement_of(receipt.spec["bundle"])["predicate"]["evidence"].get("promises") for receipt in receipts]
    return next((dict(promised) for promised in reversed(said) if promised is not None), {})
