"""SPARQL by rdflib, a second opinion on what a query says of a graph: translation validation counts answers on which engines agree.

Literals stay as they are written; rdflib would otherwise respell numbers and dates. Engines extend SPARQL's operators (section
17.3.1): they know that 1 and "a" differ, where the tables keep to section 17.4.1.7, by which that is an error. An answer that may hang
on this does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyoxigraph
from rdflib import BNode, Graph, Literal, URIRef
from rdflib.plugins.sparql import prepareQuery

from knhk_gen.ask import _walk
from knhk_gen.lower import _nt
from knhk_gen.names import TYPE, XSD
from knhk_gen.terms import NUMERICS
from knhk_gen.turtle import Term

REQUEST = URIRef("https://knhk.dev/ns#request")


def read_graph(ntriples: bytes) -> Graph:
    """The graph of N-Triples."""
    graph = Graph()
    for quad in pyoxigraph.parse(ntriples, format=pyoxigraph.RdfFormat.N_TRIPLES):
        graph.add((_term(quad.subject), _term(quad.predicate), _term(quad.object)))
    return graph


def _term(term: Any) -> Any:
    if isinstance(term, pyoxigraph.NamedNode):
        return URIRef(term.value)
    if isinstance(term, pyoxigraph.BlankNode):
        return BNode(term.value)
    return Literal(term.value, lang=term.language or None, datatype=None if term.language else term.datatype.value, normalize=False)


def _terms(node: Any) -> Iterable[Any]:
    """Terms of a node of the algebra; template and patterns hold tuples and lists of them."""
    return node if isinstance(node, (list, tuple)) else (node,)


def _kind(literal: Literal) -> str:
    if literal.language:
        return "lang"
    datatype = str(literal.datatype or XSD + "string")
    return "numeric" if datatype in NUMERICS else datatype


class Reference:
    """One query, prepared. `target`: IRI of the class that $this ranges over, None for the request alone."""

    def __init__(self, text: str, target: str | None) -> None:
        self._query = prepareQuery(text)
        self._target = target
        terms = [t for node in _walk(self._query.algebra) for t in _terms(node)]
        self._predicates = {t for t in terms if isinstance(t, URIRef)}
        self._kinds = {_kind(t) for t in terms if isinstance(t, Literal)}

    def certain(self, graph: Graph) -> bool:
        """No literal beside a predicate of the query is of another kind than all constants of the query."""
        values = (o for _, p, o in graph if p in self._predicates and isinstance(o, Literal))
        return not self._kinds or all(_kind(value) in self._kinds for value in values)

    def _focus(self, graph: Graph) -> Iterable[Term]:
        return [REQUEST] if self._target is None else list(graph.subjects(URIRef(TYPE), URIRef(self._target)))  # type: ignore[arg-type]

    def _results(self, graph: Graph) -> Iterable[Any]:
        for focus in self._focus(graph):
            yield graph.query(self._query, initBindings={} if self._target is None else {"this": focus})

    def fails(self, graph: Graph) -> bool:
        """An ASK is false for some focus node."""
        return any(not result.askAnswer for result in self._results(graph))

    def lines(self, graph: Graph) -> set[bytes]:
        """What a CONSTRUCT makes, as canonical N-Triples."""
        return {f"{_nt(s)} {_nt(p)} {_nt(o)} .".encode() for result in self._results(graph) for s, p, o in result}
