"""Mutants differ from their guard, and kernels judge them as their definitions do; what the mapping keeps anyway is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packs import EXAMPLES

from knhk.adapters.expectation_files import expectations
from knhk.adapters.pack_folder import find
from knhk.api import to_sources
from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.canonical import canonical
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.lowering import plan_of
from knhk.reconcilers.testing import observation
from knhk_gen.emit import emit
from knhk_gen.implied import implied
from knhk_gen.lower import lower
from knhk_gen.mutants import MAX_PER_GUARD, mutants, schemata
from knhk_hot.pack import OK, Pack
from knhk_hot.toolchain import HOST, link_pack
from knhk_runtime.record import parse_action
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph

PACKS = EXAMPLES / "packs"
SHAPES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <https://e.x/> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:S a sh:NodeShape ; sh:targetClass ex:T ; sh:property [ sh:path ex:one ; sh:maxCount 1 ] , [ sh:path ex:many ; sh:maxCount 1 ] ,
  [ sh:path ex:twice ; sh:maxCount 1 ] , [ sh:path ex:sub ; sh:maxCount 1 ] , [ sh:path ex:subs ; sh:maxCount 1 ] ,
  [ sh:path ex:one ; sh:minCount 1 ] , [ sh:path ex:never ; sh:maxCount 0 ] ,
  [ sh:path ex:age ; sh:minInclusive 18 ; sh:maxExclusive 65 ] , [ sh:path ex:code ; sh:pattern "^[a-z]+$" ] .
"""
MAPPING = """prefixes: {ex: "https://e.x/"}
maps:
  - id: t
    iterator: "$.items[*]"
    subject: %s
    class: ex:T
    properties:
      ex:one: $.one
      ex:many: "$.many[*]"
      ex:twice: [$.a, $.b]
      ex:sub: {child: sub}
      ex:subs: {child: subs}
      ex:never: $.never
      ex:age: {path: $.age, datatype: xsd:decimal}
      ex:code: $.code
  - {id: sub, iterator: "$.items[*].sub", subject: {blank: true}, class: ex:U, properties: {}}
  - {id: subs, iterator: "$.items[*].subs[*]", subject: {blank: true}, class: ex:U, properties: {}}
"""


def plan(subject: str = "{blank: true}") -> dict[str, Any]:
    mapping = Source("m", "mapping", MAPPING % subject, "m.yaml", media="application/yaml")
    return dict(lower(PackSources("t", "t", "1.0.0", (Source("s", "shapes", SHAPES, "s.ttl"), mapping), {"r": "m"})).document)


def test_what_each_mapping_keeps_anyway_is_told() -> None:
    def kept(document: dict[str, Any]) -> set[str]:
        return {document["guards"][i]["path"].removeprefix("ex:") for i in implied(document)}

    assert kept(plan()) == {"one", "sub"}
    assert kept(plan('{template: "https://e.x/{one}"}')) == set(), "two items of one name are one node"


def test_the_mistakes_that_an_author_could_have_made() -> None:
    document = plan()
    told: dict[str, set[str]] = {}
    for mutant in mutants(document):
        guard = document["guards"][mutant.guard]
        told.setdefault(f"{guard['path'].removeprefix('ex:')} {guard['component'].rpartition('#')[2]}", set()).add(mutant.what)
    assert told["age MinInclusiveConstraintComponent"] == {
        "the guard is dropped",
        "all values of age → some",
        "least bound up by 1",
        "least bound down by 1",
        "least bound inclusive → exclusive",
    }
    assert "most bound exclusive → inclusive" in told["age MaxExclusiveConstraintComponent"]
    assert told["one MinCountConstraintComponent"] == {"the guard is dropped", "least count of one up by 1"}
    assert told["code PatternConstraintComponent"] == {"the guard is dropped", "^ of the pattern dropped", "$ of the pattern dropped"}


@pytest.mark.parametrize("name", ["order", "clinical", "supply-chain"])
def test_kernels_judge_mutants_as_the_definitions_do(name: str) -> None:
    """Hundreds of rules that nobody wrote, on real payloads and changed ones: tables against exact arithmetic over RDF terms."""
    found = find(PACKS / name)
    document = plan_of(to_sources(found.pack)).document
    changed = [mutant for mutant in mutants(document) if mutant.expr is not None]
    assert len(changed) > 50
    whole = GuardPlan(schemata(document, changed))
    data = None if found.bundle is None else bundle_bytes(found.bundle)
    binding = Pack.load(link_pack(emit(whole), HOST)).bind(data)
    first, checked = len(document["guards"]), 0
    for case in expectations(Path(PACKS / name / "tests.yaml"), document).cases:
        o = observation(case, data).encode()
        decided = binding.decide(o)
        if decided.status != OK or 0 in parse_action(decided.a).failing:
            continue
        expressions = Expressions(document["targets"], Graph.parse(binding.graph(o)))
        for i, mutant in enumerate(changed):
            assert mutant.expr is not None
            passes = expressions.holds(document["guards"][mutant.guard]["target"], mutant.expr)
            assert passes == (first + i not in parse_action(decided.a).failing), (case.name, mutant)
            checked += 1
    assert checked > 1000


@pytest.mark.parametrize("name", ["order", "clinical", "supply-chain", "candidate", "opportunity"])
def test_mutants_differ_from_their_guard_and_are_few(name: str) -> None:
    document = plan_of(to_sources(find(PACKS / name).pack)).document
    every = mutants(document)
    assert every == mutants(document)
    for number, guard in enumerate(document["guards"]):
        mine = [canonical(m.expr) for m in every if m.guard == number and m.expr is not None]
        assert len(mine) == len(set(mine)) <= MAX_PER_GUARD
        assert canonical(guard.get("expr")) not in mine
