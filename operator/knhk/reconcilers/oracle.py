"""What sources say about a graph, straight from RDF: shapes by the SHACL validator, queries by SPARQL, access rules by their words.

It reads the sources and the graph. Of the plan it knows only the names of guards, so that both can be compared: no expression, no target,
no class (docs/adr/0016-translation-validation.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyoxigraph import CanonicalizationAlgorithm, Dataset, Literal, NamedNode, Quad, RdfFormat, parse

from knhk.model.arrows import PackSources, Source
from knhk.reconcilers.oracle_access import Access
from knhk.reconcilers.oracle_mapping import Malformed, MappingOracle, Triple
from knhk.reconcilers.oracle_shacl import Shacl
from knhk_gen.lower import ntriples
from knhk_gen.names import PREFIXES
from knhk_gen.reference import Reference, read_graph
from knhk_gen.turtle import BASE, TripleStore
from knhk_gen.turtle import parse as parse_turtle
from knhk_runtime.tiers.construct import line
from knhk_runtime.tiers.graph import Graph, Hierarchy
from knhk_runtime.tiers.names import component
from knhk_runtime.tiers.shacl import Result, Validator
from knhk_runtime.tiers.shapes import load_shapes
from knhk_runtime.tiers.sparql import THIS, ask, construct

Key = tuple[str, str, str]
"""kind, node, part: what a guard and a failure are matched by."""
_PROPERTY = component("Property")
_QUALIFIED = component("QualifiedValueShape")
_COUNTS = {component("QualifiedMinCount"), component("QualifiedMaxCount")}
REQUEST = NamedNode("https://knhk.dev/ns#request")


def key_of(guard: Mapping[str, Any]) -> Key:
    """What a guard is matched by."""
    if guard["kind"] == "shacl":
        return "shacl", guard["shape"], guard["component"]
    if guard["kind"] == "abac":
        return "abac", guard["shape"] or guard["id"], guard["component"]
    return guard["kind"], guard["id"], ""


@dataclass(frozen=True)
class Said:
    """What must fail, and what must be made when nothing denies (None: not said). `unsaid`: queries on which the two SPARQL
    engines differ or may both extend the standard, so that their answers do not count (knhk_gen.reference). `second`: guards
    on which a second engine spoke: rdflib, or SHACL's SPARQL definitions for those of slower tiers (oracle_shacl)."""

    failing: frozenset[Key]
    triples: tuple[bytes, ...] | None
    unsaid: frozenset[Key]
    second: frozenset[Key]


class Mistaken(AssertionError):
    """The compiler's reader of Turtle and another one see different graphs in a source."""


class Oracle:
    """The sources of one pack, read. `slow`: guards that the tables do not decide, of which SHACL's SPARQL definitions have the word.
    Raises Mistaken, and ShapeError for what this oracle cannot evaluate."""

    def __init__(self, pack: PackSources, slow: Iterable[Key] = ()) -> None:
        store = TripleStore()
        for source in pack.sources:
            if source.kind == "shapes":
                parse_turtle(source.text, source.path, source.first_line, store)
        shapes = ntriples(store).encode()
        _same_graph([s for s in pack.sources if s.kind == "shapes"], shapes)
        self._ontology = Graph.parse(shapes)
        self._shapes = load_shapes(self._ontology)
        self._second = Shacl(shapes, {(shape, part) for kind, shape, part in slow if kind == "shacl"})
        self._queries = [
            (s, _declared(s.text), Reference(_declared(s.text), s.target)) for s in pack.sources if s.kind in ("ask", "construct")
        ]
        self._mappings = {s.name: MappingOracle(s) for s in pack.sources if s.kind == "mapping"}
        self._routes = pack.routes
        self._access = [(_plain(s.name), _access_graph(s)) for s in pack.sources if s.kind == "abac"]

    def extracted(self, route: str, body: bytes) -> set[Triple]:
        """What the mapping of a route makes of a body. Raises Malformed when it must be refused, Unsaid when that is not known."""
        name = self._routes[route]
        if name is not None:
            return self._mappings[name].triples(body)
        if body:
            raise Malformed("the route has no body")
        return set()

    def judge(self, data: bytes, slow: bool = True) -> Said:
        """What must become of a Δ (N-Triples). `slow`: guards of the slower tiers count, and so the second engine is asked of them."""
        graph = Graph.parse(data)
        failing, told = self._by_shapes(graph, data, slow)
        made: set[bytes] = set()
        unsaid: set[Key] = set()
        by_rdflib = read_graph(data if self._queries else b"")
        for source, text, reference in self._queries:
            key = (source.kind, _plain(source.name), "")
            if source.kind == "construct":
                lines = {line(*triple) for focus in _focus(source, graph) for triple in construct(graph, text, focus)}
                made |= lines
                agreed = lines == reference.lines(by_rdflib)
            else:
                fails = _fails(source, text, graph)
                failing |= {key} if fails else set()
                agreed = fails == reference.fails(by_rdflib)
            unsaid |= set() if agreed and reference.certain(by_rdflib) else {key}
        failing |= self._by_access(graph)
        certain = {(source.kind, _plain(source.name), "") for source, _, _ in self._queries} - unsaid
        silent = any(kind == "construct" for kind, _, _ in unsaid)
        return Said(frozenset(failing), None if silent else tuple(sorted(made)), frozenset(unsaid), frozenset(told | certain))

    def denied_by(self, data: bytes) -> frozenset[Key]:
        """`failing` of `judge` without `unsaid`, and nothing more: what is made is not, and rdflib is asked of queries alone that fail."""
        graph = Graph.parse(data)
        failing, _ = self._by_shapes(graph, data, slow=True)
        failing |= self._by_access(graph)
        asked = [each for each in self._queries if each[0].kind == "ask" and _fails(each[0], each[1], graph)]
        by_rdflib = read_graph(data if asked else b"")
        agreed = (source for source, _, reference in asked if reference.fails(by_rdflib) and reference.certain(by_rdflib))
        return frozenset(failing | {(source.kind, _plain(source.name), "") for source in agreed})

    def _by_shapes(self, graph: Graph, data: bytes, slow: bool) -> tuple[set[Key], set[Key]]:
        """What fails by shapes, and on which of them the second engine spoke."""
        failing = {self._key(result) for result in Validator(self._shapes, graph, self._ontology).validate()}
        told = {("shacl", *key): fails for key, fails in (self._second.judge(data) if slow else {}).items()}
        return (failing - told.keys()) | {key for key, fails in told.items() if fails}, set(told)

    def _by_access(self, graph: Graph) -> set[Key]:
        classes = Hierarchy(self._ontology)
        return {key for name, rules in self._access for key in Access(name, rules, graph, classes).failing()}

    def _key(self, result: Result) -> Key:
        for outer in result.outer:
            if self._shapes.by_node[outer].path is not None:
                return "shacl", _name(outer), _PROPERTY
        part = _QUALIFIED if result.component in _COUNTS else result.component
        return "shacl", _name(result.shape), part


def _fails(source: Source, text: str, graph: Graph) -> bool:
    return any(not ask(graph, text, {THIS: focus}) for focus in _focus(source, graph))


def _name(term: Any) -> str:
    return term.value if isinstance(term, NamedNode) else f"_:{term.value}"


def _plain(name: str) -> str:
    """A source's name as guards carry it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)


def _focus(source: Source, graph: Graph) -> Iterable[Any]:
    if source.target is None:
        return (REQUEST,)
    return graph.subjects(NamedNode("http://www.w3.org/1999/02/22-rdf-syntax-ns#type"), NamedNode(source.target))


def _declared(text: str) -> str:
    known = set(re.findall(r"(?i)\bPREFIX\s+([\w-]*):", text))
    return "".join(f"PREFIX {p}: <{iri}>\n" for p, iri in PREFIXES.items() if p not in known) + text


def _access_graph(source: Source) -> Graph:
    data = ntriples(parse_turtle(source.text, source.path, source.first_line)).encode()
    _same_graph([source], data)
    return Graph.parse(data)


def _same_graph(sources: list[Source], data: bytes) -> None:
    """Raises Mistaken unless another reader finds the same graph in the texts, blank nodes matched."""
    theirs: list[Quad] = []
    for source in sources:
        theirs += parse(source.text.encode(), format=RdfFormat.TURTLE, base_iri=BASE, rename_blank_nodes=True)
    ours = list(parse(data, format=RdfFormat.N_TRIPLES))
    if _canonical(ours) != _canonical(theirs):
        raise Mistaken(f"{', '.join(s.name for s in sources)}: the compiler reads another graph than pyoxigraph")


def canonical_lines(triples: Iterable[Triple]) -> set[str]:
    """A graph as text, blank nodes by canonical names."""
    return _canonical(Quad(*triple) for triple in triples)


def _canonical(quads: Iterable[Quad]) -> set[str]:
    dataset = Dataset(_lower_tags(quads))
    dataset.canonicalize(CanonicalizationAlgorithm.UNSTABLE)
    return {str(quad) for quad in dataset}


def _lower_tags(quads: Iterable[Quad]) -> Iterator[Quad]:
    """Language tags are equal whatever their case."""
    for quad in quads:
        o = quad.object
        if isinstance(o, Literal) and o.language:
            o = Literal(o.value, language=o.language.lower())
        yield Quad(quad.subject, quad.predicate, o)
