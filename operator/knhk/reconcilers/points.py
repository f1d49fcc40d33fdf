"""EnforcementPoint: it runs, its agent has the newest document, and its status tells what it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt, NotFound, Stalled, Waiting
from knhk.model.phases import WORKING, Arm, Phase
from knhk.model.resource import Key, Resource
from knhk.ports.fleet import SILENT_AFTER_S
from knhk.reconcilers.context import Journal, Ordered, Ports, rfc3339, say, write_status
from knhk.reconcilers.documents import NS, Assignment, is_valid, may_carry, pack_reference, publish, published, says
from knhk_templates.envoy import attribute_sources

LOOK_AGAIN_S = 0.5
RING_BYTES = 32 << 20
HOTTEST = 16
MAX_REVISIONS = 8
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
            "residency": {"bytes": spec["residency"]["maxMiB"] << 20, "absent": spec["residency"]["absent"]},
        }
    )


def heat_of(stats: Mapping[str, Any], digest: str) -> list[dict[str, Any]]:
    """`heat` of the status: the hottest predicates of the pack with that digest, as the agent tells them."""
    told = stats.get("heat", {}).get(digest.removeprefix("sha256:")[:40], {})
    samples = int(told.get("samples", 0))
    hottest = list(told.get("predicates", {}).items())[:HOTTEST]
    return [{"predicate": name[:2048], "percent": round(100 * int(n) / samples)} for name, n in hottest if samples]


def instances_of(stats: Mapping[str, Any], epoch: int | None) -> dict[str, Any]:
    """`instances` and `revisions` of the status, for a point that has pods: how many run, how many of them what is published."""
    told = stats.get("instances")
    if not told:
        return {}
    current = int(told["epochs"].get(str(epoch), 0))
    counts = {"live": int(told["live"]), "current": current, "silent": int(told["silentCount"])}
    most = sorted(told["stable"].items(), key=lambda item: (-item[1], item[0]))[:MAX_REVISIONS]
    return {"instances": counts, "revisions": [{"digest": digest, "instances": int(n)} for digest, n in most]}


def _progress(stats: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    counts = instances_of(stats, document.get("epoch")).get("instances")
    share = f"; {counts['current']} of {counts['live']} pods run it" if counts else ""
    return f"epoch {stats.get('epoch')} runs, {document.get('epoch')} is published{share}"


def _silence(since_ns: int) -> str:
    return f"the agent has told nothing since {rfc3339(since_ns)}" if since_ns else "the agent has told nothing yet"


def holds(pack: Resource, point: str) -> bool:
    """Whether the pack is enforced or judged at the point (a name), whatever its spec says by now."""
    live, revision = pack.status.get("live") or {}, pack.status.get("revision", {})
    return point in live.get("points", ()) or (rolls(revision) and point in revision["points"])


def rolls(revision: Mapping[str, Any]) -> bool:
    """Whether points run the revision as a candidate; a rollout that is held for lack of data stays where it is."""
    return revision.get("phase") in (Phase.ROLLING.value, Phase.STALLED.value) and "arm" in revision


def owner_of(ports: Ports, resource: Resource) -> Resource | None:
    """The one PolicyPack that decides what the point runs: the one that is there already, else the oldest that is on its way."""
    packs = ports.claims.naming(resource.name, resource.namespace, ports.store.list("PolicyPack", resource.namespace).resources)
    there = [pack for pack in packs if holds(pack, resource.name)]
    return min(there or [pack for pack in packs if _comes(pack, resource.name)], key=lambda p: (p.created, p.name), default=None)


def _comes(pack: Resource, point: str) -> bool:
    phase = pack.status.get("revision", {}).get("phase", Phase.PENDING.value)
    return phase in WORKING and any(target["point"] == point for target in pack.spec["targets"])


def data_of(ports: Ports, point: str, name: str) -> dict[str, Any] | None:
    """DATA of formats/signed.md: the bundle `name` as it is published now. What a point has stays when the DataBundle is deleted."""
    if not name:
        return None
    try:
        bundle = ports.store.get(Key("DataBundle", point.partition("/")[0], name))
    except NotFound:
        before: Mapping[str, Any] = (published(ports, point) or {}).get("data") or {}
        return dict(before) if before.get("name") == name else None
    return {"name": name, "digest": bundle.status["image"]} if "image" in bundle.status else None


def assignment_of(ports: Ports, resource: Resource, pack: Resource | None) -> Assignment:
    """What the point must run by the status of the pack that has it. The same status gives the same assignment; the spec, which may
    be refused yet, has no say."""
    point = f"{resource.namespace}/{resource.name}"
    base = Assignment(point, resource.spec["baseline"], sha256_hex(point_config(resource)))
    if pack is None:
        return base
    live, revision = pack.status.get("live") or {}, pack.status.get("revision", {})
    if resource.name not in live.get("points", ()):
        live = {}
    stable = _reference(pack, live) if live else None
    if not rolls(revision) or resource.name not in revision["points"]:
        return replace(base, stable=stable, data=data_of(ports, point, live.get("data", "")))
    return replace(
        base,
        mode=revision["arm"],
        weight=revision["weight"] * 10 if revision["arm"] == Arm.CANARY else 0,
        stable=stable,
        candidate=_reference(pack, revision),
        data=data_of(ports, point, revision.get("data") or live.get("data", "")),
    )


def _reference(pack: Resource, revision: Mapping[str, Any]) -> dict[str, Any]:
    return pack_reference(pack.namespace, pack.name, revision["version"], revision["digest"])


@dataclass(frozen=True)
class PointReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Level-based: publishes what differs, lets the point run, tells what runs. Documents go first, so that a point that cannot
        be placed as it should still gets its pack back. Gives seconds until the next look."""
        ports = self.ports
        point = f"{resource.namespace}/{resource.name}"
        pack = owner_of(ports, resource)
        if pack is not None:
            self.journal.deliver(pack)  # a document never comes before the event that its status speaks of
        wanted = assignment_of(ports, resource, pack)
        ports.fleet.publish_keys(point, ports.signer.keys_json())
        ports.fleet.publish_config(point, point_config(resource))
        resource = self.bring(resource, wanted, "PointChanged")
        try:
            placed = ports.placement.ensure(point, resource.spec)
        except Stalled as stalled:
            write_status(ports, resource, self._kept(resource), False, stalled.reason, str(stalled))
            return LOOK_AGAIN_S * 10
        except Waiting as waiting:
            write_status(ports, resource, self._kept(resource), None, waiting.reason, str(waiting))
            return waiting.retry_after_s
        self._tell(resource, wanted, placed.address, placed.trouble)
        return LOOK_AGAIN_S

    def bring(self, resource: Resource, wanted: Assignment, reason: str, by: Ordered | None = None) -> Resource:
        """Publishes `wanted` unless the published document says it and is good. `by`: an event in the log that ordered it already;
        without one, or when its epoch is taken, the point's own event does. Gives the point as it is stored now."""
        ports = self.ports
        pending = self.journal.deliver(resource)
        document = published(ports, wanted.point)
        current = says(document, wanted, ports.origin)
        if current and document is not None and is_valid(ports, wanted.point, document):
            return resource
        own = next((order for order in pending[-1:] if order.subject == wanted.digest(ports.origin)), None)
        usable = [order for order in (by, own) if order is not None and may_carry(ports, order, document)]
        if not usable:
            event = self._event(wanted, "DocumentRenewed" if current else reason, document)
            resource = self._order(resource, event)
            usable = [self.journal.deliver(resource)[-1]]
        publish(ports, wanted, usable[0])
        return resource

    def _order(self, resource: Resource, event: PolicyEvent) -> Resource:
        status = self.journal.pend(resource.status, event)
        return self.ports.store.update_status(replace(resource, status=status))

    def _event(self, wanted: Assignment, kind: str, before: Mapping[str, Any] | None) -> PolicyEvent:
        """`before` keeps two events of one second apart: equal bytes are one entry of the log."""
        named = (("stable", wanted.stable), ("candidate", wanted.candidate), ("data", wanted.data))
        return PolicyEvent(
            kind,
            (f"point/{wanted.point}", wanted.digest(self.ports.origin)),
            self.ports.actor,
            rfc3339(self.ports.clock.now_ns()),
            point=wanted.point,
            evidence={"mode": wanted.mode, "after": before["epoch"] if before else -1}
            | {name: item["digest"] for name, item in named if item is not None},
        )

    def _kept(self, resource: Resource) -> dict[str, Any]:
        return {k: v for k, v in resource.status.items() if k not in ("conditions", "observedGeneration")}

    def _tell(self, resource: Resource, wanted: Assignment, address: str, trouble: tuple[str, ...]) -> None:
        stats, silence = self._heard(wanted.point)
        trouble = (*trouble, *silence)
        document = published(self.ports, wanted.point) or {}
        status: dict[str, Any] = {"address": address, "mode": wanted.mode, "weight": wanted.weight, "epoch": document.get("epoch", 0)}
        for name, pack in (("stable", wanted.stable), ("candidate", wanted.candidate), ("data", wanted.data)):
            if pack is not None:
                status[name] = pack["digest"]
        decided = stats.get("decisions", {}).get((wanted.stable or {}).get("digest", "").removeprefix("sha256:")[:40])
        if decided:
            status["decisions"] = {k: int(decided.get(k, 0)) for k in ("admit", "deny", "park", "refused")}
        heat = heat_of(stats, (wanted.stable or {}).get("digest", ""))
        if heat:
            status["heat"] = heat
        if stats.get("absent"):
            status["absent"] = int(stats["absent"])
        status |= instances_of(stats, document.get("epoch"))
        outliers = [{"name": wanted.point, "reason": line[:512]} for line in trouble] + self._drift(wanted.point, stats)
        if outliers:
            status["outliers"] = outliers[:20]
        ready, reason, message = self._readiness(stats, document, outliers)
        self._note_drift(resource, reason, message)
        write_status(self.ports, resource, status, ready, reason, message)

    def _heard(self, point: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """What the agent tells now, and why that is nothing. What one told that is gone says nothing of the present."""
        try:
            statistics = self.ports.fleet.statistics(point)
        except Corrupt as error:
            return {}, (str(error),)
        if statistics is None:
            return {}, ()
        if self.ports.clock.now_ns() - statistics.written_ns > SILENT_AFTER_S * NS:
            return {}, (f"the agent has told nothing since {rfc3339(statistics.written_ns)}",)
        return statistics.document, ()

    def _note_drift(self, resource: Resource, reason: str, message: str) -> None:
        before: Mapping[str, Any] = next((c for c in resource.status.get("conditions", []) if c["type"] == "Ready"), {})
        if before.get("reason") != reason:
            say(self.ports, resource.key, reason, message, warning=reason == "Drifted")

    def _drift(self, point: str, stats: Mapping[str, Any]) -> list[dict[str, str]]:
        """What agents refused: they go on with what they had. And pods that run and tell nothing, each by its name."""
        refused = [(row.get("pod", point), f"{row.get('what')}: {row.get('where')}: {row.get('must')}") for row in stats.get("refused", [])]
        silent = [(row["pod"], _silence(row["sinceNs"])) for row in stats.get("instances", {}).get("silent", ())]
        return [{"name": name[:253], "reason": reason[:512]} for name, reason in (*refused, *silent)]

    def _readiness(
        self, stats: Mapping[str, Any], document: Mapping[str, Any], outliers: list[dict[str, str]]
    ) -> tuple[bool | None, str, str]:
        if not stats.get("ready"):
            return None, "Starting", outliers[0]["reason"] if outliers else "the agent is not ready yet"
        if stats.get("listening") is False:
            return None, "Starting", outliers[0]["reason"] if outliers else "Envoy does not listen yet"
        if outliers:
            return None, "Drifted", outliers[0]["reason"]
        if stats.get("epoch") != document.get("epoch"):
            return None, "Rolling", _progress(stats, document)
        return True, "Running", f"epoch {document.get('epoch')} runs"
