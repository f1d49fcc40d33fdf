"""Access rules in RDF, compiled, against the same tables in OPA (Rego) and Cedar: three domains, 1,500 requests each, same answers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from domains import DOMAINS, HEAD, TEMPLATE, Domain, Request
from engines import cedar, opa

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.canonical import sha256_hex
from knhk_gen.bundle import build
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import OK, Binding, Pack
from knhk_hot.toolchain import HOST, link_pack
from knhk_runtime.tiers.evaluator import Evaluator
from oracle.observation import observation

REQUESTS = 1500
SEED = 20260302


def plan_of(domain: Domain) -> GuardPlan:
    sources = (
        Source("rules", "abac", domain.rules, "rules.ttl"),
        Source("m", "mapping", domain.mapping, "m.yaml", media="application/yaml"),
    )
    return lower(PackSources("test", domain.name, "1.0.0", sources, {"r": "m"}))


def encoded(request: Request, bundle: bytes) -> bytes:
    attributes = {"sub": request.sub, "action": request.action, **request.attributes}
    digest = bytes.fromhex(sha256_hex(bundle))
    return observation(request.body(), attributes, region=request.region, time_ns=request.time_ns, bundle=digest)


def verdicts(bindings: list[Binding], o: bytes) -> bool:
    """What every kernel variant says; they must agree to the byte."""
    decisions = [binding.decide(o) for binding in bindings]
    assert {d.status for d in decisions} == {OK}
    assert len({d.a for d in decisions}) == 1
    return decisions[0].verdict == 1


@pytest.mark.parametrize("domain", DOMAINS, ids=[d.name for d in DOMAINS])
@pytest.mark.xdist_group("opa")
def test_the_same_decision_table_gives_the_same_answers(domain: Domain) -> None:
    plan, bundle = plan_of(domain), build(domain.bundle, "bundle.ttl", TEMPLATE)
    assert {g["class"] for g in plan.document["guards"]} == {"R1"}
    pack = Pack.load(link_pack(emit(plan), HOST))
    bindings = [pack.bind(bundle, kernel=name) for name in pack.variants]
    cold = Evaluator(plan.document)
    engines = {"OPA": opa(domain), "Cedar": cedar(domain)}
    rng = random.Random(SEED)
    seen: Counter[tuple[str, bool]] = Counter()
    for i in range(REQUESTS):
        request = domain.draw(rng)
        o = encoded(request, bundle)
        ours = verdicts(bindings, o)
        theirs = {name: engine(request) for name, engine in engines.items()}
        assert set(theirs.values()) == {ours}, f"seed {SEED}, request {i}: ours {ours}, {theirs}: {request}"
        if i % 10 == 0:
            assert (not cold.judge(bindings[0].graph(o)).failing) == ours, request
        seen[request.action, ours] += 1
    ruled = {action for action, _ in seen} - {"list"}
    assert all(seen[action, answer] >= 5 for action in ruled for answer in (True, False)), seen


def test_a_window_moves_with_its_offset_over_midnight_and_the_end_of_the_week() -> None:
    """knhk:time is UTC; the window's own offset moves it, over midnight and over the week's end too."""
    rules = (
        HEAD
        + """ex:P a abac:Policy ; abac:scope "go" ; abac:rule ex:r .
ex:r a abac:Permission ; abac:action "go" ;
  abac:window [ abac:weekday "Mon" ; abac:from "00:00" ; abac:until "00:01" ; abac:zone "+14:00" ] ."""
    )
    plan = lower(PackSources("t", "w", "1.0.0", (Source("rules", "abac", rules, "r.ttl"),), {"r": None}))
    pack = Pack.load(link_pack(emit(plan), HOST))
    bindings = [pack.bind(kernel=name) for name in pack.variants]
    cold = Evaluator(plan.document)
    sunday_1000_utc = 1_772_964_000  # 2026-03-08T10:00:00Z is Monday 00:00 at +14:00
    wanted = {-1: False, 0: True, 59: True, 60: False, 7 * 86400: True, -7 * 86400: True, 86400: False}
    for shift, admitted in wanted.items():
        o = observation(b"", {"action": "go"}, time_ns=(sunday_1000_utc + shift) * 10**9)
        assert verdicts(bindings, o) == admitted, shift
        assert (not cold.judge(bindings[0].graph(o)).failing) == admitted, shift
    assert verdicts(bindings, observation(b"", {"action": "go"}, time_ns=3 * 86400 * 10**9 + 10 * 3600 * 10**9)), "1970-01-04 was a Sunday"
