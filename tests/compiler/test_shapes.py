"""SHACL to guards: classes by the committed table, faults with their lines, results as pySHACL's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packs import INVOICE, ROOT, failing, faults, guards, plan, shapes
from rdflib import Graph

from knhk.model.arrows import GuardPlan
from knhk_gen import table
from oracle.expected import shapes_graph
from oracle.judge import shacl_failures

REFERENCE = Path(os.environ.get("KNHK_REFERENCE_DATA", str(ROOT.parent / "shared" / "data")))

ON = "ex:S sh:targetClass ex:T ; "
CLASSES = [
    ("sh:property [ sh:path ex:p ; sh:minCount 8 ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:maxCount 9 ]", "C1"),
    ("sh:property [ sh:path ex:p ; sh:nodeKind sh:IRI ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:datatype xsd:date ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:datatype xsd:duration ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:datatype ex:own ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:datatype xsd:NMTOKEN ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:minInclusive 0.000001 ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:minInclusive 0.0000001 ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:maxInclusive 1234567890123456 ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:maxInclusive 1.5e3 ]", "R1"),
    ('sh:property [ sh:path ex:p ; sh:minInclusive "2020-01-01Z"^^xsd:date ]', "W1"),
    ('sh:property [ sh:path ex:p ; sh:minInclusive "2020-01-01T00:00:00"^^xsd:dateTime ]', "W1"),
    ('sh:property [ sh:path ex:p ; sh:minInclusive "2020-01-01T00:00:00Z"^^xsd:dateTime ]', "R1"),
    ('sh:property [ sh:path ex:p ; sh:minInclusive "a" ]', "W1"),
    ("sh:property [ sh:path ex:p ; sh:minLength 1 ]", "R1"),
    ('sh:property [ sh:path ex:p ; sh:pattern "^a" ]', "W1"),
    ('sh:property [ sh:path ex:p ; sh:pattern "(a)\\\\1" ]', "C1"),
    ('sh:property [ sh:path ex:p ; sh:languageIn ( "en" ) ]', "R1"),
    ("sh:property [ sh:path ex:p ; sh:uniqueLang true ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:hasValue 1 ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:in ( 1 2 ) ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:lessThan ex:q ]", "R1"),
    ("sh:equals ex:q", "R1"),
    ("sh:closed true", "R1"),
    ("sh:class ex:C", "R1"),
    ("sh:property [ sh:path ex:p ; sh:class ex:C ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:node [ sh:nodeKind sh:IRI ] ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:node [ sh:property [ sh:path ex:q ; sh:minCount 1 ] ] ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:property [ sh:path ex:q ; sh:minCount 1 ] ]", "W1"),
    ("sh:or ( [ sh:path ex:p ; sh:minCount 1 ] [ sh:nodeKind sh:IRI ] )", "R1"),
    ('sh:or ( [ sh:path ex:p ; sh:minCount 1 ] [ sh:pattern "^a" ] )', "W1"),
    ("sh:not [ sh:path ex:p ; sh:class ex:C ]", "W1"),
    ("sh:property [ sh:path ( ex:p ex:q ) ; sh:minCount 1 ]", "W1"),
    ("sh:property [ sh:path ( ex:p ex:q ex:r ) ; sh:minCount 1 ]", "C1"),
    ("sh:property [ sh:path [ sh:inversePath ex:p ] ; sh:minCount 1 ]", "W1"),
    ("sh:property [ sh:path [ sh:zeroOrMorePath ex:p ] ; sh:minCount 1 ]", "C1"),
    ("sh:property [ sh:path [ sh:alternativePath ( ex:p ex:q ) ] ; sh:minCount 1 ]", "W1"),
    ("sh:property [ sh:path ex:p ; sh:qualifiedValueShape [ sh:nodeKind sh:IRI ] ; sh:qualifiedMinCount 1 ]", "R1"),
    ("sh:property [ sh:path ex:p ; sh:qualifiedValueShape [ sh:nodeKind sh:IRI ] ; sh:qualifiedMinCount 2 ]", "W1"),
    ("sh:node ex:S", "C1"),
    ('sh:sparql [ sh:select "SELECT $this WHERE { $this ?p ?o }" ]', "C1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "klass"), CLASSES, ids=[c[0][:60] for c in CLASSES])
def test_a_constraint_gets_the_class_of_the_table(text: str, klass: str) -> None:
    (guard,) = guards(plan(shapes(ON + text + " ."))).values()
    assert guard["class"] == klass
    assert ("expr" in guard) == (klass == "R1")
    assert guard["why"].split(": ")[0] in table.shacl()


def test_a_class_below_the_table_without_a_recorded_reason_is_a_bug() -> None:
    with pytest.raises(table.BelowTable, match=r"sh:in: W1 for laziness, the table says R1"):
        table.why(table.shacl(), "sh:in", "W1", "laziness")


def test_objects_of_a_property_are_focus_nodes_of_class_w1() -> None:
    text = "ex:S sh:targetObjectsOf ex:p ; sh:property [ sh:path ex:q ; sh:minCount 1 ] ."
    (guard,) = guards(plan(shapes(text))).values()
    assert guard["class"] == "W1"


def test_the_tables_are_those_that_the_workplace_committed() -> None:
    for name in ("shacl-classification.tsv", "sparql-ask-classification.tsv"):
        reference = REFERENCE / "facts" / name
        if not reference.exists():
            pytest.skip(f"not run: {reference} is not here")
        own = ROOT / "generators" / "knhk_gen" / "tables" / name
        assert own.read_bytes() == reference.read_bytes()


FAULTS = [
    ("ex:S sh:minCnt 1 .", "s.ttl:5: sh:minCnt: must be a term of SHACL core"),
    ('ex:S sh:targetClass "T" .', 's.ttl:5: sh:targetClass "T": must be an IRI'),
    ("ex:S sh:property [ sh:path ex:p ;\n sh:minCount 2 ;\n sh:maxCount 1 ] .", "s.ttl:6: sh:minCount 2: must not be greater"),
    ('ex:S sh:property [ sh:path ex:p ; sh:pattern "[" ] .', "s.ttl:5: sh:pattern"),
    ('ex:S sh:property [ sh:path ex:p ; sh:pattern "a" ; sh:flags "z" ] .', "s.ttl:5: sh:flags"),
    ("ex:S sh:minCount 1 .", "s.ttl:5: sh:minCount: must stand in a property shape"),
    ("ex:S sh:property [ sh:minLength 1 ] .", "must be a property shape"),
    ('ex:S sh:property [ sh:path "p" ] .', "s.ttl:5: sh:path"),
    ("ex:S sh:property [ sh:path ( ex:p ) ] .", "must be a property path"),
    ("ex:S sh:or ex:A .", "s.ttl:5: sh:or ex:A".replace("ex:A", "<https://e.x/A>")),
    ("ex:S sh:in ( [] ) .", "must be an IRI or a literal"),
    ("ex:S sh:datatype xsd:int , xsd:date .", "must be given once"),
    ("ex:S sh:severity sh:Voilation .", "must be sh:Violation, sh:Warning or sh:Info"),
    ("ex:S sh:severity \"high\" .", "must be an IRI"),
    ("ex:S sh:class nope:C .", "s.ttl:5: nope:: must be a declared prefix"),
    ("ex:S sh:class ex:C\nex:T sh:class ex:C .", "s.ttl:6: "),
    ("ex:S sh:class [ ex:p ( ex:a ] .", "must be Turtle"),
    ("ex:S sh:property [ sh:path ex:p ; sh:qualifiedValueShape [] ] .", "must come with sh:qualifiedMinCount"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[f[0][:50] for f in FAULTS])
def test_a_fault_names_its_line_and_what_must_be(text: str, fault: str) -> None:
    found = faults(shapes(text))
    assert any(fault in f for f in found), found


def test_all_faults_are_told_at_once() -> None:
    text = 'ex:S sh:minCnt 1 ;\n sh:class "C" ;\n sh:severity sh:Own .\nex:T sh:nodeKind ex:No .'
    assert [f.split(": ")[0] for f in faults(shapes(text))] == ["s.ttl:5", "s.ttl:6", "s.ttl:7", "s.ttl:8"]


@pytest.mark.parametrize("text", ["\0", "\ufeff", "ex:S ex:p " + "[ ex:p " * 5000, "(" * 5000, "<" * 9999, "ex:S ex:p '''"])
def test_hostile_text_is_refused_or_read_and_nothing_else(text: str) -> None:
    found = faults(shapes(text))  # nothing but Refused may come out
    assert all(f.startswith("s.ttl:") for f in found)


def test_message_severity_and_deactivation() -> None:
    text = """ex:S sh:targetClass ex:T ; sh:property ex:P , ex:Off .
ex:P sh:path ex:p ; sh:minCount 1 ; sh:severity sh:Warning ; sh:message "Nein"@de , "No"@en .
ex:Off sh:path ex:q ; sh:minCount 1 ; sh:deactivated true ."""
    (guard,) = guards(plan(shapes(text))).values()
    assert (guard["id"], guard["severity"], guard["message"]) == ("s.P.p.minCount", "Warning", "No")


def test_targets_are_closed_over_subclasses() -> None:
    text = "ex:B rdfs:subClassOf ex:A . ex:C rdfs:subClassOf ex:B . ex:S sh:targetClass ex:A ; sh:closed true ."
    made = plan(shapes(text))
    (guard,) = guards(made).values()
    classes = made.document["targets"][guard["target"]]["classes"]
    assert classes == ["https://e.x/A", "https://e.x/B", "https://e.x/C"]


def test_the_same_sources_give_the_same_plan_in_every_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from packs import example; "
    code += "from knhk_gen.lower import lower; print(lower(example('1.0.0')).digest)"
    here = str(Path(__file__).parent)
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1
    assert INVOICE.exists()


def _w3c() -> list[Path]:
    return [f for f in sorted((REFERENCE / "shacl-core").rglob("*.ttl")) if f.name != "manifest.ttl"]


def _skolem(text: str) -> str:
    return re.sub(r"_:(b\d+)", r"<urn:blank:\1>", text)


def test_every_w3c_core_shapes_graph_lowers_and_its_r1_guards_agree_with_pyshacl() -> None:
    files = _w3c()
    if not files:
        pytest.skip(f"not run: {REFERENCE}/shacl-core is not here")
    compared = 0
    for file in files:
        source = shapes(file.read_text(encoding="utf-8"), head="")
        made = plan(source)
        if "complex" in file.parts or "sht:Validate" not in source.text:
            continue
        compared += _agrees(made.document, source.text, file)
    assert compared > 50


def _agrees(document: dict, text: str, file: Path) -> int:  # type: ignore[type-arg]
    """Number of R1 guards that were compared."""
    rows = [g for g in document["guards"][1:] if "expr" in g]
    skolem = _skolem(document["cold"]["shapes"])
    found = {
        (str(f.shape), f.component)
        for f in shacl_failures(Graph().parse(data=text, publicID="https://knhk.dev/pack/"), shapes_graph(skolem))
    }
    shapes_in_play = {(_node(g["shape"]), g["component"]): g["id"] for g in rows}
    ids = failing(GuardPlan(document), document["cold"]["shapes"])
    for pair, guard in shapes_in_play.items():
        same = [g["id"] for g in rows if (_node(g["shape"]), g["component"]) == pair]
        assert (pair in found) == any(i in ids for i in same), f"{file.name}: {guard}"
    return len(shapes_in_play)


def _node(shape: str) -> str:
    return shape.replace("_:", "urn:blank:")
