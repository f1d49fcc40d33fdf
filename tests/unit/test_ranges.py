"""Ranges say what the sets of their numbers say."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from knhk.model.ranges import Marks, Ranges, Within, count, merged, minus, numbers_of

MOST = 80
PAIRS = st.lists(st.tuples(st.integers(0, MOST), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=8)
RANGES = PAIRS.map(merged)


def ranges_of(numbers: Iterable[int]) -> Ranges:
    return merged((number, number) for number in numbers)


@given(PAIRS)
def test_they_are_ascending_and_apart(pairs: list[tuple[int, int]]) -> None:
    made = merged(pairs)
    assert set(numbers_of(made)) == set(numbers_of(pairs))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(made))
    assert made == ranges_of(numbers_of(pairs))
    assert count(made) == len(set(numbers_of(pairs)))


@given(RANGES, PAIRS)
def test_what_is_in_one_and_not_in_the_other(left: Ranges, right: list[tuple[int, int]]) -> None:
    assert minus(left, right) == ranges_of(set(numbers_of(left)) - set(numbers_of(right)))


@given(RANGES, st.integers(0, MOST), st.integers(0, 9))
def test_what_is_within(ranges: Ranges, first: int, more: int) -> None:
    within, there = Within(ranges), set(numbers_of(ranges))
    assert [number for number in range(MOST + 10) if within.has(number)] == sorted(there)
    assert within.meets(first, first + more) == (not there.isdisjoint(range(first, first + more + 1)))


@given(RANGES, st.integers(0, MOST), st.integers(-1, MOST))
def test_marks_are_a_set_below_a_size(ranges: Ranges, size: int, after: int) -> None:
    marks, seen = Marks(size), set[int]()
    for limit in (size, MOST // 2):
        marks.reach(limit)
        for number in numbers_of(ranges):
            assert marks.add(number) == (number < max(size, limit) and number not in seen)
            seen |= {number} if number < max(size, limit) else set()
    assert tuple(marks.ranges(after)) == ranges_of(number for number in seen if number > after)
