"""Each change of a schema, and the directions that it breaks: the table of polarities, row by row."""

from __future__ import annotations

import pytest

from knhk.model.faults import Refused
from knhk_gen.schema import read
from knhk_gen.schema_diff import compare

HEAD = """
@prefix : <https://example.com/ns#> . @prefix sh: <http://www.w3.org/ns/shacl#> . @prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix schema: <https://schema.org/> .
:Invoice a owl:Class . :Document a owl:Class . :Other a owl:Class . :total a owl:DatatypeProperty . :due a owl:DatatypeProperty .
"""


def breaks(before: str, after: str, renames: dict[str, str] | None = None) -> str:
    """What the change breaks: nothing, BACKWARD, FORWARD or FULL."""
    found = compare(read(HEAD + before, "before.ttl", renames), read(HEAD + after, "after.ttl"))
    both = any(change.backward for change in found), any(change.forward for change in found)
    return {(True, True): "FULL", (True, False): "BACKWARD", (False, True): "FORWARD", (False, False): ""}[both]


def form(inner: str, outer: str = "") -> str:
    return f":Form a sh:NodeShape ; sh:targetClass :Invoice {outer} ; sh:property [ sh:path :total ; {inner} ] ."


NARROWS, WIDENS, NEITHER, UNKNOWN = "BACKWARD", "FORWARD", "", "FULL"

COMPONENTS = [
    ("minCount up", "sh:minCount 1", "sh:minCount 2", NARROWS),
    ("minCount added", "sh:maxCount 3", "sh:maxCount 3 ; sh:minCount 1", NARROWS),
    ("minCount 0 added", "sh:maxCount 3", "sh:maxCount 3 ; sh:minCount 0", NEITHER),
    ("maxCount down", "sh:maxCount 3", "sh:maxCount 2", NARROWS),
    ("minInclusive up", "sh:minInclusive 0", "sh:minInclusive 0.5", NARROWS),
    ("maxExclusive down", "sh:maxExclusive 10", "sh:maxExclusive 9", NARROWS),
    ("minLength up", "sh:minLength 1", "sh:minLength 2", NARROWS),
    ("a bound of dates moved", 'sh:minInclusive "2026-01-01"^^xsd:date', 'sh:minInclusive "2025-01-01"^^xsd:date', UNKNOWN),
    ("in: value removed", 'sh:in ("EUR" "USD")', 'sh:in ("EUR")', NARROWS),
    ("in: value replaced", 'sh:in ("EUR" "USD")', 'sh:in ("EUR" "CHF")', UNKNOWN),
    ("in added", "sh:minCount 1", 'sh:minCount 1 ; sh:in ("EUR")', NARROWS),
    ("two lists", 'sh:in ("EUR" "USD")', 'sh:in ("EUR" "USD") ; sh:in ("EUR")', UNKNOWN),
    ("languageIn: value removed", 'sh:languageIn ("de" "en")', 'sh:languageIn ("de")', NARROWS),
    ("datatype to a wider one", "sh:datatype xsd:integer", "sh:datatype xsd:decimal", UNKNOWN),
    ("datatype added", "sh:minCount 1", "sh:minCount 1 ; sh:datatype xsd:integer", NARROWS),
    ("nodeKind narrowed", "sh:nodeKind sh:BlankNodeOrIRI", "sh:nodeKind sh:IRI", NARROWS),
    ("nodeKind replaced", "sh:nodeKind sh:Literal", "sh:nodeKind sh:IRI", UNKNOWN),
    ("class to a sub class", "sh:class :Document", "sh:class :Invoice", NARROWS),
    ("class to another", "sh:class :Document", "sh:class :Other", UNKNOWN),
    ("pattern changed", 'sh:pattern "^a"', 'sh:pattern "^ab"', UNKNOWN),
    ("pattern added", "sh:minCount 1", 'sh:minCount 1 ; sh:pattern "^a"', NARROWS),
    ("flags changed", 'sh:pattern "^a"', 'sh:pattern "^a" ; sh:flags "i"', UNKNOWN),
    ("uniqueLang", "sh:uniqueLang false", "sh:uniqueLang true", NARROWS),
    ("hasValue added", "sh:minCount 1", "sh:minCount 1 ; sh:hasValue 3", NARROWS),
    ("lessThan added", "sh:minCount 1", "sh:minCount 1 ; sh:lessThan :due", NARROWS),
    ("or: member removed", "sh:or ([sh:minLength 1] [sh:nodeKind sh:IRI])", "sh:or ([sh:minLength 1])", NARROWS),
    ("and: member added", "sh:and ([sh:minLength 1])", "sh:and ([sh:minLength 1] [sh:maxLength 9])", NARROWS),
    ("not changed", "sh:not [sh:minLength 1]", "sh:not [sh:minLength 2]", UNKNOWN),
    ("xone: member added", "sh:xone ([sh:minLength 1])", "sh:xone ([sh:minLength 1] [sh:maxLength 9])", UNKNOWN),
    ("severity to Violation", "sh:minCount 1 ; sh:severity sh:Warning", "sh:minCount 1", NARROWS),
    ("activated", "sh:minCount 1 ; sh:deactivated true", "sh:minCount 1", NARROWS),
    ("a message", 'sh:minCount 1 ; sh:message "a"', 'sh:minCount 1 ; sh:message "b" ; sh:order 2', NEITHER),
    ("a component of somebody's own", "sh:minCount 1", "sh:minCount 1 ; sh:sparql [sh:select 'x']", UNKNOWN),
]
MIRROR = {NARROWS: WIDENS, NEITHER: NEITHER, UNKNOWN: UNKNOWN}
SUB = ":Invoice rdfs:subClassOf :Document ."


@pytest.mark.parametrize(("before", "after", "broken"), [row[1:] for row in COMPONENTS], ids=[row[0] for row in COMPONENTS])
def test_a_component_breaks_one_direction_and_its_reverse_the_other(before: str, after: str, broken: str) -> None:
    assert breaks(SUB + form(before), SUB + form(after)) == broken
    assert breaks(SUB + form(after), SUB + form(before)) == MIRROR[broken]


FORM = form("sh:minCount 1")
OTHERS = [
    ("nothing but labels", "", ':total rdfs:label "Total"@en .', NEITHER),
    ("another order", ":a a owl:Class . :b a owl:Class .", ":b a owl:Class . :a a owl:Class .", NEITHER),
    ("class added", "", ":New a owl:Class .", NEITHER),
    ("property added to an open shape", FORM, FORM + ":new a owl:DatatypeProperty .", NEITHER),
    (
        "property added where a shape is closed",
        form("sh:minCount 1", "; sh:closed true"),
        form("sh:minCount 1", "; sh:closed true") + ":new a owl:DatatypeProperty .",
        "FORWARD",
    ),
    ("class removed", ":Old a owl:Class .", "", "BACKWARD"),
    ("a class that a shape speaks of removed", ":Old a owl:Class ." + form("sh:class :Old"), form("sh:class :Old"), "FULL"),
    ("deprecated", ":Old a owl:Class .", ":Old a owl:Class ; owl:deprecated true .", NEITHER),
    ("object property to annotation property", ":p a owl:ObjectProperty .", ":p a owl:AnnotationProperty .", UNKNOWN),
    ("sub class added", "", ":Other rdfs:subClassOf :Document .", "FORWARD"),
    ("sub class added under a target", FORM, FORM + ":Other rdfs:subClassOf :Invoice .", "FULL"),
    ("a new sub class", "", ":New a owl:Class ; rdfs:subClassOf :Document .", NEITHER),
    ("sub class removed", ":Other rdfs:subClassOf :Document .", "", "BACKWARD"),
    (
        "sub class that another way says too",
        ":Other rdfs:subClassOf :Document, :Invoice . :Invoice rdfs:subClassOf :Document .",
        ":Other rdfs:subClassOf :Invoice . :Invoice rdfs:subClassOf :Document .",
        NEITHER,
    ),
    ("disjoint added", "", ":Invoice owl:disjointWith :Other .", NARROWS),
    ("functional removed", ":total a owl:FunctionalProperty .", "", WIDENS),
    (
        "a restriction added",
        "",
        ":Invoice rdfs:subClassOf [ a owl:Restriction ; owl:onProperty :total ; owl:cardinality 1 ] .",
        NARROWS,
    ),
    ("domain includes one more", ":due schema:domainIncludes :Invoice .", ":due schema:domainIncludes :Invoice, :Other .", WIDENS),
    ("a second domain", ":due rdfs:domain :Invoice .", ":due rdfs:domain :Invoice, :Document .", NARROWS),
    ("shape on a class that was there", "", FORM, NARROWS),
    ("shape on a class that is new", "", ":New a owl:Class . :F a sh:NodeShape ; sh:targetClass :New .", NEITHER),
    ("target added", form("sh:minCount 1"), form("sh:minCount 1", ", :Other"), NARROWS),
    (
        "a second property shape",
        form("sh:minCount 1"),
        form("sh:minCount 1") + ":Form sh:property [ sh:path :due ; sh:minCount 1 ] .",
        NARROWS,
    ),
    (
        "one that asks nothing",
        form("sh:minCount 1"),
        form("sh:minCount 1") + ':Form sh:property [ sh:path :due ; sh:name "due" ] .',
        NEITHER,
    ),
    (
        "the path of a shape with a name",
        ":P a sh:PropertyShape ; sh:path :total ; sh:minCount 1 .",
        ":P a sh:PropertyShape ; sh:path :due ; sh:minCount 1 .",
        UNKNOWN,
    ),
    (
        "a shape that another negates",
        form("sh:not :P") + ":P a sh:NodeShape ; sh:minLength 1 .",
        form("sh:not :P") + ":P a sh:NodeShape ; sh:minLength 2 .",
        UNKNOWN,
    ),
    (
        "two shapes of one path",
        form('sh:in ("a" "b")') + ':Form sh:property [ sh:path :total ; sh:in ("b" "c") ] .',
        form('sh:in ("a" "b" "c")') + ':Form sh:property [ sh:path :total ; sh:in ("b") ] .',
        UNKNOWN,
    ),
]


@pytest.mark.parametrize(("before", "after", "broken"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_a_change_breaks_what_the_table_says(before: str, after: str, broken: str) -> None:
    assert breaks(before, after) == broken


def test_a_renamed_term_is_the_term_that_it_was() -> None:
    before = ":Old a owl:Class . :F a sh:NodeShape ; sh:targetClass :Old ; sh:property [ sh:path :total ; sh:minCount 1 ] ."
    after = before.replace(":Old", ":Neu")
    names = {"https://example.com/ns#Old": "https://example.com/ns#Neu"}
    assert (breaks(before, after), breaks(before, after, names)) == ("FULL", "")


def test_the_digest_is_of_what_is_said_and_not_of_how() -> None:
    one, other = form("sh:minCount 1 ; sh:maxCount 2"), form("sh:maxCount 2 ; sh:minCount 1")
    assert read(HEAD + one, "a").digest == read(HEAD.replace("\n", "\n\n") + other, "b").digest
    assert read(HEAD + one, "a").digest != read(HEAD + form("sh:minCount 1 ; sh:maxCount 3"), "a").digest


def test_a_circle_of_blank_nodes_is_refused_with_its_line() -> None:
    with pytest.raises(Refused, match=r"a.ttl:6: a blank node: must not go in a circle"):
        read(HEAD + "_:a :total _:b . _:b :total _:a .", "a.ttl")


def test_what_breaks_is_said_in_words() -> None:
    (change,) = compare(read(HEAD + form("sh:minCount 1"), "a"), read(HEAD + form("sh:minCount 2"), "b"))
    assert (change.term, change.change, change.breaks) == ("https://example.com/ns#Form", "total: sh:minCount 1 to 2", "BACKWARD")
