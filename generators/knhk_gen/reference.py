"""SPARQL by rdflib, a second opinion on what a query says of a graph: translation validation counts answers on which engines agree.

Literals stay as they are written; rdflib would otherwise respell numbers and dates. Engines extend SPARQL's operators (section
17.3.1): they know that 1 and "a" differ, where the tables keep to section 17.4.1.7, by which that is an error. An answer that may hang
on this does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import pyoxigraph
from rdflib import Graph, Literal, URIRef, Variable
from rdflib.plugins.sparql import prepareQuery
from rdflib.plugins.sparql.parserutils import CompValue

from knhk_gen.ask import _walk
from knhk_gen.lower import _nt
from knhk_gen.names import TYPE, XSD
from knhk_gen.terms import NUMERICS
from knhk_gen.turtle import Term, from_pyoxigraph

REQUEST = URIRef("https://knhk.dev/ns#request")
T = TypeVar("T")


def read_graph(ntriples: bytes) -> Graph:
    """The graph of N-Triples."""
    graph = Graph()
    for quad in pyoxigraph.parse(ntriples, format=pyoxigraph.RdfFormat.N_TRIPLES):
        graph.add((from_pyoxigraph(quad.subject), from_pyoxigraph(quad.predicate), from_pyoxigraph(quad.object)))
    return graph


def _is_equality(node: Any) -> bool:
    return isinstance(node, CompValue) and node.name == "RelationalExpression" and node.op in ("=", "!=", "IN", "NOT IN")


@dataclass(frozen=True)
class _Equality:
    """Kinds of the constants of one `=`, `!=` or `IN`, and the predicates whose values its variables hold."""

    constants: frozenset[str]
    predicates: frozenset[Any]

    @classmethod
    def of(cls, node: CompValue, algebra: CompValue) -> _Equality:
        found = list(_walk([node.expr, node.other]))
        variables = {t for t in found if isinstance(t, Variable)}
        patterns = [triple for each in _walk(algebra) if isinstance(each, CompValue) for triple in _triples(each)]
        predicates = frozenset(p for _, p, o in patterns if o in variables)
        return cls(frozenset(_kind(t) for t in found if isinstance(t, Literal)), predicates)

    def kinds(self, graph: Graph) -> frozenset[str]:
        """Kinds of all literals that it may compare in a graph."""
        return self.constants | {_kind(o) for _, p, o in graph if p in self.predicates and isinstance(o, Literal)}


def _equalities(algebra: CompValue) -> list[_Equality]:
    return [_Equality.of(node, algebra) for node in _walk(algebra) if _is_equality(node)]


def _triples(node: CompValue) -> Iterable[tuple[Any, Any, Any]]:
    """Patterns of a node of the algebra: tuples, or flat lists where a group was not translated."""
    for triple in node.get("triples") or ():
        yield from [triple] if isinstance(triple, tuple) else zip(*[iter(triple)] * 3, strict=False)


def _kind(literal: Literal) -> str:
    if literal.language:
        return "lang"
    datatype = str(literal.datatype or XSD + "string")
    return "numeric" if datatype in NUMERICS else datatype


def _beyond(graph: Graph) -> bool:
    """rdflib reads "NaN" as an xsd:decimal, and raises when it is compared."""
    return any(isinstance(o, Literal) and isinstance(o.value, Decimal) and not o.value.is_finite() for o in graph.objects())


def _opinion(ask: Callable[[], T]) -> T | None:
    """What rdflib says; None when it raises, as it does on ill-formed literals in many functions: errors of SPARQL it should have caught.
    Which exceptions is not told by it, and a second opinion that is none must not keep a pack from being built."""
    try:
        return ask()
    except Exception:
        return None


class Reference:
    """One query, prepared. `target`: IRI of the class that $this ranges over, None for the request alone."""

    def __init__(self, text: str, target: str | None) -> None:
        self._query = _opinion(lambda: prepareQuery(text))
        self._target = target
        self._equalities = [] if self._query is None else _equalities(self._query.algebra)

    def certain(self, graph: Graph) -> bool:
        """No equality of the query may meet literals of different kinds."""
        return self._query is not None and all(len(equality.kinds(graph)) <= 1 for equality in self._equalities)

    def _focus(self, graph: Graph) -> Iterable[Term]:
        return [REQUEST] if self._target is None else list(graph.subjects(URIRef(TYPE), URIRef(self._target)))  # type: ignore[arg-type]

    def _results(self, graph: Graph) -> Iterable[Any]:
        assert self._query is not None
        for focus in self._focus(graph):
            yield graph.query(self._query, initBindings={} if self._target is None else {"this": focus})

    def fails(self, graph: Graph) -> bool | None:
        """An ASK is false for some focus node; None where rdflib has no opinion."""
        if self._query is None or _beyond(graph):
            return None
        return _opinion(lambda: any(not result.askAnswer for result in self._results(graph)))

    def lines(self, graph: Graph) -> set[bytes] | None:
        """What a CONSTRUCT makes, as canonical N-Triples; None where rdflib has no opinion."""
        if self._query is None or _beyond(graph):
            return None
        return _opinion(lambda: {f"{_nt(s)} {_nt(p)} {_nt(o)} .".encode() for result in self._results(graph) for s, p, o in result})
