"""RML mappings in Turtle, read into triples maps: the classic vocabulary (rr:, rml:, ql:) and RML-Core (http://w3id.org/rml/)."""

from __future__ import annotations

from typing import Final

from rdflib import BNode, Literal, URIRef

from knhk.model.arrows import Source
from knhk_gen.functions import FUNCTIONS, NAMES, Function, pattern_fault, zone_fault
from knhk_gen.mapping import (
    UNKNOWN,
    Mapping,
    PropertyMap,
    TermMap,
    TriplesMap,
    constant_iri,
    constant_literal,
    named_function,
)
from knhk_gen.names import FN, KNHK, QL, RDFS, RML, RML_CORE, RR, TYPE, local
from knhk_gen.turtle import Term, TripleStore, parse, show

_NODES: Final = {RR + "IRI": "iri", RR + "BlankNode": "bnode", RR + "Literal": "literal"}
_R2RML: Final = (
    "subjectMap", "subject", "predicateObjectMap", "predicate", "predicateMap", "object", "objectMap", "template", "constant",
    "class", "termType", "datatype", "language", "datatypeMap", "languageMap", "parentTriplesMap", "joinCondition", "child", "parent",
)  # fmt: skip
_RML: Final = (
    "logicalSource", "source", "referenceFormulation", "iterator", "reference", "path", "root",
    "functionExecution", "function", "input", "parameter", "inputValue", "inputValueMap",
    "namespace", "namespacePrefix", "namespaceURL",
)  # fmt: skip
_OWN: Final = ("unknownMembers", "entry", "code", "means", "otherwise")
_KNOWN: Final = frozenset({RR + t for t in _R2RML} | {RML + t for t in _RML} | {KNHK + t for t in _OWN})
_NOTES: Final = (RDFS, "http://purl.org/dc/terms/", "http://www.w3.org/2004/02/skos/core#", "https://schema.org/")
"""Vocabularies of remarks, which say nothing to the compiler."""
_ONE_GRAPH = "must not be there: a request is one graph"
_LISTS = "must not be there: lists and containers are not made"
_SOURCE = "must be rml:logicalSource: the source is the body, JSON or XML"
_BEYOND: Final = {
    "graph": _ONE_GRAPH, "graphMap": _ONE_GRAPH, "logicalTable": _SOURCE, "tableName": _SOURCE, "sqlQuery": _SOURCE, "sqlVersion": _SOURCE,
    "gather": _LISTS, "gatherAs": _LISTS, "allowEmptyListAndContainer": _LISTS, "strategy": _LISTS,
    "logicalTarget": "must not be there: the triples go to the decision",
    "inverseExpression": "must not be there: nothing is mapped back",
}  # fmt: skip
"""Terms of R2RML and of RML's modules that no pack can mean, and why."""
_TWICE: Final = {"joinCondition": "must be given once: a join is by one key; map a member that holds both values"}
_SINGLE: Final = (
    "subjectMap", "subject", "template", "constant", "termType", "datatype", "language", "datatypeMap", "languageMap",
    "parentTriplesMap", "joinCondition", "logicalSource", "referenceFormulation", "iterator", "reference", "functionExecution",
    "function", "parameter", "inputValue", "inputValueMap", "child", "parent", "code", "means", "otherwise",
)  # fmt: skip
_CORE_TERMS: Final = {RML_CORE + t: URIRef(RR + t) for t in (*_R2RML, "IRI", "BlankNode", "Literal", "TriplesMap", "SubjectMap")} | {
    RML_CORE + "JSONPath": URIRef(QL + "JSONPath"),
    RML_CORE + "XPath": URIRef(QL + "XPath"),
    **{RML + t: URIRef(RR + t) for t in ("languageMap", "datatypeMap")},
}
_FORMATS: Final = {QL + "JSONPath": "json", QL + "XPath": "xml"}


def _classic(store: TripleStore) -> TripleStore:
    """The same triples with the terms of RML-Core as those of the classic vocabulary that mean the same."""

    def term(t: Term) -> Term:
        if not isinstance(t, URIRef):
            return t
        same = _CORE_TERMS.get(str(t))
        return same or (URIRef(RML + str(t)[len(RML_CORE) :]) if t.startswith(RML_CORE) else t)

    made = TripleStore(prefixes=store.prefixes, blank_count=store.blank_count)
    for (s, p, o), where in store.triples.items():
        predicate = term(p)
        assert isinstance(predicate, URIRef)
        made.add((s, predicate, term(o)), where)
    return made


class _Reader:
    def __init__(self, store: TripleStore) -> None:
        self.store = store
        self.mapping = Mapping()
        self.seen: set[tuple[Term, str]] = set()

    def fault(self, s: Term, p: str, o: Term | None, must: str) -> None:
        value = self.store.curie(p) + (f" {show(o)}" if o is not None else "")
        self.mapping.fault(self.store.where(s, p, o), value, must)

    def read(self) -> None:
        self._terms()
        subjects = list(self.store.subjects(RML + "logicalSource"))
        self._format(subjects)
        for s in subjects:
            if found := self.map(s):
                self.mapping.maps.append(found)
        self._unknown()
        if not self.mapping.faults:
            self._unread()

    def _terms(self) -> None:
        for s, p, o in self.store.triples:
            name = str(p)
            if name == TYPE or name.startswith(_NOTES):
                continue
            if name not in _KNOWN:
                beyond = _BEYOND.get(local(name)) if name.startswith((RR, RML)) else None
                self.fault(s, name, o, beyond or "must be a term of R2RML or RML that this version compiles")
            elif local(name) in _SINGLE and self.store.values(s, name)[0] != o:
                self.fault(s, name, o, _TWICE.get(local(name), "must be given once"))

    def _unread(self) -> None:
        """What stands where nothing reads it would be dropped in silence."""
        for s, p, o in self.store.triples:
            name = str(p)
            if name in _KNOWN and (s, name) not in self.seen and name not in (RML + "source", RML + "path", RML + "root"):
                self.fault(s, name, o, "must stand where it has a meaning: nothing reads it here")

    def _unknown(self) -> None:
        for s, p, o in self.store.triples:
            if str(p) != KNHK + "unknownMembers":
                continue
            self.seen.add((s, str(p)))
            if str(o) not in UNKNOWN:
                self.fault(s, str(p), o, 'must be "Allow" or "Deny"')
            else:
                self.mapping.unknown_members = str(o)

    def all(self, s: Term, p: str) -> list[Term]:
        self.seen.add((s, p))
        return self.store.values(s, p)

    def one(self, s: Term, p: str) -> Term | None:
        found = self.all(s, p)
        return found[0] if found else None

    # -- logical sources --

    def _format(self, subjects: list[Term] | list[URIRef | BNode]) -> None:
        """All maps of a source read bodies of one format."""
        formats: dict[str, Term] = {}
        for s in subjects:
            source = self.one(s, RML + "logicalSource")
            assert source is not None
            formulation = self.one(source, RML + "referenceFormulation")
            name = _FORMATS.get(str(formulation), "")
            if formulation is not None and self.one(formulation, RML + "namespace") is not None:
                name = "xml"
                self._namespaces(formulation)
            if not name:
                must = "must be JSONPath or XPath (ql: or rml:), or an XPath formulation with rml:namespace"
                self.fault(source, RML + "referenceFormulation", formulation, must)
                continue
            formats.setdefault(name, source)
            self.mapping.source = name
        if len(formats) > 1:
            self.fault(
                formats["xml"], RML + "referenceFormulation", None, "must be the same for all maps of a mapping: a body has one format"
            )

    def _namespaces(self, formulation: Term) -> None:
        for namespace in self.all(formulation, RML + "namespace"):
            prefix, url = self.one(namespace, RML + "namespacePrefix"), self.one(namespace, RML + "namespaceURL")
            if not isinstance(prefix, Literal) or url is None:
                self.fault(formulation, RML + "namespace", namespace, "must have rml:namespacePrefix and rml:namespaceURL")
            elif self.mapping.namespaces.setdefault(str(prefix), str(url)) != str(url):
                self.fault(namespace, RML + "namespaceURL", url, f"must be the same wherever prefix {str(prefix)!r} is declared")

    # -- maps --

    def map(self, s: Term) -> TriplesMap | None:
        source = self.one(s, RML + "logicalSource")
        assert source is not None
        iterator = self.one(source, RML + "iterator")
        subject, constant = self.one(s, RR + "subjectMap"), self.one(s, RR + "subject")
        if (subject is None) == (constant is None):
            self.fault(s, RML + "logicalSource", None, "must have one rr:subjectMap or rr:subject")
            return None
        if subject is not None:
            made = self.term_map(subject, RR + "subjectMap", s)
            classes = self.all(subject, RR + "class")
        else:
            assert constant is not None
            made = self._constant(constant, self.store.where(s, RR + "subject"))
            classes = []
        for cls in classes:
            if not isinstance(cls, URIRef):
                self.fault(subject or s, RR + "class", cls, "must be an IRI")
        if made.form == "constant" and (made.term or {}).get("k") != "iri":
            self.fault(subject or s, RR + "constant", constant, "must be an IRI")
        properties = [found for node in self.all(s, RR + "predicateObjectMap") for found in self.properties(node)]
        where = self.store.where(source, RML + "iterator")
        root = "/" if self.mapping.source == "xml" else "$"
        return TriplesMap(self.id(s), str(iterator or root), where, made, tuple(map(str, classes)), tuple(properties))

    def id(self, s: Term) -> str:
        return local(str(s)) if isinstance(s, URIRef) else str(s)

    def properties(self, node: Term) -> list[PropertyMap]:
        predicates = list(self.all(node, RR + "predicate"))
        for inner in self.all(node, RR + "predicateMap"):
            if (constant := self.one(inner, RR + "constant")) is None:
                self.fault(node, RR + "predicateMap", inner, "must have an rr:constant")
            else:
                predicates.append(constant)
        for p in predicates:
            if not isinstance(p, URIRef):
                self.fault(node, RR + "predicate", p, "must be an IRI")
        where = self.store.where(node)
        objects: list[PropertyMap] = []
        for o in self.all(node, RR + "object"):
            objects.append(PropertyMap("", where, self._constant(o, where)))
        for inner in self.all(node, RR + "objectMap"):
            objects.append(self._object(node, inner, where))
        if not predicates or not objects:
            self.mapping.fault(where, "rr:predicateObjectMap", "must have a predicate and an object")
        return [PropertyMap(str(p), o.where, o.value, o.child, o.join, o.keys) for p in predicates for o in objects]

    def _object(self, owner: Term, node: Term, where: str) -> PropertyMap:
        parent = self.one(node, RR + "parentTriplesMap")
        if parent is None:
            value = self.term_map(node, RR + "objectMap", owner)
            return PropertyMap("", value.where, value)
        condition = self.one(node, RR + "joinCondition")
        if condition is None:
            return PropertyMap("", where, child=self.id(parent))
        child, other = self.one(condition, RR + "child"), self.one(condition, RR + "parent")
        if child is None or other is None:
            self.fault(node, RR + "joinCondition", condition, "must have an rr:child and an rr:parent")
            return PropertyMap("", where, child=self.id(parent))
        place = self.store.where(condition)
        keys = (TermMap("reference", str(child), place), TermMap("reference", str(other), place))
        return PropertyMap("", where, join=self.id(parent), keys=keys)

    # -- term maps --

    def term_map(self, node: Term, role: str, owner: Term) -> TermMap:
        where = self.store.where(node)
        kind = self.one(node, RR + "termType")
        if kind is not None and str(kind) not in _NODES:
            self.fault(node, RR + "termType", kind, "must be rr:IRI, rr:BlankNode or rr:Literal")
        name = _NODES.get(str(kind), "")
        forms = (RR + "template", RML + "reference", RR + "constant", RML + "functionExecution")
        given = [p for p in forms if self.one(node, p) is not None]
        if not given and name == "bnode":
            return TermMap("blank", "", where, name)
        if len(given) != 1:
            must = "must have one of rr:template, rml:reference, rr:constant, rml:functionExecution"
            self.fault(owner, role, None, must)
            return TermMap("blank", "", where, name)
        value = self.one(node, given[0])
        assert value is not None
        if given[0] == RR + "constant":
            return self._constant(value, where)
        rest = (self.fixed(node, "datatype"), self.fixed(node, "language"))
        if given[0] == RML + "functionExecution":
            text, functions = self.execution(node, value)
            return TermMap("reference", text, where, name, *rest, functions=functions)
        if not isinstance(value, Literal):
            self.fault(node, given[0], value, "must be a string")
        form = "template" if given[0] == RR + "template" else "reference"
        if form == "template" and role == RR + "objectMap" and any(rest) and not name:
            name = "literal"
        return TermMap(form, str(value), where, name, *rest)

    def fixed(self, node: Term, name: str) -> str:
        """The datatype or language of a term map, given or as the constant of a map of its own; "" without."""
        given, inner = self.one(node, RR + name), self.one(node, RR + name + "Map")
        if inner is None:
            return str(given or "")
        constant = self.one(inner, RR + "constant")
        if constant is None or given is not None:
            self.fault(
                node, RR + name + "Map", inner, f"must have an rr:constant, and no rr:{name} beside it: the {name} is fixed in a pack"
            )
        return str(constant or "")

    def _constant(self, value: Term, where: str) -> TermMap:
        if isinstance(value, URIRef):
            return TermMap("constant", str(value), where, "iri", term=constant_iri(str(value)))
        if not isinstance(value, Literal):
            self.mapping.fault(where, show(value), "must be an IRI or a literal")
        datatype = value.datatype if isinstance(value, Literal) else None
        language = value.language if isinstance(value, Literal) else None
        term = constant_literal(str(value), str(datatype or ""), language or "")
        return TermMap("constant", str(value), where, "literal", term=term)

    # -- functions (RML-FNML) --

    def execution(self, owner: Term, node: Term) -> tuple[str, tuple[Function, ...]]:
        """The reference at the bottom of nested executions, and the functions from the inside out."""
        inputs: dict[str, Term] = {}
        for one in self.all(node, RML + "input"):
            parameter = self.one(one, RML + "parameter")
            if parameter is None or str(parameter) in inputs:
                self.fault(node, RML + "input", one, "must have an rml:parameter that no other input has")
            else:
                inputs[str(parameter)] = one
        text = ""
        chain: tuple[Function, ...] = ()
        value = inputs.pop(FN + "value", None)
        inner = None if value is None else self.one(value, RML + "inputValueMap")
        if inner is None:
            self.fault(
                owner, RML + "functionExecution", node, f"must have an rml:input with rml:parameter <{FN}value> and an rml:inputValueMap"
            )
        elif (deeper := self.one(inner, RML + "functionExecution")) is not None:
            text, chain = self.execution(inner, deeper)
        elif (reference := self.one(inner, RML + "reference")) is None:
            self.fault(value or node, RML + "inputValueMap", inner, "must have an rml:reference or an rml:functionExecution")
        else:
            text = str(reference)
        made = self.function(node, inputs)
        return text or "$", (*chain, *made)

    def function(self, node: Term, inputs: dict[str, Term]) -> tuple[Function, ...]:
        iri = self.one(node, RML + "function")
        name = str(iri or "").removeprefix(FN)
        if named_function(name) or not str(iri).startswith(FN):
            self.fault(node, RML + "function", iri, f"must be a function of <{FN}>: {NAMES}")
            return ()
        wanted: tuple[str, ...] = {"": (), "text": ("text",), "pattern": ("pattern", "zone"), "codes": ("list",)}[FUNCTIONS[name].argument]
        made: Function = {"f": name}
        for parameter, one in inputs.items():
            word = parameter.removeprefix(FN)
            value = self.one(one, RML + "inputValue")
            if word not in wanted or (word == "zone" and name == "date"):
                self.fault(one, RML + "parameter", URIRef(parameter), f"must be a parameter of {name}: {', '.join(('value', *wanted))}")
            elif value is None:
                self.fault(node, RML + "input", one, "must have an rml:inputValue")
            elif word == "list":
                made |= self.code_list(one, value)
            else:
                made["text" if word == "pattern" else word] = str(value)
        if wanted and ("codes" if wanted[0] == "list" else "text") not in made:
            self.fault(node, RML + "function", iri, f"must have an input with rml:parameter <{FN}{wanted[0]}>")
        for must, word in (
            (pattern_fault(name, made.get("text", "")) if wanted[:1] == ("pattern",) else "", "text"),
            (zone_fault(made.get("zone", "")), "zone"),
        ):
            if must:
                self.mapping.fault(self.store.where(node), made.get(word, ""), must)
        return (made,)

    def code_list(self, owner: Term, node: Term) -> Function:
        codes: dict[str, str] = {}
        for entry in self.all(node, KNHK + "entry"):
            code, means = self.one(entry, KNHK + "code"), self.one(entry, KNHK + "means")
            if code is None or means is None or str(code) in codes:
                self.fault(node, KNHK + "entry", entry, "must have a knhk:code that no other entry has, and a knhk:means")
            else:
                codes[str(code)] = str(means)
        if not codes:
            self.fault(owner, RML + "inputValue", node, "must be a code list with knhk:entry [ knhk:code …; knhk:means … ]")
        otherwise = self.one(node, KNHK + "otherwise")
        return {"codes": codes} | ({"other": str(otherwise)} if otherwise is not None else {})


def read_rml(source: Source) -> Mapping:
    """Reads RML; faults are inside. Raises Refused when it is no Turtle."""
    reader = _Reader(_classic(parse(source.text, source.path, source.first_line)))
    reader.read()
    return reader.mapping
