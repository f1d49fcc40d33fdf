"""EnforcementPoint: it runs, its agent has the newest document, and its status tells what it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import NotFound, Stalled, Waiting
from knhk.model.phases import Phase
from knhk.model.resource import Key, Resource
from knhk.reconcilers.context import Journal, Ports, rfc3339, say, write_status
from knhk.reconcilers.documents import Assignment, is_fresh, pack_reference, publish, published, says
from knhk_templates.envoy import attribute_sources

LOOK_AGAIN_S = 0.5
RING_BYTES = 32 << 20
REGION_INDEX = 0  # the one region of an embedded log; regions get their indexes from the log's configuration


def point_config(resource: Resource) -> bytes:
    """point.json (formats/agent.md): what the agent must know of its point. Its digest is part of the rollout document."""
    spec = resource.spec
    names = {source["name"] for source in attribute_sources(spec)}
    sticky = spec.get("stickyAttribute", "")
    return canonical(
        {
            "version": 1,
            "point": f"{resource.namespace}/{resource.name}",
            "region": spec["region"],
            "regionIndex": REGION_INDEX,
            "attributes": attribute_sources(spec),
            "stickyAttribute": sticky if sticky in names else "",
            "failure": spec["failure"],
            "agentGraceSeconds": spec["agentGraceSeconds"],
            "parkTimeoutMs": spec["parkTimeoutMs"],
            "ringBytes": RING_BYTES,
        }
    )


def packs_of(ports: Ports, resource: Resource) -> list[Resource]:
    """PolicyPacks that target the point, the oldest first: the first one has it."""
    packs = ports.store.list("PolicyPack", resource.namespace).resources
    found = [pack for pack in packs if any(t["point"] == resource.name for t in pack.spec["targets"])]
    return sorted(found, key=lambda pack: (pack.created, pack.name))


def data_of(ports: Ports, pack: Resource | None) -> dict[str, Any] | None:
    """DATA of formats/signed.md: the published bundle that the pack reads, or None."""
    for row in pack.spec["dataBundles"] if pack is not None else ():
        try:
            bundle = ports.store.get(Key("DataBundle", pack.namespace, row["name"])) if pack is not None else None
        except NotFound:
            continue
        if bundle is not None and "image" in bundle.status:
            return {"name": row["name"], "digest": bundle.status["image"]}
    return None


def assignment_of(ports: Ports, resource: Resource, pack: Resource | None) -> Assignment:
    """What the point must run by the status of the pack that has it. The same status gives the same assignment."""
    point = f"{resource.namespace}/{resource.name}"
    base = Assignment(point, resource.spec["baseline"], sha256_hex(point_config(resource)), data=data_of(ports, pack))
    if pack is None:
        return base
    live, revision = pack.status.get("live"), pack.status.get("revision", {})
    stable = _reference(pack, live) if live else None
    if revision.get("phase") != Phase.ROLLING.value and not _held(revision):
        return Assignment(base.point, base.baseline, base.config, stable=stable, data=base.data)
    weight = revision["weight"] * 10 if revision["arm"] == "Canary" else 0
    candidate = _reference(pack, revision)
    return Assignment(base.point, base.baseline, base.config, revision["arm"], weight, stable, candidate, base.data)


def _held(revision: Mapping[str, Any]) -> bool:
    """A rollout that is held for lack of data stays where it is."""
    return revision.get("phase") == Phase.STALLED.value and "arm" in revision


def _reference(pack: Resource, revision: Mapping[str, Any]) -> dict[str, Any]:
    return pack_reference(pack.namespace, pack.name, revision["version"], revision["digest"])


@dataclass(frozen=True)
class PointReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Level-based: places the point, publishes what differs, tells what runs. Gives seconds until the next look."""
        ports = self.ports
        point = f"{resource.namespace}/{resource.name}"
        ports.fleet.publish_keys(point, self._keys())
        ports.fleet.publish_config(point, point_config(resource))
        try:
            placed = ports.placement.ensure(point, resource.spec)
        except Stalled as stalled:
            write_status(ports, resource, self._kept(resource), False, stalled.reason, str(stalled))
            return LOOK_AGAIN_S * 10
        except Waiting as waiting:
            write_status(ports, resource, self._kept(resource), None, waiting.reason, str(waiting))
            return waiting.retry_after_s
        packs = packs_of(ports, resource)
        wanted = assignment_of(ports, resource, packs[0] if packs else None)
        self.bring(resource, wanted, "PointChanged")
        self._tell(resource, wanted, placed.address, placed.trouble)
        return LOOK_AGAIN_S

    def bring(self, resource: Resource, wanted: Assignment, reason: str, epoch: int | None = None) -> None:
        """Publishes `wanted` unless the published document says it and is fresh. `epoch`: index of an event that ordered it already."""
        document = published(self.ports, wanted.point)
        current = says(document, wanted, self.ports.origin)
        if current and document is not None and is_fresh(document, self.ports.clock.now_ns()):
            return
        if epoch is None:
            epoch = self.journal.append(self._event(wanted, "DocumentRenewed" if current else reason), resource.namespace)
        publish(self.ports, wanted, epoch)

    def _event(self, wanted: Assignment, kind: str) -> PolicyEvent:
        digest = hashlib.sha256(canonical(wanted.document(self.ports.origin))).hexdigest()
        now = rfc3339(self.ports.clock.now_ns())
        return PolicyEvent(kind, (f"point/{wanted.point}", digest), self.ports.actor, now, point=wanted.point)

    def _keys(self) -> bytes:
        return self.ports.signer.keys_json()

    def _kept(self, resource: Resource) -> dict[str, Any]:
        return {k: v for k, v in resource.status.items() if k not in ("conditions", "observedGeneration")}

    def _tell(self, resource: Resource, wanted: Assignment, address: str, trouble: tuple[str, ...]) -> None:
        statistics = self.ports.fleet.statistics(wanted.point)
        stats: Mapping[str, Any] = statistics.document if statistics is not None else {}
        document = published(self.ports, wanted.point) or {}
        status: dict[str, Any] = {"address": address, "mode": wanted.mode, "weight": wanted.weight, "epoch": document.get("epoch", 0)}
        for name, pack in (("stable", wanted.stable), ("candidate", wanted.candidate), ("data", wanted.data)):
            if pack is not None:
                status[name] = pack["digest"]
        decided = stats.get("decisions", {}).get((wanted.stable or {}).get("digest", "").removeprefix("sha256:")[:40])
        if decided:
            status["decisions"] = {k: int(decided.get(k, 0)) for k in ("admit", "deny", "park", "refused")}
        outliers = [{"name": wanted.point, "reason": line[:512]} for line in (*trouble, *self._drift(stats, document))]
        if outliers:
            status["outliers"] = outliers[:20]
        ready, reason, message = self._readiness(stats, document, outliers)
        self._note_drift(resource, reason, message)
        write_status(self.ports, resource, status, ready, reason, message)

    def _note_drift(self, resource: Resource, reason: str, message: str) -> None:
        before = next((c for c in resource.status.get("conditions", []) if c["type"] == "Ready"), {})
        if before.get("reason") != reason:
            say(self.ports, resource.key, reason, message, warning=reason == "Drifted")

    def _drift(self, stats: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
        """What the agent refused: it goes on with what it had."""
        if not stats:
            return []
        return [f"{row.get('what')}: {row.get('where')}: {row.get('must')}" for row in stats.get("refused", [])]

    def _readiness(
        self, stats: Mapping[str, Any], document: Mapping[str, Any], outliers: list[dict[str, str]]
    ) -> tuple[bool | None, str, str]:
        if not stats.get("ready"):
            return None, "Starting", outliers[0]["reason"] if outliers else "the agent is not ready yet"
        if outliers:
            return None, "Drifted", outliers[0]["reason"]
        if stats.get("epoch") != document.get("epoch"):
            return None, "Rolling", f"epoch {stats.get('epoch')} runs, {document.get('epoch')} is published"
        return True, "Running", f"epoch {document.get('epoch')} runs"

