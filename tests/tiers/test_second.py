"""SHACL's SPARQL definitions, as proofs ask them (knhk.reconcilers.oracle_shacl), and the tier's validator fail the same constraints in the
W3C's tests and in ours of the Recommendation."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyoxigraph import NamedNode, RdfFormat, Triple, parse, serialize

from knhk.model.arrows import PackSources, Source
from knhk.reconcilers.oracle import Oracle
from knhk.reconcilers.oracle_shacl import Key, Shacl
from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.graph import Graph, Term
from knhk_runtime.tiers.names import component
from knhk_runtime.tiers.shacl import Result, Validator
from knhk_runtime.tiers.shapes import Shapes, load_shapes

W3C = sorted(path for path in (Path(__file__).parent / "data" / "w3c").rglob("*.ttl") if "sht:Validate" in path.read_text(encoding="utf-8"))
CASES = Path(__file__).parents[1] / "conformance" / "cases"
PROPERTY, QUALIFIED = component("Property"), component("QualifiedValueShape")
COUNTS = {component("QualifiedMinCount"), component("QualifiedMaxCount")}


def _name(term: Term) -> str:
    return term.value if isinstance(term, NamedNode) else f"_:{term.value}"


def _key(shapes: Shapes, result: Result) -> Key:
    for outer in result.outer:
        if shapes.by_node[outer].path is not None:
            return _name(outer), PROPERTY
    return _name(result.shape), QUALIFIED if result.component in COUNTS else result.component


def test_both_fail_the_same_constraints() -> None:
    same, failed, unsaid = 0, 0, []
    for file in (*W3C, *sorted(CASES.rglob("*.ttl"))):
        quads = parse(file.read_bytes(), format=RdfFormat.TURTLE, base_iri="https://x.example/")
        data = serialize((Triple(q.subject, q.predicate, q.object) for q in quads), format=RdfFormat.N_TRIPLES)
        assert data is not None
        graph = Graph.parse(data)
        try:
            shapes = load_shapes(graph)
        except ShapeError:
            continue
        failing = {_key(shapes, result) for result in Validator(shapes, graph, graph).validate()}
        parts = {
            (_name(s.node), QUALIFIED if c.component in COUNTS else c.component) for s in shapes.by_node.values() for c in s.constraints
        }
        said = Shacl(data, parts | failing).judge(data)
        assert {key for key, fails in said.items() if fails} == failing & said.keys(), file
        same += len(said)
        failed += len(failing & said.keys())
        unsaid += [key for key in parts if key not in said]
    assert same >= 140, same
    assert failed >= 60, failed
    assert len(unsaid) <= same // 10, unsaid


EX = "https://example.com/ns#"
PREFIXES = f"""@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <{EX}> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix owl: <http://www.w3.org/2002/07/owl#> ."""
BEYOND = "99999999999999999999999999999999999999999"
ALIKE = {
    "an integer beyond 64 bits": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:maxInclusive 9223372036854775808 .",
        "ex:x ex:p 1 .",
    ),
    "a decimal beyond 38 digits": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:minExclusive 1 .",
        f"ex:x ex:p {BEYOND}.5 .",
    ),
    "an order beyond 64 bits": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:lessThan ex:q .",
        f"ex:x ex:p 1 ; ex:q {BEYOND} .",
    ),
    "a length of 64 bits": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:maxLength 9223372036854775808 .",
        'ex:x ex:p "a" .',
    ),
    "a derived integer that is none": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:minInclusive 1 .",
        'ex:x ex:p "300"^^xsd:byte .',
    ),
    "an hour that is the next day's": (
        'ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:maxInclusive "24:00:00"^^xsd:time .',
        'ex:x ex:p "12:00:00"^^xsd:time .',
    ),
    "NaN": (
        'ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:maxInclusive "NaN"^^xsd:double .',
        'ex:x ex:p "NaN"^^xsd:double .',
    ),
    "a shape that is no class": (
        "ex:S a sh:NodeShape ; sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:minCount 1 .",
        "ex:x ex:p 1 . ex:y a ex:S .",
    ),
    "a shape that is a class": (
        "ex:S a sh:NodeShape, rdfs:Class ; sh:property ex:P . ex:P sh:path ex:p ; sh:minCount 1 .",
        "ex:x ex:p 1 . ex:y a ex:S .",
    ),
    "a shape that is a class of OWL": (
        "ex:S a sh:NodeShape, owl:Class ; sh:property ex:P . ex:P sh:path ex:p ; sh:minCount 1 .",
        "ex:x ex:p 1 . ex:y a ex:S .",
    ),
    "a class that only data put below": (
        "ex:S sh:targetClass ex:C ; sh:property ex:P . ex:P sh:path ex:p ; sh:minCount 1 .",
        "ex:y a ex:D . ex:D rdfs:subClassOf ex:C .",
    ),
    "a member that only data made one": (
        "ex:S sh:targetNode ex:y ; sh:property ex:P . ex:P sh:path ex:p ; sh:class ex:C .",
        "ex:y ex:p ex:z . ex:z a ex:D . ex:D rdfs:subClassOf ex:C .",
    ),
    "strings with a language": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:lessThan ex:q .",
        'ex:x ex:p "a"@en ; ex:q "b"@en .',
    ),
    "the same string with a language": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:lessThanOrEquals ex:q .",
        'ex:x ex:p "a"@en ; ex:q "a"@en .',
    ),
    "the same node": (
        "ex:S sh:targetNode ex:x ; sh:property ex:P . ex:P sh:path ex:p ; sh:lessThanOrEquals ex:q .",
        "ex:x ex:p ex:a ; ex:q ex:a .",
    ),
}
SILENT = {
    "an integer beyond 64 bits",
    "a decimal beyond 38 digits",
    "an order beyond 64 bits",
    "a derived integer that is none",
    "an hour that is the next day's",
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_a_store_does_otherwise_is_no_difference(name: str) -> None:
    shapes_text, data_text = ALIKE[name]
    written, data = (_ntriples(PREFIXES + text) for text in (shapes_text, data_text))
    ontology, graph = Graph.parse(written), Graph.parse(data)
    shapes = load_shapes(ontology)
    failing = {_key(shapes, result) for result in Validator(shapes, graph, ontology).validate()}
    parts = {(_name(s.node), c.component) for s in shapes.by_node.values() for c in s.constraints if c.component != PROPERTY}
    said = Shacl(written, parts).judge(data)
    assert {key for key, fails in said.items() if fails} == failing & said.keys()
    assert set(said) == (set() if name in SILENT else parts)


def _ntriples(text: str) -> bytes:
    quads = parse(text.encode(), format=RdfFormat.TURTLE)
    made = serialize((Triple(q.subject, q.predicate, q.object) for q in quads), format=RdfFormat.N_TRIPLES)
    assert made is not None
    return made


CALLS = ("YEAR(?v) > 2000", "TZ(?v) = 'Z'", "ROUND(?v) > 1", "ABS(?v) > 1", "-?v > 1", "?v + 1 > 1")


@pytest.mark.parametrize("datatype", ["dateTime", "decimal", "integer"])
@pytest.mark.parametrize("call", CALLS)
def test_a_second_engine_that_raises_has_no_opinion(call: str, datatype: str) -> None:
    text = f"PREFIX ex: <{EX}> ASK {{ $this ex:v ?v FILTER({call}) }}"
    mapping = 'prefixes: {ex: "https://example.com/ns#"}\nmaps: [{id: m, iterator: "$", subject: {blank: true}, class: ex:T}]\n'
    query = Source("q", "ask", text, "q", media="application/sparql-query", target=EX + "T")
    oracle = Oracle(PackSources("erp", "p", "1.0.0", (query, Source("m", "mapping", mapping, "m", "application/yaml")), {"r": "m"}))
    data = _ntriples(f'{PREFIXES} ex:x a ex:T ; ex:v "x"^^xsd:{datatype} .')
    said = oracle.judge(data)
    assert ("ask", "q", "") in said.failing
    assert oracle.denied_by(data) == said.failing - said.unsaid
