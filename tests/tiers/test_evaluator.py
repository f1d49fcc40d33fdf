"""The cold tier against the compiler's plans and against pySHACL: every tier gives the same failing guards."""

from __future__ import annotations

import time
from typing import Any

import pyshacl
import pytest
import rdflib
from hypothesis import given, settings
from hypothesis import strategies as st

from knhk.model.arrows import PackSources, Source
from knhk_gen.lower import lower
from knhk_runtime.record import parse_action
from knhk_runtime.tiers.action import action_bytes
from knhk_runtime.tiers.decide import COLD, ESCAPE, OK, decide
from knhk_runtime.tiers.errors import InputRefused, ShapeError, Undecided
from knhk_runtime.tiers.evaluator import Evaluator
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph
from knhk_runtime.tiers.judgement import cold_guards, table_guards
from knhk_runtime.tiers.pool import PooledJudge, WarmEvaluator

PREFIXES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix ex: <urn:ex:> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
"""
SHAPES = """
ex:Small rdfs:subClassOf ex:Doc .
ex:shape a sh:NodeShape ; sh:targetClass ex:Doc ; sh:closed true ;
  sh:ignoredProperties ( <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> ) ;
  sh:property [ sh:path ex:a ; sh:minCount 1 ; sh:maxCount 2 ; sh:datatype xsd:integer ; sh:minInclusive 0 ; sh:maxExclusive 100 ] ;
  sh:property [ sh:path ex:b ; sh:nodeKind sh:Literal ; sh:minLength 2 ; sh:maxLength 4 ;
                sh:in ( "ab" "abc" "x" 7 ) ; sh:severity sh:Warning ] ;
  sh:property [ sh:path ex:c ; sh:languageIn ( "en" "de" ) ; sh:uniqueLang true ] ;
  sh:property [ sh:path ex:d ; sh:lessThan ex:a ; sh:disjoint ex:b ; sh:hasValue 1 ] ;
  sh:property [ sh:path ex:e ; sh:pattern "^[A-Z]+$" ; sh:class ex:Doc ] ;
  sh:property [ sh:path ex:f ; sh:node ex:leaf ; sh:qualifiedValueShape [ sh:class ex:Small ] ;
                sh:qualifiedMinCount 1 ; sh:qualifiedMaxCount 2 ;
                sh:property [ sh:path ex:b ; sh:maxCount 0 ] ] ;
  sh:property [ sh:path ( ex:f ex:a ) ; sh:maxInclusive 50 ] ;
  sh:property [ sh:path [ sh:inversePath ex:f ] ; sh:maxCount 1 ] ;
  sh:xone ( [ sh:property [ sh:path ex:a ; sh:maxCount 1 ] ] [ sh:property [ sh:path ex:b ; sh:minCount 1 ] ] ) ;
  sh:not [ sh:property [ sh:path ex:c ; sh:minCount 3 ] ] .
ex:leaf a sh:NodeShape ; sh:property [ sh:path ex:a ; sh:minCount 1 ] .
ex:other a sh:NodeShape ; sh:targetSubjectsOf ex:d ; sh:targetNode ex:n9 ; sh:property [ sh:path ex:a ; sh:maxCount 1 ] .
"""
XSD = "http://www.w3.org/2001/XMLSchema#"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"


def pack(shapes: str, *more: Source) -> dict[str, Any]:
    sources = (Source("shapes", "shapes", PREFIXES + shapes, "shapes.ttl"), *more)
    return dict(lower(PackSources("erp", "p", "1.0.0", sources, {"r": None})).document)


PLAN = pack(SHAPES)
NODES = st.sampled_from([f"<urn:ex:n{i}>" for i in range(4)])
NUMBERS = ["0", "7", "99", "100", "-1", "007"]
LITERALS = [f'"{n}"^^<{XSD}integer>' for n in NUMBERS]
LITERALS += [
    '"x"',
    '"ab"',
    '"abc"',
    '"ABCDE"',
    '"hi"@en',
    '"hi"@en-gb',
    '"hallo"@de',
    f'"x"^^<{XSD}integer>',
    f'"7.5"^^<{XSD}decimal>',
    f'"1e1"^^<{XSD}double>',
]
OBJECTS = NODES | st.sampled_from(LITERALS)
TRIPLES = st.tuples(NODES, st.sampled_from("abcdefg"), OBJECTS).map(lambda t: f"{t[0]} <urn:ex:{t[1]}> {t[2]} .")
TYPES = st.tuples(NODES, st.sampled_from(["Doc", "Small", "Thing"])).map(lambda t: f"{t[0]} <{TYPE}> <urn:ex:{t[1]}> .")
GRAPHS = st.lists(TRIPLES | TYPES, max_size=14).map(lambda lines: "".join(f"{line}\n" for line in dict.fromkeys(lines)))


@settings(max_examples=300)
@given(GRAPHS)
def test_tables_expressions_and_shapes_agree_guard_by_guard(text: str) -> None:
    evaluator, graph = Evaluator(PLAN), Graph.parse(text.encode())
    expressions = Expressions(PLAN["targets"], graph)
    failing = set(evaluator.judge(text.encode()).failing)
    tables = table_guards(PLAN)
    assert len(tables) > 15
    for index in tables:
        guard = PLAN["guards"][index]
        assert expressions.holds(guard["target"], guard["expr"]) == (index not in failing), (guard["id"], text)


@settings(max_examples=60)
@given(GRAPHS)
def test_conforms_as_pyshacl_does(text: str) -> None:
    data = rdflib.Graph().parse(data=text, format="nt")
    shapes = rdflib.Graph().parse(data=PREFIXES + SHAPES, format="turtle")
    data.add((rdflib.URIRef("urn:ex:Small"), rdflib.RDFS.subClassOf, rdflib.URIRef("urn:ex:Doc")))
    conforms, _, report = pyshacl.validate(data, shacl_graph=shapes, advanced=False)
    assert (not Evaluator(PLAN).judge(text.encode()).failing) == conforms, (text, report)


def failing(plan: dict[str, Any], text: str) -> set[str]:
    return {plan["guards"][i]["id"] for i in Evaluator(plan).judge(text.encode()).failing}


def test_a_failing_guard_says_focus_value_and_message() -> None:
    plan = pack('ex:s sh:targetClass ex:Doc ; sh:property [ sh:path ex:e ; sh:pattern "^[A-Z]+$" ; sh:message "capitals, please" ] .')
    (detail,) = Evaluator(plan).judge(f'<urn:ex:n> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:n> <urn:ex:e> "abc" .\n'.encode()).details
    assert (detail.focus, detail.path, detail.value, detail.message) == ("urn:ex:n", "<urn:ex:e>", "abc", "capitals, please")


def test_a_result_belongs_to_the_guard_of_the_target_that_led_to_it() -> None:
    plan = pack(
        """ex:one sh:targetClass ex:Doc ; sh:property ex:shared . ex:two sh:targetClass ex:Thing ; sh:property ex:shared .
        ex:shared sh:path ex:e ; sh:pattern "^[A-Z]+$" ."""
    )
    assert len(cold_guards(plan)) == 2
    judged = Evaluator(plan).judge(f'<urn:ex:n> <{TYPE}> <urn:ex:Thing> .\n<urn:ex:n> <urn:ex:e> "abc" .\n'.encode())
    assert [plan["targets"][plan["guards"][i]["target"]]["classes"] for i in judged.failing] == [["urn:ex:Thing"]]


@pytest.mark.parametrize("value", ['"maybe"^^xsd:boolean', '"abc"^^xsd:integer', '"false"^^xsd:boolean', '"0"^^xsd:byte'])
def test_a_rule_that_asks_for_the_absence_of_what_is_not_true_denies_what_is_ill_formed(value: str) -> None:
    query = "ASK { $this <urn:ex:id> ?i FILTER NOT EXISTS { $this <urn:ex:won> ?d FILTER(!?d) } }"
    plan = pack("", Source("rule", "ask", query, "rule.rq", media="application/sparql-query", target="urn:ex:Doc"))
    fact = f'<urn:ex:n> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:n> <urn:ex:id> "1" .\n<urn:ex:n> <urn:ex:won> {{}} .\n'
    spelled = value.replace("xsd:", "<http://www.w3.org/2001/XMLSchema#") + ">"
    assert failing(plan, fact.format(spelled)) == {"rule"}
    assert failing(plan, fact.format('"true"^^<http://www.w3.org/2001/XMLSchema#boolean>')) == set()


def test_queries_see_this_everywhere_blank_nodes_too() -> None:
    query = "ASK { $this <urn:ex:a> ?v . { SELECT ?v { ?x <urn:ex:a> ?v FILTER(?x = $this) } } FILTER NOT EXISTS { $this <urn:ex:b> ?v } }"
    plan = pack("", Source("rule", "ask", query, "rule.rq", media="application/sparql-query", target="urn:ex:Doc"))
    good = f"_:b0 <{TYPE}> <urn:ex:Doc> .\n_:b0 <urn:ex:a> <urn:ex:n1> .\n"
    assert failing(plan, good) == set()
    assert failing(plan, good + "_:b0 <urn:ex:b> <urn:ex:n1> .\n") == {"rule"}


def test_a_sparql_constraint_binds_this_and_path_and_fills_messages() -> None:
    plan = pack(
        """ex:s sh:targetClass ex:Doc ; sh:property [ sh:path ex:a ; sh:sparql [ sh:message "{?value} is odd" ;
        sh:select "SELECT $this ?value WHERE { $this $PATH ?value . FILTER(isBlank(?value)) }" ] ] ."""
    )
    base = f"<urn:ex:n> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:n> <urn:ex:a> <urn:ex:m> .\n"
    assert failing(plan, base) == set()
    (detail,) = Evaluator(plan).judge((base + "<urn:ex:n> <urn:ex:a> _:b0 .\n").encode()).details
    assert detail.value == "_:b0"


@pytest.mark.parametrize(
    ("cold", "words"),
    [
        ('_:b0 <http://www.w3.org/ns/shacl#pattern> "(?=x)" .', "look-around"),
        ("_:b0 <http://www.w3.org/ns/shacl#node> <urn:s> .", "refers to itself"),
        ("_:b0 <http://www.w3.org/ns/shacl#nodeKind> <urn:odd> .", "sh:nodeKind"),
        ("_:b0 <http://www.w3.org/ns/shacl#in> <urn:nolist> .", "RDF list"),
        ("<urn:c> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://www.w3.org/ns/shacl#SPARQLTargetType> .", "not supported"),
        ("_:b0 <http://www.w3.org/ns/shacl#expression> _:b9 .", "not supported"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_when_the_plan_is_loaded(cold: str, words: str) -> None:
    sh = "http://www.w3.org/ns/shacl#"
    shapes = f"<urn:s> <{sh}targetClass> <urn:C> .\n<urn:s> <{sh}property> _:b0 .\n_:b0 <{sh}path> <urn:p> .\n{cold}\n"
    plan = {"guards": [], "targets": [], "cold": {"shapes": shapes, "asks": {}}}
    with pytest.raises(ShapeError, match=words):
        Evaluator(plan)


# ---- decide --------------------------------------------------------------------------------------


class Tables:
    """A binding with a fixed answer of the tables."""

    def __init__(self, status: int, text: str, a: bytes = b"kept") -> None:
        self.status, self.text = status, text
        self.verdict, self.klass, self.a = 2, 3, a

    def decide(self, o: bytes) -> Tables:
        return self

    def graph(self, o: bytes) -> bytes:
        return self.text.encode()

    def explain(self, o: bytes, a: bytes) -> list[dict[str, str]]:
        return [{"guard": "g"}]


MIXED = pack('ex:s sh:targetClass ex:Doc ; sh:property [ sh:path ex:a ; sh:maxInclusive 5 ] , [ sh:path ex:e ; sh:pattern "^[A-Z]+$" ] .')
BOTH_BAD = f'<urn:ex:n> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:n> <urn:ex:a> "6.00000001"^^<{XSD}decimal> .\n<urn:ex:n> <urn:ex:e> "x" .\n'


def test_what_the_tables_decided_is_taken_as_it_is() -> None:
    made = decide(Tables(OK, ""), Evaluator(MIXED), b"")
    assert (made.verdict, made.a, made.violations) == (2, b"kept", ({"guard": "g"},))


def test_lower_guards_are_asked_only_when_no_table_guard_denies() -> None:
    ids = [guard["id"] for guard in MIXED["guards"]]
    escaped = decide(Tables(ESCAPE, BOTH_BAD), Evaluator(MIXED), b"")
    assert [ids[i] for i in parse_action(escaped.a).failing] == ["shapes.s.a.maxInclusive"]
    cold = decide(Tables(COLD, BOTH_BAD), Evaluator(MIXED), b"")
    assert [ids[i] for i in parse_action(cold.a).failing] == ["shapes.s.e.pattern"]
    assert (cold.verdict, cold.klass, cold.violations[0]["guard"]) == (2, 3, "shapes.s.e.pattern")
    fine = decide(Tables(COLD, ""), Evaluator(MIXED), b"")
    assert (fine.verdict, fine.a) == (1, action_bytes(MIXED["guards"], []))
    with pytest.raises(InputRefused):
        decide(Tables(-4, ""), Evaluator(MIXED), b"")


def test_a_warning_sets_its_bit_and_does_not_deny() -> None:
    plan = pack('ex:s sh:targetClass ex:Doc ; sh:property [ sh:path ex:e ; sh:pattern "^[A-Z]+$" ; sh:severity sh:Warning ] .')
    made = decide(Tables(COLD, BOTH_BAD), Evaluator(plan), b"")
    assert (made.verdict, len(parse_action(made.a).failing)) == (1, 1)


def test_what_the_tables_found_stays_when_the_tier_below_completes_it() -> None:
    lesser = "[ sh:path ex:a ; sh:minCount 2 ; sh:severity sh:Warning ]"
    plan = pack(f"ex:s sh:targetClass ex:Doc ; sh:property {lesser} , [ sh:path ex:e ; sh:class ex:D ] .")
    tables = Tables(COLD, BOTH_BAD, action_bytes(plan["guards"], [1]))
    assert parse_action(decide(tables, Evaluator(plan), b"").a).failing == (1, 2)


def test_a_judgement_that_runs_away_is_ended_and_the_next_one_is_made() -> None:
    plan = pack('ex:s sh:targetClass ex:Doc ; sh:property [ sh:path ex:e ; sh:pattern "^(a+)+$" ] .')
    text = f'<urn:ex:n> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:n> <urn:ex:e> "{{}}" .\n'
    warm = WarmEvaluator()
    try:
        warm.load("plan", plan)
        with pytest.raises(Undecided, match="was ended"):
            decide(Tables(COLD, text.format("a" * 60 + "b")), PooledJudge(warm, "plan", plan, budget_s=0.3), b"")
        begun = time.monotonic()
        made = decide(Tables(COLD, text.format("aaa")), PooledJudge(warm, "plan", plan, budget_s=20.0), b"")
        print(f"judged again after {time.monotonic() - begun:.2f} s")
        assert made.verdict == 1
    finally:
        warm.close()


def test_a_body_does_not_widen_a_class_of_the_pack() -> None:
    """The hierarchy is that of the pack's shapes, in the tables and below them: else a caller could make anything a vendor."""
    plan = pack("ex:s sh:targetClass ex:Doc ; sh:class ex:Fine ; sh:property [ sh:path ex:by ; sh:class ex:Vendor ] .")
    body = f"<urn:ex:d> <{TYPE}> <urn:ex:Doc> .\n<urn:ex:d> <{TYPE}> <urn:ex:Own> .\n<urn:ex:d> <urn:ex:by> <urn:ex:d> .\n"
    axioms = "".join(f"<urn:ex:Own> <http://www.w3.org/2000/01/rdf-schema#subClassOf> <urn:ex:{cls}> .\n" for cls in ("Fine", "Vendor"))
    tier = Evaluator(plan)
    failing = tier.judge((body + axioms).encode()).failing
    assert sorted(plan["guards"][i]["class"] for i in failing) == ["R1", "W1"]
