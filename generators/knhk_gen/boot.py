"""From an ontology and invariants to the first sources of a pack: shapes, ASK rules, a mapping and an example payload. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rdflib import BNode, Literal, URIRef

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.names import OWL, RDF, RDFS, SH, XSD, local
from knhk_gen.turtle import Term, TripleStore, parse

MAX_DEPTH: Final = 3
EXAMPLES: Final[Mapping[str, Any]] = {
    "boolean": True, "integer": 1, "nonNegativeInteger": 1, "positiveInteger": 1, "int": 1, "long": 1, "short": 1,
    "decimal": 1.5, "double": 1.5, "float": 1.5, "date": "2026-01-01", "dateTime": "2026-01-01T00:00:00Z",
    "anyURI": "https://example.com/",
}  # fmt: skip
_TOKEN: Final = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|<[^<>\s]*>|#[^\n]*|[{}]|[\w-]*:[\w.-]*|[A-Za-z]+|\s+|.", re.DOTALL)
_DIRECTIVE: Final = re.compile(r"#\s*(name|target|message):\s*(.*)")
_NAME: Final = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Property:
    """One property of a class. `datatype` "": an object; `least`, `most`: how often; `example`: a value that the schema allows."""

    iri: str
    datatype: str
    range: str
    least: int
    most: int | None
    example: Any


@dataclass(frozen=True)
class Schema:
    """What a pack needs of an ontology: properties of each class, in order; `shapes` whether it holds SHACL shapes itself."""

    classes: Mapping[str, tuple[Property, ...]]
    shapes: bool
    store: TripleStore


@dataclass(frozen=True)
class Draft:
    """Sources of a first pack, and a payload that follows the schema."""

    sources: tuple[Source, ...]
    payload: Mapping[str, Any]


@dataclass
class _Ask:
    """An ASK query in the making."""

    line: int
    text: str = ""
    notes: list[str] = field(default_factory=list)


def draft(schema_text: str, schema_path: str, invariants: str, invariants_path: str) -> Draft:
    """The first sources. Raises Refused with the faults of both files, each at its line."""
    faults: list[Fault] = []
    schema, asks = None, []
    try:
        schema = read_schema(schema_text, schema_path)
    except Refused as refused:
        faults += refused.faults
    try:
        asks = read_asks(invariants, invariants_path)
    except Refused as refused:
        faults += refused.faults
    if schema is None or faults:
        raise Refused(faults)
    targeted = tuple(_targeted(ask, schema) for ask in asks)
    root = _root(schema, targeted)
    text = schema_text if schema.shapes else shapes_text(schema)
    shapes = Source("shapes", "shapes", text, schema_path if schema.shapes else "shapes")
    mapping = Source("payload", "mapping", mapping_text(schema, root), "payload", media="application/yaml")
    return Draft((shapes, _carries(root), *targeted, mapping), _payload(schema, root, ()) | {"id": "1"})


# -- the ontology --


def read_schema(text: str, path: str) -> Schema:
    """Classes and properties of an ontology in Turtle, of RDFS, OWL and SHACL."""
    store = parse(text, path)
    names = [
        str(s) for kind in (OWL + "Class", RDFS + "Class") for s in store.subjects(RDF + "type", URIRef(kind)) if isinstance(s, URIRef)
    ]
    names += [str(o) for _, p, o in store.triples if str(p) in (RDFS + "domain", SH + "targetClass") and isinstance(o, URIRef)]
    classes: dict[str, dict[str, Property]] = {name: {} for name in dict.fromkeys(names)}
    for subject, predicate, cls in store.triples:
        if str(predicate) == RDFS + "domain" and isinstance(cls, URIRef) and isinstance(subject, URIRef):
            classes[str(cls)][str(subject)] = _of_ontology(store, subject)
        if str(predicate) == SH + "targetClass" and isinstance(cls, URIRef):
            for shape in store.values(subject, SH + "property"):
                made = _of_shape(store, shape)
                if made is not None:
                    classes[str(cls)][made.iri] = made
    if not any(classes.values()):
        must = "must declare classes with properties: rdfs:domain, or shapes with sh:targetClass and sh:path"
        raise Refused([Fault(f"{path}:1", "no class with a property", must)])
    shapes = any(str(p) == SH + "targetClass" for _, p, _ in store.triples)
    return Schema({name: tuple(found.values()) for name, found in classes.items()}, shapes, store)


def _of_ontology(store: TripleStore, subject: URIRef) -> Property:
    ranges = [str(o) for o in store.values(subject, RDFS + "range") if isinstance(o, URIRef)]
    types = {str(o) for o in store.values(subject, RDF + "type")}
    found = ranges[0] if ranges else XSD + "string"
    datatype = found if found.startswith(XSD) else ""
    if OWL + "ObjectProperty" in types or not ranges:
        datatype = "" if OWL + "ObjectProperty" in types else XSD + "string"
    most = 1 if OWL + "FunctionalProperty" in types else None
    return Property(str(subject), datatype, "" if datatype else found, 0, most, _example(datatype, str(subject)))


def _of_shape(store: TripleStore, shape: Term) -> Property | None:
    if not isinstance(shape, (URIRef, BNode)):
        return None
    said = {name: store.values(shape, SH + name) for name in ("path", "datatype", "class", "minCount", "maxCount", "in", "hasValue")}
    if not said["path"] or not isinstance(said["path"][0], URIRef):
        return None
    path = str(said["path"][0])
    cls = str(said["class"][0]) if said["class"] else ""
    datatype = str(said["datatype"][0]) if said["datatype"] else "" if cls else XSD + "string"
    most, least = _whole(said["maxCount"]), _whole(said["minCount"]) or 0
    return Property(path, datatype, cls, least, most, _allowed(store, shape, said, datatype, path))


def _allowed(store: TripleStore, shape: Term, said: Mapping[str, Sequence[Term]], datatype: str, path: str) -> Any:
    """A value that hasValue, in, the bounds and the lengths allow, as far as one can tell without solving them."""
    fixed = [*said["hasValue"], *(item for head in said["in"] for item in store.items(head, ""))]
    if fixed:
        first = fixed[0]
        return first.toPython() if isinstance(first, Literal) and isinstance(first.toPython(), (int, str, bool)) else str(first)
    example = _example(datatype, path)
    for name, step in (("minInclusive", 0), ("minExclusive", 1), ("maxInclusive", 0), ("maxExclusive", -1)):
        for bound in store.values(shape, SH + name):
            example = _within(example, str(bound), step, name.startswith("min"))
    least = _whole(store.values(shape, SH + "minLength"))
    return str(example).ljust(least, "x") if least else example


def _within(example: Any, bound: str, step: int, least: bool) -> Any:
    """The example moved to a bound that it does not keep; bounds that are no numbers are taken as they are."""
    try:
        value = float(bound) + step
    except ValueError:
        return bound
    if isinstance(example, bool) or not isinstance(example, (int, float)) or not math.isfinite(value):
        return example
    moved = max(example, value) if least else min(example, value)
    return int(moved) if moved == int(moved) else moved


def _whole(values: Sequence[Term]) -> int | None:
    """A whole number; what is none is a fault that the compiler tells with its line."""
    return int(str(values[0])) if values and str(values[0]).isdigit() else None


def _example(datatype: str, iri: str) -> Any:
    if not datatype:
        return f"https://example.com/{local(iri)}/1"
    return EXAMPLES.get(datatype.removeprefix(XSD), f"some {local(iri)}")


def shapes_text(schema: Schema) -> str:
    """First shapes for an ontology that has none: datatypes and functional properties."""
    prefixes = {"sh": SH, "xsd": XSD} | {name: iri for name, iri in schema.store.prefixes.items() if name and name not in ("sh", "xsd")}
    lines = [f"@prefix {name}: <{iri}> ." for name, iri in prefixes.items()]
    lines += ["", "# First shapes, from the datatypes of the schema: say here what must be there, and how large it may be."]
    for cls, properties in schema.classes.items():
        parts = [_shape_part(schema, p) for p in properties if p.datatype or p.most is not None]
        if parts:
            name = f"<{cls}Shape>"
            body = " ;\n".join(f"  sh:property [ {part} ]" for part in parts)
            lines += ["", f"{name} a sh:NodeShape ;\n  sh:targetClass {_curie(schema, cls)} ;\n{body} ."]
    return "\n".join(lines) + "\n"


def _shape_part(schema: Schema, p: Property) -> str:
    datatype = f" ; sh:datatype xsd:{p.datatype.removeprefix(XSD)}" if p.datatype else ""
    return f"sh:path {_curie(schema, p.iri)}{datatype}" + (f" ; sh:maxCount {p.most}" if p.most is not None else "")


def _curie(schema: Schema, iri: str) -> str:
    for name, namespace in schema.store.prefixes.items():
        rest = iri.removeprefix(namespace)
        if name and rest != iri and re.fullmatch(r"[A-Za-z_][\w-]*", rest):
            return f"{name}:{rest}"
    return f"<{iri}>"


# -- the invariants --


def read_asks(text: str, path: str) -> list[Source]:
    """ASK queries of a file, in order. PREFIX lines hold for all that follow; `# name:`, `# target:` and `# message:` before a query, or
    its last plain comment, say what it is called and told. Raises Refused."""
    prologue, asks, depth, line = "", [], 0, 1
    notes: list[str] = []
    current: _Ask | None = None
    faults: list[Fault] = []
    for token in (match[0] for match in _TOKEN.finditer(text)):
        if current is not None:
            current.text += token
            depth += (token == "{") - (token == "}")
            if token == "}" and depth == 0:
                asks.append(current)
                current = None
        elif token.upper() == "ASK":
            current, notes = _Ask(line, token, notes), []
        elif token.startswith("#"):
            notes.append(token)
        elif token.upper() in ("SELECT", "CONSTRUCT", "DESCRIBE", "INSERT", "DELETE"):
            faults.append(Fault(f"{path}:{line}", token, "must be ASK { … }: an invariant is a question with the answer yes"))
            break
        else:
            prologue += token
        line += token.count("\n")
    if current is not None:
        faults.append(Fault(f"{path}:{current.line}", "ASK", "must be closed by }"))
    if not asks and not faults:
        faults.append(Fault(f"{path}:1", "no query", "must hold at least one ASK { … }"))
    if faults:
        raise Refused(faults)
    head = " ".join(prologue.split())
    return [_source(ask, i, head, path) for i, ask in enumerate(asks)]


def _source(ask: _Ask, i: int, head: str, path: str) -> Source:
    said = {m[1]: m[2].strip() for note in ask.notes if (m := _DIRECTIVE.match(note))}
    plain = [note.lstrip("# ").strip() for note in ask.notes if not _DIRECTIVE.match(note)]
    message = said.get("message") or next((note for note in reversed(plain) if note), "")
    name = _NAME.sub("-", said.get("name", f"invariant-{i + 1}").lower()).strip("-")[:63] or f"invariant-{i + 1}"
    prefixes = dict(re.findall(r"PREFIX\s+([\w-]*):\s*<([^>]*)>", head, re.IGNORECASE))
    target = said.get("target", "").strip("<>")
    prefix, colon, rest = target.partition(":")
    if colon and prefix in prefixes:
        target = prefixes[prefix] + rest
    first = max(1, ask.line - 1)
    return Source(name, "ask", f"{head}\n{ask.text}", path, "application/sparql-query", target or None, message, first_line=first)


def _targeted(ask: Source, schema: Schema) -> Source:
    """The rule with a target: the one that it names; else, when it speaks of $this, the class of the first property in it."""
    from dataclasses import replace

    if ask.target or "$this" not in ask.text:
        return ask
    for cls, properties in schema.classes.items():
        if any(local(p.iri) in ask.text for p in properties):
            return replace(ask, target=cls)
    return replace(ask, target=next(iter(schema.classes)))


# -- mapping and payload --


def _carries(root: str) -> Source:
    """Rules on a class hold when nothing has the class: a payload that says nothing must be denied by itself."""
    query = f"ASK {{ ?thing a <{root}> }}"
    message = f"a request must carry: {local(root)}"
    return Source("carries-something", "ask", query, "carries-something", "application/sparql-query", message=message)


def _root(schema: Schema, asks: Sequence[Source]) -> str:
    """The class that a payload is: that of the first rule with a target; else the first class with properties that no other points to."""
    named = [ask.target for ask in asks if ask.target in schema.classes]
    if named and named[0] is not None:
        return named[0]
    pointed = {p.range for properties in schema.classes.values() for p in properties}
    having = [name for name, properties in schema.classes.items() if properties]
    return next((name for name in having if name not in pointed), having[0])


def mapping_text(schema: Schema, root: str) -> str:
    """A mapping in the short form: members are called as the properties are; classes that are pointed to are nested objects."""
    used = dict(_maps(schema, root, "$", ()))
    prefixes = {name: iri for name, iri in schema.store.prefixes.items() if name and iri}
    lines = ["# Members are called as the properties are: change the paths to those of your payloads.", "prefixes:"]
    lines += [f"  {name}: {json.dumps(iri)}" for name, iri in prefixes.items()] or ["  ex: https://example.com/ns#"]
    lines += ["unknownMembers: Deny", "maps:"]
    for at, cls in used.items():
        lines += [f"  - id: {_map_id(at, root)}", f"    iterator: {json.dumps(at)}"]
        subject = f'{{template: "https://example.com/{_map_id(at, root)}/{{id}}"}}' if at == "$" else "{blank: true}"
        lines += [f"    subject: {subject}", f"    class: {_yaml_iri(schema, cls)}", "    properties:"]
        lines += [f"      {_yaml_iri(schema, p.iri)}: {_value(p, at, used)}" for p in schema.classes[cls]]
    return "\n".join(lines) + "\n"


def _maps(schema: Schema, cls: str, at: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield at, cls
    for p in schema.classes[cls]:
        if _nested(schema, p, (*above, cls)):
            yield from _maps(schema, p.range, f"{at}.{local(p.iri)}", (*above, cls))


def _nested(schema: Schema, p: Property, above: tuple[str, ...]) -> bool:
    return bool(schema.classes.get(p.range)) and p.range not in above and len(above) < MAX_DEPTH


def _map_id(at: str, root: str) -> str:
    """A map is called by its path; the one of the whole payload by its class."""
    return _NAME.sub("-", (local(root) if at == "$" else at).lower()).strip("-") or "thing"


def _yaml_iri(schema: Schema, iri: str) -> str:
    return _curie(schema, iri) if not _curie(schema, iri).startswith("<") else json.dumps(f"<{iri}>")


def _value(p: Property, at: str, used: Mapping[str, str]) -> str:
    path = f"$.{local(p.iri)}"
    below = f"{at}.{local(p.iri)}"
    if used.get(below) == p.range and p.range:
        return f"{{child: {_map_id(below, '')}}}"
    if not p.datatype:
        return f"{{path: {path}, node: iri}}"
    return path if p.datatype == XSD + "string" else f"{{path: {path}, datatype: xsd:{p.datatype.removeprefix(XSD)}}}"


def _payload(schema: Schema, cls: str, above: tuple[str, ...]) -> dict[str, Any]:
    return {
        local(p.iri): _payload(schema, p.range, (*above, cls)) if _nested(schema, p, (*above, cls)) else p.example
        for p in schema.classes[cls]
    }
