"""An in-memory index of triples: by subject and predicate, and by predicate and object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyoxigraph import BlankNode, Literal, NamedNode, Quad, RdfFormat, Store, Triple, parse

from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.names import RDF_FIRST, RDF_NIL, RDF_REST, RDF_TYPE, SUBCLASS_OF, XSD

Node = NamedNode | BlankNode
Term = NamedNode | BlankNode | Literal


class Graph:
    """A set of triples; iteration follows insertion, so that the same bytes give the same order of results."""

    def __init__(self, triples: Iterable[tuple[Node, NamedNode, Term]] = ()) -> None:
        self._out: dict[Node, dict[NamedNode, dict[Term, None]]] = {}
        self._in: dict[NamedNode, dict[Term, dict[Node, None]]] = {}
        self._store: Store | None = None
        self._spellings: dict[Literal, Literal] | None = None
        self.named: dict[NamedNode, Graph] = {}  # graphs that queries may name beside this one
        for s, p, o in triples:
            self._out.setdefault(s, {}).setdefault(p, {})[o] = None
            self._in.setdefault(p, {}).setdefault(o, {})[s] = None

    @classmethod
    def parse(cls, data: bytes, form: RdfFormat = RdfFormat.N_TRIPLES, base_iri: str | None = None) -> Graph:
        """Raises SyntaxError (pyoxigraph's own, with line and column) on malformed text."""
        return cls(_plain(parse(data, format=form, base_iri=base_iri)))

    def objects(self, subject: Term, predicate: NamedNode) -> list[Term]:
        """Distinct objects; none for a literal subject."""
        return list(self._out.get(subject, {}).get(predicate, ())) if not isinstance(subject, Literal) else []

    def subjects(self, predicate: NamedNode, obj: Term) -> list[Node]:
        return list(self._in.get(predicate, {}).get(obj, ()))

    def predicates(self, subject: Term) -> list[NamedNode]:
        return list(self._out.get(subject, ())) if not isinstance(subject, Literal) else []

    def pairs(self, predicate: NamedNode) -> Iterator[tuple[Node, Term]]:
        """(subject, object) of every triple with this predicate."""
        for obj, subjects in self._in.get(predicate, {}).items():
            for subject in subjects:
                yield subject, obj

    def has(self, subject: Term, predicate: NamedNode, obj: Term) -> bool:
        return not isinstance(subject, Literal) and obj in self._out.get(subject, {}).get(predicate, ())

    def triples(self) -> Iterator[tuple[Node, NamedNode, Term]]:
        for subject, by_predicate in self._out.items():
            for predicate, objects in by_predicate.items():
                for obj in objects:
                    yield subject, predicate, obj

    def one(self, subject: Term, predicate: NamedNode) -> Term | None:
        """The only object, None if there is none. Raises ShapeError when there are several."""
        values = self.objects(subject, predicate)
        if len(values) > 1:
            raise ShapeError(str(subject), f"{predicate.value} must have one value, not {len(values)}")
        return values[0] if values else None

    def items(self, head: Term) -> list[Term]:
        """Members of an RDF list. Raises ShapeError for a list that is broken or runs in a circle."""
        members: list[Term] = []
        seen: set[Term] = set()
        while head != RDF_NIL:
            first, rest = self.objects(head, RDF_FIRST), self.objects(head, RDF_REST)
            if head in seen or len(first) != 1 or len(rest) != 1:
                raise ShapeError(str(head), "must be a well-formed RDF list")
            seen.add(head)
            members.append(first[0])
            head = rest[0]
        return members

    def store(self) -> Store:
        """The same triples as a pyoxigraph store, blank nodes as IRIs (see sparql.py), and those of `named`; made on first use."""
        if self._store is None:
            self._store = Store()
            self._store.extend(Quad(_node_as_iri(s), p, as_iri(o)) for s, p, o in self.triples())
            for name, graph in self.named.items():
                self._store.extend(Quad(_node_as_iri(s), p, as_iri(o), name) for s, p, o in graph.triples())
        return self._store

    def spelled(self, term: Term) -> Term:
        """A term of a solution as this graph spells it: the store keeps numbers and dates by value."""
        if not isinstance(term, Literal) or term.language is not None or term.datatype.value == XSD + "string":
            return term
        if self._spellings is None:
            self._spellings = {}
            for literal in dict.fromkeys(o for _, _, o in self.triples() if isinstance(o, Literal)):
                if literal.language is None and literal.datatype.value != XSD + "string":
                    self._spellings.setdefault(_by_value(literal), literal)
            self._spellings.update({own: own for own in self._spellings.values()})
        return self._spellings.get(term, term)


def _by_value(literal: Literal) -> Literal:
    """The literal as a store gives it back."""
    store = Store()
    store.add(Quad(RDF_NIL, RDF_FIRST, literal))
    kept = next(iter(store)).object
    assert isinstance(kept, Literal)
    return kept


def node_of(text: str) -> Node:
    """A node as the plan names it: an IRI, or `_:b3`."""
    return BlankNode(text[2:]) if text.startswith("_:") else NamedNode(text.strip("<>"))


SKOLEM = "urn:knhk:bnode:"


def as_iri(term: Term) -> NamedNode | Literal:
    """Blank nodes get an IRI, because SPARQL text cannot name a blank node."""
    return NamedNode(SKOLEM + term.value) if isinstance(term, BlankNode) else term


def from_iri(term: Term) -> Term:
    """The inverse of as_iri."""
    if isinstance(term, NamedNode) and term.value.startswith(SKOLEM):
        return BlankNode(term.value[len(SKOLEM) :])
    return term


def _node_as_iri(term: Node) -> NamedNode:
    return NamedNode(SKOLEM + term.value) if isinstance(term, BlankNode) else term


def _plain(quads: Iterable[Quad]) -> Iterator[tuple[Node, NamedNode, Term]]:
    for quad in quads:
        if isinstance(quad.subject, Triple) or isinstance(quad.object, Triple):
            raise ShapeError(str(quad.subject), "triple terms are not part of RDF 1.1")
        yield quad.subject, quad.predicate, quad.object


class Hierarchy:
    """rdfs:subClassOf of several graphs together, read downward; closed over on demand."""

    def __init__(self, *graphs: Graph) -> None:
        self._graphs = graphs
        self._below: dict[Term, frozenset[Term]] = {}

    def below(self, cls: Term) -> frozenset[Term]:
        """The class and all its subclasses, transitive."""
        found = self._below.get(cls)
        if found is None:
            seen: set[Term] = {cls}
            todo = [cls]
            while todo:
                upper = todo.pop()
                for graph in self._graphs:
                    fresh = [node for node in graph.subjects(SUBCLASS_OF, upper) if node not in seen]
                    seen.update(fresh)
                    todo.extend(fresh)
            found = self._below[cls] = frozenset(seen)
        return found

    def is_instance(self, data: Graph, node: Term, cls: Term) -> bool:
        """SHACL instance: rdf:type / rdfs:subClassOf*."""
        below = self.below(cls)
        return any(kind in below for kind in data.objects(node, RDF_TYPE))

    def instances(self, data: Graph, cls: Term) -> list[Term]:
        below = self.below(cls)
        return list(dict.fromkeys(node for kind in sorted(below, key=str) for node in data.subjects(RDF_TYPE, kind)))
