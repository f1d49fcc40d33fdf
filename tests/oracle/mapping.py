"""A naive interpreter of mappings: it walks the payload once for each map and property."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import yaml
from rdflib import BNode, Graph, Literal, Namespace, URIRef
from rdflib.term import Node

from oracle.payload import Json, Malformed, Number

XSD = Namespace("http://www.w3.org/2001/XMLSchema#")
RDF_TYPE = URIRef("http://www.w3.org/1999/02/22-rdf-syntax-ns#type")
RR = Namespace("http://www.w3.org/ns/r2rml#")
RML = Namespace("http://semweb.mmlab.be/ns/rml#")

Path = tuple[str | int | None, ...]
"""Member names, indexes; None for every element."""

PREFIXES = {
    "sh": "http://www.w3.org/ns/shacl#",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": str(XSD),
    "knhk": "https://knhk.dev/ns#",
    "attr": "https://knhk.dev/ns/attr#",
    "abac": "https://knhk.dev/ns/abac#",
}


def path_of(text: str) -> Path:
    """`$.a['b'][0][*]`, or a bare name."""
    steps: list[str | int | None] = []
    for name, quoted, inside in re.findall(r"([^.\[\]'$][^.\[\]]*|\$\w+)|\['([^']*)'\]|\[([^\]]*)\]", text):
        if name or quoted:
            steps.append(name or quoted)
        else:
            steps.append(None if inside == "*" else int(inside))
    return tuple(steps)


@dataclass(frozen=True)
class Value:
    """Where a term comes from: exactly one of path, template, constant; or `blank`."""

    path: Path | None = None
    template: str | None = None
    constant: Node | None = None
    blank: bool = False
    node: str = "literal"
    datatype: str = ""
    lang: str = ""


@dataclass(frozen=True)
class Map:
    """One map."""

    id: str
    iterator: Path
    subject: Value
    classes: tuple[str, ...]
    properties: tuple[tuple[str, Value | str], ...]  # a string names a child map


@dataclass
class Mapping:
    """A mapping source, read."""

    maps: list[Map] = field(default_factory=list)
    deny_unknown: bool = True


def read_yaml(text: str) -> Mapping:
    """The short form."""
    document = yaml.safe_load(text)
    prefixes = {**PREFIXES, **document.get("prefixes", {})}

    def iri(word: str) -> str:
        prefix, _, rest = word.partition(":")
        return prefixes[prefix] + rest if prefix in prefixes else word.strip("<>")

    def value(spec: Any, subject: bool) -> Value | str:
        if isinstance(spec, str):
            spec = {"template": spec} if subject else {"path": spec}
        if "child" in spec:
            return str(spec["child"])
        if spec.get("blank"):
            return Value(blank=True)
        datatype = iri(spec["datatype"]) if "datatype" in spec else ""
        if "constant" in spec:
            is_iri = subject or spec.get("node") == "iri"
            term: Node = URIRef(iri(spec["constant"])) if is_iri else _constant(spec, datatype)
            return Value(constant=term)
        reference = spec.get("path", spec.get("reference"))
        node = spec.get("node", "iri" if subject or reference is None else "literal")
        return Value(
            path=None if reference is None else path_of(reference),
            template=spec.get("template"),
            node=node,
            datatype=datatype,
            lang=spec.get("lang", ""),
        )

    def subject(spec: Any) -> Value:
        made = value(spec, True)
        assert isinstance(made, Value)
        return made

    maps = []
    for spec in document["maps"]:
        classes = spec.get("class", [])
        properties = [
            (iri(name), value(one, False))
            for name, many in (spec.get("properties") or {}).items()
            for one in (many if isinstance(many, list) else [many])
        ]
        maps.append(
            Map(
                spec["id"],
                path_of(spec["iterator"]),
                subject(spec["subject"]),
                tuple(iri(c) for c in ([classes] if isinstance(classes, str) else classes)),
                tuple(properties),
            )
        )
    return Mapping(maps, document.get("unknownMembers", "Deny") == "Deny")


def _constant(spec: Any, datatype: str) -> Literal:
    raw = spec["constant"]
    if spec.get("lang"):
        return Literal(str(raw), lang=spec["lang"])
    if isinstance(raw, bool):
        return Literal(str(raw).lower(), datatype=URIRef(datatype or str(XSD.boolean)))
    natural = str(XSD.integer) if isinstance(raw, int) else str(XSD.string)
    return typed(str(raw), datatype or natural)


def read_rml(text: str) -> Mapping:
    """RML in Turtle."""
    g = Graph().parse(data=text, format="turtle")
    mapping = Mapping()
    for value in g.objects(None, URIRef("https://knhk.dev/ns#unknownMembers")):
        mapping.deny_unknown = str(value) == "Deny"
    for node, source in g.subject_objects(RML.logicalSource):
        subject = g.value(node, RR.subjectMap)
        properties: list[tuple[str, Value | str]] = []
        for pom in g.objects(node, RR.predicateObjectMap):
            for p in g.objects(pom, RR.predicate):
                properties += [(str(p), Value(constant=o)) for o in g.objects(pom, RR.object)]
                for o in g.objects(pom, RR.objectMap):
                    parent = g.value(o, RR.parentTriplesMap)
                    made: Value | str = str(parent) if parent else _rml_value(g, o, "literal")
                    properties.append((str(p), made))
        mapping.maps.append(
            Map(
                str(node),
                path_of(str(g.value(source, RML.iterator))),
                _rml_value(g, subject, "iri"),
                tuple(str(c) for c in g.objects(subject, RR["class"])),
                tuple(properties),
            )
        )
    return mapping


def _rml_value(g: Graph, node: Any, default: str) -> Value:
    kinds = {RR.IRI: "iri", RR.BlankNode: "bnode", RR.Literal: "literal"}
    template, reference = g.value(node, RR.template), g.value(node, RML.reference)
    constant, datatype = g.value(node, RR.constant), g.value(node, RR.datatype)
    lang = g.value(node, RR.language)
    if constant is not None:
        return Value(constant=constant)
    if template is None and reference is None:
        return Value(blank=True)
    if template is not None and not datatype and not lang:
        default = "iri"
    kind = kinds.get(g.value(node, RR.termType), default)  # type: ignore[call-overload]
    return Value(
        path=None if reference is None else path_of(str(reference)),
        template=None if template is None else str(template),
        node=kind,
        datatype=str(datatype or ""),
        lang=str(lang or ""),
    )


def _step(value: Json, step: str | int | None) -> Iterator[Json]:
    if value is None:
        return
    if isinstance(step, str):
        if not isinstance(value, dict):
            raise Malformed(f"{step}: must be inside an object")
        if step in value:
            yield value[step]
    elif not isinstance(value, list):
        raise Malformed("must be an array")
    elif step is None:
        yield from value
    elif step < len(value):
        yield value[step]


def select(value: Json, path: Path) -> list[Json]:
    """All values at a path, in document order. Raises Malformed where the payload has another form."""
    found = [value]
    for step in path:
        found = [inner for v in found for inner in _step(v, step)]
    return [v for v in found if v is not None]


def text_of(value: Json) -> tuple[str, str]:
    """(lexical form, natural datatype). Raises Malformed for objects and arrays."""
    if isinstance(value, bool):
        return ("true" if value else "false"), str(XSD.boolean)
    if isinstance(value, Number):
        double = any(c in value for c in ".eE")
        return str(value), str(XSD.double if double else XSD.integer)
    if isinstance(value, str):
        return value, str(XSD.string)
    raise Malformed("must be a string, number or boolean")


def _references(value: Value) -> list[Path]:
    if value.path is not None:
        return [value.path]
    return [path_of(p) for p in re.findall(r"\{([^}]*)\}", value.template or "")]


def _values_of(m: Map) -> Iterator[Value]:
    yield m.subject
    for _, value in m.properties:
        if isinstance(value, Value):
            yield value


def check(mapping: Mapping, payload: Json) -> None:
    """Raises Malformed when the payload has not the form that the mapping needs."""
    known: set[Path] = set()
    for m in mapping.maps:
        select(payload, m.iterator)
        known.add(m.iterator)
        for value in _values_of(m):
            for path in _references(value):
                known.add(m.iterator + path)
                for found in select(payload, m.iterator + path):
                    text, _ = text_of(found)
                    if value.path is not None and value.node == "iri" and not _is_iri(found):
                        raise Malformed(f"{text}: must be an absolute IRI")
    if mapping.deny_unknown:
        _known_only(payload, (), known)
    _depth(payload, 0)


def _is_iri(found: Json) -> bool:
    plain = isinstance(found, str) and not isinstance(found, Number)
    return plain and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|\\^`]*", found) is not None


def _known_only(value: Json, at: Path, known: set[Path]) -> None:
    children: list[tuple[Path, Json]] = []
    if isinstance(value, dict):
        children = [((*at, name), inner) for name, inner in value.items()]
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            indexed = any(k[: len(at) + 1] == (*at, i) for k in known)
            children.append(((*at, i if indexed else None), inner))
    for path, inner in children:
        if not any(k[: len(path)] == path for k in known):
            raise Malformed(f"{path}: unknown member")
        _known_only(inner, path, known)


def _depth(value: Json, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth >= 64:
            raise Malformed("nested deeper than 64")
        for inner in value.values() if isinstance(value, dict) else value:
            _depth(inner, depth + 1)


def _percent(text: str) -> str:
    return quote(text, safe="-._~")


def _texts(value: Value, item: Json) -> list[tuple[str, str]]:
    """All (lexical form, natural datatype) that a value makes of an item."""
    if value.path is not None:
        return [text_of(v) for v in select(item, value.path)]
    pieces = re.split(r"\{([^}]*)\}", value.template or "")
    options: list[list[str]] = []
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            options.append([piece])
        else:
            found = [text_of(v)[0] for v in select(item, path_of(piece))]
            options.append([_percent(t) if value.node == "iri" else t for t in found if t])
    return [("".join(parts), str(XSD.string)) for parts in itertools.product(*options)]


def _term(value: Value, text: str, natural: str) -> Node:
    if value.node == "iri":
        return URIRef(text)
    if value.node == "bnode":
        return BNode("t" + text.encode().hex())
    if value.lang:
        return Literal(text, lang=value.lang.lower())
    return typed(text, value.datatype or natural)


def typed(text: str, datatype: str) -> Literal:
    """A literal as written; rdflib spells xsd:string without a datatype."""
    plain = datatype == str(XSD.string)
    return Literal(text, datatype=None if plain else URIRef(datatype), normalize=False)


class _Run:
    """One payload through one mapping."""

    def __init__(self, mapping: Mapping, payload: Json, name: str) -> None:
        self.mapping, self.payload, self.name = mapping, payload, name
        self.graph = Graph()
        self.subjects: dict[tuple[str, int], Node | None] = {}
        self.counters: dict[str, int] = {}

    def subject(self, m: Map, item: Json) -> Node | None:
        key = (m.id, id(item))
        if key not in self.subjects:
            self.subjects[key] = self._subject(m, item)
        return self.subjects[key]

    def _subject(self, m: Map, item: Json) -> Node | None:
        if m.subject.constant is not None:
            return m.subject.constant
        if m.subject.blank:
            number = self.counters[m.id] = self.counters.get(m.id, -1) + 1
            return BNode(f"{self.name}-{m.id.encode().hex()}-{number}")
        made = [_term(m.subject, *found) for found in _texts(m.subject, item)]
        return made[-1] if made else None

    def run(self) -> Graph:
        for m in self.mapping.maps:
            for item in select(self.payload, m.iterator):
                if (subject := self.subject(m, item)) is not None:
                    self._describe(m, item, subject)
        return self.graph

    def _describe(self, m: Map, item: Json, subject: Node) -> None:
        for cls in m.classes:
            self.graph.add((subject, RDF_TYPE, URIRef(cls)))
        for p, value in m.properties:
            for term in self._objects(m, item, value):
                self.graph.add((subject, URIRef(p), term))

    def _objects(self, m: Map, item: Json, value: Value | str) -> Iterator[Node]:
        if isinstance(value, Value):
            if value.constant is not None:
                yield value.constant
            else:
                yield from (_term(value, *found) for found in _texts(value, item))
            return
        child = next(c for c in self.mapping.maps if c.id == value)
        for inner in select(item, child.iterator[len(m.iterator) :]):
            if (subject := self.subject(child, inner)) is not None:
                yield subject


def triples(mapping: Mapping, payload: Json, name: str) -> Graph:
    """The payload as RDF; blank nodes carry `name`. Raises Malformed."""
    check(mapping, payload)
    return _Run(mapping, payload, name).run()
