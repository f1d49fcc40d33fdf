"""`knhk boot init`: a repository that compiles and meets its own expectations; repeated it changes nothing, and it never overwrites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

SHARED_OBJECTS = True
SCHEMA = """@prefix ex: <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:Order a owl:Class . ex:Customer a owl:Class .
ex:total a owl:DatatypeProperty , owl:FunctionalProperty ; rdfs:domain ex:Order ; rdfs:range xsd:decimal .
ex:placed a owl:DatatypeProperty ; rdfs:domain ex:Order ; rdfs:range xsd:date .
ex:customer a owl:ObjectProperty ; rdfs:domain ex:Order ; rdfs:range ex:Customer .
ex:name a owl:DatatypeProperty ; rdfs:domain ex:Customer ; rdfs:range xsd:string .
"""
INVARIANTS = """PREFIX ex: <http://example.org/>
# name: positive-total
# message: an order has a total above zero
ASK { $this ex:total ?t FILTER (?t > 0) }

# an order names its customer
ASK { $this ex:customer ?c . }
"""
SHAPES = """@prefix ex: <http://example.org/> .
@prefix sh: <http://www.w3.org/ns/shacl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:OrderShape a sh:NodeShape ; sh:targetClass ex:Order ;
  sh:property [ sh:path ex:total ; sh:datatype xsd:integer ; sh:minInclusive 100 ; sh:minCount 1 ; sh:maxCount 1 ] ,
              [ sh:path ex:state ; sh:in ( "open" "closed" ) ; sh:minCount 1 ] .
"""


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """An ontology and its invariants."""
    schema, invariants = tmp_path / "schema.ttl", tmp_path / "invariants.sparql"
    schema.write_text(SCHEMA)
    invariants.write_text(INVARIANTS)
    return schema, invariants


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_repository_compiles_and_meets_its_expectations(knhk: Any, sources: Any, tmp_path: Path) -> None:
    folder = tmp_path / "Order policy"
    answer = knhk("boot", "init", *sources, "--out", folder, "-n", "erp", "--owner", "@acme/policy")
    assert answer.exit == 0, answer.err
    assert answer.out["pack"] == "erp/order-policy@0.1.0"
    verdicts = {case["name"]: case["verdict"] for case in answer.out["cases"]}
    assert verdicts == {"an example that follows the schema": "ADMIT", "an empty object": "DENY", "a body that is no JSON": "DENY"}
    checked = knhk("pack", "check", folder)
    assert (checked.exit, checked.out["digest"]) == (0, answer.out["digest"])
    guards = {guard["id"]: guard for guard in knhk("pack", "explain", folder).out["guards"]}
    assert guards["positive-total"]["message"] == "an order has a total above zero"
    assert guards["invariant-2"]["message"] == "an order names its customer"
    assert guards["invariant-2"]["target"] == "class http://example.org/Order"
    assert knhk("pack", "test", folder).exit == 0
    assert "@acme/policy" in (folder / "CODEOWNERS").read_text()
    workflow = yaml.safe_load((folder / ".github/workflows/policy.yaml").read_text())
    steps = "\n".join(step.get("run", "") for step in workflow["jobs"]["policy"]["steps"])
    assert all(f"knhk pack {words}" in steps for words in ("check .", "test .", 'check --git "$BASE...HEAD"'))


def test_the_same_call_again_changes_nothing(knhk: Any, sources: Any, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    knhk("boot", "init", *sources, "--out", folder)
    before = everything(folder)
    again = knhk("boot", "init", *sources, "--out", folder)
    assert again.exit == 0
    assert {row["state"] for row in again.out["files"]} == {"unchanged"}
    assert everything(folder) == before


def test_what_a_person_wrote_is_never_overwritten(knhk: Any, sources: Any, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    (folder / "tests.yaml").mkdir()
    answer = knhk("boot", "init", *sources, "--out", folder)
    assert answer.exit == 1
    assert [fault["where"] for fault in answer.err["faults"]] == [str(folder / "README.md"), str(folder / "tests.yaml")]
    assert all("--out" in fault["must"] for fault in answer.err["faults"])
    assert everything(folder) == {"README.md": b"mine"}


def test_a_dry_run_tells_all_and_writes_nothing(knhk: Any, sources: Any, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    answer = knhk("boot", "init", *sources, "--out", folder, "--dry-run")
    assert answer.exit == 0
    assert {row["state"] for row in answer.out["files"]} == {"create"}
    assert answer.out["written"] is False
    assert not folder.exists()


def test_shapes_of_the_schema_are_taken_as_they_are(knhk: Any, sources: Any, tmp_path: Path) -> None:
    sources[0].write_text(SHAPES)
    sources[1].write_text("PREFIX ex: <http://example.org/> ASK { $this ex:state ?s }")
    folder = tmp_path / "repository"
    answer = knhk("boot", "init", *sources, "--out", folder)
    assert answer.exit == 0, answer.err
    assert answer.out["cases"][0]["verdict"] == "ADMIT"
    assert "sh:minInclusive 100" in (folder / "pack.yaml").read_text()
    assert '"total": 100' in (folder / "payloads/example.json").read_text()


def test_odd_spellings_are_read_as_they_are_meant(knhk: Any, sources: Any, tmp_path: Path) -> None:
    sources[1].write_text(
        "PREFIX ask: <http://example.org/>  # ASK { nobody }\n"
        'ASK { $this ask:total ?t FILTER (?t != 7 && str(?t) != "} ASK {") }\n'
        "# target: <http://example.org/Customer>\nask where { $this ask:name ?ASK }"
    )
    answer = knhk("boot", "init", *sources, "--out", tmp_path / "repository")
    assert answer.exit == 0, answer.err
    assert answer.out["cases"][0]["verdict"] == "ADMIT"
    guards = {guard["id"]: guard["target"] for guard in knhk("pack", "explain", tmp_path / "repository").out["guards"]}
    assert guards["invariant-1"] == "class http://example.org/Order"
    assert guards["invariant-2"] == "class http://example.org/Customer"


FAULTY = {
    "no number": ("schema", SHAPES.replace("minCount 1 ; sh:maxCount 1", 'minCount "one"'), "schema.ttl:5"),
    "no Turtle": ("schema", "ex:a ex:b .", "schema.ttl:1"),
    "no class": ("schema", "<http://a/b> <http://a/c> 1 .", "schema.ttl:1"),
    "no query": ("invariants", "# nothing\n", "invariants.sparql:1"),
    "select": ("invariants", "\nSELECT * { ?s ?p ?o }", "invariants.sparql:2"),
    "open": ("invariants", "ASK { ?s ?p ?o ", "invariants.sparql:1"),
    "no SPARQL": ("invariants", "\n\nASK { $this ex:unknown ?o }", "invariants.sparql:3"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_name_the_files_that_the_user_knows(knhk: Any, sources: Any, tmp_path: Path, name: str) -> None:
    which, text, where = FAULTY[name]
    sources[which == "invariants"].write_text(text)
    folder = tmp_path / "repository"
    answer = knhk("boot", "init", *sources, "--out", folder)
    assert answer.exit == 1
    assert answer.err["faults"][0]["where"].startswith(str(tmp_path / where)), answer.err
    assert not folder.exists()
