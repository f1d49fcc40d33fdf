"""SHACL-SPARQL: constraints, components, pre-binding and what it forbids, by the Recommendation's sections 5, 6 and Appendix A."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from knhk.cli import main

PREFIXES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <urn:ex:> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
<urn:ex:> sh:declare [ sh:prefix "ex" ; sh:namespace "urn:ex:"^^xsd:anyURI ] .
"""
DATA = 'ex:a a ex:T ; ex:p 1 , 02 , "x"@en ; ex:q ex:b . ex:b a ex:T ; ex:p 7 . _:c a ex:T ; ex:p 9 .'
SPARQL = "http://www.w3.org/ns/shacl#SPARQLConstraintComponent"


class Validate:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def run(self, shapes: str, data: str = DATA) -> tuple[int, str, str]:
        files = [self.folder / "shapes.ttl", self.folder / "data.ttl"]
        for file, text in zip(files, (shapes, data), strict=True):
            file.write_text(PREFIXES + text, encoding="utf-8")
        code = main(["shape", "validate", "--shapes", str(files[0]), "--data", str(files[1]), "-o", "json"])
        out = self.capsys.readouterr()
        return code, out.out, out.err

    def results(self, shapes: str, data: str = DATA) -> list[dict[str, Any]]:
        code, out, err = self.run(shapes, data)
        assert code in (0, 1), err
        found: list[dict[str, Any]] = json.loads(out)["result"]
        return found

    def focus(self, where: str, extra: str = "", data: str = DATA) -> set[str]:
        """Focus nodes for which `SELECT $this WHERE {…}` on ex:T has a solution; _ for blank ones."""
        query = f"""sh:sparql [ sh:prefixes <urn:ex:> ; sh:select '''SELECT $this WHERE {{ {where} }}''' {extra} ]"""
        return {short(r["focusNode"]) for r in self.results(f"ex:s a sh:NodeShape ; sh:targetClass ex:T ; {query} .", data)}


def short(term: dict[str, str]) -> str:
    if "@value" in term:
        return term["@value"]
    return "_" if term["@id"].startswith("_:") else term["@id"].removeprefix("urn:ex:")


@pytest.fixture
def validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Validate:
    return Validate(tmp_path, capsys)


EVERY = {"a", "b", "_"}


@pytest.mark.parametrize(
    ("where", "focus"),
    [
        ("$this ex:p ?v . FILTER(?v > 5)", {"b", "_"}),
        ("?this ex:q ?other", {"a"}),
        ("FILTER(bound($this))", EVERY),
        ("FILTER(!bound($this))", set()),
        ("{ FILTER(bound($this)) }", EVERY),
        ("{ FILTER(!bound($this)) } UNION { $this ex:q ?x }", {"a"}),
        ("BIND($this AS ?that) FILTER(?that = ex:a)", {"a"}),
        ("{ BIND(STR($this) AS ?text) } FILTER(CONTAINS(?text, 'urn:ex:a'))", {"a"}),
        ("FILTER EXISTS { $this ex:q ?x }", {"a"}),
        ("FILTER NOT EXISTS { $this ex:q ?x . FILTER EXISTS { $this ex:p ?v } }", {"b", "_"}),
        ("OPTIONAL { $this ex:q ?x } FILTER(!bound(?x))", {"b", "_"}),
        ("{ SELECT $this (COUNT(?v) AS ?n) WHERE { $this ex:p ?v } GROUP BY $this HAVING (COUNT(?v) > 1) }", {"a"}),
        ("{ SELECT * WHERE { $this ex:p ?v FILTER(?v = 7) } }", {"b"}),
        ("?x ex:q $this", {"b"}),
        ("$this ex:q/ex:p 7", {"a"}),
        ("$this ex:q* ex:b", {"a", "b"}),
        ("FILTER(isBlank($this))", {"_"}),
        ("FILTER(isIRI($this))", {"a", "b"}),
        ("FILTER($this IN (ex:a, ex:c))", {"a"}),
        ("GRAPH ?g { $this ex:p ?v }", set()),
        ("# $this in a comment {\n FILTER(STR($this) = 'urn:ex:b')", {"b"}),
        ("$this ex:p ?v . FILTER(?v = 2) FILTER('{ $this }' != 'x')", {"a"}),
    ],
)
def test_this_is_bound_everywhere(where: str, focus: set[str], validate: Validate) -> None:
    assert validate.focus(where) == focus


def test_a_literal_can_be_the_focus_node_and_is_told_as_it_was_written(validate: Validate) -> None:
    shape = """ex:s a sh:NodeShape ; sh:targetObjectsOf ex:p ; sh:sparql [ sh:prefixes <urn:ex:> ;
      sh:select "SELECT $this WHERE { FILTER(isNumeric($this) && $this < 5) FILTER NOT EXISTS { $this ex:p ?x } }" ] ."""
    assert sorted(short(r["focusNode"]) for r in validate.results(shape)) == ["02", "1"]


def test_a_result_has_what_the_solution_says(validate: Validate) -> None:
    shape = """ex:s a sh:NodeShape ; sh:targetNode ex:a ; sh:message "of the shape" ; sh:sparql ex:c .
      ex:c a sh:SPARQLConstraint ; sh:prefixes <urn:ex:> ; sh:message "{$this}: {?value} and {?none}" , "nein {$value}"@de ;
        sh:select "SELECT $this ?value ?path WHERE { $this ?path ?value . FILTER(?value = 2) }" ."""
    (result,) = validate.results(shape)
    assert result["sourceConstraintComponent"] == SPARQL
    assert result["sourceConstraint"] == "urn:ex:c"
    assert (short(result["focusNode"]), short(result["value"]), short(result["resultPath"])) == ("a", "02", "p")
    told = {m["@value"]: m.get("@language") for m in result["resultMessage"]}
    assert told == {"urn:ex:a: 02 and {?none}": None, "nein 02": "de"}


def test_a_value_of_a_node_shape_is_its_focus_node_and_the_shape_gives_the_message(validate: Validate) -> None:
    shape = """ex:s a sh:NodeShape ; sh:targetNode ex:a ; sh:message "of the shape" ; sh:severity sh:Warning ;
      sh:sparql [ sh:select "SELECT $this ?path WHERE { BIND(1 AS ?path) }" ] ."""
    (result,) = validate.results(shape)
    assert (short(result["value"]), result["resultSeverity"]) == ("a", "http://www.w3.org/ns/shacl#Warning")
    assert "resultPath" not in result  # ?path is no IRI
    assert [m["@value"] for m in result["resultMessage"]] == ["of the shape"]


@pytest.mark.parametrize("path", ["ex:p", "[ sh:inversePath ex:q ]", "( ex:q ex:p )", "[ sh:zeroOrMorePath ex:q ]"])
def test_path_stands_for_the_path_of_the_shape(path: str, validate: Validate) -> None:
    select = "SELECT $this ?value WHERE { $this $PATH ?value }"
    shape = f'ex:s sh:targetClass ex:T ; sh:path {path} ; sh:sparql [ sh:select "{select}" ] .'
    plain = f"ex:s sh:targetClass ex:T ; sh:path {path} ; sh:not [ sh:minLength 0 ] ; sh:nodeKind sh:BlankNode ."
    rows = {(short(r["focusNode"]), short(r["value"])) for r in validate.results(shape)}
    values = {(short(r["focusNode"]), short(r["value"])) for r in validate.results(plain)}
    assert rows - {("_", "_")} == values  # each value once, whatever the path
    assert all(r["sourceConstraintComponent"] == SPARQL and "resultPath" in r for r in validate.results(shape))


def test_deactivated_constraints_and_shapes_say_nothing(validate: Validate) -> None:
    assert validate.focus("", extra="; sh:deactivated true") == set()


def test_prefixes_come_from_declarations_and_imports(validate: Validate) -> None:
    shape = """<urn:one> owl:imports <urn:two> . <urn:two> sh:declare [ sh:prefix "two" ; sh:namespace "urn:ex:"^^xsd:anyURI ] .
      <urn:one> sh:declare [ sh:prefix "r" ; sh:namespace "http://www.w3.org/1999/02/22-rdf-syntax-ns#"^^xsd:anyURI ] .
      ex:s a sh:NodeShape ; sh:targetClass ex:T ; sh:sparql [ sh:prefixes <urn:one> ;
      sh:select "SELECT $this WHERE { $this r:type two:T ; two:q ?x }" ] ."""
    assert [short(r["focusNode"]) for r in validate.results(shape)] == ["a"]


def test_the_shapes_graph_and_the_current_shape_can_be_asked(validate: Validate) -> None:
    shape = """ex:s a sh:NodeShape ; sh:targetClass ex:T ; ex:limit 5 ; sh:sparql [ sh:prefixes <urn:ex:> ;
      sh:select "SELECT $this WHERE { GRAPH $shapesGraph { $currentShape ex:limit ?n } $this ex:p ?v . FILTER(?v > ?n) }" ] ."""
    assert {short(r["focusNode"]) for r in validate.results(shape)} == {"b", "_"}


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT $this WHERE { $this ex:p ?v MINUS { $this ex:q ?x } }", "MINUS is not allowed"),
        ("SELECT $this WHERE { $this ex:p ?v VALUES ?v { 1 } }", "VALUES is not allowed"),
        ("SELECT $this WHERE { SERVICE <urn:x> { $this ex:p ?v } }", "SERVICE is not allowed"),
        ("SELECT $this WHERE { BIND(ex:a AS $this) }", "AS ?this is not allowed"),
        ("SELECT $this WHERE { { SELECT (ex:a AS ?this) WHERE { } } }", "AS ?this is not allowed"),
        ("SELECT $this WHERE { BIND(ex:a AS ?shapesGraph) }", "AS ?shapesGraph is not allowed"),
        ("SELECT $this WHERE { { SELECT ?v WHERE { $this ex:p ?v } } }", "must return $this"),
        ("SELECT $this WHERE { FILTER NOT EXISTS { { SELECT ?v WHERE { $this ex:p ?v } } } }", "must return $this"),
        ("SELECT $this WHERE { $this $PATH ?v }", "$PATH needs a property shape"),
        ("SELECT $this WHERE { $this ex:p }", "does not parse"),
        ("SELECT $this WHERE { $this none:p ?v }", "does not parse"),
        ("ASK { }", "must be a SELECT"),
    ],
)
def test_what_pre_binding_forbids_is_a_failure(query: str, told: str, validate: Validate) -> None:
    shape = f'ex:s a sh:NodeShape ; sh:targetClass ex:T ; sh:sparql [ sh:prefixes <urn:ex:> ; sh:select """{query}""" ] .'
    code, out, err = validate.run(shape)
    assert (code, out) == (2, "")
    assert told in json.loads(err)["error"]


@pytest.mark.parametrize(
    "where",
    [
        "$this ex:minus ?v",
        "$this ex:p ?values",
        "FILTER(STR($this) != 'MINUS { } SERVICE VALUES')",
        "# MINUS\n FILTER(true)",
        "$this <urn:ex:values> ?service",
        "{ SELECT $this WHERE { { SELECT * WHERE { $this ex:p ?v } } } }",
        "BIND(1 AS ?value)",
    ],
)
def test_words_that_only_look_forbidden_are_none(where: str, validate: Validate) -> None:
    validate.focus(where)


def test_a_query_that_reports_a_failure_ends_validation(validate: Validate) -> None:
    shape = 'ex:s a sh:NodeShape ; sh:targetNode ex:a ; sh:sparql [ sh:select "SELECT $this ?failure WHERE { BIND(true AS ?failure) }" ] .'
    code, _, err = validate.run(shape)
    assert (code, "reports a failure" in err) == (2, True)


# ---- constraint components ----

AT_MOST = """ex:AtMost a sh:ConstraintComponent ; sh:parameter [ sh:path ex:atMost ] ;
  sh:validator [ a sh:SPARQLAskValidator ; sh:message "{$value} is above {$atMost}" ;
    sh:ask "ASK { FILTER(!isNumeric($value) || $value <= $atMost) }" ] .
"""


def test_an_ask_validator_judges_each_value(validate: Validate) -> None:
    results = validate.results(AT_MOST + "ex:s sh:targetClass ex:T ; sh:path ex:p ; ex:atMost 6 .")
    assert {(short(r["focusNode"]), short(r["value"])) for r in results} == {("b", "7"), ("_", "9")}
    assert {r["sourceConstraintComponent"] for r in results} == {"urn:ex:AtMost"}
    assert {m["@value"] for r in results for m in r["resultMessage"]} == {"7 is above 6", "9 is above 6"}
    assert all("sourceConstraint" not in r for r in results)


def test_each_value_of_a_single_parameter_is_a_constraint_of_its_own(validate: Validate) -> None:
    results = validate.results(AT_MOST + "ex:s sh:targetNode ex:b ; sh:path ex:p ; ex:atMost 6 , 1 , 8 .")
    assert [short(r["value"]) for r in results] == ["7", "7"]


def test_a_component_works_on_nodes_and_below_other_shapes(validate: Validate) -> None:
    on_node = AT_MOST + "ex:s a sh:NodeShape ; sh:targetObjectsOf ex:p ; ex:atMost 6 ."
    assert {short(r["value"]) for r in validate.results(on_node)} == {"7", "9"}
    nested = AT_MOST + "ex:s a sh:NodeShape ; sh:targetClass ex:T ; sh:not [ sh:property [ sh:path ex:p ; ex:atMost 6 ] ] ."
    assert {short(r["focusNode"]) for r in validate.results(nested)} == {"a"}


TWO = """ex:Between a sh:ConstraintComponent ; sh:parameter [ sh:path ex:low ] , [ sh:path ex:high ; sh:optional true ] ;
  sh:validator [ sh:ask "ASK { FILTER(!isNumeric($value) || ($value >= $low && (!bound($high) || $value <= $high))) }" ] .
"""


@pytest.mark.parametrize(
    ("parameters", "values"),
    [("ex:low 5", {"1", "02"}), ("ex:low 2 ; ex:high 7", {"1", "9"}), ("ex:high 1", set())],
)
def test_optional_parameters_may_be_left_out_and_the_others_may_not(parameters: str, values: set[str], validate: Validate) -> None:
    results = validate.results(TWO + f"ex:s sh:targetClass ex:T ; sh:path ex:p ; {parameters} .")
    assert {short(r["value"]) for r in results} == values


SELECTS = """ex:Has a sh:ConstraintComponent ; sh:parameter [ sh:path ex:has ] ;
  sh:nodeValidator [ a sh:SPARQLSelectValidator ; sh:prefixes <urn:ex:> ;
    sh:select "SELECT $this ?value WHERE { FILTER NOT EXISTS { $this ?any $has } BIND(ex:node AS ?value) }" ] ;
  sh:propertyValidator [ a sh:SPARQLSelectValidator ; sh:message "no {$has}" ;
    sh:select "SELECT $this WHERE { FILTER NOT EXISTS { $this $PATH $has } }" ] .
"""


def test_select_validators_are_chosen_by_the_kind_of_shape(validate: Validate) -> None:
    node = validate.results(SELECTS + "ex:s a sh:NodeShape ; sh:targetClass ex:T ; ex:has 7 .")
    assert {(short(r["focusNode"]), short(r["value"])) for r in node} == {("a", "node"), ("_", "node")}
    on_path = validate.results(SELECTS + "ex:s sh:targetClass ex:T ; sh:path ( ex:q ex:p ) ; ex:has 7 .")
    assert {short(r["focusNode"]) for r in on_path} == {"b", "_"}
    assert all("value" not in r and "resultPath" in r for r in on_path)
    assert {m["@value"] for r in on_path for m in r["resultMessage"]} == {"no 7"}


def test_a_component_without_a_validator_for_the_shape_is_ignored(validate: Validate) -> None:
    only_nodes = SELECTS.replace("sh:propertyValidator", "ex:other")
    assert validate.results(only_nodes + "ex:s sh:targetClass ex:T ; sh:path ex:p ; ex:has 99 .") == []


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (
            "ex:C a sh:ConstraintComponent ; sh:parameter [ sh:path ex:this ] ; sh:validator [ sh:ask 'ASK {}' ] . ex:s ex:this 1 .",
            "'this'",
        ),
        ("ex:C a sh:ConstraintComponent ; sh:validator [ sh:ask 'ASK {}' ] .", "not optional"),
        (TWO + "ex:s ex:low 1 , 2 .", "one value each"),
        (
            "ex:C a sh:ConstraintComponent ; sh:parameter [ sh:path ex:c ] ;"
            "sh:validator [ sh:ask 'ASK { BIND(1 AS ?c) }' ] . ex:s ex:c 1 .",
            "AS ?c is not allowed",
        ),
        (
            "ex:C a sh:ConstraintComponent ; sh:parameter [ sh:path ex:c ] ;"
            "sh:validator [ sh:ask 'ASK { { SELECT $this $c WHERE {} } }' ] . ex:s ex:c 1 .",
            "must return $value",
        ),
    ],
)
def test_faulty_components_are_failures(component: str, told: str, validate: Validate) -> None:
    code, _, err = validate.run(component + " ex:s sh:targetClass ex:T ; sh:nodeKind sh:IRI .")
    assert code == 2
    assert told in err
