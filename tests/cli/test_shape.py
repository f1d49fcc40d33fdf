"""`knhk shape validate`: syntaxes, exit codes, both outputs, and which tier decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyoxigraph import CanonicalizationAlgorithm, Dataset, Quad, RdfFormat, parse, serialize

from knhk.cli import main

PREFIXES = """@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <urn:ex:> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
"""
SHAPES = """
ex:shape a sh:NodeShape ; sh:targetClass ex:Doc ;
  sh:property [ sh:path ex:n ; sh:minInclusive 1 ; sh:maxCount 2 ] ;
  sh:property [ sh:path ( ex:part [ sh:inversePath ex:whole ] ) ; sh:pattern "^[a-z]+$" ] .
"""
GOOD = "ex:a a ex:Doc ; ex:n 1, 2 ."
BAD = 'ex:a a ex:Doc ; ex:n 0, "x"@en-GB ; ex:part ex:p . ex:Q ex:whole ex:p .'


class Files:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def turtle(self, name: str, text: str) -> Path:
        return self.file(name, PREFIXES + text)

    def __call__(self, shapes: Path, data: Path, *more: str) -> tuple[int, str, str]:
        code = main(["shape", "validate", "--shapes", str(shapes), "--data", str(data), *more])
        out = self.capsys.readouterr()
        return code, out.out, out.err

    def decided(self, shapes: str, data: str) -> tuple[bool, dict[str, int]]:
        """Whether it conforms, and guards with a focus node by the class that decided them."""
        _, out, _ = self(self.turtle("shapes.ttl", shapes), self.turtle("data.ttl", data), "-o", "json")
        told = json.loads(out)
        return told["conforms"], told["decided"]["guards"]


@pytest.fixture
def validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


def graph(text: str, form: RdfFormat, messages: bool = True) -> list[str]:
    quads = [q for q in parse(text.encode(), format=form) if messages or not q.predicate.value.endswith("#resultMessage")]
    made = Dataset(Quad(q.subject, q.predicate, q.object) for q in quads)
    made.canonicalize(CanonicalizationAlgorithm.UNSTABLE)
    return sorted(map(str, made))


def test_exit_codes_and_both_outputs_are_one_graph(validate: Files) -> None:
    shapes = validate.turtle("shapes.ttl", SHAPES)
    code, out, _ = validate(shapes, validate.turtle("good.ttl", GOOD))
    assert (code, "sh:conforms true" in out) == (0, True)
    bad = validate.turtle("bad.ttl", BAD)
    code, turtle, _ = validate(shapes, bad)
    assert code == 1
    assert '"x"@en-GB' in turtle  # as it was written
    _, as_json, _ = validate(shapes, bad, "-o", "json")
    told = json.loads(as_json)
    assert (told["conforms"], len(told["result"])) == (False, 3)
    assert graph(as_json, RdfFormat.JSON_LD) == graph(turtle, RdfFormat.TURTLE)
    assert told["decided"]["guards"] == {"R1": 2, "W1": 0, "C1": 1}


SYNTAXES = {
    "nt": RdfFormat.N_TRIPLES,
    "nq": RdfFormat.N_QUADS,
    "trig": RdfFormat.TRIG,
    "rdf": RdfFormat.RDF_XML,
    "jsonld": RdfFormat.JSON_LD,
}


@pytest.mark.parametrize(("suffix", "form"), SYNTAXES.items())
def test_syntaxes_by_extension(suffix: str, form: RdfFormat, validate: Files) -> None:
    turtle = validate(validate.turtle("s.ttl", SHAPES), validate.turtle("d.ttl", BAD))[1]
    files = []
    for name, text in (("shapes", SHAPES), ("data", BAD)):
        quads = list(parse((PREFIXES + text).encode(), format=RdfFormat.TURTLE))
        data = serialize([q.triple for q in quads], format=form)
        assert data is not None
        files.append(validate.file(f"{name}.{suffix}", data))
    code, out, err = validate(files[0], files[1])
    assert (code, err) == (1, "")
    assert graph(out, RdfFormat.TURTLE, messages=False) == graph(turtle, RdfFormat.TURTLE, messages=False)  # they use a file's prefixes


def test_the_base_of_a_file_is_its_own_uri(validate: Files) -> None:
    shapes = validate.turtle("shapes.ttl", "<#s> a sh:NodeShape ; sh:targetNode <data.ttl#x> ; sh:nodeKind sh:Literal .")
    data = validate.turtle("data.ttl", "<#x> ex:a 1 .")
    _, out, _ = validate(shapes, data)
    assert f"sh:focusNode <{data.as_uri()}#x>" in out
    assert f"sh:sourceShape <{shapes.as_uri()}#s>" in out


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("shapes.ttl", "ex:s sh:targetClass ex:Doc ; sh:minCount 1 .", "shapes.ttl:3: sh:minCount: must stand in a property shape"),
        ("shapes.ttl", "ex:s sh:targetClass ex:Doc ; sh:nodeKind sh:IRI", "must be well-formed Turtle"),
        ("shapes.csv", "a,b", "must be RDF in a file named"),
    ],
)
def test_faulty_shapes_are_failures(name: str, text: str, told: str, validate: Files) -> None:
    code, out, err = validate(validate.turtle(name, text), validate.turtle("data.ttl", GOOD))
    fault = json.loads(err)["faults"][0]
    assert (code, out) == (2, "")
    assert told in f"{fault['where']}: {fault['value']}: {fault['must']}"


@pytest.mark.parametrize(("name", "code"), [("shape", 0), ("codeIdentifier", 0), ("target", 2), ("expression", 2), ("entailment", 2)])
def test_names_that_mean_nothing_are_passed_over_and_those_of_extensions_are_not(name: str, code: int, validate: Files) -> None:
    shapes = validate.turtle("shapes.ttl", f"{SHAPES} ex:shape sh:{name} ex:x . ex:x a sh:Whatever .")
    assert validate(shapes, validate.turtle("data.ttl", GOOD))[0] == code


def test_broken_data_and_missing_files_are_failures(validate: Files) -> None:
    shapes = validate.turtle("shapes.ttl", SHAPES)
    assert validate(shapes, validate.turtle("data.ttl", "ex:a a"))[0] == 2
    assert validate(shapes, validate.folder / "none.ttl")[0] == 2
    assert validate(shapes, shapes, "-o", "picture")[0] == 2


def test_classes_are_those_of_the_data(validate: Files) -> None:
    shapes = (
        "ex:Small rdfs:subClassOf ex:Doc . ex:s a sh:NodeShape ; sh:targetClass ex:Doc ; sh:property [ sh:path ex:n ; sh:minCount 1 ] ."
    )
    assert validate.decided(shapes, "ex:a a ex:Small .")[0]
    assert not validate.decided(shapes, "ex:a a ex:Small . ex:Small rdfs:subClassOf ex:Doc .")[0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("ex:a a ex:Doc ; ex:n 1e0 .", id="a number beyond the tables"),
        pytest.param("<https://knhk.dev/ns#request> a ex:Doc ; ex:n 1 .", id="names of the engine itself"),
        pytest.param(f'ex:a a ex:Doc ; ex:n 1 ; ex:long "{"x" * (1 << 20)}" .', id="larger than an observation"),
    ],
)
def test_what_the_tables_cannot_decide_the_cold_tier_decides(data: str, validate: Files) -> None:
    assert validate.decided(SHAPES, data) == (True, {"R1": 0, "W1": 2, "C1": 1})
    assert validate.decided(SHAPES, data.replace("ex:n 1", "ex:n -1"))[0] is False


def test_lesser_severities_are_results_too(validate: Files) -> None:
    shapes = """ex:s a sh:NodeShape ; sh:targetClass ex:Doc ;
      sh:property [ sh:path ex:n ; sh:minCount 3 ; sh:severity sh:Info ] ; sh:property [ sh:path ex:m ; sh:class ex:C ] ."""
    data = "ex:a a ex:Doc ; ex:n 1 ; ex:m ex:b . ex:b a ex:C ."
    assert validate.decided(shapes, data) == (False, {"R1": 1, "W1": 1, "C1": 0})
