"""RML mappings in Turtle (classic vocabulary rml:, rr:, ql:JSONPath), read into triples maps."""

from __future__ import annotations

from typing import Final

from rdflib import Literal, URIRef

from knhk.model.arrows import Source
from knhk_gen.mapping import (
    UNKNOWN,
    Mapping,
    PropertyMap,
    TermMap,
    TriplesMap,
    constant_iri,
    constant_literal,
)
from knhk_gen.names import KNHK, QL, RML, RR, local
from knhk_gen.turtle import Term, TripleStore, parse, show

_NODES: Final = {RR + "IRI": "iri", RR + "BlankNode": "bnode", RR + "Literal": "literal"}
_KNOWN: Final = frozenset(
    {RR + t for t in (
        "subjectMap", "subject", "predicateObjectMap", "predicate", "predicateMap", "object",
        "objectMap", "template", "constant", "class", "termType", "datatype", "language",
        "parentTriplesMap",
    )}
    | {RML + t for t in (
        "logicalSource", "source", "referenceFormulation", "iterator", "reference",
    )}
    | {KNHK + "unknownMembers"}
)  # fmt: skip
SINGLE: Final = (
    "subjectMap", "subject", "template", "constant", "termType", "datatype", "language",
    "parentTriplesMap",
)  # fmt: skip


class _Reader:
    def __init__(self, store: TripleStore) -> None:
        self.store = store
        self.mapping = Mapping()

    def fault(self, s: Term, p: str, o: Term | None, must: str) -> None:
        value = self.store.curie(p) + (f" {show(o)}" if o is not None else "")
        self.mapping.fault(self.store.where(s, p, o), value, must)

    def read(self) -> None:
        for s, p, o in self.store.triples:
            name = str(p)
            if name.startswith((RR, RML)) and name not in _KNOWN:
                self.fault(s, name, o, "must be a term of R2RML or RML that this version compiles")
            single = name.startswith((RR, RML)) and local(name) in SINGLE
            if single and self.store.values(s, name)[0] != o:
                self.fault(s, name, o, "must be given once")
        for s in self.store.subjects(RML + "logicalSource"):
            if found := self.map(s):
                self.mapping.maps.append(found)
        self._unknown()

    def _unknown(self) -> None:
        for s, p, o in self.store.triples:
            if str(p) != KNHK + "unknownMembers":
                continue
            if str(o) not in UNKNOWN:
                self.fault(s, str(p), o, 'must be "Allow" or "Deny"')
            else:
                self.mapping.unknown_members = str(o)

    def one(self, s: Term, p: str) -> Term | None:
        found = self.store.values(s, p)
        return found[0] if found else None

    def map(self, s: Term) -> TriplesMap | None:
        source = self.one(s, RML + "logicalSource")
        assert source is not None
        formulation = self.one(source, RML + "referenceFormulation")
        if formulation != URIRef(QL + "JSONPath"):
            self.fault(source, RML + "referenceFormulation", formulation, "must be ql:JSONPath")
        iterator = self.one(source, RML + "iterator")
        subject = self.one(s, RR + "subjectMap")
        constant = self.one(s, RR + "subject")
        if subject is None and constant is None:
            self.fault(s, RML + "logicalSource", None, "must have an rr:subjectMap")
            return None
        if subject is not None:
            made = self.term_map(subject, RR + "subjectMap", s)
            classes = self.store.values(subject, RR + "class")
        else:
            assert constant is not None
            made = self._constant(constant, self.store.where(s, RR + "subject"))
            classes = []
        for cls in classes:
            if not isinstance(cls, URIRef):
                self.fault(subject or s, RR + "class", cls, "must be an IRI")
        if made.form == "constant" and (made.term or {}).get("k") != "iri":
            self.fault(subject or s, RR + "constant", constant, "must be an IRI")
        properties = [found for node in self.store.values(s, RR + "predicateObjectMap") for found in self.properties(node)]
        where = self.store.where(source, RML + "iterator")
        return TriplesMap(
            self.id(s),
            str(iterator or "$"),
            where,
            made,
            tuple(map(str, classes)),
            tuple(properties),
        )

    def id(self, s: Term) -> str:
        return local(str(s)) if isinstance(s, URIRef) else str(s)

    def properties(self, node: Term) -> list[PropertyMap]:
        predicates = list(self.store.values(node, RR + "predicate"))
        for inner in self.store.values(node, RR + "predicateMap"):
            if (constant := self.one(inner, RR + "constant")) is None:
                self.fault(node, RR + "predicateMap", inner, "must have an rr:constant")
            else:
                predicates.append(constant)
        for p in predicates:
            if not isinstance(p, URIRef):
                self.fault(node, RR + "predicate", p, "must be an IRI")
        where = self.store.where(node)
        objects: list[tuple[TermMap | None, str]] = [(self._constant(o, where), "") for o in self.store.values(node, RR + "object")]
        for inner in self.store.values(node, RR + "objectMap"):
            parent = self.one(inner, RR + "parentTriplesMap")
            if parent is not None:
                objects.append((None, self.id(parent)))
            else:
                objects.append((self.term_map(inner, RR + "objectMap", node), ""))
        if not predicates or not objects:
            self.mapping.fault(where, "rr:predicateObjectMap", "must have a predicate and an object")
        return [PropertyMap(str(p), value.where if value else where, value, child) for p in predicates for value, child in objects]

    def term_map(self, node: Term, role: str, owner: Term) -> TermMap:
        where = self.store.where(node)
        kind = self.one(node, RR + "termType")
        if kind is not None and str(kind) not in _NODES:
            self.fault(node, RR + "termType", kind, "must be rr:IRI, rr:BlankNode or rr:Literal")
        name = _NODES.get(str(kind), "")
        given = [p for p in (RR + "template", RML + "reference", RR + "constant") if self.one(node, p)]
        if not given and name == "bnode":
            return TermMap("blank", "", where, name)
        if len(given) != 1:
            must = "must have one of rr:template, rml:reference, rr:constant"
            self.fault(owner, role, None, must)
            return TermMap("blank", "", where, name)
        value = self.one(node, given[0])
        assert value is not None
        if given[0] == RR + "constant":
            return self._constant(value, where)
        if not isinstance(value, Literal):
            self.fault(node, given[0], value, "must be a string")
        datatype, lang = self.one(node, RR + "datatype"), self.one(node, RR + "language")
        form = "template" if given[0] == RR + "template" else "reference"
        if form == "template" and role == RR + "objectMap" and (datatype or lang) and not name:
            name = "literal"
        return TermMap(form, str(value), where, name, str(datatype or ""), str(lang or ""))

    def _constant(self, value: Term, where: str) -> TermMap:
        if isinstance(value, URIRef):
            return TermMap("constant", str(value), where, "iri", term=constant_iri(str(value)))
        if not isinstance(value, Literal):
            self.mapping.fault(where, show(value), "must be an IRI or a literal")
        datatype = value.datatype if isinstance(value, Literal) else None
        language = value.language if isinstance(value, Literal) else None
        term = constant_literal(str(value), str(datatype or ""), language or "")
        return TermMap("constant", str(value), where, "literal", term=term)


def read_rml(source: Source) -> Mapping:
    """Reads RML; faults are inside. Raises Refused when it is no Turtle."""
    reader = _Reader(parse(source.text, source.path, source.first_line))
    reader.read()
    return reader.mapping
