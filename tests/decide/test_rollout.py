"""What is done next: a table of situations, and a machine that wanders through all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from knhk.decide.rollout import (
    NS,
    Abort,
    Action,
    Advance,
    Facts,
    Order,
    Promote,
    Publish,
    Resume,
    RollBack,
    Stall,
    Start,
    Wait,
    deadline_ns,
    decide,
    orders,
)
from knhk.model.phases import DEADLINES_S, MOVES, Arm, Event, IllegalMove, Phase, Rolling, move
from knhk.model.rollout import (
    Analysis,
    Counts,
    OnNoData,
    Outcome,
    PairStats,
    RolloutSpec,
    Stage,
    Step,
)

DIGEST = "sha256:" + "b" * 64
STEPS = (Step(5, 100), Step(50, 100))
ONE = RolloutSpec((Stage("production", ("erp/orders", "erp/approvals"), 200, STEPS, 600),))
CHAIN = RolloutSpec(
    (
        Stage("canary", ("a/c",), 200, (), 600),
        Stage("staging", ("a/s",), 200, (Step(100, 50),), 600),
        Stage("production", ("a/p",), 200, STEPS, 600),
    )
)
START = 1_000 * NS
SHADOW, CANARY0, CANARY1 = Rolling(), Rolling(0, Arm.CANARY, 0), Rolling(0, Arm.CANARY, 1)


def counted(pairs: int, denials: int = 0, stable: str | None = "a") -> PairStats:
    return PairStats(stable, "b", pairs, pairs, any=Counts(denials, 0), covered=pairs)


def facts(
    rolling: Rolling | None = SHADOW,
    pairs: int = 0,
    denials: int = 0,
    spec: RolloutSpec = ONE,
    **more: object,
) -> Facts:
    """A rollout in phase Rolling whose documents are published and whose first point has counted."""
    found = Facts(
        Phase.ROLLING, DIGEST, spec, now_ns=START + NS, entered_ns=START, rolling=rolling,
        stats={spec.stages[rolling.stage if rolling else 0].points[0]: counted(pairs, denials)},
    )  # fmt: skip
    found = replace(found, **more)  # type: ignore[arg-type]
    if "published" in more:
        return found
    return replace(found, published={order.point: order for order in orders(found)})


LATE: dict[str, Any] = {"now_ns": START + 600 * NS}
HOLD = replace(ONE, on_no_data=OnNoData.HOLD)
PROMOTE = replace(ONE, on_no_data=OnNoData.PROMOTE)

TABLE: list[tuple[str, Facts, type[Action]]] = [
    ("a signed pack starts", facts(None, phase=Phase.SIGNED), Start),
    ("documents are published first", facts(published={}), Publish),
    ("shadow waits for pairs", facts(pairs=199), Wait),
    ("shadow passes", facts(pairs=200), Advance),
    ("a step waits for its own pairs", facts(CANARY0, pairs=299, pairs_at_start=200), Wait),
    ("a step passes", facts(CANARY0, pairs=300, pairs_at_start=200), Advance),
    ("the last step promotes", facts(CANARY1, pairs=300, pairs_at_start=200), Promote),
    ("a bad pack goes back in shadow", facts(pairs=50, denials=25), RollBack),
    ("a bad pack goes back in canary", facts(CANARY1, pairs=50, denials=25), RollBack),
    ("even when suspended", facts(pairs=50, denials=25, spec=replace(ONE, suspend=True)), RollBack),
    ("even when its documents are late", facts(pairs=50, denials=25, published={}), RollBack),
    ("suspended waits", facts(pairs=500, spec=replace(ONE, suspend=True)), Wait),
    ("suspended can be aborted", facts(spec=replace(ONE, suspend=True), abort="stop"), Abort),
    ("abort is heard in every working phase", facts(None, phase=Phase.COMPILED, abort="stop"), Abort),
    ("a denied digest does not start", facts(None, phase=Phase.SIGNED, deny_list=frozenset({DIGEST})), Stall),
    ("a digest denied meanwhile goes", facts(deny_list=frozenset({DIGEST})), Abort),
    ("no data aborts", facts(pairs=3, **LATE), Abort),
    ("no data holds", facts(pairs=3, spec=HOLD, **LATE), Stall),
    ("no data goes on when told so", facts(pairs=3, spec=PROMOTE, **LATE), Advance),
    ("undecided at the deadline aborts whatever is said of no data",
     facts(pairs=600, denials=12, spec=PROMOTE, **LATE), Abort),
    ("a pass at the deadline is a pass", facts(pairs=200, **LATE), Advance),
    ("a held rollout goes on with data", facts(pairs=200, phase=Phase.STALLED, spec=HOLD), Resume),
    ("a held rollout goes back when it is bad", facts(pairs=50, denials=25, phase=Phase.STALLED), RollBack),
    ("a held rollout ends one day", facts(phase=Phase.STALLED, now_ns=START + 86_400 * NS), Abort),
    ("work that takes too long is said", facts(None, phase=Phase.COMPILED, **LATE), Stall),
    ("work goes on until then", facts(None, phase=Phase.COMPILED), Wait),
    ("live rests", facts(None, phase=Phase.LIVE), Wait),
    ("live is put right", facts(None, phase=Phase.LIVE, published={}), Publish),
    ("rolled back is put right", facts(None, phase=Phase.ROLLED_BACK, published={}), Publish),
    ("retired does nothing", facts(None, phase=Phase.RETIRED, published={}), Wait),
]  # fmt: skip


@pytest.mark.parametrize(("case", "action"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_done_next(case: Facts, action: type[Action]) -> None:
    assert isinstance(decide(case), action)


def test_nobody_decided_means_nothing_is_promoted() -> None:
    """A candidate of which no point has told anything waits, then ends."""
    silent = facts(stats={})
    assert isinstance(decide(silent), Wait)
    assert decide(replace(silent, now_ns=START + 600 * NS)) == Abort(
        "NoData", "0 pairs were judged before the deadline, must be at least 200"
    )


def test_a_rollback_says_what_was_crossed() -> None:
    action = decide(facts(pairs=50, denials=25))
    assert isinstance(action, RollBack)
    assert (action.finding.value, action.finding.threshold, action.finding.pairs) == (
        "0.5000",
        "0.01",
        50,
    )


def test_orders_name_weight_in_per_mille_and_both_points() -> None:
    assert orders(facts(CANARY0)) == (
        Order("erp/orders", "Canary", "previous", 50),
        Order("erp/approvals", "Canary", "previous", 50),
    )
    assert {o.mode for o in orders(facts(SHADOW))} == {"Shadow"}


def test_only_late_documents_are_published() -> None:
    done = Order("erp/orders", "Shadow")
    assert decide(facts(published={"erp/orders": done})) == Publish((Order("erp/approvals", "Shadow"),))


def test_points_count_together() -> None:
    two = {"erp/orders": counted(100), "erp/approvals": counted(100)}
    assert isinstance(decide(facts(stats=two)), Advance)


def test_stages_follow_one_another() -> None:
    """Canary points, then staging, then production; what a stage passed stays enforced there."""
    seen, now = [], Rolling()
    while True:
        action = decide(facts(now, pairs=1_000, spec=CHAIN))
        if not isinstance(action, Advance):
            break
        now = action.rolling
        seen.append((now.stage, now.arm.value, now.step))
    assert isinstance(action, Promote)
    assert seen == [
        (1, "Shadow", 0),
        (1, "Canary", 0),
        (2, "Shadow", 0),
        (2, "Canary", 0),
        (2, "Canary", 1),
    ]
    assert orders(facts(Rolling(1), spec=CHAIN)) == (
        Order("a/c", "Stable", "candidate"),
        Order("a/s", "Shadow"),
        Order("a/p", "Stable"),
    )


def test_going_back_takes_the_candidate_from_every_stage() -> None:
    back = facts(Rolling(2), spec=CHAIN, phase=Phase.ROLLED_BACK)
    assert orders(back) == tuple(Order(p, "Stable") for p in ("a/c", "a/s", "a/p"))


def test_a_first_version_is_promoted_on_decisions_alone() -> None:
    assert isinstance(decide(facts(CANARY1, stats={"erp/orders": counted(100, stable=None)})), Promote)


# ---- the table of phases ------------------------------------------------------------------------


def test_illegal_moves_raise_and_say_what_is_legal() -> None:
    with pytest.raises(IllegalMove, match=r"Promoted must not happen in phase Pending \(legal there: Compiled"):
        move(Phase.PENDING, Event.PROMOTED)


def test_only_a_rollout_leads_to_live() -> None:
    assert [key for key, phase in MOVES.items() if phase is Phase.LIVE] == [(Phase.ROLLING, Event.PROMOTED)]


def test_every_phase_has_a_deadline_or_rests() -> None:
    assert set(DEADLINES_S) == set(Phase)
    resting = {phase for phase, limit in DEADLINES_S.items() if limit is None}
    assert resting == {Phase.LIVE, Phase.ROLLED_BACK, Phase.ABORTED, Phase.RETIRED}


def test_every_working_phase_can_be_aborted_and_superseded() -> None:
    for phase in Phase:
        assert ((phase, Event.SUPERSEDED) in MOVES) == (phase is not Phase.RETIRED)
        timed = DEADLINES_S[phase] is not None
        assert ((phase, Event.ABORTED) in MOVES) == timed


def test_nothing_leaves_retired() -> None:
    assert not [key for key in MOVES if key[0] is Phase.RETIRED]


# ---- a machine that does what it is told ------------------------------------------------------


EVENT_OF: dict[type[Action], Event] = {
    Start: Event.ROLLOUT_STARTED,
    Advance: Event.STEP_ADVANCED,
    Promote: Event.PROMOTED,
    RollBack: Event.ROLLED_BACK,
    Abort: Event.ABORTED,
    Stall: Event.STALLED,
    Resume: Event.RESUMED,
}
WORK = {Phase.PENDING: Event.COMPILED, Phase.COMPILED: Event.BUILT, Phase.BUILT: Event.SIGNED}


class Wandering(RuleBasedStateMachine):
    """Traffic, time, people and work in any order; after each, all that decide asks for is done.

    No path promotes what the judge did not pass (unless the author chose Promote for want of data), and
    every state that has a deadline is left by then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.facts = Facts(
            Phase.PENDING,
            DIGEST,
            replace(CHAIN, analysis=Analysis(min_pairs=1)),
            now_ns=START,
            entered_ns=START,
        )
        self.promoted_by: Promote | None = None
        self.promoted_when = OnNoData.ABORT
        self.history: list[Action] = []

    def settle(self) -> None:
        for _ in range(50):
            action = decide(self.facts)
            self.history.append(action)
            if isinstance(action, Wait):
                return
            self.act(action)
        raise AssertionError(f"decide never rests: {self.history[-5:]}")

    def act(self, action: Action) -> None:
        if isinstance(action, Publish):
            known = {**self.facts.published, **{order.point: order for order in action.orders}}
            self.facts = replace(self.facts, published=known)
            return
        if isinstance(action, Promote):
            self.promoted_by = action
            self.promoted_when = self.facts.spec.on_no_data
        phase = move(self.facts.phase, EVENT_OF[type(action)])
        rolling = getattr(action, "rolling", self.facts.rolling)
        stage = self.facts.spec.stages[rolling.stage] if rolling else None
        now = self.facts.stats.get(stage.points[0]) if stage else None
        self.facts = replace(
            self.facts,
            phase=phase,
            rolling=rolling,
            entered_ns=self.facts.now_ns,
            pairs_at_start=now.pairs if now else 0,
        )

    @rule()
    @precondition(lambda self: self.facts.phase in WORK)
    def work_is_done(self) -> None:
        self.facts = replace(
            self.facts,
            phase=move(self.facts.phase, WORK[self.facts.phase]),
            entered_ns=self.facts.now_ns,
        )
        self.settle()

    @rule(pairs=st.integers(1, 400), bad=st.sampled_from((0, 0, 0, 1, 5, 100)))
    @precondition(lambda self: self.facts.phase is Phase.ROLLING)
    def traffic(self, pairs: int, bad: int) -> None:
        assert self.facts.rolling is not None
        point = self.facts.spec.stages[self.facts.rolling.stage].points[0]
        old = self.facts.stats.get(point, counted(0))
        new = counted(old.pairs + pairs, old.any.new_denials + min(bad, pairs))
        self.facts = replace(self.facts, stats={**self.facts.stats, point: new})
        self.settle()

    @rule(seconds=st.sampled_from((1, 30, 700)))
    def time_passes(self, seconds: int) -> None:
        self.facts = replace(self.facts, now_ns=self.facts.now_ns + seconds * NS)
        self.settle()

    @rule(choice=st.sampled_from(OnNoData), suspend=st.booleans())
    def the_spec_says(self, choice: OnNoData, suspend: bool) -> None:
        self.facts = replace(self.facts, spec=replace(self.facts.spec, on_no_data=choice, suspend=suspend))
        self.settle()

    @rule()
    def somebody_aborts(self) -> None:
        self.facts = replace(self.facts, abort="stop")
        self.settle()
        assert self.facts.phase in (Phase.ABORTED, Phase.LIVE, Phase.ROLLED_BACK, Phase.RETIRED)

    @invariant()
    def nothing_is_live_that_the_judge_did_not_pass(self) -> None:
        if self.facts.phase is not Phase.LIVE:
            return
        assert self.promoted_by is not None
        if self.promoted_by.verdict.outcome is not Outcome.PASS:
            assert self.promoted_when is OnNoData.PROMOTE
            assert self.promoted_by.verdict.outcome is Outcome.UNDECIDED

    @invariant()
    def no_timed_state_outlives_its_deadline(self) -> None:
        end = deadline_ns(self.facts)
        if self.history and end is not None and not self.facts.spec.suspend:
            assert self.facts.now_ns < end

    @invariant()
    def documents_say_what_the_phase_means(self) -> None:
        if self.history and self.facts.phase in (
            Phase.ROLLING,
            Phase.LIVE,
            Phase.ROLLED_BACK,
            Phase.ABORTED,
        ):
            for order in orders(self.facts):
                assert self.facts.published[order.point] == order


TestWandering = Wandering.TestCase
TestWandering.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
