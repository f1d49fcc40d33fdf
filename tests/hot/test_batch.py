"""Batches: whatever the order, the split and the neighbours, each input is decided as it is alone, in every variant (knhk_pack.h)."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from hot_guards import CASES, MAP, one
from hot_plans import ATTR, EX, KNHK, Json, bindings, guard, iri, lit, plan
from hot_wire import bundle, literal, observation

from knhk_hot.pack import COLD, E_INPUT, E_ROUTE, ESCAPE, OK, Binding

SEED = 20261126
WINDOW = 64  # inputs whose A is written together
THING, PART = ({"kind": "class", "classes": [EX + name]} for name in ("Thing", "Part"))
REQUEST: Json = {"kind": "node", "node": iri(KNHK + "request")}
ON_REQUEST: Json = {"op": "some", "p": ATTR + "action", "test": {"t": "in", "terms": [lit("create")]}}
COUNT = {"op": "count", "p": EX + "n", "min": 1, "max": 1}


def every_form() -> Any:
    """All forms of guards on things, one on their parts, a cold one on parts, and one on the request that alone denies."""
    guards = [guard(f"g{i:03}", case.values[0], severity="Warning") for i, case in enumerate(CASES)]  # type: ignore[arg-type, union-attr]
    guards += [
        guard("part", COUNT, 1, severity="Warning"),
        guard("request", ON_REQUEST, 2),
        guard("zcold", target=1, klass="C1", severity="Info"),
    ]
    return plan(guards, [MAP], [THING, PART, REQUEST])


def inputs() -> list[bytes]:
    """Bodies of all forms, with and without attributes; hostile ones between them."""
    bodies: list[Any] = [body for case in CASES for part in case.values[1:] for body in part]  # type: ignore[union-attr]
    bodies += [json.dumps({"things": [{"id": str(i), "i": list(range(i % 4))} for i in range(n)]}).encode() for n in (0, 2, 7, 8, 9, 33)]
    made = [observation(body, attributes={"action": ("create", "x")[i % 2]} if i % 3 else {}) for i, body in enumerate(bodies)]
    hostile = [b"", b"{", b"[]", b"\xff", b'{"things":' + b"[" * 300, b'{"things":[{"id":"1","s":"' + b"a" * 100_000 + b'"}]}']
    made += [observation(body) for body in hostile]
    made += [observation(one(parts=[{"n": k} for k in range(n)]), attributes={"action": "create"}) for n in range(12)]
    return [*made, b"", b"KNO1", made[0] + b"x", observation(b"{}", route="nowhere"), observation(b"", route="bare")]


def alone(binding: Binding, given: list[bytes]) -> list[Any]:
    return [binding.decide(o) for o in given]


def test_every_order_and_split_gives_what_single_calls_give() -> None:
    given, chance, seen = inputs(), random.Random(SEED), Counter[int]()
    for binding in bindings(every_form()):
        expected = alone(binding, given)
        seen.update(d.status for d in expected)
        for size in (len(given), 2, 3, 8, 9, WINDOW, WINDOW + 1):
            order = chance.sample(range(len(given)), len(given))
            for first in range(0, len(order), size):
                some = order[first : first + size]
                assert binding.decide_batch([given[i] for i in some]) == [expected[i] for i in some], (SEED, binding.kernel, some)
    assert set(seen) == {OK, COLD, ESCAPE, E_INPUT, E_ROUTE}, f"{seen}: some status is not among the neighbours"


def test_an_explanation_of_a_batch_is_that_of_a_single_call() -> None:
    given = inputs()[::5]
    binding, *_ = bindings(every_form())
    for o, together, single in zip(given, binding.decide_batch(given), alone(binding, given), strict=True):
        if single.status == OK:
            assert binding.explain(o, together.a) == binding.explain(o, single.a)


@pytest.mark.parametrize("things", [1, 8, 50])
def test_guards_over_all_focus_nodes_stay_within_their_input(things: int) -> None:
    """FORALL and UNIQUE are of one input: what neighbours hold changes neither."""
    every = {"op": "forall", "target": 0, "arg": {"op": "count", "p": EX + "i", "min": 1, "max": 2}, "min": 2}
    made = plan([guard("all", every, 1), guard("unique", {"op": "unique", "p": EX + "s"})], [MAP], [THING, REQUEST])

    def body(values: int, same: bool) -> bytes:
        rows = [{"id": str(k), "i": list(range(values)), "s": ["x" if same else f"{values}-{k}"]} for k in range(things)]
        return observation(json.dumps({"things": rows}).encode())

    given = [body(values, same) for values in (0, 1, 2, 3) for same in (False, True)] * 9
    for binding in bindings(made):
        expected = alone(binding, given)
        assert binding.decide_batch(given) == expected
        assert len({d.a for d in expected}) == (1 if things == 1 else 4)


def test_facts_of_the_bundle_are_those_of_each_caller() -> None:
    data = bundle({EX + f"u/{i}": [(EX + "limit", literal(str(k))) for k in range(i % 4)] for i in range(20)}, EX + "u/{}")
    limited = {"op": "on", "focus": iri(KNHK + "caller"), "arg": {"op": "count", "p": EX + "limit", "min": 1, "max": 2}}
    made = plan([guard("limit", limited)], [MAP], predicates=(EX + "limit",))
    body = b'{"things":[{"id":"1"}]}'
    given = [observation(body, attributes={"sub": str(i % 23)}) for i in range(150)]
    for binding in bindings(made, data):
        expected = alone(binding, given)
        assert binding.decide_batch(given) == expected
        assert len({d.a for d in expected}) == 2
