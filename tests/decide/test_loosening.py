"""What is less than it was: the table, and what people approve of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk.decide.loosening import (
    APPROVALS,
    CLEAR,
    DURABILITY,
    LEVELS,
    PRIVACY,
    SEALED,
    Asked,
    Loosened,
    asked_by,
    asking,
    digest_of,
    loosened,
)
from knhk.model.rollout import Analysis, Approvals, OnNoData, RolloutSpec, Stage


@pytest.mark.parametrize(
    ("field", "was", "to", "less"),
    [
        (DURABILITY, "region", "log", True),
        (DURABILITY, "disk", "ring", True),
        (DURABILITY, "ring", "disk", False),
        (DURABILITY, "log", "log", False),
        ("failure", "Closed", "Open", True),
        ("failure", "Open", "Closed", False),
        ("maxUnwitnessedSeconds", 60, 61, True),
        ("maxUnwitnessedSeconds", 60, 0, True),
        ("maxUnwitnessedSeconds", 60, 59, False),
        ("maxUnwitnessedSeconds", 0, 60, False),
        ("maxUnwitnessedSeconds", 0, 0, False),
        (PRIVACY, SEALED, CLEAR, True),
        (PRIVACY, CLEAR, SEALED, False),
        (PRIVACY, SEALED, SEALED, False),
    ],
)
def test_what_is_less(field: str, was: Any, to: Any, less: bool) -> None:
    assert loosened({field: was}, {field: to}) == ((Loosened(field, was, to),) if less else ())


def test_of_what_was_not_promised_nothing_is_less() -> None:
    assert loosened({}, {"failure": "Open", "maxUnwitnessedSeconds": 0, PRIVACY: CLEAR}) == ()


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_of_two_levels_one_way_at_most_is_less(one: str, other: str) -> None:
    there, back = loosened({DURABILITY: one}, {DURABILITY: other}), loosened({DURABILITY: other}, {DURABILITY: one})
    assert bool(there) + bool(back) == (one != other)


def test_a_word_about_one_change_is_none_about_another() -> None:
    rows = (Loosened(DURABILITY, "log", "ring"),)
    seen = {
        digest_of("p", "uid", 1, rows),
        digest_of("q", "uid", 1, rows),
        digest_of("p", "another", 1, rows),
        digest_of("p", "uid", 2, rows),
        digest_of("p", "uid", 1, (Loosened(DURABILITY, "log", "disk"),)),
    }
    assert len(seen) == 5


ASKED = st.builds(Asked, st.integers(0, 3), st.booleans(), st.frozensets(st.sampled_from("abc")))


@given(ASKED, ASKED)
def test_what_meets_two_asks_less_than_neither(one: Asked, other: Asked) -> None:
    assert not one.joined(other).asks_less(other)
    assert one.joined(other).count >= one.count


@given(ASKED)
def test_what_stays_asks_no_less(asked: Asked) -> None:
    assert not asked.asks_less(asked)
    assert loosened({APPROVALS: {"erp/p1": asked}}, {APPROVALS: {"erp/p1": asked}}) == ()


def test_approvals_are_told_by_point_and_of_what_is_no_target_nobody_is_asked() -> None:
    was = {"erp/p1": Asked(2, not_author=True), "erp/p2": Asked(1), "erp/p3": Asked(1)}
    (row,) = loosened({APPROVALS: was}, {APPROVALS: {"erp/p1": Asked(1, not_author=True), "erp/p2": Asked(1)}})
    assert row == Loosened(APPROVALS, "p1: 2, not by an author", "p1: 1, not by an author")


def test_a_stage_asks_for_whom_its_points_were_promised() -> None:
    stages = (Stage("canary", ("erp/p1",), 1, (), 60, None), Stage("production", ("erp/p2",), 1, (), 60, Approvals(2, within_s=5)))
    spec = RolloutSpec(stages=stages, analysis=Analysis(), on_no_data=OnNoData.ABORT, suspend=False)
    asked = asking(spec, {"erp/p1": Asked(1, approvers=frozenset({"ada"})), "erp/p2": Asked(3), "erp/gone": Asked(9)})
    assert [stage.approvals for stage in asked.stages] == [
        Approvals(1, frozenset({"ada"}), not_author=False),
        Approvals(3, within_s=5),
    ]
    assert asked_by(asked)["erp/p2"] == Asked(3, not_author=True)
    assert asking(spec, {}) == spec
