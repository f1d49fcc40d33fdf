"""Mappings: RML and the short form lower alike; faults name their line."""

from __future__ import annotations

from typing import Any

import pytest
from packs import faults, plan, yaml

from knhk.model.arrows import Source
from oracle.mapping import read_rml, read_yaml, triples
from oracle.payload import read

RML = """@prefix rr: <http://www.w3.org/ns/r2rml#> . @prefix rml: <http://semweb.mmlab.be/ns/rml#> .
@prefix ql: <http://semweb.mmlab.be/ns/ql#> . @prefix ex: <https://e.x/> . @prefix knhk: <https://knhk.dev/ns#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:order knhk:unknownMembers "Allow" ;
  rml:logicalSource [ rml:source "request" ; rml:referenceFormulation ql:JSONPath ; rml:iterator "$.doc" ] ;
  rr:subjectMap [ rr:template "https://e.x/o/{id}" ; rr:class ex:Order ] ;
  rr:predicateObjectMap [ rr:predicate ex:total ; rr:objectMap [ rml:reference "$.sum.total" ; rr:datatype xsd:decimal ] ] ;
  rr:predicateObjectMap [ rr:predicate ex:title ; rr:objectMap [ rml:reference "title" ; rr:language "en" ] ] ;
  rr:predicateObjectMap [ rr:predicate ex:web ; rr:objectMap [ rml:reference "$.web" ; rr:termType rr:IRI ] ] ;
  rr:predicateObjectMap [ rr:predicate ex:self ; rr:objectMap [ rr:template "https://e.x/self/{id}" ] ] ;
  rr:predicateObjectMap [ rr:predicate ex:kind ; rr:object ex:Kind ] ;
  rr:predicateObjectMap [ rr:predicate ex:line ; rr:objectMap [ rr:parentTriplesMap ex:line ] ] .
ex:line
  rml:logicalSource [ rml:source "request" ; rml:referenceFormulation ql:JSONPath ; rml:iterator "$.doc.lines[*]" ] ;
  rr:subjectMap [ rr:termType rr:BlankNode ] ;
  rr:predicateObjectMap [ rr:predicate ex:n ; rr:objectMap [ rml:reference "$.n" ] ] .
"""
YAML = """prefixes: {ex: "https://e.x/"}
unknownMembers: Allow
maps:
  - id: order
    iterator: $.doc
    subject: {template: "https://e.x/o/{id}"}
    class: ex:Order
    properties:
      ex:total: {path: $.sum.total, datatype: xsd:decimal}
      ex:title: {path: title, lang: en}
      ex:web: {path: $.web, node: iri}
      ex:self: {template: "https://e.x/self/{id}"}
      ex:kind: {constant: ex:Kind, node: iri}
      ex:line: {child: line}
  - id: line
    iterator: "$.doc.lines[*]"
    subject: {blank: true}
    properties:
      ex:n: $.n
"""
BODY = b'{"doc": {"id": "a b", "sum": {"total": 1.50}, "title": "T", "web": "https://w.x/", "lines": [{"n": 1}, {"n": 2}], "x": null}}'


def rml(text: str) -> Source:
    return Source("m", "mapping", text, "m.ttl", media="text/turtle")


def mapping_of(source: Source) -> Any:
    (mapping,) = plan(source).document["mappings"]
    return mapping


def test_rml_and_the_short_form_give_the_same_plan() -> None:
    assert mapping_of(rml(RML)) == mapping_of(yaml(YAML))


def test_the_oracle_reads_both_alike() -> None:
    graphs = [triples(m, read(BODY), "x") for m in (read_rml(RML), read_yaml(YAML))]
    assert len(graphs[0]) == len(graphs[1]) == 10
    assert graphs[0].isomorphic(graphs[1])


FAULTS = [
    ("$.sum.total", "$..total", "m.yaml:9: $..total: must be a path of $"),
    ("$.sum.total", "$.sum[?(@.x)]", "m.yaml:9"),
    ("$.web,", "'$.web[-1]',", "must be a path of $"),
    ("{id}\"}\n    class", "{id\"}\n    class", "must have its braces in pairs"),
    ("https://e.x/o/{id}", "{id}", "must begin with an absolute IRI"),
    ("https://e.x/o/{id}", "https://e.x/o/{lines[*].n}", "must not have [*] inside a template"),
    ("child: line", "child: lines", "m.yaml:14: lines: must be the id of a map: order, line"),
    ('iterator: "$.doc.lines[*]"', "iterator: $.lines", "must be a map whose iterator begins with $.doc"),
    ("xsd:decimal", "nope:decimal", "m.yaml:9: nope:decimal: must have a declared prefix"),
    ("lang: en", "lang: e_n", "must be a language tag"),
    ("lang: en", "lang: en, datatype: xsd:string", "not both"),
    ("id: line", "id: order", "must be an id that no other map has"),
    ("unknownMembers: Allow", "unknownMembers: Maybe", "m.yaml:2: Maybe: must be Allow or Deny"),
    ("class: ex:Order", "klass: ex:Order", "m.yaml:7: klass: must be one of id, iterator"),
    ("iterator: $.doc\n    ", "", "iterator: must be given in every map"),
    ("ex:n: $.n", "ex:n: $.n\n      ex:n: $.m", "m.yaml:20: ex:n: must be given once"),
    ("ex:n: $.n", "ex:n: {path: $.n, template: x}", "must have one of path, template, constant, child"),
    ("ex:n: $.n", "rdf:type: $.n", "must make an IRI"),
    ("maps:", "maps: &a\n  - *a\nmore:", "must not use aliases"),
    ("maps:", "maps: [", "must be YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "fault"), FAULTS, ids=[f[2][:40] for f in FAULTS])
def test_a_fault_of_the_short_form(old: str, new: str, fault: str) -> None:
    assert old in YAML
    found = faults(yaml(YAML.replace(old, new, 1)))
    assert any(fault in f for f in found), found


RML_FAULTS = [
    ("ql:JSONPath", "ql:CSV", "m.ttl:5: rml:referenceFormulation"),
    ("ql:JSONPath", "ql:XPath", "must be the same for all maps"),
    ("rr:class", "rr:klass", "m.ttl:6: rr:klass"),
    ("rr:language", "rr:languageMap", "must have an rr:constant"),
    (
        "rr:class ex:Order",
        "rr:class ex:Order ; rr:graph ex:g",
        "must not be there: a request is one graph",
    ),
    ("rr:class ex:Order", "rr:class ex:Order ; rr:graphMap [ rr:constant ex:g ]", "m.ttl:6: rr:graphMap"),
    ("rr:predicate ex:kind ;", "rr:predicate ex:kind ; rr:sqlQuery 'x' ;", "m.ttl:11: rr:sqlQuery"),
    (
        "[ rr:parentTriplesMap ex:line ]",
        '[ rr:parentTriplesMap ex:line; rr:joinCondition [ rr:child "id"; rr:parent "a" ], [ rr:child "b"; rr:parent "c" ] ]',
        "must be given once: a join is by one key",
    ),
    ("rr:language", "rr:lang", "m.ttl:8: rr:lang"),
    ("rr:class ex:Order", "rr:class ex:Order ; ex:note 1", "m.ttl:6: ex:note"),
    ('rr:objectMap [ rml:reference "title"', 'rr:objectMap [ rr:class ex:X; rml:reference "title"', "nothing reads it here"),
    (
        "rr:predicate ex:kind ;",
        'rr:predicate ex:kind ; rml:iterator "$" ;',
        'm.ttl:11: rml:iterator "$": must stand where it has a meaning',
    ),
    (
        "[ rr:parentTriplesMap ex:line ]",
        '[ rr:parentTriplesMap ex:line; rr:joinCondition [ rr:child "id" ] ]',
        "must have an rr:child and an rr:parent",
    ),
    ("rr:parentTriplesMap ex:line", "rr:parentTriplesMap ex:other", "other: must be the id of a map"),
    ('rml:reference "$.web" ;', "", "must have one of rr:template"),
    ('"Allow"', '"Perhaps"', 'm.ttl:4: knhk:unknownMembers "Perhaps"'),
    ("rr:subjectMap [ rr:termType rr:BlankNode ] ;", "", "must have one rr:subjectMap or rr:subject"),
]


@pytest.mark.parametrize(("old", "new", "fault"), RML_FAULTS, ids=[f[2][:40] for f in RML_FAULTS])
def test_a_fault_of_rml(old: str, new: str, fault: str) -> None:
    assert old in RML
    found = faults(rml(RML.replace(old, new, 1)))
    assert any(fault in f for f in found), found


@pytest.mark.parametrize(
    ("name", "mapped"),
    [
        ("rr:language", 'rr:languageMap [ rr:constant "en" ]'),
        ("rr:language", 'rml:languageMap [ rr:constant "en" ]'),
        ("rr:datatype", "rr:datatypeMap [ rr:constant xsd:decimal ]"),
    ],
)
def test_a_language_or_datatype_may_be_the_constant_of_a_map(name: str, mapped: str) -> None:
    given = {"rr:language": 'rr:language "en"', "rr:datatype": "rr:datatype xsd:decimal"}[name]
    assert given in RML
    assert plan(rml(RML.replace(given, mapped, 1))).document["mappings"] == plan(rml(RML)).document["mappings"]
