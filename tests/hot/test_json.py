"""Guard 0: the body is strict JSON of the form that the mapping needs, or the request is denied with where and what."""

from __future__ import annotations

import json

import pytest
from hot_json import ALLOW, BAD, DENY, GOOD, MAPS
from hot_plans import EX, bindings, failing, guard, mapping, plan
from hot_wire import observation


@pytest.mark.parametrize("body", GOOD)
def test_strict_json_of_the_right_form_passes(body: bytes) -> None:
    assert failing(ALLOW, observation(body)) == set()


@pytest.mark.parametrize("body", list(BAD))
def test_other_bodies_are_denied_with_where_and_what(body: bytes) -> None:
    o = observation(body)
    assert failing(ALLOW, o) == {"payload"}
    binding = bindings(ALLOW)[0]
    decision = binding.decide(o)
    assert decision.verdict == 2
    (entry,) = binding.explain(o, decision.a)
    where, must = BAD[body]
    assert entry["guard"] == entry["rule"] == "payload"
    assert entry["path"].startswith(where)
    assert must in entry["message"]


def test_depth_counts_containers() -> None:
    assert failing(ALLOW, observation(b'{"z":' + b"[" * 63 + b"]" * 63 + b"}")) == set()
    assert failing(ALLOW, observation(b'{"z":' + b"[" * 64 + b"]" * 64 + b"}")) == {"payload"}
    assert failing(ALLOW, observation(b"[" * 500_000)) == {"payload"}


def test_unknown_members_are_denied_when_the_mapping_says_so() -> None:
    assert failing(DENY, observation(b'{"a":1,"lines":[{"n":2,"tags":["x"]}],"deep":{"er":1}}')) == set()
    for body, where in ((b'{"b":1}', "/b"), (b'{"lines":[{"m":0}]}', "/lines/0/m"), (b'{"deep":{"er":1,"x/~":2}}', "/deep/x~1~0")):
        o = observation(body)
        binding = bindings(DENY)[0]
        assert failing(DENY, o) == {"payload"}
        assert binding.explain(o, binding.decide(o).a)[0]["path"] == where


@pytest.mark.parametrize("count", [8, 9, 100, 50_000])
def test_one_repeated_name_among_many_is_found(count: int) -> None:
    names = [f"m{i}" for i in range(count)]
    whole = json.dumps(dict.fromkeys(names, 0)).encode()
    assert failing(ALLOW, observation(whole)) == set()
    assert failing(ALLOW, observation(whole[:-1] + b',"m3":0}')) == {"payload"}


def test_names_made_to_collide_cost_no_quadratic_time() -> None:
    """They either pass or go to the tier below; this input would take minutes if each name were compared with each."""
    names = {f"{i:08}" + "x" * 8 for i in range(30_000)}
    body = json.dumps(dict.fromkeys(sorted(names), 1)).encode()
    assert failing(ALLOW, observation(body)) in (set(), 2)


def test_a_route_without_mapping_takes_no_body() -> None:
    assert failing(ALLOW, observation(b"", route="bare")) == set()
    assert failing(ALLOW, observation(b"{}", route="bare")) == {"payload"}


def test_unknown_routes_are_refused() -> None:
    assert failing(ALLOW, observation(b"{}", route="other")) == -4
    assert failing(ALLOW, observation(b"{}", route="")) == -4


def test_when_guard_0_fails_no_other_guard_is_set() -> None:
    made = plan([guard("g", {"op": "const", "value": False})], [mapping(*MAPS)], [{"kind": "request"}])
    assert failing(made, observation(b"{}")) == {"g"}
    assert failing(made, observation(b"{")) == {"payload"}


def test_long_values_are_cut_between_characters() -> None:
    body = json.dumps({"link": "é" * 500}, ensure_ascii=False).encode()
    binding = bindings(ALLOW)[0]
    (entry,) = binding.explain(observation(body), binding.decide(observation(body)).a)
    assert entry["value"] == "é" * 128 + "…"
    assert EX not in entry["value"]
