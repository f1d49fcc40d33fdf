"""SHACL's SPARQL definitions, as proofs ask them (knhk.reconcilers.oracle_shacl), and the tier's validator fail the same constraints in the
W3C's tests and in ours of the Recommendation."""

from __future__ import annotations

from pathlib import Path

from pyoxigraph import NamedNode, RdfFormat, Triple, parse, serialize

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
