"""67 W3C SHACL core tests: the report must be the expected graph, blank nodes matched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path as File

import pytest
from pyoxigraph import BlankNode, CanonicalizationAlgorithm, Dataset, Literal, NamedNode, Quad, RdfFormat

from knhk_runtime.tiers.graph import Graph, Node, Term
from knhk_runtime.tiers.names import RDF_TYPE, XSD, sh
from knhk_runtime.tiers.paths import Path, read_path
from knhk_runtime.tiers.shacl import Result, Validator
from knhk_runtime.tiers.shapes import load_shapes

MF = "http://www.w3.org/2001/sw/DataAccess/tests/test-manifest#"
SHT = "http://www.w3.org/ns/shacl-test#"
SUITE = File(__file__).parent / "data" / "w3c"
_KEPT = tuple(sh(name) for name in ("focusNode", "value", "sourceShape", "sourceConstraintComponent", "resultSeverity", "sourceConstraint"))


# Files that hold an entry of type sht:Validate; the others are data and shapes that they name.
TESTS = sorted(path for path in SUITE.rglob("*.ttl") if "sht:Validate" in path.read_text(encoding="utf-8"))


@dataclass
class Report:
    """Collects triples of one report; makes fresh blank nodes."""

    triples: list[tuple[Node, NamedNode, Term]]
    made: int = 0

    def blank(self) -> BlankNode:
        self.made += 1
        return BlankNode(f"made{self.made}")

    def add(self, subject: Node, predicate: NamedNode, obj: Term) -> None:
        self.triples.append((subject, predicate, obj))

    def path(self, path: Path) -> Term:
        """The path's structure, so that equal paths are equal graphs."""
        if path.predicate is not None:
            return path.predicate
        node = self.blank()
        self.add(node, sh(path.form), Literal(str(len(path.parts))))
        for index, part in enumerate(path.parts):
            self.add(node, NamedNode(f"urn:part:{index}"), self.path(part))
        return node

    def canonical(self) -> list[str]:
        dataset = Dataset(Quad(s, p, o) for s, p, o in self.triples)
        dataset.canonicalize(CanonicalizationAlgorithm.UNSTABLE)
        return sorted(map(str, dataset))


def _expected(graph: Graph, result: Term) -> tuple[Report, bool, bool]:
    report = Report([])
    messages = False
    for node in graph.objects(result, sh("result")):
        subject = report.blank()
        report.add(subject, RDF_TYPE, sh("ValidationResult"))
        for predicate in _KEPT:
            for value in graph.objects(node, predicate):
                report.add(subject, predicate, value)
        for value in graph.objects(node, sh("resultPath")):
            report.add(subject, sh("resultPath"), report.path(read_path(graph, value)))
        for value in graph.objects(node, sh("resultMessage")):
            messages = True
            report.add(subject, sh("resultMessage"), value)
    conforms = graph.one(result, sh("conforms")) == Literal("true", datatype=NamedNode(XSD + "boolean"))
    return report, conforms, messages


def _actual(results: Iterable[Result], messages: bool) -> Report:
    report = Report([])
    for result in results:
        subject = report.blank()
        report.add(subject, RDF_TYPE, sh("ValidationResult"))
        for predicate, value in _fields(result):
            report.add(subject, predicate, value)
        if result.path is not None:
            report.add(subject, sh("resultPath"), report.path(result.path))
        for message in result.messages if messages else ():
            report.add(subject, sh("resultMessage"), message)
    return report


def _fields(result: Result) -> Iterator[tuple[NamedNode, Term]]:
    yield sh("focusNode"), result.focus
    yield sh("sourceShape"), result.shape
    yield sh("sourceConstraintComponent"), NamedNode(result.component)
    yield sh("resultSeverity"), NamedNode(result.severity)
    if result.value is not None:
        yield sh("value"), result.value
    if result.source is not None:
        yield sh("sourceConstraint"), result.source


def _graph(iri: Term, base: File) -> Graph:
    assert isinstance(iri, NamedNode)
    path = File(iri.value.removeprefix("file://"))
    return Graph.parse(path.read_bytes(), RdfFormat.TURTLE, base_iri=path.as_uri())


@pytest.mark.parametrize("path", TESTS, ids=[str(path.relative_to(SUITE).with_suffix("")) for path in TESTS])
def test_report_is_the_expected_graph(path: File) -> None:
    path = path.resolve()
    manifest = Graph.parse(path.read_bytes(), RdfFormat.TURTLE, base_iri=path.as_uri())
    entries = manifest.subjects(RDF_TYPE, NamedNode(SHT + "Validate"))
    assert entries
    for entry in entries:
        action = manifest.one(entry, NamedNode(MF + "action"))
        result = manifest.one(entry, NamedNode(MF + "result"))
        assert action is not None
        assert result is not None
        data_iri = manifest.one(action, NamedNode(SHT + "dataGraph"))
        shapes_iri = manifest.one(action, NamedNode(SHT + "shapesGraph"))
        assert data_iri is not None
        assert shapes_iri is not None
        results = Validator(load_shapes(_graph(shapes_iri, path)), _graph(data_iri, path)).validate()
        expected, conforms, messages = _expected(manifest, result)
        assert (not results) == conforms
        assert _actual(results, messages).canonical() == expected.canonical()


def test_all_tests_of_the_folder_ran() -> None:
    assert len(TESTS) == 67
