"""Output triples of a pack: cases of the plan on a graph, or CONSTRUCT queries with $this bound (formats/action.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyoxigraph import BlankNode, Literal, NamedNode

from knhk_runtime.tiers.action import MAX_LINE, MAX_TRIPLES
from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.expr import Expressions, check_expr, term_of, test_term
from knhk_runtime.tiers.graph import Graph, Term
from knhk_runtime.tiers.names import XSD
from knhk_runtime.tiers.sparql import check_rule, construct

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_NOT_IN_IRI = frozenset('<>"{}|^`\\')


def line(s: Term, p: NamedNode, o: Term) -> bytes:
    """Canonical N-Triples without the line feed (RDF 1.2 N-Triples, canonical form)."""
    return f"{_text(s)} {_text(p)} {_text(o)} .".encode()


def _text(term: Term) -> str:
    if isinstance(term, BlankNode):
        return f"_:{term.value}"
    if isinstance(term, NamedNode):
        return f"<{''.join(_coded(c) if c <= ' ' or c == chr(127) or c in _NOT_IN_IRI else c for c in term.value)}>"
    quoted = '"' + "".join(_ESCAPES.get(c) or (_coded(c) if c < " " or c == chr(127) else c) for c in term.value) + '"'
    if term.language is not None:
        return f"{quoted}@{term.language}"
    return quoted if term.datatype.value == XSD + "string" else f"{quoted}^^{_text(term.datatype)}"


def _coded(c: str) -> str:
    return f"\\u{ord(c):04X}"


class Constructs:
    """The construct guards of a plan. Raises ShapeError for what cannot be evaluated."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._targets = plan["targets"]
        self._guards = [(i, guard) for i, guard in enumerate(plan["guards"]) if guard["kind"] == "construct"]
        self._cases: Mapping[str, Any] = plan.get("constructs") or {}
        self._queries: Mapping[str, str] = (plan.get("cold") or {}).get("constructs") or {}
        for _, guard in self._guards:
            where = str(guard["id"])
            if where in self._queries:
                check_rule(where, self._queries[where])
            elif where not in self._cases:
                raise ShapeError(where, "must have its cases or its query")
            for case in self._cases.get(where, ()):
                check_expr(where, case["when"])

    def make(self, graph: Graph) -> tuple[tuple[bytes, ...], tuple[int, ...]]:
        """All lines, ascending; and the guards that made some, if not all lines fit an A."""
        expressions = Expressions(self._targets, graph)
        lines: set[bytes] = set()
        makers: list[int] = []
        for index, guard in self._guards:
            own = {line(*triple) for triple in self._of(guard, expressions, graph)}
            lines |= own
            makers += [index] if own else []
        over = len(lines) > MAX_TRIPLES or any(len(each) > MAX_LINE for each in lines)
        return tuple(sorted(lines)), tuple(makers) if over else ()

    def _of(self, guard: Mapping[str, Any], expressions: Expressions, graph: Graph) -> Iterator[tuple[Term, NamedNode, Term]]:
        nodes = expressions.focus_nodes(guard["target"])
        query = self._queries.get(guard["id"])
        for focus in nodes:
            if query is not None:
                yield from construct(graph, query, focus)
                continue
            for case in self._cases[guard["id"]]:
                if expressions.test(case["when"], focus, nodes):
                    for triple in case["triples"]:
                        yield from _instances(expressions, triple, focus)


def _instances(expressions: Expressions, triple: Mapping[str, Any], focus: Term) -> Iterator[tuple[Term, NamedNode, Term]]:
    def node(document: Mapping[str, Any]) -> Term:
        return focus if "this" in document else term_of(document)

    subject, value = node(triple["s"]), triple["o"]
    if isinstance(subject, Literal):
        return
    if "of" not in value:
        yield subject, NamedNode(triple["p"]), node(value)
        return
    source = value["of"]
    for obj in expressions.objects(focus if "this" in source else expressions.known(source), value["p"]):
        if test_term(value["test"], obj):
            yield subject, NamedNode(triple["p"]), obj
