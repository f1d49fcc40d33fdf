"""Relational operators in queries: SPARQL 1.1's three values, whatever the engine extends, and the same as the compiler's expressions."""

from __future__ import annotations

import random

import pytest
from pyoxigraph import NamedNode

from knhk.adapters.evaluators import load
from knhk.model.arrows import PackSources, Source
from knhk.model.observation import Observation
from knhk.wiring import packs
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_runtime.tiers.action import failing_bits
from knhk_runtime.tiers.decide import OK
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph
from knhk_runtime.tiers.relations import by_functions
from knhk_runtime.tiers.sparql import THIS, ask
from knhk_runtime.tiers.sparql_text import tokens

XSD = "PREFIX xsd: <http://www.w3.org/2001/XMLSchema#> "
EXPRESSIONS = {
    "1 = 1.0": True,
    "1 != 1.0": False,
    "1 = 'a'": None,
    "1 != 'a'": None,
    "true = 1": None,
    "'x'^^<urn:t> = 'x'^^<urn:t>": True,
    "'x'^^<urn:t> != 'y'^^<urn:t>": None,
    "'x'^^xsd:integer != 1": None,
    "'a'@en != 'b'@en": True,
    "'a'@en = 'a'": False,
    "'a'@en = 1": None,
    "<urn:a> = 1": False,
    "<urn:a> != <urn:b>": True,
    "'NaN'^^xsd:double = 'NaN'^^xsd:double": False,
    "'NaN'^^xsd:double != 'NaN'^^xsd:double": True,
    "'NaN'^^xsd:double < 1": False,
    "'2024-01-01'^^xsd:date = '2024-01-01T00:00:00Z'^^xsd:dateTime": None,
    "'2024-01-01T00:00:00'^^xsd:dateTime = '2024-01-01T00:00:00Z'^^xsd:dateTime": None,
    "1 < 'a'": None,
    "'a'@en < 'b'@en": None,
    "<urn:a> < <urn:b>": None,
    "2 >= 2.0": True,
    "1 IN ('a', 1)": True,
    "2 IN ('a', 1)": None,
    "2 IN (3, 1)": False,
    "2 NOT IN (3, 1)": True,
    "2 NOT IN ('a', 1)": None,
    "2 IN ()": False,
    "1 = 'a' || true": True,
    "1 = 'a' && false": False,
    "!(1 = 'a')": None,
    "(1 = 1) = true": True,
    "1+1=2&&'a'<'b'": True,
    "if(1 < 2, 2 = 3, 'x')": False,
    "exists { FILTER(1 = 'a') } || 1 = 2": False,
    "coalesce(1 = 'a', 3 = 3)": True,
}


@pytest.mark.parametrize(("text", "value"), EXPRESSIONS.items())
def test_an_expression_has_the_value_that_the_standard_says(text: str, value: bool | None) -> None:
    holds, fails = (ask(Graph(), f"{XSD}ASK {{ FILTER({sign}({text})) }}", {}) for sign in ("", "!"))
    assert (holds, fails) == (value is True, value is False)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("ASK { { SELECT (COUNT(DISTINCT ?o) AS ?n) (GROUP_CONCAT(?o; SEPARATOR = '=') AS ?t) WHERE { ?s ?p ?o } } FILTER(?n = 2) }", True),
        ("ASK { { SELECT ?s WHERE { ?s ?p ?o } GROUP BY ?s HAVING (COUNT(?o) > 1 && COUNT(?o) != 3) } }", True),
        ("ASK { { SELECT (COUNT(DISTINCT ?o = ?o) AS ?n) WHERE { ?s ?p ?o } } FILTER(?n < 2) }", True),
        ("ASK { ?s ?p ?o BIND(?o = 1 AS ?b) FILTER(?b) }", True),
        ("ASK { ?s ?p ?o FILTER NOT EXISTS { ?s ?p ?q FILTER(?q != ?o) } }", True),
        ("ASK { ?s (<urn:p>|!(<urn:q>|^<urn:r>)) ?o FILTER(?o IN (1, 2)) }", True),
        ("ASK { ?s ?p ?o FILTER(regex(?o, '(=|<)') || ?o = 1) } # 1 = 'a'", True),
    ],
)
def test_operators_are_found_wherever_they_stand(query: str, answer: bool) -> None:
    assert (
        ask(Graph.parse(b'<urn:s> <urn:p> "1"^^<http://www.w3.org/2001/XMLSchema#integer> .\n<urn:s> <urn:p> "=" .\n'), query, {}) == answer
    )


def test_text_that_is_no_query_stays_as_it_is() -> None:
    for text in ("ASK { FILTER(1 = 2 }", "ASK { ?x = ) }", "}{"):
        assert "".join(token.text for token in by_functions(tokens(text))) == text


RULES = [
    "?x = 1",
    "?x != 1",
    "!(?x = 1)",
    "?x = 'a'",
    "?x != 'a'",
    "?x != 'a'@en",
    "?x = true",
    "?x != true",
    "?x != '2024-05-01'^^xsd:date",
    "?x > 1",
    "!(?x > 1)",
    "?x IN (1, 'a')",
    "?x NOT IN (1, 'a', <urn:a>)",
    "?x != <urn:a>",
    "?x = 1 || ?x != 'b'",
    "!(?x = 1 || ?x = 'b')",
]
TERMS = (
    '"1"', '"a"', '"b"', '"a"@en', '"b"@de', "<urn:a>", "<urn:b>", "_:b", '"x"^^<urn:t>',
    *(f'"{text}"^^<http://www.w3.org/2001/XMLSchema#{kind}>' for text, kind in (
        ("1", "integer"), ("01", "integer"), ("2", "integer"), ("1.0", "decimal"), ("x", "integer"), ("1e0", "double"), ("NaN", "double"),
        ("true", "boolean"), ("1", "boolean"), ("false", "boolean"), ("2024-05-01", "date"), ("2024-05-02", "date"),
        ("2024-05-01T00:00:00Z", "dateTime"), ("a", "token"),
    )),
)  # fmt: skip


def test_tables_expressions_and_queries_agree() -> None:
    """Each rule on values of every kind: what the compiled pack decides, else its expression, and always its text."""
    texts = [f"{XSD}ASK {{ $this <urn:p> ?x FILTER({rule}) }}" for rule in RULES]
    rules = [Source(f"r{i:02}", "ask", text, f"r{i}.rq", target="urn:T") for i, text in enumerate(texts)]
    body = Source("rdf", "mapping", "format: rdf\n", "m.yaml", media="application/yaml")
    plan = lower(PackSources("n", "p", "1", (*rules, body), {"r": "rdf"}))
    (shared,) = packs.compiler().compile(emit(plan), (packs.host_arch(),))
    evaluator = load(shared.data, plan.document, None)
    guards = evaluator.plan["guards"]
    assert [(guard["id"], guard["class"]) for guard in guards[1:]] == [(rule.name, "R1") for rule in rules]
    chance = random.Random(5)
    by_tables = 0
    for values in (*((term,) for term in TERMS), *(chance.sample(TERMS, 3) for _ in range(60))):
        lines = ["<urn:f> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <urn:T> .", *(f"<urn:f> <urn:p> {value} ." for value in values)]
        data = "".join(f"{line}\n" for line in lines).encode()
        graph = Graph.parse(data)
        focus = NamedNode("urn:f")
        asked = [i for i, text in enumerate(texts, start=1) if not ask(graph, text, {THIS: focus})]
        expressions = Expressions(evaluator.plan["targets"], graph)
        compiled = [i for i, guard in enumerate(guards) if i and not expressions.test(guard["expr"], focus, [focus])]
        assert compiled == asked, values
        decision = evaluator.decide(Observation(0, "r", data, region="local").encode())
        if decision.status == OK:
            by_tables += 1
            assert list(failing_bits(decision.a)) == asked, values
    assert by_tables > 40
