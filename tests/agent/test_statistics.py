"""What the judge is told: pairs, coverage, errors, straight from outbox frames."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from knhk_runtime.outbox.records import CANDIDATE, DECISION, PARK, REFUSED, UNAVAILABLE
from knhk_runtime.outbox.segments import Position
from knhk_runtime.record import encode_leaf, frame
from knhk_runtime.statistics import Counters
from knhk_verify.leaf import Leaf

CANDIDATE_PACK = bytes([2]) * 20
STABLE_PACK = bytes([1]) * 20
NONE = bytes(20)


def leaf(number: int, kind: int, verdict: int, pack: bytes, flags: int = 0, mode: int = 1, klass: int = 1) -> bytes:
    h_a = bytes(32) if kind != DECISION else bytes([9]) * 32
    klass = klass if kind in (DECISION, PARK) else 0
    receipt = number.to_bytes(16, "big")
    return encode_leaf(Leaf(kind, klass, verdict, mode, flags, 0, bytes([8]) * 32, h_a, pack, 1, receipt))


def record(number: int, stable: tuple[int, int, bytes], candidate: tuple[int, int, bytes], classes: tuple[int, int] = (1, 1)) -> bytes:
    """One frame: the stable arm enforced, the candidate beside it."""
    leaves = leaf(number, *stable, klass=classes[0]) + leaf(number, *candidate, flags=CANDIDATE, mode=2, klass=classes[1])
    actions = b"".join(_a(kind, verdict) for kind, verdict, _ in (stable, candidate))
    head = bytes([1, 2, 0, 0]) + number.to_bytes(8, "big") + bytes(16)
    return frame(head + leaves + (4).to_bytes(4, "big") + b"KNO1" + actions)


def _a(kind: int, verdict: int) -> bytes:
    a = b"KNA1" + bytes([verdict, 0, 0, 1, int(verdict == 2), 0, 0]) if kind == DECISION else b""
    return len(a).to_bytes(4, "big") + a


def drained(*latencies: dict[int, int]) -> Any:
    """An empty batch with durations of the pair."""
    columns = tuple([arm.get(bucket, 0) for bucket in range(124)] for arm in latencies)
    return SimpleNamespace(
        frames=b"", leaves=b"", entries=b"", clusters=b"", counts={}, discordant=(), latencies={(STABLE_PACK, CANDIDATE_PACK): columns}
    )


def told(counters: Counters) -> dict[str, Any]:
    (pair,), _ = counters.documents()
    return pair


def test_a_first_version_is_counted_where_the_point_refuses_all() -> None:
    """With baseline Deny the point itself answers REFUSED; the candidate's decisions are pairs all the same."""
    counters = Counters(lambda pack: ("payload",))
    for number in range(1, 6):
        counters.take(record(number, (REFUSED, 2, NONE), (DECISION, 1, CANDIDATE_PACK)))
    counters.take(record(6, (REFUSED, 2, NONE), (UNAVAILABLE, 0, CANDIDATE_PACK)))
    pair = told(counters)
    assert (pair["pairs"], pair["clusters"], pair["errors"]) == (5, 5, 1)
    assert pair["any"] == {"newDenials": 0, "newAdmits": 0}


def test_pairs_are_covered_when_the_log_acknowledged_them_and_not_before() -> None:
    counters = Counters(lambda pack: ("payload",))
    for number in range(1, 4):
        counters.reach(Position(0, 100 * number))
        counters.take(record(number, (DECISION, 1, STABLE_PACK), (DECISION, 2, CANDIDATE_PACK)))
        counters.mark()
    counters.cover(Position(0, 199))
    assert (told(counters)["pairs"], told(counters)["covered"]) == (3, 1)
    counters.cover(Position(0, 300))
    assert told(counters)["covered"] == 3


def test_a_candidate_that_parks_is_told_and_is_no_error() -> None:
    counters = Counters(lambda pack: ("payload",))
    counters.take(record(1, (DECISION, 1, STABLE_PACK), (PARK, 0, CANDIDATE_PACK), classes=(1, 2)))
    counters.take(record(2, (DECISION, 1, STABLE_PACK), (PARK, 0, CANDIDATE_PACK), classes=(2, 3)))
    pair = told(counters)
    assert (pair["pairs"], pair["parked"], pair["errors"]) == (0, 2, 0)


def test_what_both_leave_to_a_tier_that_is_away_is_no_fault_of_the_candidate() -> None:
    """The agent is killed in canary: the enforced arm is parked for good, the observed one is decided when the agent is back."""
    counters = Counters(lambda pack: ("payload",))
    counters.take(record(1, (DECISION, 1, STABLE_PACK), (PARK, 0, CANDIDATE_PACK), classes=(2, 2)))
    pair = told(counters)
    assert (pair["pairs"], pair["parked"], pair["errors"]) == (0, 0, 0)


def test_a_route_that_one_pack_does_not_know_is_a_difference() -> None:
    """By direction, under the pseudo-guard `route`; where both say no nothing differs."""
    counters = Counters(lambda pack: ("payload",))
    counters.take(record(1, (REFUSED, 2, STABLE_PACK), (DECISION, 1, CANDIDATE_PACK)))
    counters.take(record(2, (DECISION, 1, STABLE_PACK), (REFUSED, 2, CANDIDATE_PACK)))
    counters.take(record(3, (REFUSED, 2, STABLE_PACK), (DECISION, 2, CANDIDATE_PACK)))
    counters.take(record(4, (DECISION, 2, STABLE_PACK), (REFUSED, 2, CANDIDATE_PACK)))
    counters.take(record(5, (REFUSED, 2, STABLE_PACK), (REFUSED, 2, CANDIDATE_PACK)))
    pair = told(counters)
    assert (pair["pairs"], pair["routed"], pair["errors"], pair["any"]) == (4, 4, 0, {"newDenials": 1, "newAdmits": 1})
    assert pair["guards"] == {"route": {"newDenials": 1, "newAdmits": 1}}
    assert pair["samples"] == {"newAdmits": [(1).to_bytes(16, "big").hex()], "newDenials": [(2).to_bytes(16, "big").hex()]}


def test_classes_are_counted_by_arm_and_together() -> None:
    counters = Counters(lambda pack: ("payload",))
    for number, (stable, candidate) in enumerate([(1, 1), (1, 3), (1, 3), (2, 1), (3, 3)]):
        counters.take(record(number, (DECISION, 1, STABLE_PACK), (DECISION, 1, CANDIDATE_PACK), (stable, candidate)))
    assert told(counters)["classes"] == {
        "stable": {"R1": 3, "W1": 1, "C1": 1},
        "candidate": {"R1": 2, "W1": 0, "C1": 3},
        "bothR1": 1,
    }


def test_durations_add_up_batch_by_batch() -> None:
    counters = Counters(lambda pack: ("payload",))
    counters.take(record(1, (DECISION, 1, STABLE_PACK), (DECISION, 1, CANDIDATE_PACK)))
    assert told(counters)["latency"] == {"stable": {}, "candidate": {}}
    counters.take_drained(drained({50: 2}, {50: 1, 84: 1}))
    counters.take_drained(drained({50: 1}, {84: 1}))
    assert told(counters)["latency"] == {"stable": {"50": 3}, "candidate": {"50": 1, "84": 2}}
