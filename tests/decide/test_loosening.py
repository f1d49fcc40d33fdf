"""What is less than it was: the table, and what people approve of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk.decide.loosening import CLEAR, DURABILITY, LEVELS, PRIVACY, SEALED, Loosened, digest_of, loosened


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
