"""What to do next with a revision: one snapshot of facts, an ordered tuple of checks, the first finding wins.

The shell gathers Facts, calls `decide`, does the one Action, writes the new state, and comes back. All
actions are level-based: done twice, or done again after a crash, they lead to the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from knhk.decide.approvals import missing
from knhk.decide.judge import judge
from knhk.model.phases import DEADLINES_S, WORKING, Arm, Phase, Rolling
from knhk.model.rollout import (
    Approved,
    Finding,
    OnNoData,
    Outcome,
    PairStats,
    RolloutSpec,
    Stage,
    Verdict,
    combine,
)
from knhk.model.trust import Authors
from knhk.model.waves import EVERYBODY, drawn, fits, size

NS = 1_000_000_000
ENDED = (Phase.ROLLED_BACK, Phase.ABORTED, Phase.RETIRED)

Mode = Literal["Stable", "Shadow", "Canary"]
Enforced = Literal["previous", "candidate"]


@dataclass(frozen=True)
class Order:
    """What one point must run. `stable` says which pack stands in the stable place of its rollout
    document; in modes Shadow and Canary the candidate stands beside it. Weight is in per mille. `wave`: the bound of the wave
    (knhk.model.waves) that a canary is in, None for all instances."""

    point: str
    mode: Mode
    stable: Enforced = "previous"
    weight: int = 0
    wave: int | None = None


@dataclass(frozen=True)
class Instances:
    """Who runs a point, as far as its agents tell: ids of the live ones, and how many of them say that they are in the present wave.
    `salt`: of the point's rollout document while the revision rolls."""

    salt: str
    ids: tuple[str, ...] = ()
    in_wave: int = 0


@dataclass(frozen=True)
class Facts:
    """One moment of one revision. Times are nanoseconds since 1970.

    `rolling` is set in phase Rolling, and in Stalled when a rollout is held. `entered_ns`: when the
    phase or step began; `pairs_at_start`: judged pairs of the stage at that moment. `stats`: by point
    (NAMESPACE/NAME). `published`: what the present rollout document of each point says about this
    revision. `waves`: bounds that were drawn for the present step, by point; `instances`: of points that were heard of.
    `held`: points of the present stage, and of `joining`, where flags say that a canary is not enforced, and why. `authors`: who is
    behind the revision; `approved`: recorded approvals of it. `joining`: points that get at once, when it starts, what is live
    elsewhere: the revision is made of the very bytes that are live, and these points are new to them.
    """

    phase: Phase
    digest: str
    spec: RolloutSpec
    now_ns: int
    entered_ns: int
    rolling: Rolling | None = None
    pairs_at_start: int = 0
    stats: Mapping[str, PairStats] = field(default_factory=dict)
    published: Mapping[str, Order] = field(default_factory=dict)
    deny_list: frozenset[str] = frozenset()
    abort: str = ""
    held: Mapping[str, str] = field(default_factory=dict)
    authors: Authors = field(default_factory=Authors)
    approved: tuple[Approved, ...] = ()
    waves: Mapping[str, int] = field(default_factory=dict)
    instances: Mapping[str, Instances] = field(default_factory=dict)
    joining: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publish:
    """Put rollout documents that say this; only points whose document differs are named."""

    orders: tuple[Order, ...]


@dataclass(frozen=True)
class Start:
    """Event RolloutStarted: the first stage begins with `rolling`."""

    rolling: Rolling


@dataclass(frozen=True)
class Advance:
    """Event StepAdvanced: go on with `rolling`. `verdict` is what allowed it."""

    rolling: Rolling
    verdict: Verdict


@dataclass(frozen=True)
class Promote:
    """Event Promoted: the candidate becomes the stable pack everywhere."""

    verdict: Verdict


@dataclass(frozen=True)
class RollBack:
    """Event RolledBack: previous packs everywhere, and the digest goes on the deny list."""

    finding: Finding


@dataclass(frozen=True)
class Abort:
    """Event Aborted: previous packs everywhere, and the digest goes on the deny list."""

    reason: str
    message: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Stall:
    """Event Stalled: a person must edit something; a rollout is held where it is."""

    reason: str
    message: str


@dataclass(frozen=True)
class Resume:
    """Event Resumed: a held rollout has data again."""

    rolling: Rolling


@dataclass(frozen=True)
class Draw:
    """The wave of the present step has these bounds from now on, by point: pods of it have gone, or many more came below its bound."""

    waves: Mapping[str, int]


@dataclass(frozen=True)
class Wait:
    """Nothing to do. Look again when facts change, and at `until_ns` at the latest (None: no deadline). `message`: what is missing."""

    until_ns: int | None
    reason: str
    verdict: Verdict | None = None
    message: str = ""


Action = Publish | Start | Advance | Promote | RollBack | Abort | Stall | Resume | Draw | Wait


@dataclass(frozen=True)
class _Case:
    """Facts and what follows from them, worked out once."""

    facts: Facts
    stage: Stage | None
    verdict: Verdict | None
    pairs: int
    needed: int
    deadline_ns: int | None


def decide(facts: Facts) -> Action:
    """The one next action of a revision."""
    case = _case(facts)
    for check in CHECKS:
        action = check(case)
        if action is not None:
            return action
    return Wait(case.deadline_ns, "judging" if case.stage else "working", case.verdict)


def orders(facts: Facts) -> tuple[Order, ...]:
    """What each point of the spec must run now, in the order of stages."""
    found: list[Order] = []
    for index, stage in enumerate(facts.spec.stages):
        found += [_order(facts, index, stage, point) for point in stage.points]
    return tuple(found)


def judged(stats: Iterable[PairStats]) -> PairStats | None:
    """What the judge is asked about, None of nothing: the sum of the points at which both packs stand. At a point that the candidate is
    the first to reach there is nothing to differ from, but its errors count; where it is the first everywhere, so do its decisions."""
    seen = list(stats)
    beside = [row for row in seen if row.stable is not None]
    if not seen or not beside:
        return combine(seen) if seen else None
    alone = sum(row.errors for row in seen if row.stable is None)
    total = combine(beside)
    return replace(total, errors=total.errors + alone)


def judged_pairs(facts: Facts) -> int:
    """Pairs that were judged at the points of the present stage."""
    total = _judged_at(facts)
    return total.pairs if total is not None else 0


def _judged_at(facts: Facts) -> PairStats | None:
    points = facts.spec.stages[facts.rolling.stage].points if facts.rolling is not None else facts.stats
    return judged(facts.stats[point] for point in points if point in facts.stats)


def next_rolling(spec: RolloutSpec, now: Rolling) -> Rolling | None:
    """What follows a passed step; None: promotion."""
    stage = spec.stages[now.stage]
    step = 0 if now.arm is Arm.SHADOW else now.step + 1
    if step < len(stage.steps):
        return Rolling(now.stage, Arm.CANARY, step)
    return Rolling(now.stage + 1) if now.stage + 1 < len(spec.stages) else None


def weight_of(spec: RolloutSpec, now: Rolling) -> int:
    """Percent of callers for whom the candidate is enforced."""
    return spec.stages[now.stage].steps[now.step].weight if now.arm is Arm.CANARY else 0


def wave_of(spec: RolloutSpec, now: Rolling) -> int:
    """Percent of a point's instances in which the candidate is."""
    return spec.stages[now.stage].steps[now.step].wave if now.arm is Arm.CANARY else EVERYBODY


def waves_of(spec: RolloutSpec, now: Rolling, instances: Mapping[str, Instances]) -> dict[str, int]:
    """Bounds of the waves of a step that begins, by point; none where it is in all instances."""
    percent = wave_of(spec, now)
    here = [point for point in spec.stages[now.stage].points if point in instances] if percent != EVERYBODY else []
    return {point: drawn(instances[point].salt, instances[point].ids, percent) for point in here}


def begun(facts: Facts, rolling: Rolling) -> dict[str, int]:
    """Bounds with which a step begins, or goes on after it was held: those of its stage's last wave at least, so that no pod that has the
    candidate loses it by a step forward."""
    drawn_now = waves_of(facts.spec, rolling, facts.instances)
    if facts.rolling is None or facts.rolling.stage != rolling.stage or wave_of(facts.spec, rolling) == EVERYBODY:
        return drawn_now
    return {point: max(drawn_now.get(point, 0), facts.waves.get(point, 0)) for point in {*drawn_now, *facts.waves}}


def short_of(facts: Facts) -> Iterator[str]:
    """Points of the present stage whose wave has fewer instances than it should, and how many."""
    if facts.rolling is None or (percent := wave_of(facts.spec, facts.rolling)) == EVERYBODY:
        return
    for point in facts.spec.stages[facts.rolling.stage].points:
        seen = facts.instances.get(point, Instances(""))
        live = len(seen.ids)
        if seen.in_wave < (needed := size(percent, live)):
            pods = f"{needed} of {live} live pod{'s' if live != 1 else ''}"
            yield f"EnforcementPoint {point} must have {pods} in its wave of {percent} %, it has {seen.in_wave}"


def refitted(spec: RolloutSpec, now: Rolling, weight: int, wave: int) -> Rolling:
    """Where a rollout at `weight` percent of callers in `wave` percent of instances goes on when its steps were edited: at the last step
    that enforces no more, else in shadow."""
    if now.arm is Arm.SHADOW:
        return now
    fitting = [step for step, row in enumerate(spec.stages[now.stage].steps) if row.weight <= weight and row.wave <= wave]
    return Rolling(now.stage, Arm.CANARY, fitting[-1]) if fitting else Rolling(now.stage)


def deadline_ns(facts: Facts) -> int | None:
    """When the phase or step must be over; None for phases that rest."""
    limit: float | None = DEADLINES_S[facts.phase]
    if facts.phase is Phase.ROLLING and facts.rolling is not None:
        limit = facts.spec.stages[facts.rolling.stage].deadline_s
    return None if limit is None else facts.entered_ns + int(limit * NS)


def _order(facts: Facts, index: int, stage: Stage, point: str) -> Order:
    if facts.phase is Phase.LIVE:
        return Order(point, "Stable", "candidate")
    now = facts.rolling
    if facts.phase not in (Phase.ROLLING, Phase.STALLED) or now is None or index > now.stage:
        return Order(point, "Stable")
    if index < now.stage:
        return Order(point, "Stable", "candidate")
    if now.arm is Arm.SHADOW:
        return Order(point, "Shadow")
    if point in facts.held:
        return Order(point, "Shadow")
    wave = None if wave_of(facts.spec, now) == EVERYBODY else facts.waves.get(point, 0)
    return Order(point, "Canary", weight=weight_of(facts.spec, now) * 10, wave=wave)


def _case(facts: Facts) -> _Case:
    now = facts.rolling
    if facts.phase not in (Phase.ROLLING, Phase.STALLED) or now is None:
        return _Case(facts, None, None, 0, 0, deadline_ns(facts))
    stage = facts.spec.stages[now.stage]
    needed = stage.shadow_min_pairs if now.arm is Arm.SHADOW else stage.steps[now.step].min_pairs
    total = _judged_at(facts)
    if total is None:
        return _Case(facts, stage, None, 0, needed, deadline_ns(facts))
    verdict = judge(total, replace(facts.spec.analysis, min_pairs=facts.pairs_at_start + needed))
    pairs = max(0, total.pairs - facts.pairs_at_start)
    return _Case(facts, stage, verdict, pairs, needed, deadline_ns(facts))


def _failed(case: _Case) -> Action | None:
    if case.verdict is None or case.verdict.outcome is not Outcome.FAIL:
        return None
    return RollBack(case.verdict.findings[0])


def _denied(case: _Case) -> Action | None:
    facts = case.facts
    if facts.phase not in WORKING or not facts.digest or facts.digest not in facts.deny_list:
        return None
    message = f"{facts.digest} was rejected before; it must change, or its spec must"
    return Abort("DenyListed", message) if case.stage else Stall("DenyListed", message)


def _abort_asked(case: _Case) -> Action | None:
    if not case.facts.abort or case.facts.phase not in (*WORKING, Phase.STALLED):
        return None
    return Abort("AbortRequested", case.facts.abort, case.verdict)


def _unpublished(case: _Case) -> Action | None:
    """Documents must say what the phase means. A revision that ended may owe points their old pack. One that rolls has its deadline
    for this too."""
    facts = case.facts
    if facts.phase is Phase.RETIRED or (facts.phase in WORKING and case.stage is None):
        return None
    if facts.phase is Phase.STALLED and case.stage is None:
        return None
    wanted = orders(facts)
    late = tuple(order for order in wanted if facts.published.get(order.point) != order)
    if late and case.stage and not facts.spec.suspend and not facts.held and _is_overdue(case):
        return Abort("NotPublished", f"{late[0].point} could not be told before the deadline", case.verdict)
    return Publish(late) if late else None


def _rests(case: _Case) -> Action | None:
    if case.facts.phase in (*ENDED, Phase.LIVE):
        return Wait(None, "at rest")
    return None


def _suspended(case: _Case) -> Action | None:
    if not case.facts.spec.suspend:
        return None
    return Wait(None, "suspended", case.verdict)


def _held(case: _Case) -> Action | None:
    """While flags keep a canary from being enforced nothing is learnt of its enforcement, and no time runs."""
    facts = case.facts
    if facts.phase is Phase.SIGNED and any(point in facts.held for point in facts.joining):
        return Wait(None, "held", None, "; ".join(facts.held[point] for point in facts.joining if point in facts.held))
    if not facts.held or case.stage is None or facts.rolling is None:
        return None
    if facts.rolling.arm is Arm.SHADOW and case.stage.steps:
        return None
    return Wait(None, "held", case.verdict, "; ".join(facts.held[point] for point in sorted(facts.held)))


def _redrawn(case: _Case) -> dict[str, int]:
    """Bounds of the waves of the present step that fit the pods of their points no more, by point, as they should be."""
    facts = case.facts
    if case.stage is None or facts.rolling is None or (percent := wave_of(facts.spec, facts.rolling)) == EVERYBODY:
        return {}
    now = waves_of(facts.spec, facts.rolling, facts.instances)
    seen = {point: facts.instances[point] for point in now if facts.instances[point].ids}
    return {point: now[point] for point, one in seen.items() if not fits(one.salt, one.ids, percent, facts.waves.get(point, 0))}


def _shrunk(case: _Case) -> Action | None:
    """A wave that has far more pods than its share lets them go: it was drawn when others were away. Suspension and flags delay that no
    more than they delay a rollback."""
    less = {point: below for point, below in _redrawn(case).items() if below < case.facts.waves.get(point, 0)}
    return Draw({**case.facts.waves, **less}) if less else None


def _grown(case: _Case) -> Action | None:
    """A wave that has lost pods takes others in, so that a step goes on when its pods are drained."""
    more = _redrawn(case)
    return Draw({**case.facts.waves, **more}) if more else None


def _joins(case: _Case) -> Action | None:
    """Points that are added to what is live get it without a rollout; people are asked all the same."""
    facts = case.facts
    if facts.phase is not Phase.SIGNED:
        return None
    for stage in facts.spec.stages:
        if set(stage.points) & set(facts.joining) and (lacking := missing(stage, facts.authors, facts.approved)):
            return _unapproved(case, stage, None, lacking)
    return None


def _start(case: _Case) -> Action | None:
    return Start(Rolling()) if case.facts.phase is Phase.SIGNED else None


def _passed(case: _Case) -> Action | None:
    facts = case.facts
    if case.verdict is None or case.verdict.outcome is not Outcome.PASS or facts.rolling is None:
        return None
    if facts.phase is Phase.STALLED:
        return Resume(facts.rolling)
    return _forward(case, case.verdict)


def _forward(case: _Case, verdict: Verdict) -> Action:
    facts, now = case.facts, case.facts.rolling or Rolling()
    stage = facts.spec.stages[now.stage]
    if lacking := missing(stage, facts.authors, facts.approved):
        return _unapproved(case, stage, verdict, lacking)
    after = next_rolling(facts.spec, now)
    return Promote(verdict) if after is None else Advance(after, verdict)


def _unapproved(case: _Case, stage: Stage, verdict: Verdict | None, lacking: str) -> Action:
    """A stage that passed waits for people before anything of it is enforced, and may wait longer than a step."""
    assert stage.approvals is not None
    until_ns = case.facts.entered_ns + (stage.deadline_s + stage.approvals.within_s) * NS
    if case.facts.now_ns >= until_ns:
        return Abort("NotApproved", lacking, verdict)
    return Wait(until_ns, "unapproved", verdict, lacking)


def _is_overdue(case: _Case) -> bool:
    return case.deadline_ns is not None and case.facts.now_ns >= case.deadline_ns


def _overdue(case: _Case) -> Action | None:
    if not _is_overdue(case):
        return None
    if case.facts.phase is Phase.STALLED:
        return Abort("DeadlineExceeded", "nobody mended it in time", case.verdict)
    if case.facts.phase is not Phase.ROLLING:
        return Stall("DeadlineExceeded", f"phase {case.facts.phase.value} took longer than allowed")
    if case.pairs >= case.needed:
        return Abort("Undecided", "the judge could not tell before the deadline", case.verdict)
    return _no_data(case)


def _no_data(case: _Case) -> Action:
    message = f"{case.pairs} pairs were judged before the deadline, must be at least {case.needed}"
    if parked := sum(stats.parked for stats in case.facts.stats.values()):
        message += f"; {parked} requests were parked: the candidate could not decide them in time"
    message = "; ".join((message, *short_of(case.facts)))
    match case.facts.spec.on_no_data:
        case OnNoData.ABORT:
            return Abort("NoData", message, case.verdict)
        case OnNoData.HOLD:
            return Stall("NoData", message)
        case OnNoData.PROMOTE:
            return _forward(case, case.verdict or Verdict(Outcome.UNDECIDED))


CHECKS: tuple[Callable[[_Case], Action | None], ...] = (
    _failed,  # safety first: suspension delays no rollback
    _abort_asked,
    _denied,
    _unpublished,
    _rests,
    _shrunk,
    _suspended,
    _held,
    _grown,
    _joins,
    _start,
    _passed,
    _overdue,
)
