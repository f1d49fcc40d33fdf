"""FeatureFlag: evaluated for each point; its variant travels in the point's rollout document, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from knhk.api import said, to_flag
from knhk.decide.flags import Context, Evaluated, Switched, evaluate, switched
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import NotFound
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Journal, Ports, remembered, write_status
from knhk.reconcilers.counting import not_counted, not_gone, rest
from knhk.reconcilers.documents import published, told
from knhk.reconcilers.provenance import spec_digest

MAX_SAID = 24_576  # an entry of the log has 65,535 bytes at most
LOOK_AGAIN_S = 0.5
WAIT_FOR_PACK_S = 1.0


def context_of(point: Resource) -> Context:
    """What targeting may look at."""
    spec, key = point.spec, f"{point.namespace}/{point.name}"
    return {"targetingKey": key, "point": point.name, "namespace": point.namespace, "region": spec["region"], "mode": spec["mode"]}


def switched_at(ports: Ports, point: Resource, pack: str) -> Switched:
    """What the flags of a pack say of a point. One that does not count lets nothing go: its canary is held, and the document says of it
    what it said before; so does one whose deletion does not count. Of a point that does not count nobody knows what flags say: they look at
    its spec."""
    every = ports.store.list("FeatureFlag", point.namespace).resources
    flags = [flag for flag in every if flag.spec["pack"] == pack]
    unknown = not_counted(ports, point) if flags else ""
    why = {flag.name: unknown or not_counted(ports, flag) for flag in flags}
    found = switched((to_flag(flag) for flag in flags if not why[flag.name]), context_of(point))
    why |= _not_gone(ports, point, {flag.name for flag in every})
    resting = [name for name in why if why[name]]
    if not resting:
        return found
    before = (told(ports, f"{point.namespace}/{point.name}") or {}).get("flags", {})
    kept = {name: before[name] for name in resting if name in before}
    return Switched({**found.variants, **kept}, found.held or f"FeatureFlag {resting[0]}: {why[resting[0]]}")


def _not_gone(ports: Ports, point: Resource, there: set[str]) -> dict[str, str]:
    """The flags that the point was told and that are not there, and why that does not count."""
    document = published(ports, f"{point.namespace}/{point.name}") or {}
    return {name: not_gone(ports, Key("FeatureFlag", point.namespace, name)) for name in document.get("flags", {}) if name not in there}


@dataclass(frozen=True)
class FlagReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Tells the variant of each point, and whether its document carries it. Gives seconds until the next look."""
        self.journal.deliver(resource)
        if why := not_counted(self.ports, resource):
            return rest(self.ports, resource, why)
        known, resource = resource, self._recorded(resource)
        if resource.spec["suspend"]:
            if resource is not known:
                status = {**resource.status, "observedGeneration": resource.generation}
                self.ports.store.update_status(replace(resource, status=status))
            return None
        try:
            pack = self.ports.store.get(Key("PolicyPack", resource.namespace, resource.spec["pack"]))
        except NotFound:
            message = f"PolicyPack {resource.namespace}/{resource.spec['pack']} must be there; apply it"
            write_status(self.ports, resource, {}, None, "Waiting", message)
            return WAIT_FOR_PACK_S
        rows, late = [], ""
        for point in self._points(pack):
            told = evaluate(to_flag(resource), context_of(point))
            epoch = self._epoch(resource, point, told)
            rows.append(_row(point, told, epoch))
            late = late or (f"{point.name} must be told" if epoch is None else "")
        self._tell(resource, rows, late)
        return LOOK_AGAIN_S

    def _recorded(self, resource: Resource) -> Resource:
        """With the event of what the flag says, once for each generation, still to be written: a flag that was turned by hand outlives its
        store."""
        if resource.status.get("observedGeneration") == resource.generation:
            return resource
        spec, digest = said(resource), spec_digest(resource)
        evidence: dict[str, Any] = {"generation": resource.generation} | ({"spec": spec} if len(canonical(spec)) <= MAX_SAID else {})
        event = PolicyEvent(
            "FlagSet",
            (f"flag/{resource.namespace}/{resource.name}", digest),
            self.ports.actor,
            rfc3339(self.ports.clock.now_ns()),
            evidence=evidence,
        )
        return replace(resource, status=self.journal.pend(resource.status, event))

    def _points(self, pack: Resource) -> list[Resource]:
        parts = (pack.status.get("live") or {}, pack.status.get("revision") or {})
        names = {row["point"] for row in pack.spec["targets"]}.union(*(part.get("points", ()) for part in parts))
        found = self.ports.store.list("EnforcementPoint", pack.namespace).resources
        return [point for point in found if point.name in names]

    def _epoch(self, resource: Resource, point: Resource, told: Evaluated) -> int | None:
        """Epoch of the point's document, when that carries what the flag says; None when it does not yet."""
        document = published(self.ports, f"{point.namespace}/{point.name}")
        if document is None or document["flags"].get(resource.name, "") != told.variant:
            return None
        epoch: int = document["epoch"]
        return epoch

    def _tell(self, resource: Resource, rows: list[dict[str, Any]], late: str) -> None:
        says = {row["name"]: row.get("variant", "") for row in rows}
        digest = f"sha256:{sha256_hex(canonical(says))}"
        outcome = "Disabled" if resource.spec["state"] == "DISABLED" else "Evaluated"
        count = sum(row["enforced"] for row in rows)
        message = late or f"canaries are enforced at {count} of {len(rows)} points"
        now = rfc3339(self.ports.clock.now_ns())
        why = ", ".join(f"{name}: {variant or 'no flag'}" for name, variant in says.items())
        status = {"points": rows, "history": remembered(resource.status, digest, outcome, now, why)}
        write_status(self.ports, resource, status, None if late else True, "Publishing" if late else outcome, message)


def _row(point: Resource, told: Evaluated, epoch: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": point.name, "reason": told.reason, "enforced": told.enforced, "epoch": epoch or 0}
    return row | ({"variant": told.variant} if told.variant else {})
