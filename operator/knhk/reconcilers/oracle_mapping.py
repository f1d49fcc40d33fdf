"""What a mapping makes of a body, read from the author's words: every map and every property walks the body by itself.

Of the compiler it takes only the reader of the notation (`read_mapping`), whose maps still hold paths and templates as they were written.
Paths, templates, functions, terms and refusals are read here anew, by formats/guardplan.md; nothing of the tables is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NoReturn, cast
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, XMLParser

from pyoxigraph import BlankNode, Literal, NamedNode, Quad, RdfFormat, parse

from knhk.model.arrows import Source
from knhk_gen.functions import Function
from knhk_gen.lower import read_mapping
from knhk_gen.mapping import MAX_DEPTH, PropertyMap, TermMap, TriplesMap

XSD: Final = "http://www.w3.org/2001/XMLSchema#"
TYPE: Final = NamedNode("http://www.w3.org/1999/02/22-rdf-syntax-ns#type")
XSI: Final = "{http://www.w3.org/2001/XMLSchema-instance}"
HINTS: Final = (XSI + "schemaLocation", XSI + "noNamespaceSchemaLocation")
IRI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|\\^`]*")

Term = NamedNode | BlankNode | Literal
Triple = tuple[NamedNode | BlankNode, NamedNode, Term]


class Malformed(ValueError):
    """A body that must be refused; the text says why."""


class Unsaid(Exception):
    """A body of which this reading says nothing."""


@dataclass(frozen=True)
class Scalar:
    """A value of the body, or of a function: its text, what its literal is by itself, and whether it was a string."""

    text: str
    natural: str = "string"
    string: bool = True


class _Text(str):
    """A JSON string."""

    __slots__ = ()


class _Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


# ---- bodies: what a step finds, what a scalar is, which parts no path names ----

Step = tuple[str, Any]
"""Of JSON `key`, `index`, `each`; of XML `element` with its name and place (or None), `attribute`; names as ElementTree spells them."""


class _JsonBody:
    root: Any

    def __init__(self, body: bytes) -> None:
        try:
            read = json.loads(body.decode(), object_pairs_hook=_members, parse_int=_Number, parse_float=_Number, parse_constant=_no_number)
            json.dumps(read, ensure_ascii=False).encode()
            _depth(read, 0)
        except (ValueError, RecursionError) as error:
            raise Malformed(str(error)) from error
        self.root = _own(read)

    @staticmethod
    def path(text: str, _namespaces: Mapping[str, str]) -> list[Step]:
        """`$.a['b'][0][*]`, or a bare name."""
        found = re.findall(r"""\[(\d+)\]|(\[\*\])|\[(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")\]|([^.\[\]]+)""", text.strip())
        steps: list[Step] = []
        for place, (index, each, single, double, name) in enumerate(found):
            if index:
                steps.append(("index", int(index)))
            elif each:
                steps.append(("each", None))
            elif not (place == 0 and name == "$"):
                steps.append(("key", name or re.sub(r"\\(.)", r"\1", single or double)))
        return steps

    @staticmethod
    def step(value: Any, step: Step) -> list[Any]:
        kind, what = step
        if kind == "key":
            if not isinstance(value, dict):
                raise Malformed(f"{what}: must be a member of an object")
            found = [value[what]] if what in value else []
        elif not isinstance(value, list):
            raise Malformed("must be an array")
        else:
            found = value if kind == "each" else value[what : what + 1]
        return [one for one in found if one is not None]

    @staticmethod
    def scalar(value: Any) -> Scalar:
        if isinstance(value, bool):
            return Scalar("true" if value else "false", "boolean", False)
        if isinstance(value, _Number):
            return Scalar(str(value), "double" if re.search("[.eE]", value) else "integer", False)
        if isinstance(value, str):
            return Scalar(value)
        raise Malformed("must be a string, number or boolean")

    def known_only(self, paths: Sequence[tuple[Step, ...]], _values: Sequence[tuple[Step, ...]]) -> None:
        """Raises Malformed for a part that no path leads to or through."""
        self._known(self.root, [path for path in paths if path])

    def _known(self, value: Any, paths: Sequence[tuple[Step, ...]]) -> None:
        inner: list[tuple[Any, list[Step]]] = []
        if isinstance(value, dict):
            inner = [(child, [("key", name)]) for name, child in value.items()]
        elif isinstance(value, list):
            for i, child in enumerate(value):
                exact: Step = ("index", i)
                inner.append((child, [exact] if any(path[0] == exact for path in paths) else [("each", None)]))
        for child, steps in inner:
            on = [path[1:] for path in paths if path[0] in steps]
            if not on:
                raise Malformed(f"{steps[0][1]}: must be a member that the mapping knows")
            self._known(child, [path for path in on if path])


def _own(value: Any) -> Any:
    """The same with strings that are objects of their own, so that items differ though they are equal."""
    if isinstance(value, dict):
        return {name: _own(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_own(child) for child in value]
    return _Text(value) if type(value) is str else value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a member is repeated")
    return found


def _no_number(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON")


def _depth(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth >= MAX_DEPTH:
            raise Malformed("nested too deep")
        for child in value.values() if isinstance(value, dict) else value:
            _depth(child, depth + 1)


MAX_XML: Final = 1 << 16
"""Bytes up to which the parser's memory in the tables is no limit."""
_DECLARED: Final = (
    (re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*?encoding\s*=\s*["']([^"']*)"""), rb"(?i)utf-8"),
    (re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*?version\s*=\s*["']([^"']*)"""), rb"1\.0"),
)
_LONG_NAMESPACE: Final = re.compile(rb"""xmlns(?::[^\s=]+)?\s*=\s*(?:"[^"]{513}|'[^']{513})""")


class _XmlBody:
    """The root is a node above the root element, so that paths begin with that element."""

    root: Any

    def __init__(self, body: bytes) -> None:
        if b"<!DOCTYPE" in body or len(body) > MAX_XML:
            raise Unsaid
        for declared, must in _DECLARED:
            found = declared.match(body)
            if found and not re.fullmatch(must, found[1]):
                raise Malformed("must be XML 1.0 in UTF-8")
        if b"\0" in body or _LONG_NAMESPACE.search(body):
            raise Malformed("must be in UTF-8, with namespaces of 512 bytes at most")
        try:
            body.decode()
            parser = XMLParser(encoding="utf-8")
            parser.feed(body)
            self.root = Element("")
            self.root.append(parser.close())
        except (ParseError, UnicodeDecodeError) as error:
            raise Malformed(str(error)) from error
        self._nested(self.root, 0)

    def _nested(self, element: Element, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Malformed("nested too deep")
        for child in element:
            self._nested(child, depth + 1)

    @staticmethod
    def path(text: str, namespaces: Mapping[str, str]) -> list[Step]:
        """Child elements by name, [n], a final @name or text()."""
        steps: list[Step] = []
        for piece in text.strip().strip("/").split("/"):
            if piece in ("", ".", "text()"):
                continue
            at = piece.startswith("@")
            name, _, place = piece.removeprefix("@").removesuffix("]").partition("[")
            prefix, colon, local = name.rpartition(":")
            if prefix == "xml":
                space = "{http://www.w3.org/XML/1998/namespace}"
            elif prefix == "*" or local == "*":
                space = "{*}"
            elif colon or not at:
                uri = namespaces.get(prefix, "")
                space = f"{{{uri}}}" if uri else ""
            else:
                space = ""
            steps.append(("attribute", space + local) if at else ("element", (space + local, int(place) - 1 if place else None)))
        return steps

    @staticmethod
    def step(value: Any, step: Step) -> list[Any]:
        kind, what = step
        if kind == "attribute":
            return [value.attrib[what]] if what in value.attrib else []
        name, place = what
        found = [child for child in value if _fits(name, child.tag)]
        return found if place is None else found[place : place + 1]

    @staticmethod
    def scalar(value: Any) -> Scalar:
        if isinstance(value, str):
            return Scalar(value)
        if len(value):
            raise Malformed(f"{value.tag}: must hold text only")
        return Scalar(value.text or "")

    def known_only(self, paths: Sequence[tuple[Step, ...]], values: Sequence[tuple[Step, ...]]) -> None:
        """Raises Malformed for an element or attribute that no path leads to or through, and for text between elements."""
        self._known(self.root, paths, values)

    def _known(self, element: Any, paths: Sequence[tuple[Step, ...]], values: Sequence[tuple[Step, ...]]) -> None:
        if () not in values and any((text or "").strip(" \t\r\n") for text in (element.text, *(child.tail for child in element))):
            raise Malformed(f"{element.tag}: must hold elements only")
        for name in element.attrib:
            if name not in HINTS and not any(path[:1] == (("attribute", name),) for path in paths):
                raise Malformed(f"@{name}: must be an attribute that the mapping knows")
        for child in element:
            on, own = self._below(element, child, paths), self._below(element, child, values)
            if not on:
                raise Malformed(f"{child.tag}: must be an element that the mapping knows")
            self._known(child, on, own)

    def _below(self, element: Any, child: Any, paths: Sequence[tuple[Step, ...]]) -> list[tuple[Step, ...]]:
        return [path[1:] for path in paths if path and path[0][0] == "element" and child in self.step(element, path[0])]


def _fits(name: str, tag: str) -> bool:
    space, _, local = name.rpartition("}")
    if space == "{*":
        return local in ("*", tag.rpartition("}")[2])
    return name == tag


_BODIES: Final[Mapping[str, type[_JsonBody | _XmlBody]]] = {"json": _JsonBody, "xml": _XmlBody}


# ---- functions ----


def _decimal(text: str, point: str, group: str) -> Scalar:
    word = text.strip(" \t\r\n")
    sign = word[:1] if word[:1] in ("+", "-") else word[-1:] if word[-1:] in ("+", "-") else ""
    word = word[1:] if sign and word.startswith(sign) else word[:-1].strip(" \t\r\n") if sign else word
    g, p = re.escape(group), re.escape(point)
    match = re.fullmatch(rf"([0-9]+|[0-9]{{1,3}}(?:{g}[0-9]{{3}})+)(?:{p}([0-9]+))?", word)
    if match is None:
        raise Malformed(f"{text}: must be an amount")
    whole, part = match[1].replace(group, "").lstrip("0") or "0", (match[2] or "").rstrip("0")
    negative = "-" if sign == "-" and (whole, part) != ("0", "") else ""
    return Scalar(f"{negative}{whole}{'.' if part else ''}{part}", "decimal")


_TOKENS: Final = {
    "YYYY": r"(?P<Y>[0-9]{4})", "MM": r"(?P<M>[0-9]{2})", "M": r"(?P<M>[0-9]{1,2}+)", "DD": r"(?P<D>[0-9]{2})", "D": r"(?P<D>[0-9]{1,2}+)",
    "hh": r"(?P<h>[0-9]{2})", "h": r"(?P<h>[0-9]{1,2}+)", "mm": r"(?P<m>[0-9]{2})", "ss": r"(?P<s>[0-9]{2})", "f": r"(?P<f>[0-9]++)",
    "Z": r"(?P<Z>Z|[+-][0-9]{2}(?::?[0-9]{2})?)",
}  # fmt: skip


def _read_date(text: str, pattern: str) -> dict[str, str]:
    tokens = re.findall(r"YYYY|MM?|DD?|hh?|mm|ss|f|Z|.", pattern.removesuffix("*"))
    made = "".join(_TOKENS.get(token) or re.escape(token) for token in tokens)
    match = re.fullmatch(made + (".*" if pattern.endswith("*") else ""), text, re.DOTALL)
    if match is None:
        raise Malformed(f"{text}: must be a date as {pattern}")
    return {name: found for name, found in match.groupdict().items() if found is not None}


def _day(found: Mapping[str, str]) -> date:
    try:
        return date(int(found["Y"]), int(found["M"]), int(found["D"]))
    except ValueError as error:
        raise Malformed("must be a day of the calendar") from error


def _date(f: Function, v: Scalar) -> Scalar:
    return Scalar(_day(_read_date(v.text, f["text"])).isoformat(), "date")


def _date_time(f: Function, v: Scalar) -> Scalar:
    found = _read_date(v.text, f["text"])
    clock = [int(found.get(name, "0")) for name in "hms"]
    if clock[0] > 23 or clock[1] > 59 or clock[2] > 59:
        raise Malformed(f"{v.text}: must be a time of a day")
    zone = found.get("Z") or str(f.get("zone") or "")
    if len(zone) > 1:
        digits = zone[1:].replace(":", "").ljust(4, "0")
        if int(digits[2:]) > 59 or int(digits) > 1400:
            raise Malformed(f"{zone}: must be an offset")
        zone = f"{zone[0]}{digits[:2]}:{digits[2:]}"
    part = found.get("f", "").rstrip("0")
    text = "{}T{:02}:{:02}:{:02}".format(_day(found).isoformat(), *clock)
    return Scalar(f"{text}{'.' if part else ''}{part}{zone}", "dateTime")


def _moment(millis: int) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)
    except OverflowError as error:
        raise Malformed("must be between the years 1 and 9999") from error


def _utc(millis: int) -> Scalar:
    at = _moment(millis)
    part = f".{at.microsecond // 1000:03}".rstrip("0").rstrip(".")
    return Scalar(f"{at.year:04}-{at:%m-%dT%H:%M:%S}{part}Z", "dateTime")


def _whole(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,15}", text):
        raise Malformed(f"{text}: must be an integer")
    return int(text)


def _dot_net(v: Scalar) -> tuple[int, int]:
    """Milliseconds, and those of the offset."""
    match = re.fullmatch(r"/Date\((-?[0-9]{1,15})(?:([+-])([0-9]{2})([0-9]{2}))?\)/", v.text)
    if match is None or int(match[4] or 0) > 59 or int(match[3] or 0) * 60 + int(match[4] or 0) > 14 * 60:
        raise Malformed(f"{v.text}: must be /Date(…)/")
    minutes = int(match[3] or 0) * 60 + int(match[4] or 0)
    return int(match[1]), minutes * (-60_000 if match[2] == "-" else 60_000)


def _dot_net_date(_f: Function, v: Scalar) -> Scalar:
    millis, offset = _dot_net(v)
    return Scalar(_moment(millis + offset).date().isoformat(), "date")


def _codes(f: Function, v: Scalar) -> Scalar:
    found = f["codes"].get(v.text, f.get("other"))
    if found is None:
        raise Malformed(f"{v.text}: must be a code of the list")
    return Scalar(found)


def _expand(f: Function, v: Scalar) -> Scalar:
    if not v.string:
        raise Malformed(f"{v.text}: must be a string")
    if v.text in f["codes"]:
        return Scalar(f["codes"][v.text])
    prefix, colon, rest = v.text.partition(":")
    if not colon:
        if not f.get("text"):
            raise Malformed(f"{v.text}: must be a term or an IRI")
        return Scalar(f["text"] + v.text)
    known = None if rest.startswith("//") else f["codes"].get(prefix + ":")
    return Scalar(v.text if known is None else known + rest)


def _kept(change: Callable[[Function, str], str]) -> Callable[[Function, Scalar], Scalar]:
    """The changed text of a value that stays what it is by itself."""
    return lambda f, v: Scalar(change(f, v.text), v.natural, v.string)


_LOWER, _UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FUNCTIONS: Final[Mapping[str, Callable[[Function, Scalar], Scalar | None]]] = {
    "trim": _kept(lambda f, text: text.strip(" \t\r\n")),
    "absentIf": lambda f, v: None if v.text == f["text"] else v,
    "stripZeros": _kept(lambda f, text: text.lstrip("0") if text.strip("0") else text[-1:]),
    "upper": _kept(lambda f, text: text.translate(str.maketrans(_LOWER, _UPPER))),
    "lower": _kept(lambda f, text: text.translate(str.maketrans(_UPPER, _LOWER))),
    "decimalPoint": lambda f, v: _decimal(v.text, ".", ","),
    "decimalComma": lambda f, v: _decimal(v.text, ",", "."),
    "date": _date,
    "dateTime": _date_time,
    "dotNetDate": _dot_net_date,
    "dotNetDateTime": lambda f, v: _utc(_dot_net(v)[0]),
    "epochMillis": lambda f, v: _utc(_whole(v.text)),
    "epochSeconds": lambda f, v: _utc(_whole(v.text) * 1000),
    "codes": _codes,
    "prefix": lambda f, v: Scalar(f["text"] + v.text),
    "percentEncode": lambda f, v: Scalar(quote(v.text, safe="-._~")),
    "expand": _expand,
}


def _through(functions: Sequence[Function], value: Scalar) -> Scalar | None:
    found: Scalar | None = value
    for function in functions:
        found = None if found is None else _FUNCTIONS[function["f"]](function, found)
    return found


# ---- mappings ----


@dataclass(frozen=True)
class _Reference:
    """A path from an item, and what its values go through."""

    path: tuple[Step, ...]
    functions: tuple[Function, ...]
    only_string: bool = False
    iri: bool = False


@dataclass(frozen=True)
class _Value:
    """How a term is made: the pieces of its text, or a constant, or a blank node for each item."""

    pieces: tuple[str | _Reference, ...]
    node: str
    datatype: str
    lang: str
    constant: Term | None
    or_blank: bool

    @property
    def references(self) -> list[_Reference]:
        return [piece for piece in self.pieces if isinstance(piece, _Reference)]

    @property
    def whole(self) -> bool:
        """One value alone: it is the IRI itself, and not encoded."""
        return len(self.pieces) == 1 and isinstance(self.pieces[0], _Reference)


@dataclass(frozen=True)
class _Property:
    predicate: NamedNode
    value: _Value | None
    other: str
    keys: tuple[_Reference, _Reference] | None


@dataclass(frozen=True)
class _Map:
    id: str
    iterator: tuple[Step, ...]
    subject: _Value
    classes: tuple[NamedNode, ...]
    properties: tuple[_Property, ...]


class MappingOracle:
    """A mapping source, read."""

    def __init__(self, source: Source) -> None:
        self._read = read_mapping(source)
        self._body = _BODIES.get(self._read.source)
        self._maps = [self._map(m) for m in self._read.maps]

    def triples(self, body: bytes) -> set[Triple]:
        """The graph of a body. Raises Malformed when it must be refused, Unsaid when this reading says nothing of it."""
        if self._body is None:
            return _plain(body)
        read = self._body(body)
        self._check(read)
        return _Run(read, self._maps).graph()

    def _path(self, text: str) -> tuple[Step, ...]:
        assert self._body is not None
        return tuple(self._body.path(text, self._read.namespaces))

    def _map(self, m: TriplesMap) -> _Map:
        properties = tuple(self._property(p) for p in m.properties)
        classes = tuple(NamedNode(cls) for cls in m.classes)
        return _Map(m.id, self._path(m.iterator), self._value(m.subject, "iri"), classes, properties)

    def _property(self, p: PropertyMap) -> _Property:
        keys = None if p.keys is None else (self._reference(p.keys[0]), self._reference(p.keys[1]))
        value = None if p.value is None else self._value(p.value, "iri" if p.value.form == "template" else "literal")
        return _Property(NamedNode(p.predicate), value, p.join or p.child, keys)

    def _reference(self, term: TermMap, iri: bool = False) -> _Reference:
        return _Reference(self._path(term.text), term.functions, term.string, iri)

    def _value(self, term: TermMap, node: str) -> _Value:
        node = term.node or node
        pieces: tuple[str | _Reference, ...] = ()
        constant: Term | None = None
        if term.form == "constant":
            constant = _constant(term.term) if term.term else NamedNode(term.text)
        elif term.form == "reference":
            pieces = (self._reference(term, node == "iri"),)
        elif term.form == "template":
            pieces = tuple(self._pieces(term.text))
        return _Value(pieces, node, term.datatype, term.lang.lower(), constant, term.or_blank or term.form == "blank")

    def _pieces(self, text: str) -> Iterator[str | _Reference]:
        plain = ""
        for piece in re.findall(r"\\[{}\\]|\{[^}]*\}|[^{\\]+|\\", text):
            if not piece.startswith("{"):
                plain += piece[1] if len(piece) == 2 and piece[0] == "\\" else piece
                continue
            if plain:
                yield plain
            plain = ""
            path, *names = piece[1:-1].split("|")
            yield _Reference(self._path(path), tuple({"f": name} for name in names))
        if plain:
            yield plain

    def _check(self, read: _JsonBody | _XmlBody) -> None:
        """Raises Malformed when the body has not the form that every path needs, or holds what none knows."""
        paths: dict[tuple[Step, ...], None] = dict.fromkeys(m.iterator for m in self._maps)
        values: dict[tuple[Step, ...], None] = {}
        for m in self._maps:
            select(read, read.root, m.iterator)
            for reference in self._references(m):
                whole = (*m.iterator, *reference.path)
                values[whole] = None
                for found in select(read, read.root, whole):
                    _misfit(reference, read.scalar(found))
        if self._read.unknown_members == "Deny":
            read.known_only([*paths, *values], list(values))

    def _references(self, m: _Map) -> Iterator[_Reference]:
        for value in (m.subject, *(p.value for p in m.properties if p.value is not None)):
            yield from value.references
        yield from (p.keys[0] for p in m.properties if p.keys is not None)
        for other in self._maps:
            yield from (p.keys[1] for p in other.properties if p.keys is not None and p.other == m.id)


def _misfit(reference: _Reference, value: Scalar) -> None:
    made = _through(reference.functions, value)
    if made is None:
        return
    if reference.only_string and not made.string:
        raise Malformed(f"{made.text}: must be a string")
    if reference.iri and not (made.string and IRI.fullmatch(made.text)):
        raise Malformed(f"{made.text}: must be an absolute IRI")


def select(read: _JsonBody | _XmlBody, value: Any, path: Sequence[Step]) -> list[Any]:
    """All values at a path, in document order. Raises Malformed where the body has another form."""
    found = [] if value is None else [value]
    for step in path:
        found = [inner for one in found for inner in read.step(one, step)]
    return found


def _constant(term: Mapping[str, Any]) -> Term:
    if term["k"] == "iri":
        return NamedNode(term["v"])
    if term["lang"]:
        return Literal(term["v"], language=term["lang"])
    return Literal(term["v"], datatype=NamedNode(term["dt"]))


def _plain(body: bytes) -> set[Triple]:
    """A body that is RDF already."""
    try:
        return {cast(Triple, (q.subject, q.predicate, q.object)) for q in _quads(body)}
    except (SyntaxError, ValueError) as error:
        raise Unsaid from error


def _quads(body: bytes) -> Iterator[Quad]:
    for quad in parse(body, format=RdfFormat.N_TRIPLES):
        o = quad.object
        if isinstance(o, Literal) and o.language:
            quad = Quad(quad.subject, quad.predicate, Literal(o.value, language=o.language.lower()))
        yield quad


@dataclass
class _Run:
    """One body through one mapping."""

    read: _JsonBody | _XmlBody
    maps: Sequence[_Map]
    made: set[Triple] = field(default_factory=set)
    subjects: dict[tuple[str, int], NamedNode | BlankNode | None] = field(default_factory=dict)
    items: dict[str, list[Any]] = field(default_factory=dict)

    def graph(self) -> set[Triple]:
        self.items = {m.id: select(self.read, self.read.root, m.iterator) for m in self.maps}
        for m in self.maps:
            for item in self.items[m.id]:
                subject = self.subject(m, item)
                if subject is not None:
                    self.made.update((subject, TYPE, cls) for cls in m.classes)
                    self.made.update((subject, p.predicate, o) for p in m.properties for o in self.objects(m, item, p))
        return self.made

    def subject(self, m: _Map, item: Any) -> NamedNode | BlankNode | None:
        key = (m.id, id(item))
        if key not in self.subjects:
            self.subjects[key] = self._subject(m, item)
        return self.subjects[key]

    def _subject(self, m: _Map, item: Any) -> NamedNode | BlankNode | None:
        if m.subject.constant is not None:
            return cast(NamedNode, m.subject.constant)
        for reference in m.subject.references:
            if len(self.values(item, reference)) > 1:
                raise Malformed("must be there once: a subject is made of it")
        found = [self.term(m.subject, text, natural) for text, natural in self.texts(m.subject, item)] if m.subject.pieces else []
        if found:
            return cast(NamedNode | BlankNode, found[0])
        return BlankNode() if m.subject.or_blank else None

    def objects(self, m: _Map, item: Any, p: _Property) -> Iterator[Term]:
        if p.value is not None:
            if p.value.constant is not None:
                yield p.value.constant
            else:
                yield from (self.term(p.value, text, natural) for text, natural in self.texts(p.value, item))
            return
        other = next(one for one in self.maps if one.id == p.other)
        if p.keys is None:
            inner = select(self.read, item, other.iterator[len(m.iterator) :])
        else:
            keys = {v.text for v in self.values(item, p.keys[0])}
            inner = [one for one in self.items[other.id] if keys & {v.text for v in self.values(one, p.keys[1])}]
        for one in inner:
            subject = self.subject(other, one)
            if subject is not None:
                yield subject

    def values(self, item: Any, reference: _Reference) -> list[Scalar]:
        made = (_through(reference.functions, self.read.scalar(found)) for found in select(self.read, item, reference.path))
        return [one for one in made if one is not None]

    def texts(self, value: _Value, item: Any) -> Iterator[tuple[str, str]]:
        """All texts that a value has for an item, with the natural datatype."""
        if value.whole and value.node != "bnode":
            yield from ((v.text, v.natural) for v in self.values(item, value.references[0]) if v.text or value.node != "iri")
            return
        encode = value.node == "iri"
        options: list[list[str]] = []
        for piece in value.pieces:
            if isinstance(piece, str):
                options.append([piece])
            else:
                options.append([quote(v.text, safe="-._~") if encode else v.text for v in self.values(item, piece) if v.text])
        yield from (("".join(parts), "string") for parts in itertools.product(*options))

    @staticmethod
    def term(value: _Value, text: str, natural: str) -> Term:
        if value.node == "iri":
            return NamedNode(text)
        if value.node == "bnode":
            return BlankNode("t" + text.encode().hex())
        if value.lang:
            return Literal(text, language=value.lang)
        return Literal(text, datatype=NamedNode(value.datatype or XSD + natural))
