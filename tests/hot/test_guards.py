"""Every form of E and V (formats/guardplan.md) on inputs for which it holds and for which it does not, in every variant."""

from __future__ import annotations

import json

import pytest
from hot_guards import CASES, FALSE, MAP, NUM, TRUE, numeric, one, some
from hot_plans import EX, Json, bindings, failing, guard, iri, plan
from hot_wire import observation


@pytest.mark.parametrize(("expr", "holds", "fails", "escapes"), CASES)
def test_form(expr: Json, holds: list[bytes], fails: list[bytes], escapes: list[bytes]) -> None:
    targets: list[Json] = [{"kind": "class", "classes": [EX + "Thing"]}, {"kind": "class", "classes": [EX + "Part"]}]
    made = plan([guard("g", expr)], [MAP], targets)
    attributes = {"action": "create"}
    for body in holds:
        assert failing(made, observation(body, attributes=attributes)) == set(), body
    for body in fails:
        assert failing(made, observation(body, attributes=attributes)) == {"g"}, body
    for body in escapes:
        assert failing(made, observation(body, attributes=attributes)) == 2, body


@pytest.mark.parametrize(
    ("target", "body", "fails"),
    [
        ({"kind": "class", "classes": [EX + "Thing", EX + "Sub"]}, one(), True),
        ({"kind": "class", "classes": [EX + "Sub"]}, one(), False),
        ({"kind": "node", "node": iri("nowhere")}, b"{}", True),
        ({"kind": "node", "node": iri("i/1")}, one(s=["x"]), True),
        ({"kind": "subjectsOf", "predicate": EX + "s"}, one(s=["x"]), True),
        ({"kind": "subjectsOf", "predicate": EX + "s"}, one(), False),
        ({"kind": "request"}, b"{}", True),
    ],
)
def test_targets(target: Json, body: bytes, fails: bool) -> None:
    made = plan([guard("g", FALSE)], [MAP], [target])
    assert failing(made, observation(body)) == ({"g"} if fails else set())


def test_a_node_target_sees_the_values_of_a_subject_of_the_payload() -> None:
    made = plan([guard("g", {"op": "count", "p": EX + "s", "min": 1, "max": None})], [MAP], [{"kind": "node", "node": iri("i/1")}])
    assert failing(made, observation(one(s=["x"]))) == set()
    assert failing(made, observation(one())) == {"g"}


def test_lesser_severity_sets_its_bit_and_admits() -> None:
    made = plan([guard("g", FALSE, severity="Warning"), guard("h", TRUE)], [MAP])
    assert failing(made, observation(one())) == {"g"}
    assert {b.decide(observation(one())).verdict for b in bindings(made)} == {1}


def test_cold_guards_wait_for_the_tier_below_unless_r1_denies() -> None:
    lesser = guard("a", FALSE, severity="Warning")
    some_s = guard("g", {"op": "count", "p": EX + "s", "min": 1, "max": None})
    made = plan([lesser, guard("c", klass="C1"), guard("w", klass="W1"), some_s], [MAP])
    binding = bindings(made)[0]
    denied, cold = binding.decide(observation(one())), binding.decide(observation(one(s=["x"])))
    assert (denied.status, denied.verdict, denied.klass, denied.failing_guards) == (0, 2, 1, (1, 3))
    assert (cold.status, cold.verdict, cold.klass, cold.failing_guards) == (1, 0, 3, (1,))  # what R1 found, for the tier below to complete
    assert failing(made, observation(b"{")) == {"payload"}


def test_many_guards_and_many_nodes() -> None:
    guards = [guard(f"g{i:04}", some("i", numeric(i * NUM, None))) for i in range(1024)]
    made = plan(guards, [MAP])
    body = json.dumps({"things": [{"id": str(k), "i": [str(n) for n in range(k, k + 40)]} for k in range(60)]}).encode()
    assert failing(made, observation(body)) == {f"g{i:04}" for i in range(40, 1024)}
