"""W3C SHACL core through `knhk shape validate`: the report must be the expected graph, and exit code and JSON must say the same."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import w3c
from rdflib import Graph
from rdflib.namespace import RDF

from knhk.cli import main

TESTS = w3c.files()


def report_of(text: str, form: str, messages: bool) -> list[str]:
    graph = Graph().parse(data=text, format=form)
    (report,) = graph.subjects(RDF.type, w3c.SH.ValidationReport)
    return w3c.normal(graph, report, messages)


@pytest.mark.parametrize("path", TESTS, ids=[str(path.relative_to(w3c.SUITE).with_suffix("")) for path in TESTS])
def test_report_is_the_expected_graph(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = w3c.read(path)
    code = main(["shape", "validate", "--shapes", str(case.shapes), "--data", str(case.data)])
    out = capsys.readouterr()
    assert out.err == ""
    assert report_of(out.out, "turtle", case.messages) == case.expected
    assert code == (0 if "sh:conforms true" in out.out else 1)


def test_all_tests_of_the_folder_ran() -> None:
    assert len(TESTS) == 67


def test_a_row_above_its_budget_counts_in_the_next_class() -> None:
    page = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "gen_conformance.py"))
    counted = page["counted_class"]
    measured = {("a", "R1"): 1.9, ("b", "R1"): 2.1, ("c", "R1"): 1.1e6, ("d", "W1"): 0.9e6, ("e", "W1"): 1.1e6, ("f", "C1"): 9e9}
    assert {row: counted(row, klass, measured) for row, klass in measured} == {
        "a": "R1", "b": "W1", "c": "C1", "d": "W1", "e": "C1", "f": "C1",
    }  # fmt: skip
    assert counted("not measured", "R1", measured) == "R1"
