"""W3C SHACL tests as data: which files a test names, the report that it expects, and reports in a form that compares as a graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rdflib import BNode, Graph, Literal, Namespace, URIRef
from rdflib.collection import Collection
from rdflib.compare import to_canonical_graph
from rdflib.namespace import RDF
from rdflib.term import Node

MF = Namespace("http://www.w3.org/2001/sw/DataAccess/tests/test-manifest#")
SH = Namespace("http://www.w3.org/ns/shacl#")
SHT = Namespace("http://www.w3.org/ns/shacl-test#")
SUITE = Path(__file__).parents[1] / "tiers" / "data" / "w3c"
_KEPT = (SH.focusNode, SH.value, SH.sourceShape, SH.sourceConstraintComponent, SH.resultSeverity, SH.sourceConstraint)
_UNARY = (SH.inversePath, SH.zeroOrMorePath, SH.oneOrMorePath, SH.zeroOrOnePath)


@dataclass(frozen=True)
class Case:
    """One test. `expected` is the report in canonical lines, None where validation must fail."""

    name: str
    shapes: Path
    data: Path
    expected: list[str] | None
    messages: bool


def files(suite: Path = SUITE) -> list[Path]:
    """Files that hold a test."""
    return sorted(path for path in suite.rglob("*.ttl") if "sht:Validate" in path.read_text(encoding="utf-8"))


def read(path: Path, suite: Path = SUITE) -> Case:
    """The one test of a file."""
    path = path.resolve()
    graph = Graph().parse(path, publicID=path.as_uri(), format="turtle")
    (entry,) = graph.subjects(RDF.type, SHT.Validate)
    action, result = graph.value(entry, MF.action), graph.value(entry, MF.result)
    name = str(path.relative_to(suite.resolve()).with_suffix(""))
    shapes, data = (_local(graph.value(action, part)) for part in (SHT.shapesGraph, SHT.dataGraph))
    if result == SHT.Failure:
        return Case(name, shapes, data, None, False)
    messages = any(graph.subject_objects(SH.resultMessage))
    return Case(name, shapes, data, normal(graph, result, messages), messages)


def _local(iri: Node | None) -> Path:
    assert isinstance(iri, URIRef)
    return Path(iri.removeprefix("file://"))


def normal(graph: Graph, report: Node | None, messages: bool) -> list[str]:
    """What counts of a report, paths by structure, blank nodes named by their place in the graph."""
    assert report is not None
    made, root = Graph(), BNode()
    made.add((root, SH.conforms, _one(graph.objects(report, SH.conforms))))
    for result in graph.objects(report, SH.result):
        node = BNode()
        made.add((root, SH.result, node))
        for predicate in (*_KEPT, *((SH.resultMessage,) if messages else ())):
            for value in graph.objects(result, predicate):
                made.add((node, predicate, value))
        for path in graph.objects(result, SH.resultPath):
            made.add((node, SH.resultPath, _path(graph, path, made)))
    return sorted(line for line in to_canonical_graph(made).serialize(format="nt").splitlines() if line)


def _one(found: Iterable[Node]) -> Node:
    (only,) = found
    return only


def _path(graph: Graph, path: Node, made: Graph) -> Node:
    if not isinstance(path, BNode):
        return path
    node = BNode()
    if (path, RDF.first, None) in graph:
        return _parts("sequence", list(Collection(graph, path)), graph, made)
    alternative = graph.value(path, SH.alternativePath)
    if alternative is not None:
        return _parts("alternative", list(Collection(graph, alternative)), graph, made)
    for predicate in _UNARY:
        inner = graph.value(path, predicate)
        if inner is not None:
            made.add((node, predicate, _path(graph, inner, made)))
    return node


def _parts(kind: str, parts: list[Node], graph: Graph, made: Graph) -> Node:
    node = BNode()
    made.add((node, SHT.kind, Literal(f"{kind} {len(parts)}")))
    for at, part in enumerate(parts):
        made.add((node, SHT[f"part{at}"], _path(graph, part, made)))
    return node
