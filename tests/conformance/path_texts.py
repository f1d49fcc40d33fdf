"""Paths of SHACL as text."""

from __future__ import annotations

from rdflib import Graph
from rdflib.collection import Collection
from rdflib.namespace import RDF
from rdflib.term import BNode, Node


def path_text(graph: Graph, path: Node) -> str:
    if not isinstance(path, BNode):
        return str(path)
    if (path, RDF.first, None) in graph:
        return "(" + " ".join(path_text(graph, part) for part in Collection(graph, path)) + ")"
    ((predicate, inner),) = graph.predicate_objects(path)
    return f"[{predicate} {path_text(graph, inner)}]"
