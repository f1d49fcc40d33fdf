"""SHACL property paths: read from a shapes graph, evaluated over a data graph, written as SPARQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal as OneOf

from pyoxigraph import BlankNode, NamedNode

from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.graph import Graph, Term
from knhk_runtime.tiers.names import RDF_FIRST, sh

Form = OneOf["predicate", "inverse", "sequence", "alternative", "zeroOrMore", "oneOrMore", "zeroOrOne"]
Step = Callable[[list[Term]], list[Term]]
MAX_PATH_DEPTH = 32
_UNARY: tuple[tuple[Form, NamedNode], ...] = (
    ("inverse", sh("inversePath")),
    ("zeroOrMore", sh("zeroOrMorePath")),
    ("oneOrMore", sh("oneOrMorePath")),
    ("zeroOrOne", sh("zeroOrOnePath")),
)
_SUFFIX = {"zeroOrMore": "*", "oneOrMore": "+", "zeroOrOne": "?"}


@dataclass(frozen=True)
class Path:
    """`predicate` for the form predicate, `parts` for all others (one part for the unary forms)."""

    form: Form
    predicate: NamedNode | None = None
    parts: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """SPARQL property path syntax."""
        if self.predicate is not None:
            return f"<{self.predicate.value}>"
        if self.form == "sequence":
            return "(" + "/".join(map(str, self.parts)) + ")"
        if self.form == "alternative":
            return "(" + "|".join(map(str, self.parts)) + ")"
        return f"(^{self.parts[0]})" if self.form == "inverse" else f"({self.parts[0]}{_SUFFIX[self.form]})"


def read_path(graph: Graph, node: Term, depth: int = 0) -> Path:
    """The path at this node of a shapes graph. Raises ShapeError."""
    if depth > MAX_PATH_DEPTH:
        raise ShapeError(str(node), f"a path nests deeper than {MAX_PATH_DEPTH} or runs in a circle")
    if isinstance(node, NamedNode):
        return Path("predicate", node)
    if not isinstance(node, BlankNode):
        raise ShapeError(str(node), "a path must be an IRI or a blank node")
    if graph.objects(node, RDF_FIRST):
        return Path("sequence", parts=_members(graph, node, depth))
    alternative = graph.one(node, sh("alternativePath"))
    if alternative is not None:
        return Path("alternative", parts=_members(graph, alternative, depth))
    for form, predicate in _UNARY:
        inner = graph.one(node, predicate)
        if inner is not None:
            return Path(form, parts=(read_path(graph, inner, depth + 1),))
    raise ShapeError(str(node), "is not a property path")


def _members(graph: Graph, head: Term, depth: int) -> tuple[Path, ...]:
    members = graph.items(head)
    if len(members) < 2:
        raise ShapeError(str(head), "a sequence or alternative path must have two members or more")
    return tuple(read_path(graph, member, depth + 1) for member in members)


def values(graph: Graph, path: Path, start: Term) -> list[Term]:
    """The value nodes: distinct, in the order in which they are found."""
    return _forward(graph, path, (start,))


def _forward(graph: Graph, path: Path, starts: Iterable[Term]) -> list[Term]:
    if path.predicate is not None:
        predicate = path.predicate
        return _distinct(obj for node in starts for obj in graph.objects(node, predicate))
    if path.form == "inverse":
        return _backward(graph, path.parts[0], starts)
    if path.form == "sequence":
        nodes = list(starts)
        for part in path.parts:
            nodes = _forward(graph, part, nodes)
        return nodes
    if path.form == "alternative":
        nodes = list(starts)
        return _distinct(node for part in path.parts for node in _forward(graph, part, nodes))
    return _closure(list(starts), path.form, lambda nodes: _forward(graph, path.parts[0], nodes))


def _backward(graph: Graph, path: Path, starts: Iterable[Term]) -> list[Term]:
    if path.predicate is not None:
        predicate = path.predicate
        return _distinct(subject for node in starts for subject in graph.subjects(predicate, node))
    if path.form == "inverse":
        return _forward(graph, path.parts[0], starts)
    if path.form == "sequence":
        nodes = list(starts)
        for part in reversed(path.parts):
            nodes = _backward(graph, part, nodes)
        return nodes
    if path.form == "alternative":
        nodes = list(starts)
        return _distinct(node for part in path.parts for node in _backward(graph, part, nodes))
    return _closure(list(starts), path.form, lambda nodes: _backward(graph, path.parts[0], nodes))


def _distinct(terms: Iterable[Term]) -> list[Term]:
    return list(dict.fromkeys(terms))


def _closure(starts: list[Term], form: Form, step: Step) -> list[Term]:
    """zeroOrOne, zeroOrMore and oneOrMore over one step; visits each node once."""
    if form == "zeroOrOne":
        return _distinct([*starts, *step(starts)])
    found: dict[Term, None] = dict.fromkeys(starts) if form == "zeroOrMore" else {}
    frontier = starts
    while frontier:
        frontier = [node for node in step(frontier) if node not in found]
        found.update(dict.fromkeys(frontier))
    return list(found)
