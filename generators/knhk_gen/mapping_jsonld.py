"""JSON-LD 1.1 contexts as mappings (docs/mapping.md): a term with a context of its own is a nested node, the others are values.

A context says what members mean and leaves their form open; a mapping needs it. So `@container: @set` is an array and no container is one
value, and a payload of another form is refused, never read in another way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.functions import Function
from knhk_gen.mapping import ABSOLUTE, UNKNOWN, Mapping, PropertyMap, TermMap, TriplesMap
from knhk_gen.names import TYPE
from knhk_gen.turtle import Text

MAX_DEPTH: Final = 32
_CONTEXT: Final = ("@version", "@vocab", "@language", "@protected")
_TERM: Final = ("@id", "@type", "@container", "@context", "@language", "@prefix", "@protected")
_DECODER: Final = json.JSONDecoder()
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")


@dataclass(frozen=True)
class _Json:
    """A JSON value with its place; objects as members in their order."""

    value: Any
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text

    def fail(self, at: int, must: str = "must be JSON") -> Exception:
        return _BadJson(at, must)

    def space(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t\n\r":
            at += 1
        return at

    def value(self, at: int, depth: int = 0) -> tuple[_Json, int]:
        at = self.space(at)
        ch = self.text[at : at + 1]
        if depth > MAX_DEPTH:
            raise self.fail(at, f"must not nest deeper than {MAX_DEPTH}")
        if ch == "{":
            return self.members(at, depth)
        if ch == "[":
            return self.elements(at, depth)
        if ch == '"':
            string, end = self.string(at)
            return _Json(string, at), end
        match = _NUMBER.match(self.text, at)
        if match is None:
            raise self.fail(at)
        return _Json(json.loads(match[0]), at), match.end()

    def string(self, at: int) -> tuple[str, int]:
        try:
            string, length = _DECODER.raw_decode(self.text[at:])
        except json.JSONDecodeError as error:
            raise self.fail(at + error.pos) from error
        return str(string), at + length

    def members(self, at: int, depth: int) -> tuple[_Json, int]:
        found: dict[str, tuple[int, _Json]] = {}
        here, start = self.space(at + 1), at
        while self.text[here : here + 1] != "}":
            if found and self.text[here : here + 1] != ",":
                raise self.fail(here)
            here = self.space(here + 1) if found else here
            if self.text[here : here + 1] != '"':
                raise self.fail(here)
            name, end = self.string(here)
            if name in found:
                raise self.fail(here, "must be given once")
            end = self.space(end)
            if self.text[end : end + 1] != ":":
                raise self.fail(end)
            value, end = self.value(end + 1, depth + 1)
            found[name] = (here, value)
            here = self.space(end)
        return _Json(found, start), here + 1

    def elements(self, at: int, depth: int) -> tuple[_Json, int]:
        found: list[_Json] = []
        here, start = self.space(at + 1), at
        while self.text[here : here + 1] != "]":
            if found and self.text[here : here + 1] != ",":
                raise self.fail(here)
            value, end = self.value(here + 1 if found else here, depth + 1)
            found.append(value)
            here = self.space(end)
        return _Json(found, start), here + 1


class _BadJson(ValueError):
    def __init__(self, at: int, must: str) -> None:
        self.at, self.must = at, must
        super().__init__(must)


@dataclass(frozen=True)
class _Term:
    iri: str
    at: int
    type: str = ""
    many: bool = False
    language: str | None = None  # "" by null: none, whatever the context says
    scoped: _Json | None = None


@dataclass(frozen=True)
class _Active:
    terms: dict[str, _Term] = field(default_factory=dict)
    vocab: str = ""
    language: str = ""


class _Reader:
    def __init__(self, source: Source) -> None:
        self.text = Text(source.text, source.path, source.first_line)
        self.mapping = Mapping()
        self.ids: dict[str, int] = {}

    def fault(self, at: int, value: object, must: str) -> None:
        self.mapping.fault(self.text.where(at), value if isinstance(value, str) else json.dumps(value, default=str), must)

    def read(self, root: _Json) -> None:
        if not isinstance(root.value, dict) or "@context" not in root.value:
            self.fault(root.at, "no @context", "must be an object with a @context")
            return
        for name, (at, value) in root.value.items():
            if name == "unknownMembers" and value.value in UNKNOWN:
                self.mapping.unknown_members = value.value
            elif name != "@context":
                self.fault(at, name, 'must be @context, or unknownMembers with "Allow" or "Deny"')
        active = self.context(_Active(), root.value["@context"][1])
        self.node(active, "root", "$", root.at, set(active.terms))

    # -- contexts --

    def context(self, active: _Active, given: _Json) -> _Active:
        """The active context after a local one."""
        if isinstance(given.value, list):
            for one in given.value:
                active = self.context(active, one)
            return active
        if given.value is None:
            return _Active()
        if not isinstance(given.value, dict):
            self.fault(given.at, given.value, "must be written out here: nothing is fetched when a pack is compiled")
            return active
        members = given.value
        for name, (at, _) in members.items():
            if name.startswith("@") and name not in _CONTEXT:
                self.fault(at, name, f"must be a term, or one of {', '.join(_CONTEXT)}")
        defaults = self.defaults(members)
        active = replace(active, vocab=defaults.get("vocab", active.vocab), language=defaults.get("language", active.language))
        made = _Active(dict(active.terms), active.vocab, active.language)
        open_terms: list[str] = []

        def define(name: str) -> None:
            if name in open_terms:
                self.fault(members[name][0], name, "must not be defined by itself")
                return
            open_terms.append(name)
            at, value = members[name]
            term = self.term(name, at, value, expand)
            if term is None:
                made.terms.pop(name, None)
            else:
                made.terms[name] = term
            open_terms.pop()

        done: set[str] = set()

        def expand(text: str) -> str:
            for part in (text, text.partition(":")[0]):
                if part in members and not part.startswith("@") and (part not in done or part in open_terms):
                    done.add(part)
                    define(part)
            return self.expand(made, text)

        for name in members:
            if not name.startswith("@") and name not in done:
                done.add(name)
                define(name)
        return made

    def defaults(self, members: dict[str, tuple[int, _Json]]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, key in (("@vocab", "vocab"), ("@language", "language")):
            if name in members:
                at, value = members[name]
                if value.value is not None and not isinstance(value.value, str):
                    self.fault(at, name, "must be a string or null")
                else:
                    found[key] = value.value or ""
        if found.get("vocab") and not ABSOLUTE.fullmatch(found["vocab"]):
            self.fault(members["@vocab"][0], found["vocab"], "must be an absolute IRI")
        if "@version" in members and members["@version"][1].value != 1.1:
            self.fault(members["@version"][0], "@version", "must be 1.1")
        return found

    def expand(self, active: _Active, text: str) -> str:
        """The IRI or keyword that a word of the context means; "" when none."""
        if text.startswith("@") or text in active.terms:
            return active.terms[text].iri if text in active.terms else text
        prefix, colon, rest = text.partition(":")
        if colon:
            if not rest.startswith("//") and prefix in active.terms:
                return active.terms[prefix].iri + rest
            return text
        return active.vocab + text if active.vocab else ""

    def term(self, name: str, at: int, given: _Json, expand: Callable[[str], str]) -> _Term | None:
        """A term's definition; None when it says nothing (null)."""
        if given.value is None:
            return None
        fields = {"@id": (at, given)} if isinstance(given.value, str) else given.value
        if not isinstance(fields, dict):
            self.fault(at, name, "must be a string, an object or null")
            return None
        for key, (where, _) in fields.items():
            if key not in _TERM:
                self.fault(where, key, f"must be one of {', '.join(_TERM)}: this version compiles no other")
        word = self.word(fields, "@id")
        if "@id" in fields and fields["@id"][1].value is None:
            return None
        iri = expand(word) if word and word != name else self.own(name, expand)
        if iri.startswith("@") and iri not in ("@id", "@type"):
            self.fault(at, iri, "must be @id or @type: this version compiles no other alias of a keyword")
        elif not iri.startswith("@") and not ABSOLUTE.fullmatch(iri):
            self.fault(at, word or name, "must give an absolute IRI: by itself, by a prefix, or by @vocab")
            return None
        kind = self.word(fields, "@type")
        if kind in ("@json",):
            self.fault(fields["@type"][0], kind, "must be @id, @vocab, @none or a datatype")
        elif kind and not kind.startswith("@"):
            kind = expand(kind)
        language = None if "@language" not in fields else self.word(fields, "@language")
        scoped = fields["@context"][1] if "@context" in fields else None
        return _Term(iri, at, "" if kind == "@none" else kind, self.many(fields), language, scoped)

    def own(self, name: str, expand: Callable[[str], str]) -> str:
        prefix, colon, rest = name.partition(":")
        if colon:
            base = expand(prefix) if not rest.startswith("//") else ""
            return base + rest if base else name
        found = expand("knhk-vocab-only")
        return found.removesuffix("knhk-vocab-only") + name if found else ""

    def word(self, fields: dict[str, tuple[int, _Json]], key: str) -> str:
        at, value = fields.get(key, (0, _Json(None, 0)))
        if value.value is not None and not isinstance(value.value, str):
            self.fault(at, key, "must be a string or null")
            return ""
        return value.value or ""

    def many(self, fields: dict[str, tuple[int, _Json]]) -> bool:
        if "@container" not in fields:
            return False
        at, value = fields["@container"]
        names = [one.value for one in value.value] if isinstance(value.value, list) else [value.value]
        if names not in (["@set"], [None]):
            self.fault(at, ", ".join(map(str, names)), "must be @set: this version compiles no other container")
        return names == ["@set"]

    # -- maps --

    def node(self, active: _Active, name: str, iterator: str, at: int, own: set[str]) -> str:
        """The map of a node; terms of `own` may be nodes in it, others are values only. Returns its id."""
        number = self.ids[name] = self.ids.get(name, 0) + 1
        identity = name if number == 1 else f"{name}-{number}"
        properties: list[PropertyMap] = []
        children: list[tuple[str, _Term]] = []
        where = self.text.where(at)
        aliases = {"@id": "@id", "@type": "@type"}
        for word, term in active.terms.items():
            if term.iri in aliases:
                if aliases[term.iri] != term.iri:
                    self.fault(term.at, word, f"must be the only alias of {term.iri}")
                aliases[term.iri] = word
        many = aliases["@type"] in active.terms and active.terms[aliases["@type"]].many
        kinds = TermMap("reference", self.path(aliases["@type"], many), where, "iri", functions=(self.expansion(active, True),))
        properties.append(PropertyMap(TYPE, where, kinds))
        for word, term in active.terms.items():
            if term.iri in aliases or term.iri.endswith(("/", "#", ":")):
                continue  # a prefix is no property
            if term.scoped is None:
                properties.append(self.value(active, word, term))
            elif word in own:
                children.append((word, term))
        subject = TermMap(
            "reference", self.path(aliases["@id"], False), where, "iri", functions=(self.expansion(active, False),), or_blank=True
        )
        index = len(self.mapping.maps)
        self.mapping.maps.append(TriplesMap(identity, iterator, where, subject))
        properties += [self.child(active, word, term, iterator) for word, term in children]
        self.mapping.maps[index] = TriplesMap(identity, iterator, where, subject, (), tuple(properties))
        return identity

    def child(self, active: _Active, word: str, term: _Term, iterator: str) -> PropertyMap:
        assert term.scoped is not None
        inner = self.context(active, term.scoped)
        declared = term.scoped.value if isinstance(term.scoped.value, dict) else {}
        below = iterator + self.path(word, term.many)[1:]
        identity = self.node(inner, re.sub(r"[^A-Za-z0-9]", "_", word), below, term.at, set(declared) - {word})
        return PropertyMap(term.iri, self.text.where(term.at), child=identity)

    def value(self, active: _Active, word: str, term: _Term) -> PropertyMap:
        where, path = self.text.where(term.at), self.path(word, term.many)
        if term.type in ("@id", "@vocab"):
            functions = (self.expansion(active, term.type == "@vocab"),)
            return PropertyMap(term.iri, where, TermMap("reference", path, where, "iri", functions=functions))
        language = active.language if term.language is None else term.language
        if term.type or not language:
            return PropertyMap(term.iri, where, TermMap("reference", path, where, "literal", term.type))
        return PropertyMap(term.iri, where, TermMap("reference", path, where, "literal", lang=language, string=True))

    def expansion(self, active: _Active, vocab: bool) -> Function:
        """What IRIs of the payload go through: terms (where they count), prefixes, the vocabulary."""
        plain = {word: term.iri for word, term in active.terms.items() if not term.iri.startswith("@")}
        codes = {f"{word}:": iri for word, iri in plain.items()} | (plain if vocab else {})
        return {"f": "expand", "codes": codes, "text": active.vocab if vocab else ""}

    def path(self, word: str, many: bool) -> str:
        escaped = word.replace("\\", "\\\\").replace("'", "\\'")
        return f"$['{escaped}']" + ("[*]" if many else "")


def read_jsonld(source: Source) -> Mapping:
    """Reads a JSON-LD context; faults are inside. Raises Refused when it is no JSON."""
    reader, parser = _Reader(source), _Parser(source.text)
    try:
        root, end = parser.value(0)
        if parser.space(end) != len(source.text):
            raise _BadJson(end, "must be one JSON value")
    except _BadJson as error:
        raise Refused([Fault(reader.text.where(error.at), source.text[error.at : error.at + 40], error.must)]) from error
    reader.read(root)
    return reader.mapping
