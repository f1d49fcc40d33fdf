"""Hypothesis strategies: random shapes over one mapping, and payloads for it.

Shapes are drawn by Hypothesis, so that they shrink; payloads come from a drawn seed, many for each
pack, because packs cost a link and payloads next to nothing. Value pools hold what engines differ
in least: lexical forms that rdflib calls valid and XML Schema does not are left to unit tests.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from hypothesis import strategies as st

HEAD = """@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
@prefix ex: <https://e.x/> .
ex:Big rdfs:subClassOf ex:Thing . ex:Huge rdfs:subClassOf ex:Big .
"""

MAPPING = """
prefixes: {ex: "https://e.x/"}
unknownMembers: Deny
maps:
  - id: thing
    iterator: "$.things[*]"
    subject: {template: "https://e.x/t/{id}"}
    class: ex:Thing
    properties:
      rdf:type: {template: "https://e.x/{kind}"}
      ex:any: "$.any[*]"
      ex:also: "$.also[*]"
      ex:dec: {path: "$.dec[*]", datatype: xsd:decimal}
      ex:int: {path: "$.int[*]", datatype: xsd:integer}
      ex:date: {path: "$.date[*]", datatype: xsd:date}
      ex:until: {path: "$.until[*]", datatype: xsd:date}
      ex:time: {path: "$.time[*]", datatype: xsd:dateTime}
      ex:flag: {path: "$.flag[*]", datatype: xsd:boolean}
      ex:label:
        - {path: "$.en[*]", lang: en}
        - {path: "$.gb[*]", lang: en-GB}
        - {path: "$.de[*]", lang: de}
        - {path: "$.plain[*]"}
      ex:link: {path: "$.link[*]", node: iri}
      ex:part: {child: part}
      ex:fixed: {constant: ex:Constant, node: iri}
  - id: part
    iterator: "$.things[*].parts[*]"
    subject: {blank: true}
    class: ex:Part
    properties:
      ex:dec: {path: "$.dec[*]", datatype: xsd:decimal}
      ex:any: "$.any[*]"
"""

STRINGS = ("", "a", "b", "EUR", "USD", "abc", "ä€𝄞", "x" * 40)
DECIMALS = ("0", "1", "-1", "1.5", "1.50", "-0.000001", "10", "99999.999999", "7", "abc", "", "1.2.3")
INTEGERS = ("0", "1", "-1", "10", "007", "+7", "99", "abc", "1.5")
DATES = ("2024-02-29", "2023-02-29", "2022-02-01", "2023-04-21", "1969-12-31", "today", "2024-13-01")
TIMES = (
    "2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "2023-12-31T23:59:59.999999Z",
    "2024-01-01T12:30:00.5-05:00", "noon",
)  # fmt: skip
FLAGS = ("true", "false", "1", "0")
LINKS = ("https://e.x/a", "https://e.x/b", "https://e.x/Constant", "urn:x:y")
NATURAL = (0, 1, -1, 7, 10, True, False)

POOLS: dict[str, tuple[object, ...]] = {
    "any": (*STRINGS, *NATURAL),
    "also": (*STRINGS, *NATURAL),
    "dec": (*DECIMALS, 0, 1, 7, 10),
    "int": (*INTEGERS, 0, 1, 7, 10),
    "date": DATES,
    "until": DATES,
    "time": TIMES,
    "flag": (*FLAGS, True, False),
    "en": STRINGS,
    "gb": STRINGS,
    "de": STRINGS,
    "plain": STRINGS,
    "link": LINKS,
}
PROPERTIES = (
    "any", "also", "dec", "int", "date", "until", "time", "flag", "label", "link", "part", "fixed",
    "none",
)  # fmt: skip
TYPED = {
    "dec": ("decimal", ("0", "1", "1.5", "-1.25", "10")),
    "int": ("integer", ("0", "1", "7", "-3")),
    "date": ("date", ("2022-02-01", "2023-04-21", "1970-01-01")),
    "until": ("date", ("2022-02-01", "2024-02-29")),
    "time": ("dateTime", ("2024-01-01T00:00:00Z", "2023-06-01T00:00:00Z")),
}
DATATYPES = (
    "string", "boolean", "integer", "decimal", "double", "date", "dateTime", "nonNegativeInteger",
    "int", "anyURI",
)  # fmt: skip
KINDS = ("IRI", "BlankNode", "Literal", "BlankNodeOrIRI", "BlankNodeOrLiteral", "IRIOrLiteral")


def _thing(rng: random.Random, name: str) -> dict[str, object]:
    thing: dict[str, object] = {"id": name} if rng.random() < 0.95 else {}
    if rng.random() < 0.5:
        thing["kind"] = rng.choice(("Big", "Huge", "Other", ""))
    for member, pool in POOLS.items():
        if rng.random() < 0.6:
            n = rng.choice((0, 1, 1, 1, 2, 2, 3, 9 if rng.random() < 0.1 else 1))
            thing[member] = [rng.choice(pool) for _ in range(n)]
    if rng.random() < 0.4:
        thing["parts"] = [{"dec": [rng.choice(DECIMALS)], "any": [rng.choice(STRINGS)]} for _ in range(rng.randrange(3))]
    return thing


def _spoilt(rng: random.Random, payload: dict[str, object]) -> bytes:
    """Now and then a body that guard 0 must refuse."""
    body = json.dumps(payload, ensure_ascii=rng.random() < 0.5).encode()
    things = payload["things"]
    assert isinstance(things, list)
    kind = rng.randrange(12 if rng.random() < 0.06 else 10**6)
    spoils: dict[int, bytes] = {
        0: body[:-1],
        1: body + b"x",
        2: b"",
        3: b'{"things": [], "things": []}',
        4: b'{"things": {"id": "1"}}',
        5: b'{"things": [], "more": 1}',
        6: b'{"things": [{"any": [{"deep": 1}]}]}',
        7: b'{"things": [{"id": "\xff"}]}',
        8: b'{"things": [{"link": ["not an iri"]}]}',
        9: b'{"things": ["text"]}',
        10: b'{"things": null}',
        11: b"[NaN]",
    }
    return spoils.get(kind, body)


def payloads(seed: int, n: int) -> list[bytes]:
    """`n` bodies; subjects of body i are named after i."""
    rng = random.Random(seed)
    return [_spoilt(rng, {"things": [_thing(rng, f"{i}-{k}") for k in range(rng.choice((1, 1, 2, 3)))]}) for i in range(n)]


@dataclass(frozen=True)
class RandomPack:
    """Shapes of a random pack and the seed of its payloads."""

    shapes: str
    seed: int


@st.composite
def _term_constraints(draw: st.DrawFn, name: str) -> list[str]:
    """Constraints on the term alone, as predicate-object text."""
    kind = draw(st.sampled_from(("datatype", "nodeKind", "range", "length", "in", "lang")))
    if kind == "datatype":
        return [f"sh:datatype xsd:{draw(st.sampled_from(DATATYPES))}"]
    if kind == "nodeKind":
        return [f"sh:nodeKind sh:{draw(st.sampled_from(KINDS))}"]
    if kind == "range":
        datatype, bounds = TYPED[name if name in TYPED else "dec"]
        which = draw(st.sampled_from(("minInclusive", "maxInclusive", "minExclusive", "maxExclusive")))
        return [f'sh:{which} "{draw(st.sampled_from(bounds))}"^^xsd:{datatype}']
    if kind == "length":
        low = draw(st.integers(1, 5))  # pySHACL lets blank nodes pass sh:minLength 0, which section 4.4.1 does not
        high = draw(st.integers(0, 5))
        return [f"sh:minLength {low}"] if draw(st.booleans()) else [f"sh:maxLength {low + high}"]
    if kind == "lang":
        ranges = draw(st.lists(st.sampled_from(("en", "en-GB", "de", "fr")), min_size=1, max_size=3))
        return ["sh:languageIn ( " + " ".join(f'"{r}"' for r in dict.fromkeys(ranges)) + " )"]
    return [f"sh:in ( {' '.join(draw(st.lists(_constant(name), max_size=10, unique=True)))} )"]


@st.composite
def _constant(draw: st.DrawFn, name: str) -> str:
    if name in TYPED and draw(st.booleans()):
        datatype, bounds = TYPED[name]
        return f'"{draw(st.sampled_from(bounds))}"^^xsd:{datatype}'
    if name == "label":
        return f'"{draw(st.sampled_from(("a", "EUR")))}"@{draw(st.sampled_from(("en", "de")))}'
    if name in ("link", "fixed"):
        return f"<{draw(st.sampled_from(LINKS))}>"
    return draw(st.sampled_from(('"a"', '"EUR"', '""', "1", "7", "true", "<https://e.x/a>")))


@st.composite
def _logic(draw: st.DrawFn, member: st.SearchStrategy[str]) -> str:
    word = draw(st.sampled_from(("and", "or", "xone", "not")))
    if word == "not":
        return f"sh:not [ {draw(member)} ]"
    members = draw(st.lists(member, min_size=1, max_size=3))
    return f"sh:{word} ( {' '.join(f'[ {m} ]' for m in members)} )"


@st.composite
def _value_shape(draw: st.DrawFn, name: str, depth: int) -> str:
    """A node shape on value nodes that looks at terms only."""
    parts = draw(_term_constraints(name))
    if depth > 0 and draw(st.integers(0, 2)) == 0:
        parts.append(draw(_logic(_value_shape(name, depth - 1))))
    return " ; ".join(parts)


@st.composite
def _property_constraints(draw: st.DrawFn, name: str) -> list[str]:
    kind = draw(st.sampled_from(("term", "term", "count", "hasValue", "pair", "lang", "logic", "node")))
    if kind == "term":
        return draw(_term_constraints(name))
    if kind == "count":
        n = draw(st.integers(0, 3))
        return [f"sh:minCount {n}"] if draw(st.booleans()) else [f"sh:maxCount {n}"]
    if kind == "hasValue":
        return [f"sh:hasValue {draw(_constant(name))}"]
    if kind == "lang":
        return ["sh:uniqueLang true"]
    if kind == "logic":
        return [draw(_logic(_value_shape(name, 2)))]
    if kind == "node":
        return [f"sh:node [ {draw(_value_shape(name, 1))} ]"]
    other = draw(st.sampled_from(("any", "also", "dec", "int", "date", "until", "link")))
    word = draw(st.sampled_from(("equals", "disjoint", "lessThan", "lessThanOrEquals")))
    return [f"sh:{word} ex:{other}"]


@st.composite
def _bound(draw: st.DrawFn) -> str:
    """A property shape of one bound, of the type that the property's values have."""
    name = draw(st.sampled_from(tuple(TYPED)))
    datatype, bounds = TYPED[name]
    which = draw(st.sampled_from(("minInclusive", "maxInclusive", "minExclusive", "maxExclusive")))
    return f'sh:path ex:{name} ; sh:{which} "{draw(st.sampled_from(bounds))}"^^xsd:{datatype}'


@st.composite
def _property_shape(draw: st.DrawFn) -> str:
    """A property shape of one constraint; two would need the same parameter at most once."""
    if draw(st.integers(0, 3)) == 0:
        return draw(_bound())
    name = draw(st.sampled_from(PROPERTIES))
    return f"sh:path ex:{name} ; " + " ; ".join(draw(_property_constraints(name)))


@st.composite
def _focus_shape(draw: st.DrawFn, depth: int) -> str:
    """A shape on the focus node, for members of and, or, not, xone."""
    kind = draw(st.sampled_from(("path", "path", "property", "logic", "term", "class")))
    if kind == "path":
        return draw(_property_shape())
    if kind == "property":
        return f"sh:property [ {draw(_property_shape())} ]"
    if kind == "logic" and depth > 0:
        return draw(_logic(_focus_shape(depth - 1)))
    if kind == "class":
        return f"sh:class ex:{draw(st.sampled_from(('Thing', 'Big', 'Other')))}"
    return " ; ".join(draw(_term_constraints("link")))


@st.composite
def _root(draw: st.DrawFn, number: int) -> str:
    target = draw(
        st.sampled_from(
            ("sh:targetClass ex:Thing", "sh:targetClass ex:Big", "sh:targetClass ex:Part",
             "sh:targetSubjectsOf ex:date", "sh:targetClass ex:Other , ex:Huge")
        )
    )  # fmt: skip
    properties = draw(st.lists(_property_shape(), min_size=2, max_size=6))
    names = [f"ex:P{number}-{i}" for i in range(len(properties))]
    parts = [f"a sh:NodeShape ; {target} ; sh:property {' , '.join(names)}"]
    extra = draw(st.sampled_from(("", "logic", "closed", "class", "term")))
    if extra == "logic":
        parts.append(draw(_logic(_focus_shape(2))))
    elif extra == "closed":
        ignored = draw(st.lists(st.sampled_from(PROPERTIES), max_size=8, unique=True))
        listed = " ".join(["rdf:type", *(f"ex:{p}" for p in ignored)])
        parts.append(f"sh:closed true ; sh:ignoredProperties ( {listed} )")
    elif extra == "class":
        parts.append(f"sh:class ex:{draw(st.sampled_from(('Thing', 'Big', 'Part')))}")
    elif extra == "term":
        parts += draw(_term_constraints("link"))
    shapes = [f"ex:R{number} {' ; '.join(parts)} ."]
    shapes += [f"{name} {text} ." for name, text in zip(names, properties, strict=True)]
    return "\n".join(shapes)


@st.composite
def random_packs(draw: st.DrawFn) -> RandomPack:
    """Shapes of class R1 only, all components, with logic nested up to three deep."""
    n = draw(st.integers(2, 6))
    roots = [draw(_root(i)) for i in range(n)]
    return RandomPack(HEAD + "\n".join(roots) + "\n", draw(st.integers(0, 2**31)))
