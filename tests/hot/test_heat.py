"""Heat: which predicates a decision touched, counted by the host's counters (hot_c/include/knhk_pack.h)."""

from __future__ import annotations

import pytest
from hot_plans import ATTR, BLANK, EX, a_map, guard, mapping, pack, plan, prop, ref
from hot_wire import bundle, literal, observation

TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
MAPS = mapping(a_map("m", [], BLANK, *(prop(name, ref(name, "*")) for name in "apq"), classes=("Thing",)))


def count(name: str) -> dict[str, object]:
    return {"op": "count", "p": name if ":" in name else EX + name, "min": 1, "max": None}


PLAN = plan([guard("g", count("p")), guard("h", count("a"))], [MAPS])


def test_predicates_are_those_that_guards_name_in_the_order_of_their_bytes() -> None:
    assert pack(PLAN).predicates == (TYPE, EX + "a", EX + "p")


def test_triples_are_counted_by_predicate() -> None:
    binding = pack(PLAN).bind()
    assert binding.heat(observation(b'{"p":["1","2","3"],"q":["1"]}')) == {TYPE: 1, EX + "p": 3}
    assert binding.heat(observation(b'{"a":["1","1"]}')) == {TYPE: 1, EX + "a": 1}, "a triple is in the graph once"
    assert binding.heat(observation(b"{}")) == {TYPE: 1}


@pytest.mark.parametrize("o", [b"", b"KNO1", observation(b"{}", route="unknown")])
def test_what_is_refused_touches_nothing(o: bytes) -> None:
    assert pack(PLAN).bind().heat(o) == {}


def test_triples_of_the_bundle_are_heat_too() -> None:
    data = bundle({EX + "u/a": [(EX + "limit", literal("5")), (EX + "limit", literal("6")), (EX + "else", literal("x"))]}, EX + "u/{}")
    on_caller = {"op": "on", "focus": {"k": "iri", "v": "https://knhk.dev/ns#caller"}, "arg": count("limit")}
    made = plan([guard("g", on_caller)], [MAPS], predicates=(EX + "limit",))
    assert pack(made).bind(data).heat(observation(b"{}", attributes={"sub": "a"})) == {TYPE: 1, EX + "limit": 2}


def test_a_closed_guard_names_what_the_mapping_makes() -> None:
    closed = {"op": "closed", "allowed": [EX + "p"]}
    made = plan([guard("g", closed)], [MAPS])
    assert set(pack(made).predicates) >= {EX + "a", EX + "p", EX + "q"}
    assert pack(made).bind().heat(observation(b'{"q":["1","2"]}'))[EX + "q"] == 2


def test_attributes_are_heat() -> None:
    on_request = {"op": "on", "focus": {"k": "iri", "v": "https://knhk.dev/ns#request"}, "arg": count(ATTR + "action")}
    made = plan([guard("g", on_request)], [MAPS])
    assert pack(made).bind().heat(observation(b"{}", attributes={"action": "approve"})) == {TYPE: 1, ATTR + "action": 1}


def test_counting_changes_no_decision() -> None:
    binding, o = pack(PLAN).bind(), observation(b'{"p":["1"]}')
    before = binding.decide(o)
    binding.heat(o)
    assert binding.decide(o) == before
