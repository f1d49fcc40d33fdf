"""JSON-LD contexts: the triples of a JSON-LD processor (rdflib's), or a refusal; faults with their lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mapped import Denied, extract, faults, objects
from rdflib import Graph
from rdflib.compare import isomorphic

MEDIA = "application/ld+json"
CONTEXT = """{
  "@context": {
    "@version": 1.1,
    "ex": "https://e.x/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "id": "@id",
    "type": "@type",
    "Order": "ex:Order",
    "Rush": "https://other.x/Rush",
    "total": {"@id": "ex:total", "@type": "xsd:decimal"},
    "ex:paid": {"@type": "xsd:boolean"},
    "count": "ex:count",
    "title": {"@id": "ex:title", "@language": "en"},
    "plain": "ex:plain",
    "tags": {"@id": "ex:tag", "@container": "@set"},
    "web": {"@id": "ex:web", "@type": "@id"},
    "state": {"@id": "ex:state", "@type": "@vocab"},
    "Open": "ex:states/Open",
    "dropped": null,
    "buyer": {"@id": "ex:buyer", "@context": {
      "name": "ex:name",
      "address": {"@id": "ex:address", "@context": {"city": {"@id": "ex:city", "@language": "de"}}}
    }},
    "lines": {"@id": "ex:line", "@container": "@set", "@context": {
      "@vocab": "https://vocab.x/",
      "qty": {"@id": "quantity", "@type": "xsd:integer"},
      "product": {"@id": "ex:product", "@type": "@id"},
      "notes": {"@container": "@set"}
    }}
  }
}
"""

PAYLOADS: dict[str, Any] = {
    "empty": {},
    "values": {"id": "https://e.x/o/1", "total": "12.50", "ex:paid": True, "count": 3, "plain": "p", "title": "Hi"},
    "no id is a blank node": {"plain": "a", "tags": ["x", "y", "x"]},
    "IRIs": {"id": "ex:o/1", "web": "https://w.x/?a=b", "state": "Open"},
    "compact IRIs": {"id": "ex:a", "web": "ex:b", "state": "ex:c"},
    "types": {"id": "ex:a", "type": "Order"},
    "types elsewhere": {"id": "ex:a", "type": "Rush", "buyer": {"id": "ex:b", "type": "ex:Person", "name": "N"}},
    "nulls": {"id": "ex:a", "plain": None, "buyer": None, "tags": [None, "a"]},
    "nodes": {
        "id": "ex:a",
        "buyer": {"name": "Anna", "plain": "inherited", "address": {"city": "Köln", "title": "x"}},
        "lines": [{"qty": "1", "product": "ex:p1", "type": "Thing"}, {"qty": 2, "notes": ["a", "b"]}, {"id": "ex:l3"}],
    },
    "an empty node": {"id": "ex:a", "buyer": {}, "lines": []},
}  # fmt: skip


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_triples_of_a_json_ld_processor(name: str) -> None:
    payload = PAYLOADS[name]
    wanted = Graph().parse(data=json.dumps(payload | json.loads(CONTEXT)), format="json-ld")
    found = extract(CONTEXT, json.dumps(payload).encode(), MEDIA)
    assert not isinstance(found, Denied), found
    assert isomorphic(found, wanted), (sorted(found), sorted(wanted))


REFUSED: list[tuple[Any, str]] = [
    ({"nope": 1}, "must be a member that the mapping knows"),
    ({"dropped": 1}, "must be a member that the mapping knows"),
    ({"@context": {}}, "must be a member that the mapping knows"),
    ({"tags": "x"}, "must be an array"),
    ({"plain": ["x"]}, "must be a string, number, boolean or null"),
    ({"buyer": "x"}, "must be an object"),
    ({"lines": {}}, "must be an array"),
    ({"title": 5}, "must be a string"),
    ({"id": "relative"}, "must be a term of the context, a compact or an absolute IRI"),
    ({"id": "_:b1"}, "must be an absolute IRI"),
    ({"web": "Open"}, "must be a term of the context, a compact or an absolute IRI"),
    ({"web": 5}, "must be a term of the context, a compact or an absolute IRI"),
    ({"state": "Closed"}, "must be a term of the context, a compact or an absolute IRI"),
    ({"web": "https://a b/"}, "must be an absolute IRI"),
]


@pytest.mark.parametrize(("payload", "must"), REFUSED)
def test_what_is_refused_and_never_read_otherwise(payload: Any, must: str) -> None:
    found = objects(CONTEXT, json.dumps(payload).encode(), MEDIA)
    assert isinstance(found, Denied), found
    assert found.must == must


def test_numbers_keep_the_form_in_which_they_are_written() -> None:
    assert objects(CONTEXT, b'{"id":"ex:a","count":1.50,"total":9.7}', MEDIA) == [
        '"1.50"^^<http://www.w3.org/2001/XMLSchema#double>',
        '"9.7"^^<http://www.w3.org/2001/XMLSchema#decimal>',
    ]


WRONG = [
    ('"id": "@id"', '"id": "@id", "key": "@id"', "m.jsonld:6: key: must be the only alias of @id"),
    ('"@container": "@set"}', '"@container": "@list"}', "m.jsonld:15: @list: must be @set"),
    ('{"@id": "ex:title", "@language": "en"}', '{"@reverse": "ex:title"}', "m.jsonld:13: @reverse: must be one of @id"),
    ('"@version": 1.1,', '"@base": "https://b.x/",', "m.jsonld:3: @base: must be a term, or one of @version"),
    ('"@version": 1.1,', '"@version": 1.0,', "must be 1.1"),
    ('"plain": "ex:plain"', '"plain": "nothing"', "m.jsonld:14: nothing: must give an absolute IRI"),
    ('"plain": "ex:plain"', '"plain": "@nest"', "m.jsonld:14: @nest: must be @id or @type"),
    ('"type": "@type"', '"type": "@type", "type": "@type"', "m.jsonld:7: "),
    ('"@type": "@vocab"', '"@type": "@json"', "m.jsonld:17: @json"),
    ('"plain": "ex:plain"', '"plain": {"@id": "ex:p", "@context": "https://c.x/context.jsonld"}', "nothing is fetched"),
    ('"ex": "https://e.x/"', '"ex": "yy:a", "yy": "ex:b"', "must not be defined by itself"),
    ("{\n", "[{\n", "must be JSON"),
    ('"@context": {', '"context": {', "m.jsonld:1: no @context: must be an object with a @context"),
]


@pytest.mark.parametrize(("old", "new", "fault"), WRONG, ids=[f[2][:40] for f in WRONG])
def test_a_fault_names_its_line(old: str, new: str, fault: str) -> None:
    assert old in CONTEXT
    found = faults(CONTEXT.replace(old, new, 1), MEDIA)
    assert any(fault in f for f in found), found


# Every entry of the JSON-LD 1.1 grammar's context definitions (9.15) and expanded term definitions (9.15.1): compiled, or refused by name.
CONTEXT_ENTRIES = {
    "@version": ("1.1", True),
    "@vocab": ('"https://v.x/"', True),
    "@language": ('"en"', True),
    "@protected": ("true", True),
    "@base": ('"https://b.x/"', False),
    "@direction": ('"ltr"', False),
    "@import": ('"https://b.x/c.jsonld"', False),
    "@propagate": ("false", False),
    "@type": ('{"@container": "@set"}', False),
}
TERM_ENTRIES = {
    "@id": ('"ex:p"', True),
    "@type": ('"xsd:date"', True),
    "@language": ('"de"', True),
    "@context": ('{"q": "ex:q"}', True),
    "@prefix": ("false", True),
    "@protected": ("true", True),
    "@direction": ('"rtl"', False),
    "@index": ('"ex:i"', False),
    "@nest": ('"@nest"', False),
    "@reverse": ('"ex:r"', False),
}
CONTAINERS = {
    '"@set"': True,
    '["@set"]': True,
    "null": True,
    **{f'"{name}"': False for name in ("@list", "@language", "@index", "@id", "@type", "@graph")},
    '["@set", "@index"]': False,
    '["@graph", "@id", "@set"]': False,
}
ALIASES = {name: name in ("@id", "@type") for name in (
    "@id", "@type", "@value", "@list", "@set", "@graph", "@included", "@index", "@json", "@language", "@nest", "@none", "@reverse",
    "@direction",
)}  # fmt: skip
TYPES = {"@id": True, "@vocab": True, "@none": True, "@json": False}
GRAMMAR = [
    *((f'"{name}": {value},', "", known, name) for name, (value, known) in CONTEXT_ENTRIES.items()),
    *(("", f'"t": {{"@id": "ex:t", "{name}": {value}}},', known, name) for name, (value, known) in TERM_ENTRIES.items() if name != "@id"),
    *(
        ("", f'"t": {{"@id": "ex:t", "@container": {value}}},', known, value.strip('[]"').split('"')[0])
        for value, known in CONTAINERS.items()
    ),
    *(("", f'"t": "{name}",', known, name) for name, known in ALIASES.items()),
    *(("", f'"t": {{"@id": "ex:t", "@type": "{name}"}},', known, name) for name, known in TYPES.items()),
]


@pytest.mark.parametrize(("entry", "term", "known", "name"), GRAMMAR)
def test_each_keyword_of_the_grammar_is_compiled_or_refused_by_name_and_line(entry: str, term: str, known: bool, name: str) -> None:
    context = f'{{"@context": {{"ex": "https://e.x/", "xsd": "http://www.w3.org/2001/XMLSchema#",\n {entry}{term}\n "z": "ex:z"}}}}'
    found = faults(context, MEDIA) if not known else []
    if known:
        assert not isinstance(extract(context, b'{"z": "a"}', MEDIA), Denied)
    else:
        assert any(fault.startswith(f"m.jsonld:2: {name}") for fault in found), found
