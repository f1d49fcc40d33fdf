"""A lost control plane, made anew from what is left (docs/disaster-recovery.md, ADR 63): resources as a commit says them, and from the
policy events of a verified log what only statuses knew. Values in, values out; who calls has verified every event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.decide.applying import ORDER
from knhk.decide.approvals import LOCAL
from knhk.decide.keeping import DELETED, MAX_DENIED
from knhk.lockchain.events import PolicyEvent
from knhk.model.consents import EVENTS, GRANTED, WITHDRAWN
from knhk.model.faults import Fault
from knhk.model.phases import Event, Phase
from knhk.model.resource import Key, Resource
from knhk.model.times import from_rfc3339_ns, rfc3339, rfc3339_ns
from knhk.reconcilers.approvals import RECORDED
from knhk.reconcilers.bundles import PUBLISHED, made_of
from knhk.reconcilers.consents import RECORDED as CONSENT_RECORDED
from knhk.reconcilers.context import MAX_HISTORY, NO_DIGEST, conditioned
from knhk.reconcilers.deleting import SUBJECTS
from knhk.reconcilers.history import ENDS, RESTORED, ROLLS, PackThen, PointThen, state_at
from knhk.reconcilers.repositories import MAX_DENIED as MAX_COMMITS_DENIED
from knhk.reconcilers.revisions import Revision, inputs_of, is_final

NOTHING = f"sha256:{NO_DIGEST}"  # an event of a revision that has no image
KINDS = (*ORDER, "PolicyRepository", "Consent", "Approval")  # that may be given, in the order in which they are made
EVER = "9999-12-31T23:59:59Z"
_MADE = ("inputs", "data", "stages", "points")
_LET = ("approvedBy", "unreviewed")
_GROWS = {Event.COMPILED.value, Event.BUILT.value, Event.SIGNED.value, Event.REFUSED.value}
_PHASES = {Event.ROLLED_BACK.value: Phase.ROLLED_BACK, Event.ABORTED.value: Phase.ABORTED}


@dataclass
class PackTold:
    """What the log tells of one pack. `made`: members of a revision, by digest; `live`: of the one that was promoted last; `rolled`: the
    step that it was brought to last; `last`: what moved a revision last."""

    made: dict[str, Revision] = field(default_factory=dict)
    live: Revision | None = None
    rolled: PolicyEvent | None = None
    last: PolicyEvent | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Told:
    """What the log tells of a control plane. Packs, points and data by NAMESPACE/NAME; `flags`: what each flag said last, and where;
    `approved`: all approvals; `denied`: commits by PolicyRepository, newest first; `consents`: what each Consent said last, and where;
    `inputs`: what data was made of, where an event says it; `deleted`: what went last, and by which entry."""

    packs: dict[str, PackTold] = field(default_factory=dict)
    then: dict[str, PackThen] = field(default_factory=dict)
    points: dict[str, PointThen] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    flags: dict[str, tuple[int, PolicyEvent]] = field(default_factory=dict)
    approved: list[PolicyEvent] = field(default_factory=list)
    denied: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    consents: dict[str, tuple[int, PolicyEvent]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    deleted: dict[Key, int] = field(default_factory=dict)


def told(events: Sequence[tuple[int, PolicyEvent]]) -> Told:
    """Events in the log's order."""
    state = state_at(events, EVER)
    found = Told(then=state.packs, points=state.points)
    for index, event in events:
        kind, _, name = event.subject[0].partition("/")
        name = name.partition("@")[0]
        if (key := _of(event, name)) is not None and event.kind != DELETED:
            found.deleted.pop(key, None)
        if event.kind == DELETED:
            _gone(found, index, key, event)
        elif event.kind == "Approved":
            found.approved.append(event)
        elif kind == "pack" and event.pack is not None:
            _pack(found.packs.setdefault(name, PackTold()), event, event.pack)
        elif kind == "data":
            version = event.subject[0].rpartition("@")[2]
            image = str(event.evidence["image"])
            found.data[name] = {"digest": f"sha256:{event.subject[1]}", "image": image, "version": version, "built": event.time}
            found.inputs[name] = str(event.evidence.get("inputs", ""))
        elif kind == "flag":
            found.flags[name] = index, event
        elif kind == "consent":
            found.consents[f"{name.partition('/')[0]}/{event.evidence['consent']}"] = index, event
        elif event.kind == "CommitDenied" and event.reason.startswith(Event.ROLLED_BACK.value):
            row = {"commit": event.subject[0].rpartition("@")[2], "reason": event.reason, "time": event.time}
            found.denied.setdefault(name, []).insert(0, row)
    return found


def _of(event: PolicyEvent, name: str) -> Key | None:
    """The object that an event is of (name: NAMESPACE/NAME), where its deletion leaves one; an Approval is of no pack that is there."""
    kind = next((kind for kind, word in SUBJECTS.items() if event.subject[0].startswith(f"{word}/")), None)
    return None if kind is None or event.kind == "Approved" else _key(kind, name)


def _gone(found: Told, index: int, key: Key | None, event: PolicyEvent) -> None:
    """An object that was taken away comes back by no commit; what it was denied, a new one of its name is, too."""
    if key is None or "stays" in event.evidence:
        return
    found.deleted[key] = index
    name = f"{key.namespace}/{key.name}"
    if key.kind == "PolicyPack" and (pack := found.packs.get(name)) is not None:
        pack.live = pack.rolled = pack.last = None
    elif key.kind == "FeatureFlag":
        found.flags.pop(name, None)
    elif key.kind == "DataBundle":
        found.data.pop(name, None)
        found.inputs.pop(name, None)


def _pack(pack: PackTold, event: PolicyEvent, named: Mapping[str, Any]) -> None:
    digest, said = str(named["digest"]), event.evidence
    if event.kind == Event.COMPILED.value:
        pack.made[digest] = {"planDigest": said["plan"], "guards": said["guards"]}
    made = pack.made.setdefault(digest, {})
    made |= {"version": str(named["version"])} | ({"digest": digest} if digest != NOTHING else {})
    made |= {name: said[name] for name in ("source", *_LET) if name in said}
    if event.kind == Event.BUILT.value:
        made |= {name: said[name] for name in ("schemas", "hooks") if name in said}
    elif event.kind == Event.SIGNED.value:
        made |= _made(said)
    elif event.kind in ROLLS:
        pack.rolled = event
    elif event.kind == Event.PROMOTED.value:
        if pack.live is not None:
            _remember(pack, pack.live, Phase.RETIRED, event.time, f"{made['version']} was promoted")
        pack.live = {**made, "phaseSince": _ns(event.time)}
    elif event.kind in ENDS:
        _remember(pack, made, _PHASES[event.kind], event.time, event.reason)
    elif event.kind == Event.SUPERSEDED.value:
        _remember(pack, made, Phase.RETIRED, event.time, event.reason)
    if event.kind in {each.value for each in Event}:
        pack.last = event


def _made(said: Mapping[str, Any]) -> Revision:
    """Members of a revision that its event of signing names; `points` are those of all its stages."""
    found = {name: said[name] for name in _MADE if name in said}
    if "stages" in found:
        found["points"] = [point for stage in found["stages"] for point in stage["points"]]
    return found


def _remember(pack: PackTold, made: Mapping[str, Any], outcome: Phase, time: str, reason: str) -> None:
    row = {"version": made["version"], "outcome": outcome.value, "time": time, "reason": reason[:1024]}
    row |= {"digest": made["digest"]} if "digest" in made else {}
    pack.history = [row, *pack.history][:MAX_HISTORY]


def _ns(time: str) -> str:
    return rfc3339_ns(from_rfc3339_ns(time))


# ---- what is missing -----------------------------------------------------------------------------


def lost(told: Told, present: Iterable[Key]) -> list[Fault]:
    """Packs and points that the log knows in force and that nothing at hand says: nobody could tell what they were."""
    there = set(present)
    faults = []
    for name, pack in sorted(told.packs.items()):
        points = live_points(told, name)
        rolls = told.then[name].rolling is not None
        if (points or rolls) and _key("PolicyPack", name) not in there:
            what = f"{pack.live['version']} is live at {', '.join(points)}" if pack.live and points else "is rolled out"
            faults.append(Fault(f"PolicyPack {name}", what, "must be in the commit, or given by --file; --allow-missing leaves it away"))
    for name, point in sorted(told.points.items()):
        if (point.stable or point.candidate) and _key("EnforcementPoint", name) not in there:
            must = "must be in the commit, or given by --file; --allow-missing leaves it away"
            faults.append(Fault(f"EnforcementPoint {name}", f"runs {(point.stable or point.candidate)[:19]}…", must))
    return faults


def needed(told: Told, present: Iterable[Key]) -> dict[str, list[str]]:
    """Digests of the images that guards run or are about to, and what for: packs, and data bundles."""
    there, found = set(present), dict[str, list[str]]()
    for name, pack in sorted(told.packs.items()):
        if _key("PolicyPack", name) in there:
            rolling = told.then[name].rolling
            for digest in {pack.live["digest"] if pack.live else "", rolling.digest if rolling else ""} - {""}:
                found.setdefault("pack", []).append(digest)
    found["data"] = [row["image"] for name, row in sorted(told.data.items()) if _key("DataBundle", name) in there]
    return found


def live_points(told: Told, name: str) -> list[str]:
    """Names of the points at which what is live of a pack is enforced: those that it was promoted for, and what points said since then."""
    pack, then = told.packs[name], told.then[name]
    if pack.live is None:
        return []
    namespace, points = name.partition("/")[0], set(pack.live.get("points", ()))
    for where, point in told.points.items():
        if point.index > then.index and where.startswith(f"{namespace}/"):
            short = where.partition("/")[2]
            if point.stable == pack.live["digest"]:
                points.add(short)
            elif not {point.stable, point.candidate} & pack.made.keys():
                points.discard(short)
    return sorted(points)


# ---- resources and their statuses ----------------------------------------------------------------


def resources(told: Told, given: Sequence[Resource], reviews: bool) -> tuple[list[Resource], list[str]]:
    """Everything that the store is to hold, in the order in which it is written, and what differs from what was given: flags stand as they
    were turned last, consents as they were recorded last. `reviews`: people give approvals and record consents themselves, for the store
    knows who they are."""
    found, notes = {resource.key: resource for resource in given}, list[str]()
    for key, index in sorted(told.deleted.items()):
        if found.pop(key, None) is not None:
            notes.append(f"{key} is left out: entry {index} of the log says that it was deleted")
    for name, (index, event) in sorted(told.flags.items()):
        key, spec = _key("FeatureFlag", name), event.evidence.get("spec")
        if _is_gone(told, key, index, event) or spec is None:
            continue
        before = found.get(key)
        if before is not None and before.spec != spec:
            notes.append(f"{key} stands as entry {index} of the log says, not as the commit does")
        found[key] = Resource(key.kind, key.namespace, key.name, spec) if before is None else replace(before, spec=spec)
    for name, (index, event) in sorted(told.consents.items()):
        key, spec = _key("Consent", name), _consent(event)
        before = found.get(key)
        if before is None and (reviews or spec["state"] != WITHDRAWN):
            continue
        if before is not None and before.spec != spec:
            notes.append(f"{key} is {spec['state']}, as entry {index} of the log says, not as what was given does")
        found[key] = Resource(key.kind, key.namespace, key.name, spec) if before is None else replace(before, spec=spec)
    if not reviews:
        for approval in _approvals(told):
            found.setdefault(approval.key, approval)
    return sorted(found.values(), key=lambda each: (KINDS.index(each.kind), each.key)), notes


def _consent(event: PolicyEvent) -> dict[str, Any]:
    """The spec of a Consent, as its event recorded it."""
    said = {name: event.evidence[name] for name in ("purpose", "controller", "basis", "document") if name in event.evidence}
    state = next(state for state, kind in EVENTS.items() if kind == event.kind)
    return {"subject": event.subject[0].rpartition("/")[2], "state": state, "actor": event.actor, **said}


def not_given(told: Told, made: Iterable[Key]) -> list[dict[str, Any]]:
    """Consents that stand in the log and that nothing at hand says, by tag. A Consent that was deleted leaves no event, so nobody but who
    recorded it can tell whether it counts: it does not."""
    there, found = set(made), list[dict[str, Any]]()
    for name, (index, event) in sorted(told.consents.items()):
        spec = _consent(event)
        if spec["state"] == GRANTED and (key := _key("Consent", name)) not in there:
            row = {"namespace": key.namespace, "consent": key.name, "subject": spec["subject"], "purpose": spec["purpose"], "index": index}
            found.append(row)
    return found


def _is_gone(told: Told, key: Key, index: int, event: PolicyEvent) -> bool:
    """Whether a point of the flag's pack said later that there is no such flag."""
    spec = event.evidence.get("spec", {})
    pack = told.packs.get(f"{key.namespace}/{spec.get('pack', '')}", PackTold())
    later = (row for where, row in told.points.items() if where.startswith(f"{key.namespace}/") and row.index > index)
    mine = (row for row in later if {row.stable, row.candidate} & pack.made.keys())
    return spec.get("state") != "DISABLED" and any(key.name not in row.flags for row in mine)


def _approvals(told: Told) -> Iterable[Resource]:
    """Approvals of what is live or on its way."""
    for event in told.approved:
        name = event.subject[0].partition("/")[2].partition("@")[0]
        pack, digest = told.packs.get(name, PackTold()), f"sha256:{event.subject[1]}"
        rolling = told.then[name].rolling if name in told.then else None
        if digest not in {(pack.live or {}).get("digest"), rolling.digest if rolling else None} or not event.actor.startswith(LOCAL):
            continue
        namespace, _, short = name.partition("/")
        spec = {"pack": short, "revision": digest, "stage": event.stage, "approver": event.actor}
        spec |= {"comment": event.evidence["comment"]} if "comment" in event.evidence else {}
        yield Resource("Approval", namespace, str(event.evidence["approval"]), spec)


def status_of(told: Told, resource: Resource, now_ns: int) -> dict[str, Any] | None:
    """The status of an object that is stored by now; None when the log tells nothing of it, and its reconciler begins."""
    name, now = f"{resource.namespace}/{resource.name}", rfc3339(now_ns)
    if resource.kind == "PolicyPack" and name in told.packs:
        return _pack_status(told, name, resource, now_ns)
    if resource.kind == "DataBundle" and name in told.data:
        data = dict(told.data[name])
        if told.inputs[name] != made_of(resource):
            return data  # the commit says other data, or the event is from before it told: published anew
        return conditioned(resource, data, True, PUBLISHED, f"{data['version']} is published", now)
    if resource.kind == "PolicyRepository" and name in told.denied:
        return {"denied": told.denied[name][:MAX_COMMITS_DENIED]}
    if resource.kind == "Approval":
        message = f"{resource.spec['approver']} approved {resource.spec['revision'][:19]}… for {resource.spec['stage']}"
        return conditioned(resource, {"unreviewed": True}, True, RECORDED, message, now)
    if resource.kind == "Consent" and name in told.consents:
        index, event = told.consents[name]
        found = {"state": resource.spec["state"], "recorded": event.time, "index": index}
        return conditioned(resource, found, True, CONSENT_RECORDED, f"{resource.spec['state']}: {resource.spec['purpose']}", now)
    if resource.kind == "FeatureFlag" and name in told.flags and told.flags[name][1].evidence.get("spec") == resource.spec:
        return {"observedGeneration": resource.generation}
    return None


def _pack_status(told: Told, name: str, pack: Resource, now_ns: int) -> dict[str, Any]:
    found, now = told.packs[name], rfc3339(now_ns)
    status: dict[str, Any] = {"denyList": _deny_list(told.then[name], found, pack), "history": found.history}
    status = {member: rows for member, rows in status.items() if rows}
    if found.live is not None:
        live = _revision(found.live, pack) | {"phase": Phase.LIVE.value, "points": live_points(told, name)}
        status["live"] = live
    revision, ready, message = _last(told.then[name], found, pack, now_ns)
    if revision is None:
        return conditioned(pack, status, None, "Pending", f"{pack.spec['version']} is to be compiled", now)
    if revision["phase"] == Phase.LIVE.value:
        revision = status["live"]
    status["revision"] = revision
    return conditioned(pack, status, ready, revision["phase"], message, now)


def _last(then: PackThen, found: PackTold, pack: Resource, now_ns: int) -> tuple[Revision | None, bool | None, str]:
    """The revision that was worked on last, whether it is ready, and what is told of it. What was being built is built anew."""
    last, rolled = found.last, found.rolled
    if last is None or last.pack is None or last.kind in (*_GROWS, Event.SUPERSEDED.value):
        return None, None, ""
    made = found.made[last.pack["digest"]]
    revision = _revision(made, pack)
    if last.kind == Event.PROMOTED.value:
        return {**revision, "phase": Phase.LIVE.value}, True, f"{made['version']} is live"
    if last.kind in ENDS:
        ended: Revision = {"phase": _PHASES[last.kind].value, "phaseSince": _ns(last.time), "reason": last.reason[:1024]}
        ended |= {"judged": rfc3339_ns(int(last.evidence["judgedNs"]))} if "judgedNs" in last.evidence else {}
        ended |= {"findings": [last.evidence["finding"]]} if "finding" in last.evidence else {}
        return revision | ended, False, last.reason
    if then.rolling is None or rolled is None:
        return None, None, ""  # stalled before it rolled
    stages = [row["name"] for row in made.get("stages", ())]
    held, pairs = last.kind == Event.STALLED.value, int(rolled.evidence.get("pairs", 0))
    step: Revision = {"arm": rolled.arm, "step": rolled.step or 0, "weight": rolled.weight or 0, "pairs": pairs, "pairsAtStart": pairs}
    step |= {"stage": stages.index(rolled.stage) if rolled.stage in stages else 0}
    step |= {"wave": rolled.evidence["wave"], "waves": []} if "wave" in rolled.evidence else {}  # drawn anew among the pods that are there
    phase = {"phase": (Phase.STALLED if held else Phase.ROLLING).value, "phaseSince": rfc3339_ns(now_ns)}
    message = f"{made['version']} goes on at {rolled.stage}: {rolled.arm} {rolled.weight or 0} %"
    return revision | step | phase, False if held else None, message


def _revision(made: Mapping[str, Any], pack: Resource) -> Revision:
    """Members of a revision; of the present generation only if the spec says what it was made of."""
    points = made.get("points") or [row["point"] for row in pack.spec["targets"]]
    return {"inputs": "", "phaseSince": "", **made, "points": points, "generation": pack.generation if _is_made_of(made, pack) else 0}


def _is_made_of(made: Mapping[str, Any], pack: Resource) -> bool:
    return bool(made.get("inputs")) and made["inputs"] == inputs_of(pack)


def _deny_list(then: PackThen, found: PackTold, pack: Resource) -> list[dict[str, Any]]:
    """Newest first; what was rolled back before what was aborted, as there is room."""
    rows = [
        {"digest": digest, "generation": pack.generation if _is_made_of(found.made.get(digest, {}), pack) else 0, "reason": reason[:1024]}
        for digest, reason in reversed(then.denied.items())
        if digest != NOTHING
    ]
    return sorted(rows, key=lambda row: not is_final(row))[:MAX_DENIED]


def restored(resource: Resource, status: Mapping[str, Any], actor: str, now: str, evidence: Mapping[str, Any]) -> PolicyEvent | None:
    """The event of a pack that was made anew, None of one that has no image: of what is live, else of what was worked on."""
    part = status.get("live") or status.get("revision") or {}
    if "digest" not in part:
        return None
    digest, version = part["digest"], part["version"]
    reference = {"namespace": resource.namespace, "name": resource.name, "version": version, "digest": digest}
    revision = status.get("revision", {})
    facts: dict[str, Any] = {"generation": resource.generation, "denied": [row["digest"] for row in status.get("denyList", ())]}
    facts |= {"phase": revision["phase"]} if revision else {}
    subject = (f"pack/{resource.namespace}/{resource.name}@{version}", digest.removeprefix("sha256:"))
    stands: dict[str, Any] = {name: revision[name] for name in ("arm", "step", "weight") if name in revision}
    return PolicyEvent(RESTORED, subject, actor, now, pack=reference, evidence={**facts, **evidence}, **stands)


def _key(kind: str, name: str) -> Key:
    namespace, _, short = name.partition("/")
    return Key(kind, namespace, short)
