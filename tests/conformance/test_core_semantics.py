"""Every component of SHACL core on every form of path, on nodes and on values, against pySHACL: the same results, value by value."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pyshacl
import pytest
import rdflib
from path_texts import path_text
from pyoxigraph import NamedNode, QuerySolutions, RdfFormat
from rdflib import Graph
from rdflib.namespace import RDF
from rdflib.term import BNode
from w3c import SH

from knhk.adapters.rdf_files import read
from knhk.reconcilers import validating
from knhk.wiring import packs
from knhk_runtime.tiers.graph import Graph as Triples
from knhk_runtime.tiers.paths import read_path, values
from oracle.values import comparing_by_sparql

PREFIXES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <urn:ex:> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
"""
PATHS = (
    "ex:p",
    "[ sh:inversePath ex:p ]",
    "( ex:p ex:q )",
    "( ex:p ex:q ex:r )",
    "[ sh:alternativePath ( ex:p ex:q ) ]",
    "[ sh:zeroOrMorePath ex:p ]",
    "[ sh:oneOrMorePath ex:p ]",
    "[ sh:zeroOrOnePath ex:p ]",
    "( [ sh:inversePath ex:p ] ex:q )",
    "( [ sh:alternativePath ( ex:p ex:r ) ] [ sh:zeroOrOnePath ex:q ] )",
    "[ sh:zeroOrMorePath [ sh:alternativePath ( ex:p [ sh:inversePath ex:q ] ) ] ]",
    "[ sh:alternativePath ( ( ex:p ex:q ) [ sh:oneOrMorePath ex:r ] ) ]",
)
ON_TERMS = (
    "sh:class ex:C",
    "sh:class ex:C , ex:D",
    "sh:datatype xsd:integer",
    "sh:datatype xsd:string",
    "sh:datatype xsd:date",
    "sh:datatype xsd:boolean",
    "sh:datatype rdf:langString",
    "sh:datatype ex:own",
    "sh:datatype xsd:byte",
    "sh:datatype xsd:gYear",
    "sh:nodeKind sh:IRI",
    "sh:nodeKind sh:Literal",
    "sh:nodeKind sh:BlankNode",
    "sh:nodeKind sh:IRIOrLiteral",
    "sh:nodeKind sh:BlankNodeOrIRI",
    "sh:nodeKind sh:BlankNodeOrLiteral",
    "sh:minExclusive 2",
    "sh:minInclusive 2",
    "sh:maxExclusive 2.5",
    "sh:maxInclusive 7",
    'sh:minInclusive "2024-01-02"^^xsd:date',
    'sh:maxExclusive "2024-06-01T00:00:00Z"^^xsd:dateTime',
    "sh:minLength 2",
    "sh:maxLength 3",
    "sh:minLength 0",
    'sh:pattern "^[a-z]+$"',
    'sh:pattern "B" ; sh:flags "i"',
    'sh:pattern "a" , "b"',
    'sh:languageIn ( "en" "de-AT" )',
    'sh:languageIn ( "*" )',
    "sh:hasValue ex:n1",
    'sh:hasValue "ab"@en',
    "sh:hasValue 2 , 7",
    'sh:in ( ex:n1 ex:n2 2 "ab" "ab"@en )',
    "sh:in ()",
    "sh:not [ sh:nodeKind sh:Literal ]",
    "sh:not [ sh:class ex:C ]",
    "sh:and ( [ sh:nodeKind sh:Literal ] [ sh:minLength 2 ] )",
    "sh:or ( [ sh:datatype xsd:integer ] [ sh:class ex:C ] )",
    "sh:xone ( [ sh:datatype xsd:integer ] [ sh:minInclusive 2 ] [ sh:nodeKind sh:IRI ] )",
    "sh:xone ( [ sh:nodeKind sh:IRI ] [ sh:property [ sh:path ex:p ; sh:minCount 1 ] ] )",
    "sh:node ex:Leaf",
    "sh:node [ sh:nodeKind sh:IRI ]",
    "sh:equals ex:q",
    "sh:disjoint ex:q",
    "sh:property [ sh:path ex:q ; sh:minCount 1 ; sh:nodeKind sh:IRI ]",
    "sh:property [ sh:path ex:q ; sh:property [ sh:path ex:r ; sh:maxCount 1 ] ]",
    "sh:node [ sh:closed true ; sh:ignoredProperties ( rdf:type ) ; sh:property [ sh:path ex:p ] , [ sh:path ex:q ] ]",
    "sh:severity sh:Warning ; sh:nodeKind sh:IRI",
    "sh:severity ex:own ; sh:nodeKind sh:Literal",
    "sh:deactivated true ; sh:nodeKind sh:BlankNode",
)
ON_PATHS = (
    "sh:minCount 0",
    "sh:minCount 1",
    "sh:minCount 3",
    "sh:minCount 9",
    "sh:maxCount 0",
    "sh:maxCount 1",
    "sh:maxCount 9",
    "sh:uniqueLang true",
    "sh:uniqueLang false",
    "sh:lessThan ex:q",
    "sh:lessThanOrEquals ex:r",
    "sh:qualifiedValueShape [ sh:nodeKind sh:IRI ] ; sh:qualifiedMinCount 1",
    "sh:qualifiedValueShape [ sh:nodeKind sh:IRI ] ; sh:qualifiedMaxCount 0",
    "sh:qualifiedValueShape [ sh:class ex:C ] ; sh:qualifiedMinCount 1 ; sh:qualifiedMaxCount 2",
    "sh:qualifiedValueShape [ sh:property [ sh:path ex:q ; sh:minCount 1 ] ] ; sh:qualifiedMaxCount 1",
)
DISJOINT = "sh:path ex:p ; sh:qualifiedValueShapesDisjoint true"
ON_NODES = (
    "sh:closed true",
    "sh:closed true ; sh:ignoredProperties ( rdf:type ex:p ) ; sh:property [ sh:path ex:q ] , [ sh:path ( ex:r ex:p ) ]",
    f"sh:property [ {DISJOINT} ; sh:qualifiedValueShape [ sh:class ex:C ] ; sh:qualifiedMinCount 1 ] ,"
    f" [ {DISJOINT} ; sh:qualifiedValueShape [ sh:nodeKind sh:IRI ] ; sh:qualifiedMaxCount 0 ]",
    "sh:node [ sh:property [ sh:path ex:p ; sh:minCount 2 ] , [ sh:path ex:q ; sh:maxCount 1 ] ]",
    "sh:and ( [ sh:property [ sh:path ex:p ; sh:minCount 1 ] ] ex:Leaf )",
)
TARGETS = (
    "sh:targetClass ex:T",
    "sh:targetClass ex:C , ex:D",
    "sh:targetNode ex:n1 , ex:nowhere , 2 , 'ab'",
    "sh:targetSubjectsOf ex:q",
    "sh:targetObjectsOf ex:r",
    "sh:targetClass ex:T ; sh:targetObjectsOf ex:p ; sh:targetNode ex:n2",
)
VALUES = (
    "ex:n1", "ex:n2", "ex:n3", "ex:n4", "ex:leaf", "2", "7", "2.50", "-1", '"ab"', '"ab"@en', '"xyz"@de-at', '"x"@en-us', '""', "true",
    '"2024-01-02"^^xsd:date', '"2024-07-01"^^xsd:date', '"2024-05-01T00:00:00Z"^^xsd:dateTime', '"2024-07-01T00:00:00+01:00"^^xsd:dateTime',
    '"aldi"^^xsd:integer', '"z"^^ex:own',
)  # fmt: skip


def data(seed: int) -> str:
    """A small graph of eight nodes, some of a class, with values of many kinds."""
    chance = random.Random(seed)
    lines = ["ex:E rdfs:subClassOf ex:C . ex:F rdfs:subClassOf ex:E . ex:leaf ex:q 2 ."]
    for i in range(1, 9):
        lines.append(f"ex:n{i} a ex:T{', ex:' + chance.choice('CDEF') if chance.random() < 0.6 else ''} .")
        for p in "pqr":
            lines += [f"ex:n{i} ex:{p} {chance.choice(VALUES)} ." for _ in range(chance.choice((0, 1, 1, 2, 4)))]
    return PREFIXES + "\n".join(lines)


def shapes(part: int, parts: int) -> str:
    """Every `parts`-th of all shapes, for pySHACL needs a minute for all of them."""
    made = [f"sh:targetClass ex:T ; sh:path {path} ; {text}" for path in PATHS for text in (*ON_TERMS, *ON_PATHS)]
    made += [f"{target} ; {text}" for target in TARGETS for text in (*ON_TERMS, *ON_NODES)]
    leaf = "ex:Leaf a sh:NodeShape ; sh:property [ sh:path ex:q ; sh:minCount 1 ] ."
    return PREFIXES + "\n".join([leaf, *(f"ex:s{i} {text} ." for i, text in enumerate(made) if i % parts == part)])


def results(graph: Graph) -> Counter[tuple[str, ...]]:
    """Results by focus, path, value, component, severity and shape; blank shapes by what they are within."""
    found: Counter[tuple[str, ...]] = Counter()
    for result in graph.objects(None, SH.result):
        told = {p: o for p, o in graph.predicate_objects(result) if p not in (RDF.type, SH.resultMessage, SH.resultPath, SH.detail)}
        path = graph.value(result, SH.resultPath)
        shape = told.pop(SH.sourceShape)
        row = [o.n3() for _, o in sorted(told.items())]
        found[(*row, path_text(graph, path) if path is not None else "", "" if isinstance(shape, BNode) else str(shape))] += 1
    return found


def by_pyshacl(shapes_file: Path, data_file: Path) -> Counter[tuple[str, ...]]:
    with patch.object(rdflib, "NORMALIZE_LITERALS", False), comparing_by_sparql():
        graphs = [Graph().parse(file, format="turtle") for file in (shapes_file, data_file)]
        _, report, _ = pyshacl.validate(graphs[1], shacl_graph=graphs[0], inference="none", advanced=False, inplace=True)
    assert isinstance(report, Graph)
    return results(report)


@pytest.mark.parametrize("path", [*PATHS, "[ sh:inversePath ( ex:p ex:q ) ]", "[ sh:inversePath [ sh:zeroOrMorePath ex:p ] ]"])
def test_value_nodes_are_those_of_the_path_in_sparql(path: str) -> None:
    graph = Triples.parse(data(7).encode(), RdfFormat.TURTLE)
    holder = Triples.parse(f"{PREFIXES} ex:s sh:path {path} .".encode(), RdfFormat.TURTLE)
    ((_, node),) = holder.pairs(NamedNode(SH.path))
    read_as = read_path(holder, node)
    for i in range(1, 9):
        start = NamedNode(f"urn:ex:n{i}")
        rows = graph.store().query(f"SELECT DISTINCT ?v WHERE {{ {start} {read_as} ?v }}")
        assert isinstance(rows, QuerySolutions)
        assert {graph.spelled(row["v"]) for row in rows} == set(values(graph, read_as, start))


PARTS = 17  # coprime to the numbers of components: each part has every path and target, and over the parts every pair comes up


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("KNHK_SHAPE_PARTS", "3"))))
def test_results_are_those_of_pyshacl(seed: int, tmp_path: Path) -> None:
    shapes_file, data_file = tmp_path / "shapes.ttl", tmp_path / "data.ttl"
    shapes_file.write_text(shapes(seed % PARTS, PARTS), encoding="utf-8")
    data_file.write_text(data(seed), encoding="utf-8")
    made = validating.validate(read(shapes_file, "s"), read(data_file, "d"), packs.compiler(), packs.host_arch())
    with patch.object(rdflib, "NORMALIZE_LITERALS", False):
        mine = results(Graph().parse(data=made.report.turtle(), format="turtle"))
    other = by_pyshacl(shapes_file, data_file)
    assert (mine - other, other - mine) == (Counter(), Counter())
    print(made.evaluations)
