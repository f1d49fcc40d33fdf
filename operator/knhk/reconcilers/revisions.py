"""A revision in the status of its PolicyPack: what it is made of, its history, its deny list. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from knhk.api import points_of_stages, said, to_rollout
from knhk.decide.keeping import MAX_DENIED
from knhk.decide.loosening import lower
from knhk.decide.rollout import refitted, wave_of, weight_of
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.phases import WORKING, Arm, Event, Phase, Rolling
from knhk.model.resource import Resource
from knhk.model.rollout import PairStats, Verdict
from knhk.model.waves import EVERYBODY
from knhk.reconcilers.context import MAX_HISTORY, statement_of
from knhk.reconcilers.points import rolls

ABORT = "knhk.dev/abort"
RING = "ring"

Revision = dict[str, Any]


def inputs_of(pack: Resource) -> str:
    """SHA-256 over what a revision is made of; the rest of the spec says only how it is rolled out."""
    spec = said(pack)
    always = {name: spec[name] for name in ("version", "sources", "routes", "targets", "dataBundles")}
    return sha256_hex(canonical(always | {name: spec[name] for name in ("schemas", "hooks") if spec.get(name)}))


def level_of(revision: Mapping[str, Any]) -> str:
    """What the receipts of a revision must survive."""
    return str(revision.get("durability", RING))


def durability_of(pack: Resource, live: Mapping[str, Any] | None) -> Revision:
    """The member of a revision that says what its receipts must survive; none where the ring is enough. Never less than of what is live, or
    was promised under its name: that is a step of its own (loosening.py)."""
    said, before = pack.spec["receipts"]["durability"], level_of(live or {})
    level = before if lower(said, before) else said
    return {} if level == RING else {"durability": level}


def as_durable(pack: Resource, revision: Mapping[str, Any]) -> Revision:
    """The revision with that member as the spec says it now."""
    return {k: v for k, v in revision.items() if k != "durability"} | durability_of(
        pack, pack.status.get("live") or pack.status.get("promises")
    )


def staged(pack: Resource) -> Revision:
    """Members of a revision that say which points belong to which stage; none where all belong to one."""
    found = points_of_stages(pack)
    if len(found) == 1:
        return {}
    return {"stages": [{"name": name, "points": [point.partition("/")[2] for point in points]} for name, points in found]}


def made_for(revision: Mapping[str, Any]) -> Revision:
    """What a revision is made of and for, for its event: with it a lost status is made anew from the log (restoring.py)."""
    names = ("inputs", "data", "stages" if "stages" in revision else "points")
    return {name: revision[name] for name in names if name in revision}


def goes_on(pack: Resource, revision: Mapping[str, Any]) -> bool:
    """Whether a changed spec leaves the revision as it is. What ended, or was refused, begins anew."""
    resting = rolls(revision) or Phase(revision["phase"]) in (*WORKING, Phase.LIVE)
    return resting and revision["inputs"] == inputs_of(pack)


def edited_steps(pack: Resource, revision: Revision) -> Revision:
    """Members of a rollout whose steps may have been edited. What is enforced never grows by that: a wave keeps the bounds it has. A new
    weight counts its own pairs."""
    spec, before = to_rollout(pack), (revision["weight"], revision.get("wave", EVERYBODY))
    rolling = refitted(spec, Rolling(revision["stage"], Arm(revision["arm"]), revision["step"]), *before)
    after = weight_of(spec, rolling), wave_of(spec, rolling)
    start = revision["pairsAtStart"] if after == before else revision["pairs"]
    waves = waving(after[1], {row["point"]: row["below"] for row in revision.get("waves", ())})
    return {"arm": rolling.arm.value, "step": rolling.step, "weight": after[0], "pairsAtStart": start, **waves}


def waving(percent: int, waves: Mapping[str, int]) -> Revision:
    """Members of a revision that say in which instances it is: bounds by name of the point."""
    if percent == EVERYBODY:
        return {}
    return {"wave": percent, "waves": [{"point": point, "below": below} for point, below in sorted(waves.items())]}


def abort_asked(pack: Resource) -> str:
    """The reason of a request to abort the present generation ("GENERATION REASON", or a reason alone); empty when there is none."""
    asked = pack.annotations.get(ABORT, "").strip()
    generation, _, reason = asked.partition(" ")
    if not (generation.isascii() and generation.isdecimal()):
        return asked
    return (reason or "asked for by a person") if int(generation) == pack.generation else ""


def deny(pack: Resource, digest: str, event: Event, message: str) -> list[dict[str, Any]]:
    """The deny list with this digest. What was rolled back once stays so, whatever ends it later."""
    rows = pack.status.get("denyList", [])
    if any(row["digest"] == digest and is_final(row) for row in rows):
        return list(rows)
    entry = {"digest": digest, "generation": pack.generation, "reason": f"{event.value}: {message}"[:1024]}
    kept = sorted((row for row in rows if row["digest"] != digest), key=lambda row: not is_final(row))  # aborts make room first
    return [entry, *kept][:MAX_DENIED]


def denied_before(receipts: Iterable[Resource]) -> list[dict[str, Any]]:
    """The deny list of a pack whose object is new, out of the Receipts (oldest first) of rollbacks under its name: deleting a pack and
    applying it again does not bring back what was rolled back."""
    said = [statement_of(receipt.spec["bundle"])["predicate"] for receipt in receipts]
    rows = {
        event["pack"]["digest"]: {
            "digest": event["pack"]["digest"],
            "generation": event["evidence"]["generation"],
            "reason": f"{event['kind']}: {event['reason']}"[:1024],
        }
        for event in said
    }
    return list(rows.values())[::-1][:MAX_DENIED]


def is_final(row: Mapping[str, Any]) -> bool:
    return str(row["reason"]).startswith(Event.ROLLED_BACK.value)


def counted(stats: Mapping[str, PairStats], verdict: Verdict | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pairs": sum(s.pairs for s in stats.values()),
        "clusters": sum(s.clusters for s in stats.values()),
        "errors": sum(s.errors for s in stats.values()),
    }
    if verdict is not None:
        found["verdict"] = verdict.outcome.value
        found["findings"] = [finding.document() for finding in verdict.findings]
    return found


def denied(status: Mapping[str, Any], generation: int) -> frozenset[str]:
    """Digests not to be tried: rolled back ever, or aborted in this generation of the spec."""
    rows = status.get("denyList", [])
    return frozenset(r["digest"] for r in rows if is_final(r) or r["generation"] == generation)


def remember(status: Mapping[str, Any], revision: Mapping[str, Any], outcome: Phase, reason: str, time: str) -> dict[str, Any]:
    row = {"version": revision["version"], "outcome": outcome.value, "time": time, "reason": reason[:1024]}
    if "digest" in revision:
        row["digest"] = revision["digest"]
    return {**status, "history": [row, *status.get("history", [])][:MAX_HISTORY]}
