"""Waves of pods: who is in one, what is drawn, and what happens when its pods go."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk.decide.rollout import NS, Advance, Draw, Facts, Instances, Publish, RollBack, Wait, begun, decide, orders, refitted, waves_of
from knhk.model.phases import Arm, Phase, Rolling
from knhk.model.rollout import Counts, PairStats, RolloutSpec, Stage, Step
from knhk.model.waves import POSITIONS, drawn, is_in, position, size

VECTORS = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "waves.json").read_bytes())["positions"]
SALT = "0123456789abcdef0123456789abcdef"
PODS = st.sets(st.uuids().map(str), min_size=1, max_size=40)
PERCENT = st.integers(1, 100)


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: f"{row['salt'][:4]} {row['instance'][:4]}")
def test_positions_are_those_of_the_vectors(row: dict[str, str]) -> None:
    assert position(row["salt"], row["instance"]) == row["position"]
    assert not is_in(row["salt"], row["instance"], int(row["position"]))
    assert is_in(row["salt"], row["instance"], int(row["position"]) + 1)


@given(PODS, PERCENT)
def test_a_wave_has_its_share_rounded_up_of_the_pods_it_was_drawn_from(pods: set[str], percent: int) -> None:
    below = drawn(SALT, pods, percent)
    assert sum(is_in(SALT, pod, below) for pod in pods) == size(percent, len(pods)) >= 1
    assert below <= POSITIONS


@given(PODS, PERCENT, PERCENT, st.uuids().map(str))
def test_a_larger_wave_holds_the_smaller_and_a_pod_that_comes_moves_no_other(pods: set[str], one: int, other: int, comes: str) -> None:
    small, large = (drawn(SALT, pods, percent) for percent in sorted((one, other)))
    assert small <= large
    inside = {pod for pod in pods if is_in(SALT, pod, small)}
    assert {pod for pod in {*pods, comes} if is_in(SALT, pod, small)} - {comes} == inside - {comes}


def test_whoever_does_not_know_who_it_is_is_in_no_wave() -> None:
    assert not is_in(SALT, "", POSITIONS)


def test_of_no_pods_a_wave_is_a_share_of_those_to_come() -> None:
    assert drawn(SALT, (), 25) == POSITIONS // 4


# ---- in a rollout --------------------------------------------------------------------------------

STEPS = (Step(5, 100, wave=25), Step(5, 100, wave=50), Step(50, 100))
SPEC = RolloutSpec((Stage("production", ("erp/orders",), 200, STEPS, 600),))
UIDS = tuple(sorted((f"uid-{i}" for i in range(4)), key=lambda uid: position(SALT, uid)))
BOUNDS = tuple(position(SALT, uid) + 1 for uid in UIDS)
FIRST, SECOND = Rolling(0, Arm.CANARY, 0), Rolling(0, Arm.CANARY, 1)


def facts(rolling: Rolling, ids: tuple[str, ...], wave: int | None, pairs: int = 0, denials: int = 0) -> Facts:
    """A canary step at one point of these pods, published with this bound."""
    stats = PairStats("a", "b", pairs, pairs, any=Counts(denials, 0), covered=pairs)
    return told(Facts(
        Phase.ROLLING, "sha256:" + "b" * 64, SPEC, now_ns=NS, entered_ns=0, rolling=rolling,
        stats={"erp/orders": stats}, instances={"erp/orders": Instances(SALT, ids)}, waves={} if wave is None else {"erp/orders": wave},
    ))  # fmt: skip


def test_a_step_says_in_which_pods_it_is() -> None:
    assert waves_of(SPEC, FIRST, {"erp/orders": Instances(SALT, UIDS)}) == {"erp/orders": BOUNDS[0]}
    assert waves_of(SPEC, SECOND, {"erp/orders": Instances(SALT, UIDS)}) == {"erp/orders": BOUNDS[1]}
    (order,) = orders(facts(FIRST, UIDS, BOUNDS[0]))
    assert (order.mode, order.weight, order.wave) == ("Canary", 50, BOUNDS[0])


def test_a_step_without_a_wave_is_in_all_pods() -> None:
    assert waves_of(SPEC, Rolling(0, Arm.CANARY, 2), {"erp/orders": Instances(SALT, UIDS)}) == {}
    assert orders(facts(Rolling(0, Arm.CANARY, 2), UIDS, None))[0].wave is None


def test_at_a_point_that_was_not_heard_of_nobody_is_in_the_wave_until_one_is() -> None:
    assert orders(facts(FIRST, (), None))[0].wave == 0
    assert decide(facts(FIRST, UIDS, None)) == Draw({"erp/orders": BOUNDS[0]})


def test_documents_of_another_wave_are_published_anew() -> None:
    found = facts(FIRST, UIDS, BOUNDS[0])
    assert isinstance(decide(replace(found, published={"erp/orders": replace(orders(found)[0], wave=None)})), Publish)


def test_a_wave_whose_pod_went_takes_the_next_one_in() -> None:
    assert decide(facts(FIRST, UIDS[1:], BOUNDS[0])) == Draw({"erp/orders": BOUNDS[1]})


@pytest.mark.parametrize(
    ("ids", "wave"),
    [(UIDS, BOUNDS[0]), (UIDS, BOUNDS[1]), (UIDS[:2], BOUNDS[1]), ((), BOUNDS[0]), ((), BOUNDS[3])],
    ids=["as drawn", "twice what it needs", "pods outside went", "nobody is known", "nobody is known of a large one"],
)
def test_what_comes_and_goes_in_between_moves_no_bound(ids: tuple[str, ...], wave: int) -> None:
    assert isinstance(decide(facts(FIRST, ids, wave)), Wait)


def test_a_wave_that_was_drawn_while_others_were_away_goes_back_when_they_come() -> None:
    """A hundred pods, scaled in to the one at 0.9 and out again, in a step of 1 %."""
    uids = sorted((f"uid-{i}" for i in range(100)), key=lambda uid: position(SALT, uid))
    spec = replace(SPEC, stages=(replace(SPEC.stages[0], steps=(Step(5, 100, wave=1),)),))
    alone = replace(facts(FIRST, (uids[90],), None), spec=spec)
    grown = played(alone)
    assert grown.waves == {"erp/orders": position(SALT, uids[90]) + 1}
    back = played(replace(grown, instances={"erp/orders": Instances(SALT, tuple(uids))}))
    assert back.waves == {"erp/orders": position(SALT, uids[0]) + 1}


@pytest.mark.parametrize(
    "stopped", [{"spec": replace(SPEC, suspend=True)}, {"held": {"erp/orders": "a flag is off"}}], ids=["suspended", "held"]
)
def test_what_waits_lets_pods_go_and_takes_none_in(stopped: dict[str, Any]) -> None:
    large, small = (replace(found, **stopped) for found in (facts(FIRST, UIDS, BOUNDS[3]), facts(FIRST, UIDS[1:], BOUNDS[0])))
    assert decide(told(large)) == Draw({"erp/orders": BOUNDS[0]})
    assert isinstance(decide(told(small)), Wait)


def told(found: Facts) -> Facts:
    """The facts when documents say what they should."""
    return replace(found, published={order.point: order for order in orders(found)})


def played(found: Facts) -> Facts:
    """The facts after what is drawn of them, which is drawn once."""
    action = decide(found)
    if isinstance(action, Draw):
        found = told(replace(found, waves=action.waves))
        action = decide(found)
    assert isinstance(action, Wait)
    return found


@given(st.lists(st.sets(st.uuids().map(str), max_size=40), min_size=1, max_size=6), st.integers(1, 99))
def test_whatever_pods_come_and_go_a_wave_has_its_share_and_at_most_twice_as_many(days: list[set[str]], percent: int) -> None:
    spec = replace(SPEC, stages=(replace(SPEC.stages[0], steps=(Step(5, 100, wave=percent),)),))
    now = replace(facts(FIRST, (), 0), spec=spec)
    for pods in days:
        now = played(replace(now, instances={"erp/orders": Instances(SALT, tuple(pods))}))
        inside = sum(is_in(SALT, pod, now.waves["erp/orders"]) for pod in pods)
        assert size(percent, len(pods)) <= inside <= 2 * size(percent, len(pods))


def test_a_wave_is_judged_as_any_step_and_rolled_back_before_it_is_drawn_anew() -> None:
    passed = decide(facts(FIRST, UIDS, BOUNDS[0], pairs=300))
    assert isinstance(passed, Advance)
    assert passed.rolling == SECOND
    failed = decide(facts(FIRST, UIDS[1:], BOUNDS[0], pairs=300, denials=90))
    assert isinstance(failed, RollBack)


def test_a_step_that_begins_lets_no_pod_of_the_last_wave_go() -> None:
    """A wave took pods in for others that were away; these came back, and the share of the next step is less."""
    grown = facts(FIRST, UIDS, BOUNDS[3])
    assert begun(grown, SECOND) == {"erp/orders": BOUNDS[3]}
    assert begun(facts(FIRST, UIDS, BOUNDS[0]), SECOND) == {"erp/orders": BOUNDS[1]}
    assert begun(grown, Rolling(0, Arm.CANARY, 2)) == {}
    assert begun(replace(grown, rolling=Rolling()), FIRST) == {"erp/orders": BOUNDS[3]}


@pytest.mark.parametrize(("weight", "wave", "step"), [(5, 25, 0), (5, 50, 1), (50, 100, 2), (50, 25, 0), (5, 10, None), (4, 100, None)])
def test_edited_steps_never_enforce_more(weight: int, wave: int, step: int | None) -> None:
    wanted = Rolling() if step is None else Rolling(0, Arm.CANARY, step)
    assert refitted(SPEC, FIRST, weight, wave) == wanted
