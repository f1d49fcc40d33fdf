"""What was in force at an earlier time, from the policy events of the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk.decide.keeping import DELETED
from knhk.lockchain.events import PolicyEvent
from knhk.model.phases import Event

ENDS = {Event.ROLLED_BACK.value, Event.ABORTED.value}
RESTORED = "Restored"
ROLLS = {Event.ROLLOUT_STARTED.value, Event.STEP_ADVANCED.value, Event.RESUMED.value}


@dataclass
class Rolling:
    """A revision on its way: `stage`, `arm`, `step`, `weight` (per mille) as its last event said."""

    version: str
    digest: str
    stage: str
    arm: str
    step: int
    weight: int
    index: int


@dataclass
class PackThen:
    """`index`: of the event that made `live` so; -1 when nothing was live. `denied`: digest → why."""

    version: str = ""
    digest: str = ""
    index: int = -1
    rolling: Rolling | None = None
    denied: dict[str, str] = field(default_factory=dict)
    aborted: dict[str, int] = field(default_factory=dict)


@dataclass
class PointThen:
    """As the last event of the point itself said; steps of packs that came later changed weight and arms, and stand with the packs."""

    index: int
    mode: str
    stable: str
    candidate: str
    data: str
    flags: Mapping[str, str]


@dataclass
class Then:
    packs: dict[str, PackThen] = field(default_factory=dict)
    points: dict[str, PointThen] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    events: int = 0
    last: int = -1


def state_at(events: Iterable[tuple[int, PolicyEvent]], at: str) -> Then:
    """State after the events, in the log's order, whose own time is not after `at` (RFC 3339, UTC, as in events)."""
    then = Then()
    for index, event in events:
        if event.time > at:
            continue
        then.events, then.last = then.events + 1, index
        kind, _, name = event.subject[0].partition("/")
        if event.kind == DELETED:
            _gone(then, kind, name.partition("@")[0], event)
        elif kind == "pack" and event.pack is not None:
            _pack(then.packs.setdefault(name.partition("@")[0], PackThen()), index, event, event.pack)
        elif kind == "point" and "mode" in event.evidence:
            said = event.evidence
            mode, stable, candidate, data = (str(said.get(member, "")) for member in ("mode", "stable", "candidate", "data"))
            then.points[event.point] = PointThen(index, mode, stable, candidate, data, dict(said.get("flags", {})))
        elif kind == "data":
            then.data[name] = f"sha256:{event.subject[1]}"
    return then


def _gone(then: Then, kind: str, name: str, event: PolicyEvent) -> None:
    """What was rolled back under a pack's name stays so."""
    if "stays" in event.evidence:
        return
    if kind == "pack" and name in then.packs:
        then.packs[name] = PackThen(denied=then.packs[name].denied, aborted=then.packs[name].aborted)
    elif kind == "point":
        then.points.pop(name, None)
    elif kind == "data":
        then.data.pop(event.subject[0].partition("/")[2], None)


def _pack(pack: PackThen, index: int, event: PolicyEvent, named: Mapping[str, Any]) -> None:
    version, digest, generation = str(named["version"]), str(named["digest"]), int(event.evidence.get("generation", 0))
    if event.kind == RESTORED:  # the object is a new one, whose generations begin anew
        pack.aborted = dict.fromkeys(pack.aborted, generation)
        return
    for other, denied_in in list(pack.aborted.items()):  # an abort counts for the spec that it met
        if denied_in != generation:
            del pack.aborted[other]
            pack.denied.pop(other, None)
    if event.kind in ROLLS:
        pack.rolling = Rolling(version, digest, event.stage, event.arm, event.step or 0, event.weight or 0, index)
    elif event.kind == Event.PROMOTED.value:
        pack.version, pack.digest, pack.index, pack.rolling = version, digest, index, None
    elif event.kind in ENDS:
        pack.rolling = None
        pack.denied[digest] = f"{event.kind}: {event.reason}"
        if event.kind == Event.ABORTED.value:
            pack.aborted[digest] = generation
    elif event.kind == Event.SUPERSEDED.value:
        pack.rolling = None
