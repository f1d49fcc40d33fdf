"""EnforcementPoint: it runs, its agent has the newest document, and its status tells what it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.api.conditions import ready_of
from knhk.decide.loosening import loosened
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt, NotFound, Stalled, Waiting
from knhk.model.phases import WORKING, Arm, Phase
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.ports.fleet import SILENT_AFTER_S
from knhk.ports.placement import Placed
from knhk.reconcilers.consent_book import ConsentBook
from knhk.reconcilers.context import Journal, Ordered, Ports, remembered, say, write_status
from knhk.reconcilers.counting import REASON as NOT_MERGED
from knhk.reconcilers.counting import not_counted, not_gone, rest
from knhk.reconcilers.documents import NS, Assignment, is_valid, may_carry, pack_reference, publish, published, says, standing, told
from knhk.reconcilers.flags import switched_at
from knhk.reconcilers.loosening import KIND as LOOSENED
from knhk.reconcilers.loosening import UNAPPROVED, Loosening, promises_of, stages_of
from knhk.reconcilers.point_keys import PointKeys
from knhk_templates.envoy import attribute_sources

LOOK_AGAIN_S = 0.5
RING_BYTES = 32 << 20
HOTTEST = 16
MAX_REVISIONS = 8
DRIFTED = "Drifted"
UNLISTED = "UnknownRegion"


def point_config(resource: Resource, regions: tuple[str, ...]) -> bytes:
    """point.json (formats/agent.md): what the agent must know of its point. Its digest is part of the rollout document. `regions`: as the
    log counts them; the point's must be one of them, if there are any."""
    spec = resource.spec
    names = {source["name"] for source in attribute_sources(spec)}
    sticky = spec.get("stickyAttribute", "")
    consent = spec.get("consent")
    asked = {} if consent is None else {"consent": {name: consent[name] for name in ("subject", "purposes")}}
    privacy = {"privacy": privacy_of(spec["privacy"])} if "privacy" in spec else {}
    return canonical(
        {
            "version": 2 if privacy else 1,
            "point": f"{resource.namespace}/{resource.name}",
            "region": spec["region"],
            "regionIndex": regions.index(spec["region"]) if regions else 0,
            "attributes": attribute_sources(spec),
            "stickyAttribute": sticky if sticky in names else "",
            "failure": spec["failure"],
            "agentGraceSeconds": spec["agentGraceSeconds"],
            "parkTimeoutMs": spec["parkTimeoutMs"],
            "durableTimeoutMs": spec["durableTimeoutMs"],
            "maxUnwitnessedSeconds": spec["maxUnwitnessedSeconds"],
            "ringBytes": RING_BYTES,
            "residency": {"bytes": spec["residency"]["maxMiB"] << 20, "absent": spec["residency"]["absent"]},
            **asked,
            **privacy,
        }
    )


def privacy_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """`privacy` of point.json (formats/envelope.md)."""
    return {"subjects": [{"route": "", **place} for place in said["subjects"]], "retentionDays": said["retentionDays"]}


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
    if told.get("inWave") is not None:
        counts["wave"] = int(told["inWave"])
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
        return _data_before(ports, point, name)
    return {"name": name, "digest": bundle.status["image"]} if "image" in bundle.status else _data_before(ports, point, name)


def _data_before(ports: Ports, point: str, name: str) -> dict[str, Any] | None:
    """The bundle as the point has it."""
    before: Mapping[str, Any] = (told(ports, point) or {}).get("data") or {}
    return dict(before) if before.get("name") == name else None


def bootstrap_of(ports: Ports, resource: Resource) -> bytes | None:
    """What Envoy of the point is to start with; None where that stays as it was published last: the point is suspended and runs, does
    not count, or cannot be placed as its spec says."""
    if held_back(ports, resource) is not None or runs_suspended(ports, resource):
        return None
    try:
        return ports.placement.bootstrap(f"{resource.namespace}/{resource.name}", resource.spec)
    except (Stalled, Waiting, OSError):
        return None  # `ensure` says the same, and tells it in the status


def runs_suspended(ports: Ports, resource: Resource) -> bool:
    """Whether the point runs on as it was, whatever its spec says by now, because it is suspended."""
    return bool(resource.spec.get("suspend")) and _runs(ports, resource)


def _runs(ports: Ports, resource: Resource) -> bool:
    return "address" in resource.status and f"{resource.namespace}/{resource.name}" in ports.placement.placed()


def _bootstrap_digest(ports: Ports, resource: Resource) -> str | None:
    data = bootstrap_of(ports, resource)
    if data is None:
        return (published(ports, f"{resource.namespace}/{resource.name}") or {}).get("bootstrap")
    return sha256_hex(data) if data else None


def assignment_of(ports: Ports, resource: Resource, pack: Resource | None) -> Assignment:
    """What the point must run by the status of the pack that has it. The same status gives the same assignment; the spec, which may
    be refused yet, has no say."""
    point = f"{resource.namespace}/{resource.name}"
    base = _base(ports, resource)
    if pack is None:
        stable, data = _stands(ports, resource)
        return replace(base, stable=stable, data=data)
    live, revision = pack.status.get("live") or {}, pack.status.get("revision", {})
    switch = switched_at(ports, resource, pack.name)
    base = replace(base, flags=switch.variants)
    if resource.name in live.get("points", ()):
        stable, data = _reference(pack, live), data_of(ports, point, live.get("data", ""))
    else:
        stable, data = _stands(ports, resource)
    if not rolls(revision) or resource.name not in revision["points"]:
        return replace(base, stable=stable, data=data)
    stage = stage_at(revision, resource.name)
    if stage < revision["stage"]:  # it has passed there
        return replace(base, stable=_reference(pack, revision), data=data_of(ports, point, revision.get("data", "")))
    if stage > revision["stage"]:
        return replace(base, stable=stable, data=data)
    enforced = revision["arm"] == Arm.CANARY and not switch.held
    waves = {row["point"]: row["below"] for row in revision.get("waves", ())}
    return replace(
        base,
        mode=Arm.CANARY.value if enforced else Arm.SHADOW.value,
        weight=revision["weight"] * 10 if enforced else 0,
        stable=stable,
        candidate=_reference(pack, revision),
        data=data_of(ports, point, revision["data"]) if revision.get("data") else data,
        wave=waves.get(resource.name, 0) if enforced and "wave" in revision else None,
    )


def _stands(ports: Ports, resource: Resource) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """PACK and DATA that stay at a point that no pack has: of a pack that was deleted by hand where that does not count."""
    point = f"{resource.namespace}/{resource.name}"
    stable = (published(ports, point) or {}).get("stable")
    document = told(ports, point) if stable and _is_missed(ports, stable) else None
    if document is None or document["stable"] != stable:
        return None, None
    return stable, data_of(ports, point, (document["data"] or {}).get("name", ""))


def _is_missed(ports: Ports, named: Mapping[str, Any]) -> bool:
    """Whether a pack stays enforced that is not there as it was: it was deleted by hand, or made again since."""
    key = Key("PolicyPack", named["namespace"], named["name"])
    try:
        again = ports.store.get(key)
    except NotFound:
        return bool(not_gone(ports, key))
    try:
        return "live" not in again.status and ports.namespaces.requires_merged_commit(key.namespace)
    except Waiting:
        return True


def enforced_still(ports: Ports, pack: Resource) -> dict[str, Any] | None:
    """What points run as stable under the name of a new pack, as what is live in a status: the one before it was deleted by hand where that
    does not count. None of nothing."""
    if not ports.namespaces.requires_merged_commit(pack.namespace):
        return None
    found = {}
    for resource in ports.store.list("EnforcementPoint", pack.namespace).resources:
        (stable, data), owner = _stands(ports, resource), owner_of(ports, resource)
        if stable and stable["name"] == pack.name and (owner is None or not holds(owner, resource.name)):
            found[resource.name] = stable, data
    if not found:
        return None
    stable, data = next(iter(found.values()))
    more = {"durability": stable["durability"]} if "durability" in stable else {}
    more |= {"data": data["name"]} if data else {}
    points = sorted(name for name, (other, _) in found.items() if other["digest"] == stable["digest"])
    return {"version": stable["version"], "digest": stable["digest"], "generation": 0, "inputs": "", "points": points, **more}


def stage_at(revision: Mapping[str, Any], point: str) -> int:
    """Index of the stage in which a revision reaches a point (a name)."""
    return next((index for index, row in enumerate(revision.get("stages", ())) if point in row["points"]), 0)


@dataclass(frozen=True)
class Held:
    """Why what a point says does not count yet, in a word and for people."""

    reason: str
    why: str


def held_back(ports: Ports, resource: Resource) -> Held | None:
    """Why a point is what it was before: no merged commit says its spec, its region has no number in the log, or it would promise less and
    people have not approved that."""
    if why := not_counted(ports, resource):
        return Held(NOT_MERGED, why)
    if not _listed(ports, resource):
        must = f"must be one of {', '.join(ports.regions)}, or be added after these to the log's regions and the operator's"
        return Held(UNLISTED, f"spec.region: {resource.spec['region']!r}: {must} (docs/cluster.md); what it said before stays")
    loosening = loosening_of(ports, resource)
    why = loosening.lacking(ports) if loosening is not None else ""
    return Held(UNAPPROVED, why) if why else None


def _listed(ports: Ports, resource: Resource) -> bool:
    return not ports.regions or resource.spec["region"] in ports.regions


def loosening_of(ports: Ports, resource: Resource) -> Loosening | None:
    """What a point promises less than its status says that it does, or, of one that is new, than the one of its name was told; None of
    nothing."""
    promised = resource.status["promises"] if "promises" in resource.status else _promised_before(ports, resource)
    rows = loosened(promised, promises_of(resource.spec))
    if not rows:
        return None
    pack = owner_of(ports, resource)
    return Loosening(resource, rows, pack, stages_of(pack, resource.name))


def _promised_before(ports: Ports, resource: Resource) -> dict[str, Any]:
    """By the point.json that a document of ours signed for this name; nothing where none does."""
    point = f"{resource.namespace}/{resource.name}"
    config = ports.fleet.config(point)
    if config is None or (told(ports, point) or {}).get("pointConfig") != sha256_hex(config):
        return {}
    return promises_of(json.loads(config))


def untold(ports: Ports, resource: Resource) -> Held | None:
    """Why a point is told nothing: it does not count, and nothing is known that it was told before. None for all others."""
    held = held_back(ports, resource)
    return held if held is not None and told(ports, f"{resource.namespace}/{resource.name}") is None else None


def _base(ports: Ports, resource: Resource) -> Assignment:
    """What the point is told of itself; of one that does not count, what it was told last. Raises Waiting while it is told nothing."""
    point = f"{resource.namespace}/{resource.name}"
    if (held := held_back(ports, resource)) is not None:
        before = told(ports, point)
        if before is None:
            raise Waiting(held.reason, f"{point}: {held.why}", LOOK_AGAIN_S)
        return Assignment(point, before["baseline"], before["pointConfig"], before.get("bootstrap"))
    return Assignment(
        point, resource.spec["baseline"], sha256_hex(point_config(resource, ports.regions)), _bootstrap_digest(ports, resource)
    )


def _reference(pack: Resource, revision: Mapping[str, Any]) -> dict[str, Any]:
    more = {"durability": revision["durability"]} if "durability" in revision else {}
    return pack_reference(pack.namespace, pack.name, revision["version"], revision["digest"]) | more


def _kind(current: bool, reason: str, wanted: Assignment, before: Mapping[str, Any] | None) -> str:
    """Of the event that orders a document: it is renewed, other flags are set, or `reason`."""
    if current:
        return "DocumentRenewed"
    return "FlagChanged" if before is not None and before["flags"] != wanted.flags else reason


@dataclass(frozen=True)
class PointReconciler:
    ports: Ports
    journal: Journal
    consents: ConsentBook
    _keys: PointKeys = field(default_factory=PointKeys)

    def converge(self, resource: Resource) -> float | None:
        """Level-based: publishes what differs, lets the point run, tells what runs. Documents go first, so that a point that cannot
        be placed as it should still gets its pack back. Gives seconds until the next look."""
        ports = self.ports
        point = f"{resource.namespace}/{resource.name}"
        if (held := untold(ports, resource)) is not None:
            return rest(ports, resource, held.why, held.reason)
        held = held_back(ports, resource)
        pack = owner_of(ports, resource)
        if pack is not None:
            self.journal.deliver(pack)  # a document never comes before the event that its status speaks of
        wanted = assignment_of(ports, resource, pack)
        ports.fleet.publish_keys(point, self._keys_json(point, wanted))
        resource = self.bring(resource, wanted, "PointChanged")
        stale = self._consents(resource)
        try:
            placed = self._placed(resource, held)
        except Stalled as stalled:
            write_status(ports, resource, self._kept(resource), False, stalled.reason, str(stalled))
            return LOOK_AGAIN_S * 10
        except Waiting as waiting:
            waits = self._kept(resource) | (self._promised(resource, held) if held is not None else {})
            write_status(ports, resource, waits, None, waiting.reason, str(waiting))
            return waiting.retry_after_s
        self._tell(resource, wanted, replace(placed, trouble=(*placed.trouble, *stale)), held)
        return LOOK_AGAIN_S

    def _keys_json(self, point: str, wanted: Assignment) -> bytes:
        """With what it takes to verify what the point runs, and what it is to run."""
        document = published(self.ports, point) or {}
        arms = (wanted.stable, wanted.candidate, wanted.data, *(document.get(name) for name in ("stable", "candidate", "data")))
        return self._keys.of(self.ports.signer.keys_json(), self.ports.registry, (str(arm["digest"]) for arm in arms if arm))

    def _consents(self, resource: Resource) -> tuple[str, ...]:
        """Keeps the point's consents fresh; why that does not work."""
        try:
            self.consents.tell(resource)
        except (Stalled, Waiting) as error:
            return (f"consents go stale: {error}",)
        return ()

    def _placed(self, resource: Resource, held: Held | None) -> Placed:
        """Lets the point run as its spec says; one that is suspended, or does not count, and runs, runs on as it was."""
        if held is not None and not _runs(self.ports, resource):
            raise Waiting(held.reason, held.why, LOOK_AGAIN_S)
        if held is not None or runs_suspended(self.ports, resource):
            return Placed(resource.status["address"])
        return self.ports.placement.ensure(f"{resource.namespace}/{resource.name}", resource.spec)

    def bring(self, resource: Resource, wanted: Assignment, reason: str, by: Ordered | None = None) -> Resource:
        """Publishes `wanted` unless the published document says it and is good. `by`: an event in the log that ordered it already;
        without one, or when its epoch is taken, the point's own event does. Gives the point as it is stored now."""
        ports = self.ports
        pending = self.journal.deliver(resource)
        document = standing(ports, resource)
        current = says(document, wanted, ports.origin)
        loosening = None if current or held_back(ports, resource) is not None else loosening_of(ports, resource)
        if current and document is not None and is_valid(ports, wanted.point, document):
            self._hand(resource, wanted)
            return resource
        by = by if loosening is None else None  # what promises less has an event of its own
        own = next((order for order in pending[-1:] if order.subject == wanted.digest(ports.origin)), None)
        usable = [order for order in (by, own) if order is not None and may_carry(ports, order, document)]
        if not usable:
            event = self._event(wanted, _kind(current, reason, wanted, document), document)
            if loosening is not None:
                event = replace(event, kind=LOOSENED, evidence={**event.evidence, **loosening.evidence(ports, self.journal)})
            resource = self._order(resource, event)
            usable = [self.journal.deliver(resource)[-1]]
        self._hand(resource, wanted)
        publish(ports, wanted, usable[0])
        return resource

    def _hand(self, resource: Resource, wanted: Assignment) -> None:
        """What the document signs goes before it, and not before its event is in the log: agents refuse a document for other files."""
        config = point_config(resource, self.ports.regions) if _listed(self.ports, resource) else None
        if config is not None and sha256_hex(config) == wanted.config:
            self.ports.fleet.publish_config(wanted.point, config)
        bootstrap = bootstrap_of(self.ports, resource)
        if bootstrap and sha256_hex(bootstrap) == wanted.bootstrap:
            self.ports.fleet.publish_bootstrap(wanted.point, bootstrap)

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
            | ({"flags": dict(wanted.flags)} if wanted.flags or (before or {}).get("flags") else {})
            | {name: item["digest"] for name, item in named if item is not None},
        )

    def _kept(self, resource: Resource) -> dict[str, Any]:
        return {k: v for k, v in resource.status.items() if k not in ("conditions", "observedGeneration")}

    def _tell(self, resource: Resource, wanted: Assignment, placed: Placed, held: Held | None) -> None:
        stats, silence = self._heard(wanted.point)
        address, trouble = placed.address, (*placed.trouble, *silence)
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
        if wanted.flags:
            status["flags"] = dict(wanted.flags)
        if stats.get("absent"):
            status["absent"] = int(stats["absent"])
        status |= instances_of(stats, document.get("epoch"))
        status |= self._promised(resource, held)
        outliers = [{"name": wanted.point, "reason": line[:512]} for line in trouble] + self._drift(wanted.point, stats, document)
        if outliers:
            status["outliers"] = outliers[:20]
        ready, reason, message = (None, held.reason, held.why) if held is not None else self._readiness(stats, document, outliers)
        was = ready_of(resource.status).get("reason", "")
        drifted = reason == DRIFTED != was
        if drifted:
            event = self._drifted(wanted, document, outliers)
            status = self.journal.pend({**{k: v for k, v in resource.status.items() if k == "pending"}, **status}, event)
        if was != reason:
            say(self.ports, resource.key, reason, message, warning=reason == DRIFTED)
        if ready:
            status["history"] = self._history(resource, wanted, document)
        resource = write_status(self.ports, resource, status, ready, reason, message)
        if drifted:
            self.journal.deliver(resource)

    def _promised(self, resource: Resource, held: Held | None) -> dict[str, Any]:
        """What the point promises, and what waits for people before it promises less."""
        if held is None:
            return {"promises": promises_of(resource.spec)}
        kept = {name: resource.status[name] for name in ("promises",) if name in resource.status}
        loosening = loosening_of(self.ports, resource) if held.reason == UNAPPROVED else None
        return kept | ({"loosening": loosening.status()} if loosening is not None else {})

    def _drifted(self, wanted: Assignment, document: Mapping[str, Any], outliers: list[dict[str, str]]) -> PolicyEvent:
        """The receipt of what runs and should not; `document` is what should."""
        reasons = [row["reason"][:256] for row in outliers]
        return PolicyEvent(
            DRIFTED,
            (f"point/{wanted.point}", wanted.digest(self.ports.origin)),
            self.ports.actor,
            rfc3339(self.ports.clock.now_ns()),
            point=wanted.point,
            reason=reasons[0],
            evidence={"epoch": document.get("epoch", 0), "outliers": reasons},
        )

    def _history(self, resource: Resource, wanted: Assignment, document: Mapping[str, Any]) -> list[dict[str, str]]:
        """What the point came to run, by the digest of what its document says."""
        what = f"sha256:{wanted.digest(self.ports.origin)}"
        return remembered(resource.status, what, wanted.mode, rfc3339(self.ports.clock.now_ns()), f"epoch {document.get('epoch')}")

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

    def _drift(self, point: str, stats: Mapping[str, Any], document: Mapping[str, Any]) -> list[dict[str, str]]:
        """What agents refused: they go on with what they had. Pods that run and tell nothing, each by its name. And what runs that the
        document of its epoch does not say."""
        refused = [(row.get("pod", point), f"{row.get('what')}: {row.get('where')}: {row.get('must')}") for row in stats.get("refused", [])]
        silent = [(row["pod"], _silence(row["sinceNs"])) for row in stats.get("instances", {}).get("silent", ())]
        other = [(point, reason) for reason in _foreign(stats, document)]
        return [{"name": name[:253], "reason": reason[:512]} for name, reason in (*refused, *silent, *other)]

    def _readiness(
        self, stats: Mapping[str, Any], document: Mapping[str, Any], outliers: list[dict[str, str]]
    ) -> tuple[bool | None, str, str]:
        if not stats.get("ready"):
            return None, "Starting", outliers[0]["reason"] if outliers else "the agent is not ready yet"
        if stats.get("listening") is False:
            return None, "Starting", outliers[0]["reason"] if outliers else "Envoy does not listen yet"
        if outliers:
            return None, DRIFTED, outliers[0]["reason"]
        if stats.get("epoch") != document.get("epoch"):
            return None, "Rolling", _progress(stats, document)
        return True, "Running", f"epoch {document.get('epoch')} runs"


def _foreign(stats: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Packs and data that run under the epoch of a document that does not name them."""
    running = stats.get("running")
    if not isinstance(running, Mapping) or not document or stats.get("epoch") != document["epoch"]:
        return []
    wanted = {name: (document[name] or {}).get("digest") for name in ("stable", "candidate", "data")}
    if "wave" in document and running.get("candidate") is None:
        del wanted["candidate"]  # outside of the wave there is none
    return [
        f"{name}: {running[name]} runs: must be {digest}" for name, digest in wanted.items() if name in running and running[name] != digest
    ]
