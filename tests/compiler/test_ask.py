"""ASK rules: classes by the committed table, and the answers of rdflib on random graphs."""

from __future__ import annotations

import random

import pytest
from packs import ask, failing, faults, guards, plan
from rdflib import Graph, Literal, URIRef

from oracle.judge import RDF_TYPE, ask_fails

EX = "PREFIX ex: <https://e.x/> PREFIX xsd: <http://www.w3.org/2001/XMLSchema#> "
T = "https://e.x/T"

R1 = [
    "ASK { $this ex:p 1 }",
    "ASK { $this ex:p ?x }",
    "ASK { $this ex:p ?x ; ex:q ?y }",
    "ASK { $this ex:p ?x ; ex:q ?x }",
    "ASK { $this ex:p ?x FILTER(?x >= 2) }",
    "ASK { $this ex:p ?x FILTER(2 > ?x) }",
    "ASK { $this ex:p ?x FILTER(?x > 1 && ?x < 3) }",
    "ASK { $this ex:p ?x FILTER(!(?x > 1 || ?x = 0)) }",
    "ASK { $this ex:p ?x FILTER(?x = 1 || ?x = 3) FILTER(?x != 3) }",
    "ASK { $this ex:p ?x ; ex:q ?y FILTER(?x > 1 || ?y > 1) }",
    "ASK { $this ex:p ?x ; ex:q ?y FILTER(!(?x > 1 && ?y > 1)) }",
    "ASK { $this ex:p ?x FILTER(?x IN (1, 3)) }",
    "ASK { $this ex:p ?x FILTER(?x NOT IN (1, 3)) }",
    "ASK { $this ex:s ?x FILTER(?x = 'a') }",
    "ASK { $this ex:s ?x FILTER(?x != 'a') }",
    "ASK { $this ex:s ?x FILTER(sameTerm(?x, 'a')) }",
    "ASK { $this ex:s ?x FILTER(isIRI(?x)) }",
    "ASK { $this ex:s ?x FILTER(!isLiteral(?x)) }",
    "ASK { $this ex:s ?x FILTER(langMatches(lang(?x), 'en')) }",
    "ASK { $this ex:s ?x FILTER(lang(?x) = '') }",
    "ASK { $this ex:s ?x FILTER(datatype(?x) = xsd:string) }",
    "ASK { $this ex:p ?x FILTER(isNumeric(?x)) }",
    "ASK { $this ex:p ?x FILTER NOT EXISTS { $this ex:q 2 } }",
    "ASK { $this ex:p ?x FILTER EXISTS { $this ex:q ?y FILTER(?y > 1) } }",
    "ASK { $this ex:p ?x FILTER(?x > 2 || NOT EXISTS { $this ex:q ?y }) }",
    "ASK { { $this ex:p 1 } UNION { $this ex:q 2 } }",
    "ASK { $this ex:p ?x OPTIONAL { $this ex:q ?y } }",
    "ASK { $this ex:p ?x OPTIONAL { $this ex:q ?y } FILTER(!bound(?y)) }",
    "ASK { $this ex:p ?x OPTIONAL { $this ex:q ?y FILTER(?y > 1) } FILTER(bound(?y) || ?x = 1) }",
    "ASK { VALUES ?x { 1 3 } $this ex:p ?x }",
    "ASK { $this ex:p ?x BIND(1 AS ?y) }",
    "ASK { ?s ex:q 2 }",
    "ASK { ?s ?p ?o }",
    "ASK { $this ex:p ?x FILTER(?nobody = 1) }",
    "ASK { FILTER NOT EXISTS { $this ex:p ?x } }",
]
LOWER = [
    ("ASK { $this ex:p ?x . ?x ex:q ?y }", "W1"),
    ("ASK { $this ex:p/ex:q ?x }", "W1"),
    ("ASK { $this ex:p+ ?x }", "C1"),
    ("ASK { $this ex:p ?x FILTER(regex(?x, 'a')) }", "W1"),
    ("ASK { $this ex:p ?x FILTER(?x + 1 > 2) }", "W1"),
    ("ASK { $this ex:p ?x ; ex:q ?y FILTER(?x < ?y) }", "W1"),
    ("ASK { $this ex:p ?x FILTER(lang(?x) = 'en') }", "W1"),
    ("ASK { $this ex:p ?x FILTER NOT EXISTS { $this ex:q ?x } }", "C1"),
    ("ASK { ?s ex:p ?x ; ex:q ?y }", "C1"),
    ("ASK { { SELECT ?x WHERE { $this ex:p ?x } LIMIT 2 } }", "C1"),
    ("ASK { $this ?p 1 }", "C1"),
]


def random_graph(rng: random.Random) -> Graph:
    """One to three focus nodes with small values of several kinds."""
    g = Graph()
    strings = [Literal("a"), Literal("b"), Literal("a", lang="en"), Literal("b", lang="en-GB"), URIRef("https://e.x/a")]
    for i in range(rng.choice((1, 1, 2, 3))):
        focus = URIRef(f"https://e.x/f{i}")
        g.add((focus, RDF_TYPE, URIRef(T)))
        for p in ("p", "q"):
            for n in rng.sample(range(4), rng.choice((0, 1, 1, 2))):
                g.add((focus, URIRef(f"https://e.x/{p}"), Literal(n)))
        for s in rng.sample(strings, rng.choice((0, 1, 2))):
            g.add((focus, URIRef("https://e.x/s"), s))
    return g


@pytest.mark.parametrize("query", R1)
def test_an_r1_rule_answers_as_rdflib_does(query: str) -> None:
    made = plan(ask(EX + query, T))
    (guard,) = guards(made).values()
    assert guard["class"] == "R1", guard["why"]
    rng = random.Random(7)
    answers = set()
    for _ in range(60):
        g = random_graph(rng)
        wanted = ask_fails(g, EX + query, T)
        assert bool(failing(made, g.serialize(format="nt"))) == wanted, g.serialize(format="nt")
        answers.add(wanted)
    constant = query in ("ASK { ?s ?p ?o }", "ASK { $this ex:p ?x FILTER(?nobody = 1) }")
    assert len(answers) == (1 if constant else 2), "the graphs do not tell right from wrong"


@pytest.mark.parametrize(("query", "klass"), LOWER)
def test_other_forms_fall_to_a_slower_class_with_their_text(query: str, klass: str) -> None:
    made = plan(ask(EX + query, T))
    (guard,) = guards(made).values()
    assert (guard["class"], "expr" in guard) == (klass, False)
    assert made.document["cold"]["asks"]["rule"].endswith(query)


COUNTS = [
    ("ASK { { SELECT (COUNT(?x) AS ?n) WHERE { ex:a ex:p ?x } } FILTER(?n >= 2) }", {0: False, 1: False, 2: True, 3: True}),
    ("ASK { { SELECT (COUNT(*) AS ?n) WHERE { ex:a ex:p ?x } } FILTER(?n != 1) }", {0: True, 1: False, 2: True}),
    ("ASK { { SELECT (COUNT(?x) AS ?n) WHERE { ex:a ex:p ?x } HAVING(COUNT(?x) < 2) } }", {0: True, 1: True, 2: False}),
]


@pytest.mark.parametrize(("query", "answers"), COUNTS)
def test_counts_of_one_predicate(query: str, answers: dict[int, bool]) -> None:
    made = plan(ask(EX + query))
    assert guards(made)["rule"]["class"] == "R1"
    for n, holds in answers.items():
        g = Graph()
        for i in range(n):
            g.add((URIRef("https://e.x/a"), URIRef("https://e.x/p"), Literal(i)))
        assert (not failing(made, g.serialize(format="nt"))) == holds


FAULTS = [
    ("ASK {\n $this nope:p 1 }", "rule.rq:2"),
    ("ASK { $this ex:p ?x", "rule.rq:1"),
    ("SELECT * { ?s ?p ?o }", "must be an ASK query"),
    ("ASK { $this ex:p ?x\n FILTER(?x < NOW()) }", "rule.rq:2: NOW: must not use NOW"),
    ("ASK { $this ex:p ?x FILTER(RAND() < 1) }", "must not use RAND"),
    ("ASK { $this ex:p ?x BIND(BNODE() AS ?b) }", "must not use BNODE"),
    ("ASK { SERVICE <http://e.x/> { $this ex:p ?x } }", "must not use SERVICE"),
    ("ASK { GRAPH ex:g { $this ex:p ?x } }", "must not use GRAPH"),
    ("ASK FROM ex:g { $this ex:p ?x }", "must not use FROM"),
    ("ASK { $this ex:p ?x FILTER(ex:own(?x)) }", "must be a function of SPARQL 1.1"),
    ("ASK { " + "{ " * 400 + "}" * 401, "rule.rq:1"),
]


@pytest.mark.parametrize(("query", "fault"), FAULTS, ids=[f[1] for f in FAULTS])
def test_a_rule_that_no_tier_may_evaluate_is_refused(query: str, fault: str) -> None:
    found = faults(ask(EX + query, T))
    assert any(fault in f for f in found), found


def test_this_needs_a_target() -> None:
    assert "must have a target class" in faults(ask(EX + "ASK { $this ex:p 1 }"))[0]


def test_what_a_rule_reads_of_the_data_bundle_is_in_the_plan() -> None:
    query = "ASK { knhk:caller ex:level ?l . ex:limits ex:top 5 . knhk:request attr:sub ?s }"
    made = plan(ask(EX + query)).document
    assert made["bundle"]["subjects"] == ["https://e.x/limits"]
    assert {"https://e.x/level", "https://e.x/top"} <= set(made["bundle"]["predicates"])
