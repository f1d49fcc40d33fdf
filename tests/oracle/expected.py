"""What a pack of shapes must say about payloads: failing (shape, component) pairs for each body."""

from __future__ import annotations

from unittest.mock import patch

import rdflib
from rdflib import Graph
from rdflib.term import Node

from oracle.judge import shacl_failures
from oracle.mapping import Mapping, triples
from oracle.payload import Malformed, read

Pairs = set[tuple[str, str]]


def shapes_graph(text: str) -> Graph:
    """Shapes with their literals as written."""
    with patch.object(rdflib, "NORMALIZE_LITERALS", False):
        return Graph().parse(data=text, format="turtle")


def expected(shapes: Graph, mapping: Mapping, bodies: list[bytes]) -> list[Pairs | None]:
    """For each body the failing pairs, or None when guard 0 must refuse it. All bodies are judged in
    one graph; their focus nodes must be distinct."""
    whole = Graph()
    owner: dict[Node, int] = {}
    found: list[Pairs | None] = []
    for i, body in enumerate(bodies):
        try:
            graph = triples(mapping, read(body), f"n{i}")
        except Malformed:
            found.append(None)
            continue
        found.append(set())
        for triple in graph:
            whole.add(triple)
        owner |= dict.fromkeys(graph.subjects(), i)
    for failure in shacl_failures(whole, shapes):
        pairs = found[owner[failure.focus]]
        assert pairs is not None
        pairs.add((str(failure.shape), failure.component))
    return found
