"""CONSTRUCT with at most 8 template triples: made by the tables where the body factors, elsewhere by the cold tier; beside rdflib."""

from __future__ import annotations

import json
from functools import cache
from unittest.mock import patch

import pytest
import rdflib
from packs import faults, guards, plan, shapes
from rdflib import Graph, URIRef
from rdflib.plugins.sparql import prepareQuery
from rdflib.plugins.sparql.sparql import Query

from knhk.model.arrows import GuardPlan, Source
from knhk_gen.emit import emit
from knhk_hot.pack import COLD, ESCAPE, OK, Binding, Pack
from knhk_hot.toolchain import HOST, link_pack
from knhk_runtime.record import parse_action
from knhk_runtime.tiers.decide import Decided, decide
from knhk_runtime.tiers.evaluator import Evaluator
from oracle.judge import ATTR, KNHK, RDF_TYPE
from oracle.observation import observation
from oracle.strategies import MAPPING, payloads

EX = "PREFIX ex: <https://e.x/> PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>\n"
THING = "https://e.x/Thing"
OUT = "https://out.x/"

COMPILED = [
    "CONSTRUCT { $this <https://out.x/seen> true } WHERE { $this ex:any ?x }",
    "CONSTRUCT { $this <https://out.x/any> ?x } WHERE { $this ex:any ?x }",
    "CONSTRUCT { $this <https://out.x/big> ?x ; <https://out.x/ok> 'yes'@en } WHERE { $this ex:dec ?x FILTER(?x >= 7) }",
    "CONSTRUCT { $this <https://out.x/d> ?d ; <https://out.x/t> ?u } WHERE { $this ex:date ?d ; ex:until ?u "
    "FILTER(?d < '2023-01-01'^^xsd:date) }",
    "CONSTRUCT { $this <https://out.x/d> ?d ; <https://out.x/n> ?n } WHERE { $this ex:any ?n OPTIONAL { $this ex:date ?d } }",
    "CONSTRUCT { $this <https://out.x/l> ?l } WHERE { $this ex:label ?l FILTER(langMatches(lang(?l), 'en') || ?l = 'EUR') }",
    "CONSTRUCT { ex:all <https://out.x/has> $this . $this <https://out.x/in> ex:all } "
    "WHERE { { $this ex:flag true } UNION { $this ex:int 7 } }",
    "CONSTRUCT { $this <https://out.x/kind> ?k } WHERE { VALUES ?k { ex:a ex:b } $this ex:link ?k }",
    "CONSTRUCT { $this <https://out.x/link> ?l } WHERE { $this ex:link ?l FILTER NOT EXISTS { $this ex:flag false } }",
    "CONSTRUCT { $this <https://out.x/who> ?s } WHERE { $this ex:any ?x . knhk:request attr:sub ?s }",
]
PREBOUND = [
    ("CONSTRUCT { ?p <https://out.x/of> $this } WHERE { $this ex:part ?p }", "W1"),
    ("CONSTRUCT { $this <https://out.x/d> ?d } WHERE { $this ex:part ?p . ?p ex:dec ?d }", "W1"),
    ("CONSTRUCT { $this <https://out.x/x> ?x } WHERE { $this ex:any ?x FILTER(strlen(str(?x)) > 2) }", "W1"),
    ("CONSTRUCT { $this <https://out.x/x> ?y } WHERE { $this ex:any ?x BIND(ucase(str(?x)) AS ?y) }", "W1"),
    ("CONSTRUCT { $this <https://out.x/x> ?x } WHERE { $this ex:any ?x } LIMIT 1", "C1"),
]


def source(query: str, name: str = "makes", target: str | None = THING) -> Source:
    return Source(name, "construct", EX + query, f"{name}.rq", media="application/sparql-query", target=target)


def planned(*sources: Source) -> GuardPlan:
    mapping = Source("m", "mapping", MAPPING, "m.yaml", media="application/yaml")
    return plan(*sources, mapping, routes={"r": "m"})


def bound(made: GuardPlan) -> tuple[list[Binding], Evaluator]:
    pack = Pack.load(link_pack(emit(made), HOST))
    return [pack.bind(kernel=name) for name in pack.variants], Evaluator(made.document)


def wanted(graph: bytes, *queries: str) -> set[bytes]:
    """Lines by rdflib, literals kept as they were written."""
    with patch.object(rdflib, "NORMALIZE_LITERALS", False), patch("rdflib.term.Literal.normalize", lambda self: self):
        data = Graph().parse(data=graph, format="nt")
        found = Graph()
        for query in map(_prepared, queries):
            for focus in data.subjects(RDF_TYPE, URIRef(THING)):
                for triple in data.query(query, initBindings={"this": focus}):  # type: ignore[dict-item]
                    found.add(triple)  # type: ignore[arg-type]
        return set(found.serialize(format="nt").encode().splitlines()) - {b""}


@cache
def _prepared(query: str) -> Query:
    return prepareQuery(EX + query, initNs={"knhk": KNHK, "attr": ATTR})


def thing(**members: object) -> bytes:
    return json.dumps({"things": [{"id": "1", **members}]}).encode()


def decided(bindings: list[Binding], cold: Evaluator, o: bytes) -> Decided:
    whole = [decide(binding, cold, o) for binding in bindings]
    assert len({made.a for made in whole}) == 1
    return whole[0]


@pytest.mark.parametrize("query", COMPILED)
def test_the_tables_make_what_sparql_makes(query: str) -> None:
    made = planned(source(query))
    (guard,) = guards(made).values()
    assert guard["class"] == "R1", guard["why"]
    bindings, cold = bound(made)
    sizes = set()
    for body in payloads(3, 40):
        o = observation(body, {"sub": "ann"})
        first = bindings[0].decide(o)
        if first.status == OK and 0 in first.failing_guards:
            continue
        graph = bindings[0].graph(o)
        answer = decided(bindings, cold, o)
        lines = wanted(graph, query)
        told = parse_action(answer.a)
        if len(lines) > 8:
            assert (told.verdict, told.failing, told.triples) == (2, (1,), ())
            assert answer.violations[0]["message"] == "the triples that makes makes must fit an action"
        else:
            assert (told.verdict, set(told.triples)) == (1, lines), body
        lower = cold.judge(graph, [1])
        assert lower.triples == told.triples, "the cold tier makes the same"
        assert cold.judge(graph + b"".join(line + b"\n" for line in told.triples), [1]) == lower, "what was made is no input"
        sizes.add(min(len(lines), 9))
    assert len(sizes) >= 2


@pytest.mark.parametrize(("query", "klass"), PREBOUND)
def test_other_bodies_are_left_to_the_cold_tier_with_the_reason(query: str, klass: str) -> None:
    made = planned(source(query))
    (guard,) = guards(made).values()
    assert guard["class"] == klass
    assert klass in guard["why"]
    bindings, cold = bound(made)
    some = 0
    for body in payloads(5, 40):
        o = observation(body)
        status = bindings[0].decide(o).status
        if status not in (COLD, ESCAPE):
            continue
        told = parse_action(decided(bindings, cold, o).a)
        lines = cold.judge(bindings[0].graph(o), [1]).triples
        assert told.triples == lines
        some += len(lines) > 0
    assert some > 0


def test_nine_triples_or_a_long_line_deny_and_make_nothing() -> None:
    made = planned(source("CONSTRUCT { $this <https://out.x/any> ?x } WHERE { $this ex:any ?x }"))
    bindings, cold = bound(made)

    def told(*values: str) -> tuple[int, int]:
        body = thing(any=list(values))
        answer = parse_action(decided(bindings, cold, observation(body)).a)
        assert bindings[0].decide(observation(body)).status == OK
        return answer.verdict, len(answer.triples)

    assert told(*"abcdefgh") == (1, 8)
    assert told(*"abcdefghi") == (2, 0)
    assert told(*"aaaaaaaaaaaa") == (1, 1)
    line = len('<https://e.x/t/1> <https://out.x/any> "" .')
    assert told("x" * (4096 - line)) == (1, 1)
    assert told("x" * (4097 - line)) == (2, 0)
    assert told("\n" * ((4096 - line) // 2 + 1)) == (2, 0), "the length is that of the escaped line"


def test_sources_share_the_eight_and_one_cold_source_takes_all_along() -> None:
    first = source("CONSTRUCT { $this <https://out.x/a> ?x } WHERE { $this ex:any ?x }", "first")
    second = source("CONSTRUCT { $this <https://out.x/b> ?x } WHERE { $this ex:any ?x }", "second")
    cold_one = source(PREBOUND[1][0], "third")
    assert {g["class"] for g in guards(planned(first, second)).values()} == {"R1"}
    made = planned(first, second, cold_one)
    assert {g["class"] for g in guards(made).values()} == {"W1"}
    bindings, cold = bound(planned(first, second))
    body = thing(any=list("abcd"))
    assert len(parse_action(decided(bindings, cold, observation(body)).a).triples) == 8
    body = thing(any=list("abcde"))
    assert parse_action(decided(bindings, cold, observation(body)).a).failing == (1, 2)


def test_a_denied_request_makes_nothing() -> None:
    rule = Source("rule", "ask", EX + "ASK { $this ex:flag true }", "rule.rq", media="application/sparql-query", target=THING)
    bindings, cold = bound(planned(source(COMPILED[0]), rule))
    for flag, count in ((True, 1), (False, 0)):
        body = thing(any=["a"], flag=[flag])
        assert len(parse_action(decided(bindings, cold, observation(body)).a).triples) == count


READS = "CONSTRUCT { $this ex:any 1 } WHERE { $this ex:int ?x }"


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("CONSTRUCT { $this ex:o _:b } WHERE { $this ex:p ?x }", "must not make blank nodes"),
        ("CONSTRUCT { $this ?x 1 } WHERE { $this ex:p ?x }", "must be an IRI: what is made"),
        ("CONSTRUCT { $this ex:o 1, 2, 3, 4, 5, 6, 7, 8, 9 } WHERE { $this ex:p ?x }", "must have at most 8 triples"),
        ("CONSTRUCT WHERE { $this ex:p ?x }", "must have a template"),
        ("CONSTRUCT { $this ex:p 1 } WHERE { $this ex:p ?x }", "must not be a predicate that a rule reads"),
        ("CONSTRUCT { $this a ex:Seen } WHERE { $this ex:p ?x }", "must not be a predicate that a rule reads"),
        ("CONSTRUCT { $this ex:o ?x } WHERE { $this ?p ?x }", "must not be a predicate that a rule reads"),
        ("CONSTRUCT { $this ex:o ?x } WHERE { $this ex:p ?x FILTER(?x < NOW()) }", "must not use NOW"),
        ("ASK { $this ex:p ?x }", "must be a CONSTRUCT query"),
        ("CONSTRUCT { $this ex:o ?x } WHERE { $this ex:p ?x", "must be a SPARQL 1.1 CONSTRUCT query"),
    ],
)
def test_what_cannot_be_replayed_or_would_feed_itself_is_refused(query: str, fault: str) -> None:
    found = faults(source(query))
    assert any(fault in f and f.startswith("makes.rq:") for f in found), found


def test_what_another_rule_reads_is_not_made() -> None:
    rule = Source("rule", "ask", EX + "ASK { $this ex:any 1 }", "rule.rq", media="application/sparql-query", target=THING)
    inverse = "sh:property [ sh:path [ sh:inversePath ex:any ] ; sh:maxCount 1 ]"
    shape, closed = (shapes(f"ex:S sh:targetClass ex:Thing ; {constraint} .") for constraint in (inverse, "sh:closed true"))
    assert faults(source(READS)) == []
    for other in (rule, shape, closed):
        assert "must not be a predicate that a rule reads" in faults(source(READS), other)[0]
