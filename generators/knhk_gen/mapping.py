"""Mapping to the plan. RML, the short YAML and JSON-LD contexts are read into the same triples maps, then lowered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from knhk.model.faults import Fault
from knhk_gen.functions import FUNCTIONS, MAX_CHAIN, NAMES, Function
from knhk_gen.jsonpath import BadPath, Step, parse_path, parse_template, starts_with
from knhk_gen.names import LANG_STRING, NOT_IRI, TYPE, XSD
from knhk_gen.terms import iri_term
from knhk_gen.xpath import parse_xpath

MAX_DEPTH: Final = 64
UNKNOWN: Final = ("Allow", "Deny")
FORMATS: Final = ("json", "xml", "rdf")
ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class TermMap:
    """How a term is made: `form` reference, template, constant or blank; the author's words."""

    form: str
    text: str
    where: str
    node: str = ""  # "iri", "bnode", "literal" or "" for the form's own
    datatype: str = ""
    lang: str = ""
    term: dict[str, Any] | None = None  # of a constant
    functions: tuple[Function, ...] = ()
    string: bool = False  # only a string will do
    or_blank: bool = False  # of a subject: a blank node when the value is absent


@dataclass(frozen=True)
class PropertyMap:
    """predicate → value or the subjects of another map: those below the item (`child`), or those with an equal key (`join`)."""

    predicate: str
    where: str
    value: TermMap | None = None
    child: str = ""
    join: str = ""
    keys: tuple[TermMap, TermMap] | None = None  # of a join: in this map, in the other


@dataclass(frozen=True)
class TriplesMap:
    """One rr:TriplesMap."""

    id: str
    iterator: str
    where: str
    subject: TermMap
    classes: tuple[str, ...] = ()
    properties: tuple[PropertyMap, ...] = ()


@dataclass
class Mapping:
    """What a mapping source says, with the faults found while reading."""

    maps: list[TriplesMap] = field(default_factory=list)
    unknown_members: str = "Deny"
    source: str = "json"
    namespaces: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: str, value: str, must: str) -> None:
        """Notes a fault."""
        self.faults.append(Fault(where, value[:200], must))


class _Lowering:
    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.iterators = {m.id: self._path(m.iterator, m.where) for m in mapping.maps}

    def _path(self, text: str, where: str) -> list[Step]:
        try:
            return self._parse(text)
        except BadPath as error:
            self.mapping.fault(where, text, str(error))
            return []

    def _parse(self, text: str) -> list[Step]:
        if self.mapping.source == "xml":
            return parse_xpath(text, self.mapping.namespaces)
        return parse_path(text)

    def _ref(self, value: TermMap) -> dict[str, Any]:
        """REF of a reference: its path and what its value goes through."""
        made: dict[str, Any] = {"ref": self._path(value.text, value.where)}
        if value.functions:
            made["functions"] = list(value.functions)
        if value.string:
            made["string"] = True
        if len(value.functions) > MAX_CHAIN:
            self.mapping.fault(value.where, value.text, f"must go through at most {MAX_CHAIN} functions")
        return made

    def _hole(self, text: str) -> dict[str, Any]:
        """`path`, or `path|function|function` with functions that take no argument."""
        path, *names = text.split("|")
        for name in names:
            if name not in FUNCTIONS or FUNCTIONS[name].argument:
                plain = ", ".join(name for name, kind in FUNCTIONS.items() if not kind.argument)
                raise BadPath(f"must name functions without argument after |: {plain}")
        made: dict[str, Any] = {"ref": self._parse(path)}
        if names:
            made["functions"] = [{"f": name} for name in names]
        return made

    def _parts(self, text: str, where: str) -> list[dict[str, Any]]:
        try:
            return parse_template(text, self._hole)
        except BadPath as error:
            self.mapping.fault(where, text, str(error))
            return []

    def map(self, triples: TriplesMap) -> dict[str, Any]:
        return {
            "id": triples.id,
            "iterator": self.iterators[triples.id],
            "subject": self._subject(triples.subject),
            "classes": list(dict.fromkeys(triples.classes)),
            "properties": [{"p": p.predicate, "object": self._object(p, triples)} for p in triples.properties],
        }

    def _subject(self, subject: TermMap) -> dict[str, Any]:
        if subject.form == "blank":
            return {"kind": "blank"}
        if subject.form == "constant":
            return {"kind": "constant", "iri": subject.text}
        if subject.form == "reference":
            parts: list[dict[str, Any]] = [self._ref(subject)]
        else:
            parts = self._parts(subject.text, subject.where)
        node = subject.node or "iri"
        if node == "literal":
            self.mapping.fault(subject.where, subject.text, "must make an IRI or a blank node")
        if node == "iri" and subject.form == "template":
            self._absolute(parts, subject)
        self._scalar(parts, subject)
        made = {"kind": "template", "parts": parts, "node": "bnode" if node == "bnode" else "iri"}
        return made | ({"orBlank": True} if subject.or_blank else {})

    def _object(self, prop: PropertyMap, triples: TriplesMap) -> dict[str, Any]:
        if prop.keys is not None:
            return self._join(prop)
        if prop.value is None:
            return self._child(prop, triples)
        value = prop.value
        if value.form == "constant":
            return {"term": value.term}
        node = value.node or ("iri" if value.form == "template" else "literal")
        self._literal(value, node)
        common = {"datatype": value.datatype or None, "lang": value.lang.lower(), "node": node}
        if value.form == "reference" and node != "bnode":
            return {**self._ref(value), **common}
        if value.form == "reference":
            return {"parts": [self._ref(value)], **common}
        parts = self._parts(value.text, value.where)
        if node == "iri":
            self._absolute(parts, value)
        self._scalar(parts, value)
        return {"parts": parts, **common}

    def _literal(self, value: TermMap, node: str) -> None:
        if (value.datatype or value.lang) and node != "literal":
            self.mapping.fault(value.where, value.text, "must not have a datatype or language: it is an IRI")
        if value.datatype and value.lang:
            self.mapping.fault(value.where, value.text, "must have a datatype or a language, not both")
        if value.datatype == LANG_STRING:
            self.mapping.fault(value.where, value.datatype, "must be given as a language instead")
        if value.lang and not _LANGUAGE.fullmatch(value.lang):
            self.mapping.fault(value.where, value.lang, "must be a language tag such as en or de-AT")

    def _absolute(self, parts: Sequence[dict[str, Any]], value: TermMap) -> None:
        first = parts[0].get("text", "") if parts else ""
        if parts and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", first):
            self.mapping.fault(
                value.where,
                value.text,
                "must begin with an absolute IRI such as https://example.com/",
            )
        if any(NOT_IRI.search(part.get("text", "")) for part in parts):
            self.mapping.fault(value.where, value.text, 'must hold no character that IRIs exclude: controls, space and <>"{}|^`\\')

    def _scalar(self, parts: Sequence[dict[str, Any]], value: TermMap) -> None:
        if any({"each": True} in part.get("ref", ()) for part in parts):
            self.mapping.fault(value.where, value.text, "must not have [*] inside a template")

    def _join(self, prop: PropertyMap) -> dict[str, Any]:
        assert prop.keys is not None
        if prop.join not in self.iterators:
            self.mapping.fault(prop.where, prop.join, f"must be the id of a map: {', '.join(self.iterators)}")
        child, parent = prop.keys
        return {"join": prop.join, "key": self._ref(child), "parentKey": self._ref(parent)}

    def _child(self, prop: PropertyMap, triples: TriplesMap) -> dict[str, Any]:
        ids = list(self.iterators)
        if prop.child not in self.iterators:
            self.mapping.fault(prop.where, prop.child, f"must be the id of a map: {', '.join(ids)}")
        elif not starts_with(self.iterators[prop.child], self.iterators[triples.id]):
            must = f"must be a map whose iterator begins with {triples.iterator}, or be joined by a key"
            self.mapping.fault(prop.where, prop.child, must)
        return {"child": prop.child}


def lower_mapping(mapping: Mapping, name: str, where: str) -> dict[str, Any]:
    """MAPPING of the plan; faults are added to `mapping.faults`."""
    if not mapping.maps and mapping.source != "rdf" and not mapping.faults:
        mapping.fault(where, name, "must have at least one map")
    seen: set[str] = set()
    for triples in mapping.maps:
        if triples.id in seen:
            mapping.fault(triples.where, triples.id, "must be an id that no other map has")
        seen.add(triples.id)
    lowering = _Lowering(mapping)
    _check_classes(mapping)
    return {
        "id": name,
        "source": mapping.source,
        "unknownMembers": mapping.unknown_members,
        "duplicateMembers": "Deny",
        "maxDepth": MAX_DEPTH,
        "maps": [lowering.map(m) for m in mapping.maps],
    }


def _check_classes(mapping: Mapping) -> None:
    for triples in mapping.maps:
        for prop in triples.properties:
            value = prop.value
            literal = value and (value.node == "literal" or (not value.node and value.form == "reference"))
            if prop.predicate == TYPE and (literal or value is None):
                mapping.fault(prop.where, "rdf:type", "must make an IRI (node: iri, or a template)")


def constant_iri(iri: str) -> dict[str, Any]:
    """TERM of a constant."""
    return iri_term(iri)


def constant_literal(text: str, datatype: str, lang: str) -> dict[str, Any]:
    """TERM of a constant literal."""
    if lang:
        return {"k": "lit", "v": text, "dt": LANG_STRING, "lang": lang.lower()}
    return {"k": "lit", "v": text, "dt": datatype or XSD + "string", "lang": ""}


def named_function(name: str) -> str:
    """What a name of a function must be, or nothing."""
    return "" if name in NAMES.split(", ") else f"must be one of {NAMES}"
