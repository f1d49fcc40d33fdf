"""Translation validation of a pack with every R1 form of a query, and of the three domains of access rules: no difference is found.

The forms are those of tests/compiler/test_ask.py over the mapping of the random packs, all in one pack.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from knhk.model.arrows import PackSources, SharedObject, Source
from knhk.reconcilers.proving import Proof, loaded, prove
from knhk_gen.bundle import build
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.toolchain import HOST, link_pack
from oracle.strategies import MAPPING

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "access")]
from domains import DOMAINS, TEMPLATE, Domain  # noqa: E402

CASES = int(os.environ.get("KNHK_CASES", "10000")) // 80
EX = "PREFIX ex: <https://e.x/>\n"
FORMS = (
    "$this ex:int 1",
    "$this ex:any ?x",
    "$this ex:any ?x ; ex:also ?y",
    "$this ex:any ?x ; ex:also ?x",
    "$this ex:dec ?x FILTER(?x >= 1)",
    "$this ex:int ?x FILTER(7 > ?x)",
    "$this ex:dec ?x FILTER(?x > -1 && ?x < 7)",
    "$this ex:int ?x FILTER(!(?x > 1 || ?x = 0))",
    "$this ex:int ?x FILTER(?x = 1 || ?x = 7) FILTER(?x != 7)",
    "$this ex:int ?x ; ex:dec ?y FILTER(?x > 1 || ?y > 1)",
    "$this ex:int ?x ; ex:dec ?y FILTER(!(?x > 1 && ?y > 1))",
    "$this ex:int ?x FILTER(?x IN (1, 7))",
    "$this ex:int ?x FILTER(?x NOT IN (1, 7))",
    "$this ex:date ?x FILTER(?x < '2024-02-29'^^xsd:date)",
    "$this ex:time ?x FILTER(?x <= '2024-01-01T00:00:00Z'^^xsd:dateTime)",
    "$this ex:flag ?x FILTER(?x = true)",
    "$this ex:label ?x FILTER(?x = 'a')",
    "$this ex:label ?x FILTER(?x != 'EUR'@en)",
    "$this ex:label ?x FILTER(sameTerm(?x, 'a'))",
    "$this ex:label ?x FILTER(langMatches(lang(?x), 'en'))",
    "$this ex:label ?x FILTER(lang(?x) = '')",
    "$this ex:label ?x FILTER(datatype(?x) = xsd:string)",
    "$this ex:link ?x FILTER(?x = ex:a)",
    "$this ex:link ?x FILTER(?x NOT IN (ex:a, ex:b))",
    "$this ex:any ?x FILTER(isIRI(?x))",
    "$this ex:any ?x FILTER(isNumeric(?x))",
    "$this ex:int ?x FILTER NOT EXISTS { $this ex:dec 1 }",
    "$this ex:int ?x FILTER EXISTS { $this ex:dec ?y FILTER(?y > 1) }",
    "$this ex:int ?x FILTER(?x > 2 || NOT EXISTS { $this ex:flag ?y })",
    "{ $this ex:int 1 } UNION { $this ex:flag true }",
    "$this ex:int ?x OPTIONAL { $this ex:dec ?y } FILTER(!bound(?y))",
    "$this ex:int ?x OPTIONAL { $this ex:dec ?y FILTER(?y > 1) } FILTER(bound(?y) || ?x = 1)",
    "VALUES ?x { 1 7 } $this ex:int ?x",
    "?s ex:int 7",
    "FILTER NOT EXISTS { $this ex:any ?x }",
)


def proven(sources: PackSources, bundle: bytes | None = None, callers: tuple[str, ...] = (), cases: int = CASES) -> Proof:
    plan = lower(sources)
    assert {guard["id"]: guard["why"] for guard in plan.document["guards"] if guard["class"] != "R1"} == {}
    under = loaded(plan, (SharedObject("amd64", link_pack(emit(plan), HOST)),), "amd64", bundle)
    return prove(sources, under, (), callers, cases, seed=20261125)


@pytest.mark.slow
def test_every_r1_form_of_a_query_is_what_two_engines_say() -> None:
    asks = [
        Source(f"q{i:02}", "ask", f"{EX}ASK {{ {form} }}", f"q{i:02}", media="application/sparql-query", target="https://e.x/Thing")
        for i, form in enumerate(FORMS)
    ]
    mapping = Source("m", "mapping", MAPPING, "m", media="application/yaml")
    proof = proven(PackSources("test", "forms", "1.0.0", (*asks, mapping), {"r": "m"}))
    assert proof.disagreement is None, proof.disagreement.fault()
    assert proof.guards >= len(FORMS) // 3, f"{proof.guards} of {len(FORMS)} were seen to hold and to fail"


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS, ids=[d.name for d in DOMAINS])
def test_access_rules_are_what_their_words_say(domain: Domain) -> None:
    sources = PackSources(
        "test", domain.name, "1.0.0",
        (Source("rules", "abac", domain.rules, "rules"), Source("m", "mapping", domain.mapping, "m", media="application/yaml")), {"r": "m"},
    )  # fmt: skip
    proof = proven(sources, build(domain.bundle, "bundle", TEMPLATE), tuple(domain.users), cases=max(400, CASES))
    assert proof.disagreement is None, proof.disagreement.fault()
    assert proof.guards == proof.all_guards, proof.document()
