"""What was in force at an earlier time, from the policy events of the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.decide.keeping import DELETED
from knhk.lockchain.events import PolicyEvent
from knhk.model.phases import Event

ENDS = {Event.ROLLED_BACK.value, Event.ABORTED.value}
RESTORED = "Restored"
ROLLS = {Event.ROLLOUT_STARTED.value, Event.STEP_ADVANCED.value, Event.RESUMED.value}
MOVES = {*ENDS, *ROLLS, Event.PROMOTED.value, Event.SUPERSEDED.value}
STABLE, SHADOW, CANARY = "Stable", "Shadow", "Canary"


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


@dataclass(frozen=True)
class Signed:
    """What a revision was signed for: names of points, stage by stage (one without a name where its event tells of no stages), and the
    DataBundle that it reads, "" for none."""

    stages: tuple[tuple[str, tuple[str, ...]], ...] = ()
    data: str = ""


@dataclass
class PackThen:
    """`index`: of the event that made `live` so; -1 when nothing was live. `denied`: digest → why. `signed`: by digest; `moved`: the event
    that moved a revision last."""

    version: str = ""
    digest: str = ""
    index: int = -1
    rolling: Rolling | None = None
    denied: dict[str, str] = field(default_factory=dict)
    aborted: dict[str, int] = field(default_factory=dict)
    signed: dict[str, Signed] = field(default_factory=dict)
    moved: int = -1


@dataclass
class PointThen:
    """`index`: of the event that made it so: the point's own, or of `points_at` a later one of its pack."""

    index: int
    mode: str
    stable: str
    candidate: str
    data: str
    flags: Mapping[str, str]


@dataclass
class Then:
    """`points`: as the last event of each itself said. `images`: of data, by its name; `gone`: points that were deleted, by which event;
    `held`: point → the pack that a flag held there."""

    packs: dict[str, PackThen] = field(default_factory=dict)
    points: dict[str, PointThen] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    events: int = 0
    last: int = -1
    images: dict[str, str] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)


def state_at(events: Iterable[tuple[int, PolicyEvent]], at: str) -> Then:
    """State after the events, in the log's order, whose own time is not after `at` (RFC 3339, UTC, as in events)."""
    then = Then()
    for index, event in events:
        if event.time > at:
            continue
        then.events, then.last = then.events + 1, index
        kind, _, name = event.subject[0].partition("/")
        if event.kind == DELETED:
            _gone(then, index, kind, name.partition("@")[0], event)
        elif kind == "pack" and event.pack is not None:
            _pack(then.packs.setdefault(name.partition("@")[0], PackThen()), index, event, event.pack)
        elif kind == "point" and "mode" in event.evidence:
            said = event.evidence
            mode, stable, candidate, data = (str(said.get(member, "")) for member in ("mode", "stable", "candidate", "data"))
            then.points[event.point] = PointThen(index, mode, stable, candidate, data, dict(said.get("flags", {})))
            then.held[event.point] = _held_by(then, mode, candidate)
        elif kind == "data":
            then.data[name] = f"sha256:{event.subject[1]}"
            then.images[name.partition("@")[0]] = str(event.evidence.get("image", ""))
    return then


def points_at(then: Then) -> dict[str, PointThen]:
    """What each point ran: as its own last event said, and after that as the steps of packs did, which are no events of points. Weight and
    wave of a canary stand with its pack."""
    found, signed_for = dict(then.points), dict[str, dict[str, PackThen]]()
    for name, pack in sorted(then.packs.items()):
        for point in {point for signed in pack.signed.values() for _, points in signed.stages for point in points}:
            signed_for.setdefault(f"{name.partition('/')[0]}/{point}", {})[name] = pack
    for where, packs in signed_for.items():
        before = found.get(where)
        now = _ran(then, where, packs, before or PointThen(-1, "", "", "", "", {}))
        if now.stable or now.candidate or before is not None:
            found[where] = now
    return dict(sorted(found.items()))


def _ran(then: Then, where: str, packs: Mapping[str, PackThen], before: PointThen) -> PointThen:
    """The point after the steps since its own last event of the packs that were signed for it: first each takes back what the point ran of
    it, then what is live and what is on its way is placed, in the order of the events that brought it there."""
    point, since = where.partition("/")[2], max(before.index, then.gone.get(where, -1))
    stable, candidate, mode = before.stable, before.candidate, before.mode
    stable_at = candidate_at = before.index
    placed: list[tuple[int, str, str]] = []
    for name, pack in packs.items():
        if pack.moved <= since:
            continue
        live = _stage(pack.signed.get(pack.digest), point) is not None
        promoted = live and pack.index > before.index
        if stable in pack.signed and not (live and stable == pack.digest):
            stable, stable_at = pack.digest if live else "", pack.moved
        if candidate in pack.signed:
            candidate, candidate_at = "", pack.index if promoted else pack.moved
        if promoted:
            placed.append((pack.index, pack.digest, ""))
        if pack.rolling is not None and (arm := _arm(pack, pack.rolling, point, then.held.get(where) == name)) is not None:
            placed.append((pack.rolling.index, pack.rolling.digest, arm))
    for index, digest, arm in sorted(placed):
        if arm:
            candidate, candidate_at, mode = digest, index, arm
        else:
            stable, stable_at = digest, index
    if (index := max(stable_at, candidate_at)) == before.index:
        return before
    data = _data(then, where, packs, before, stable, candidate)
    return replace(before, mode=mode if candidate else STABLE, stable=stable, candidate=candidate, data=data, index=index)


def _arm(pack: PackThen, rolling: Rolling, point: str, held: bool) -> str | None:
    """How a point runs what is on its way: "" where that has passed and is stable, None where it has not come."""
    if (at := _stage(signed := pack.signed.get(rolling.digest), point)) is None or signed is None:
        return None
    reached = next((number for number, (stage, _) in enumerate(signed.stages) if stage == rolling.stage), 0)
    if at != reached:
        return "" if at < reached else None
    return SHADOW if held else rolling.arm


def _stage(signed: Signed | None, point: str) -> int | None:
    """Number of the stage that a point is in."""
    return next((number for number, (_, points) in enumerate(signed.stages) if point in points), None) if signed else None


def _data(then: Then, where: str, packs: Mapping[str, PackThen], before: PointThen, stable: str, candidate: str) -> str:
    """What the candidate reads, else the stable revision; as the point had it, where no event tells of it."""
    revisions = {digest: signed for pack in packs.values() for digest, signed in pack.signed.items()}
    reads = signed if (signed := revisions.get(candidate)) is not None and signed.data else revisions.get(stable)
    if reads is None:
        return before.data if stable else ""
    return then.images.get(f"{where.partition('/')[0]}/{reads.data}", before.data) if reads.data else ""


def _held_by(then: Then, mode: str, candidate: str) -> str:
    """The pack whose candidate a point only shadows, by a flag, where that is enforced; "" for none."""
    rolled = ((name, pack.rolling) for name, pack in then.packs.items() if mode == SHADOW and pack.rolling is not None)
    return next((name for name, rolling in rolled if rolling.digest == candidate and rolling.arm == CANARY), "")


def _gone(then: Then, index: int, kind: str, name: str, event: PolicyEvent) -> None:
    """What was rolled back under a pack's name stays so."""
    if "stays" in event.evidence:
        return
    if kind == "pack" and name in then.packs:
        pack = then.packs[name]
        then.packs[name] = PackThen(denied=pack.denied, aborted=pack.aborted, signed=pack.signed, moved=index)
    elif kind == "point":
        then.points.pop(name, None)
        then.gone[name] = index
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
    if event.kind == Event.SIGNED.value:
        pack.signed[digest] = _signed(event.evidence)
    if event.kind in MOVES:
        pack.moved = index
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


def _signed(said: Mapping[str, Any]) -> Signed:
    stages = said["stages"] if "stages" in said else [{"name": "", "points": said.get("points", ())}]
    return Signed(tuple((str(stage["name"]), tuple(stage["points"])) for stage in stages), str(said.get("data", "")))
