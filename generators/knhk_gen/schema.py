"""A schema, an ontology with its shapes, as what two versions of it can be compared by. Pure.

Blank nodes are known by what they hold, never by a label: a property shape by its path below the shape that has it, the others by a
digest of their triples. Texts for people (labels, messages, order) are left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from rdflib import BNode, Literal, URIRef

from knhk.model.faults import Fault, Refused
from knhk_gen.names import OWL, RDF, RDFS, SH, TYPE
from knhk_gen.turtle import NIL, Subject, Term, TripleStore, parse

SCHEMA: Final = ("https://schema.org/", "http://schema.org/")
KINDS: Final[Mapping[str, str]] = {
    **dict.fromkeys((RDFS + "Class", OWL + "Class"), "class"),
    RDF + "Property": "property",
    OWL + "ObjectProperty": "object property",
    OWL + "DatatypeProperty": "datatype property",
    OWL + "AnnotationProperty": "annotation property",
    RDFS + "Datatype": "datatype",
    OWL + "NamedIndividual": "individual",
    **dict.fromkeys((SH + "NodeShape", SH + "PropertyShape"), "shape"),
}
TRAITS: Final = tuple(
    OWL + name
    for name in (
        "FunctionalProperty",
        "InverseFunctionalProperty",
        "TransitiveProperty",
        "SymmetricProperty",
        "AsymmetricProperty",
        "ReflexiveProperty",
        "IrreflexiveProperty",
    )
)
AXIOMS: Final = tuple(OWL + name for name in ("disjointWith", "propertyDisjointWith", "equivalentClass", "inverseOf", "hasKey", "oneOf"))
BOUNDS: Final = (RDFS + "domain", RDFS + "range", *(ns + name for ns in SCHEMA for name in ("domainIncludes", "rangeIncludes")))
EDGES: Final = (RDFS + "subClassOf", RDFS + "subPropertyOf")
TARGETS: Final = ("targetClass", "targetNode", "targetSubjectsOf", "targetObjectsOf")
LISTS: Final = ("in", "languageIn", "ignoredProperties", "or", "and", "xone")
FOR_PEOPLE: Final = frozenset(
    {SH + n for n in ("name", "description", "message", "order", "group", "defaultValue", "declare", "prefixes")}
    | {RDFS + n for n in ("label", "comment", "seeAlso", "isDefinedBy")}
)
TOGETHER: Final = (
    "class",
    "node",
    "property",
    "not",
    "hasValue",
    "equals",
    "disjoint",
    "lessThan",
    "lessThanOrEquals",
    "pattern",
    "datatype",
)
"""Components of which each value is one more demand."""
SEVERAL: Final = "several "
_NO_DEMANDS: Final = ("severity", "deactivated", *TARGETS)
UNSURE: Final = ("not", "xone", "qualifiedValueShape")
MAX_DEPTH: Final = 64


@dataclass(frozen=True)
class Shape:
    """What one shape asks: of which `root` (an IRI, or a blank node's digest), on which targets, by component. A shape that does not
    deny (another severity, deactivated) asks nothing."""

    root: str
    nested: bool
    targets: frozenset[str]
    asks: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Schema:
    """One version. `terms`: IRI → kinds; `edges`: (predicate, sub, super), closed; `axioms`, `bounds`: (term, predicate) → values;
    `unsure`: shapes below a negation or a count, of which more may mean less."""

    digest: str
    terms: Mapping[str, frozenset[str]]
    deprecated: frozenset[str]
    edges: frozenset[tuple[str, str, str]]
    axioms: Mapping[tuple[str, str], frozenset[str]]
    bounds: Mapping[tuple[str, str], frozenset[str]]
    shapes: Mapping[str, Shape]
    unsure: frozenset[str]
    spoken: frozenset[str]
    """IRIs that shapes speak of."""


def read(text: str, path: str, renames: Mapping[str, str] | None = None, first_line: int = 1) -> Schema:
    """The schema of a Turtle text; `renames`: old IRI → new IRI, put in place first. Raises Refused with every fault."""
    store = parse(text, path, first_line)
    if renames:
        store = _renamed(store, renames)
    nodes = _Nodes(store, path)
    terms = _terms(store)
    shapes = _shapes(nodes)
    return Schema(
        digest=nodes.digest(),
        terms=terms,
        deprecated=frozenset(str(s) for s in store.subjects(OWL + "deprecated") if _true(store.values(s, OWL + "deprecated"))),
        edges=frozenset((p, s, o) for p in EDGES for s, o in _closed(store, p)),
        axioms={**_said(nodes, AXIOMS), **_traits(store), **_restrictions(nodes)},
        bounds=_said(nodes, BOUNDS),
        shapes=shapes,
        unsure=_unsure(nodes, shapes),
        spoken=frozenset(iri for root in _roots(store) for iri in nodes.below(root)),
    )


def _renamed(store: TripleStore, renames: Mapping[str, str]) -> TripleStore:
    def new(term: Term) -> Term:
        return URIRef(renames[str(term)]) if isinstance(term, URIRef) and str(term) in renames else term

    made = TripleStore(prefixes=dict(store.prefixes), blank_count=store.blank_count)
    for (s, p, o), where in store.triples.items():
        subject, predicate = new(s), new(p)
        assert not isinstance(subject, Literal)
        assert isinstance(predicate, URIRef)
        made.add((subject, predicate, new(o)), where)
    return made


@dataclass
class _Nodes:
    """Terms by their texts; blank nodes by digests of what they hold. Raises Refused for a circle of blank nodes."""

    store: TripleStore
    path: str
    _texts: dict[Subject, str] = field(default_factory=dict)
    _open: set[Subject] = field(default_factory=set)

    def text(self, term: Term) -> str:
        """The same text for the same meaning; IRIs stand for themselves."""
        if isinstance(term, URIRef):
            return str(term)
        if isinstance(term, Literal):
            return term.n3()
        if term not in self._texts:
            if term in self._open or len(self._open) > MAX_DEPTH:
                must = f"must not go in a circle of blank nodes, nor deeper than {MAX_DEPTH}"
                raise Refused([Fault(self.store.where(term), "a blank node", must)])
            self._open.add(term)
            self._texts[term] = "_:" + _sha256(self._rows(term, FOR_PEOPLE))
            self._open.discard(term)
        return self._texts[term]

    def _rows(self, node: Subject, without: Collection[str] = ()) -> list[str]:
        held = self.store.by_subject.get(node, {})
        return sorted(f"{p} {self.text(o)}" for p, values in held.items() if p not in without for o in values)

    def members(self, head: Term) -> list[str]:
        return [self.text(item) for item in self.store.items(head, self.store.where(head))] if head != NIL else []

    def below(self, node: Term) -> Iterator[str]:
        """All IRIs that a node and the blank nodes below it speak of."""
        seen, todo = set[Term](), [node]
        while todo:
            term = todo.pop()
            if isinstance(term, Literal) or term in seen:
                continue
            seen.add(term)
            for predicate, values in self.store.by_subject.get(term, {}).items():
                if predicate in FOR_PEOPLE:
                    continue
                yield from (str(v) for v in values if isinstance(v, URIRef))
                todo += [v for v in values if isinstance(v, BNode)]

    def digest(self) -> str:
        """SHA-256 of all triples, whatever order, prefixes and labels they are written with."""
        held = Counter(o for _, _, o in self.store.triples if isinstance(o, BNode))
        rows = [f"{s} {row}" for s in self.store.by_subject if isinstance(s, URIRef) for row in self._rows(s)]
        blank = [s for s in self.store.by_subject if isinstance(s, BNode)]
        rows += [f"{self.text(s)} {held[s]} {_sha256(self._rows(s))}" for s in blank]
        return _sha256(sorted(rows))


def _sha256(rows: Collection[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _true(values: list[Term]) -> bool:
    return any(str(v) in ("true", "1") for v in values)


def _terms(store: TripleStore) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for subject, held in store.by_subject.items():
        if isinstance(subject, URIRef) and (kinds := {KINDS[str(t)] for t in held.get(TYPE, ()) if str(t) in KINDS}):
            found[str(subject)] = kinds
    for predicate, kind in ((OWL + "oneOf", "member"), (SH + "in", "member")):
        for subject in store.subjects(predicate):
            for head in store.values(subject, predicate):
                for item in store.items(head, store.where(subject, predicate)):
                    if isinstance(item, URIRef):
                        found.setdefault(str(item), {kind})
    for root in _roots(store):
        if isinstance(root, URIRef):
            found.setdefault(str(root), set()).add("shape")
    return {iri: frozenset(kinds - {"property"} if len(kinds) > 1 else kinds) for iri, kinds in found.items()}


def _closed(store: TripleStore, predicate: str) -> set[tuple[str, str]]:
    up: dict[str, set[str]] = {}
    for s, p, o in store.triples:
        if str(p) == predicate and isinstance(s, URIRef) and isinstance(o, URIRef):
            up.setdefault(str(s), set()).add(str(o))
    pairs: set[tuple[str, str]] = set()
    for start in up:
        todo = list(up[start])
        while todo:
            above = todo.pop()
            if above != start and (start, above) not in pairs:
                pairs.add((start, above))
                todo += up.get(above, ())
    return pairs


def _said(nodes: _Nodes, predicates: Collection[str]) -> dict[tuple[str, str], frozenset[str]]:
    return {
        (str(s), p): frozenset(nodes.text(o) for o in held[p])
        for s, held in nodes.store.by_subject.items()
        if isinstance(s, URIRef)
        for p in predicates
        if p in held
    }


def _traits(store: TripleStore) -> dict[tuple[str, str], frozenset[str]]:
    found = {}
    for s, held in store.by_subject.items():
        traits = frozenset(str(t) for t in held.get(TYPE, ()) if str(t) in TRAITS)
        if isinstance(s, URIRef) and traits:
            found[str(s), TYPE] = traits
    return found


def _restrictions(nodes: _Nodes) -> dict[tuple[str, str], frozenset[str]]:
    found = {}
    for s, held in nodes.store.by_subject.items():
        above = frozenset(nodes.text(o) for o in held.get(EDGES[0], ()) if isinstance(o, BNode))
        if isinstance(s, URIRef) and above:
            found[str(s), EDGES[0]] = above
    return found


# -- shapes --


def _roots(store: TripleStore) -> list[Subject]:
    """Shapes that stand by themselves: with an IRI, or with a target."""
    targets = {SH + name for name in TARGETS}
    shaped = (TYPE, SH + "property", SH + "path", SH + "node", *targets)
    found = []
    for node, held in store.by_subject.items():
        typed = any(str(t) in (SH + "NodeShape", SH + "PropertyShape") for t in held.get(TYPE, ()))
        named = isinstance(node, URIRef) and (typed or any(p in held for p in shaped[1:]))
        if named or targets & held.keys():
            found.append(node)
    return found


def _shapes(nodes: _Nodes) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for root in _roots(nodes.store):
        _shape(nodes, root, nodes.text(root), nodes.text(root), False, found)
    return found


def _shape(nodes: _Nodes, node: Subject, key: str, root: str, off: bool, found: dict[str, Shape]) -> None:
    held = nodes.store.by_subject.get(node, {})
    off = off or _true(held.get(SH + "deactivated", []))
    severity = [str(v) for v in held.get(SH + "severity", ())]
    denies = not off and severity in ([], [SH + "Violation"])
    asks: dict[str, set[str]] = {}
    for predicate, values in held.items():
        name = predicate.removeprefix(SH) if predicate.startswith(SH) else ""
        if name == "property":
            for value in values:
                if isinstance(value, BNode):
                    _shape(nodes, value, f"{key} {_path(nodes, value)}", root, off, found)
                elif denies:
                    asks.setdefault(name, set()).add(nodes.text(value))
        elif denies and name and predicate not in FOR_PEOPLE and name not in (*_NO_DEMANDS, *(("path",) if key != root else ())):
            asks.setdefault(name, set()).update(_values(nodes, name, values))
    before = found.get(key, Shape(root, key != root, frozenset(), {}))
    names = {*asks, *before.asks}
    merged = {name: _both(name, before.asks.get(name, frozenset()), frozenset(asks.get(name, ()))) for name in names}
    found[key] = Shape(root, key != root, before.targets | _targets(nodes, node, held, off), merged)


def _both(name: str, a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
    """What two shapes of one path ask together. Values of which each is a demand add up; of others only a change can be told."""
    if not a or not b or a == b or name in TOGETHER:
        return a | b
    return frozenset({f"{SEVERAL}{_sha256([*sorted(a), '', *sorted(b)])}"})


def _values(nodes: _Nodes, name: str, values: list[Term]) -> Iterator[str]:
    """Members of the one list; of several lists only a change can be told."""
    if name not in LISTS:
        yield from (nodes.text(value) for value in values)
    elif len(values) == 1:
        yield from nodes.members(values[0])
    else:
        yield f"{SEVERAL}{_sha256(sorted(nodes.text(value) for value in values))}"


def _path(nodes: _Nodes, shape: BNode) -> str:
    paths = nodes.store.values(shape, SH + "path")
    return " ".join(sorted(nodes.text(path) for path in paths))


def _targets(nodes: _Nodes, node: Subject, held: Mapping[str, list[Term]], off: bool) -> frozenset[str]:
    if off:
        return frozenset()
    found = {f"{name} {nodes.text(value)}" for name in TARGETS for value in held.get(SH + name, ())}
    is_class = any(KINDS.get(str(t)) == "class" for t in held.get(TYPE, ()))
    return frozenset(found | ({f"targetClass {node}"} if is_class and isinstance(node, URIRef) else set()))


def _unsure(nodes: _Nodes, shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Roots below sh:not, sh:xone or a qualified shape, and what these refer to."""
    roots = {shape.root for shape in shapes.values()}
    refers = {nodes.text(root): set(nodes.below(root)) & roots for root in _roots(nodes.store)}
    todo = [
        iri for name in UNSURE for s in nodes.store.subjects(SH + name) for v in nodes.store.values(s, SH + name) for iri in _at(nodes, v)
    ]
    found: set[str] = set()
    while todo:
        iri = todo.pop()
        if iri in roots and iri not in found:
            found.add(iri)
            todo += refers.get(iri, ())
    return frozenset(found)


def _at(nodes: _Nodes, value: Term) -> Iterator[str]:
    if isinstance(value, URIRef):
        yield str(value)
    else:
        yield from nodes.below(value)
