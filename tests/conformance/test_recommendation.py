"""The SHACL Recommendation's text, section by section: small cases whose results were reasoned by hand, through `knhk shape validate`.

`cases/recommendation.json` holds them: shapes and data in Turtle (no data: one file is both graphs) and the results, each as its number,
focus node, component, value, path, shape and, unless it is sh:Violation, severity. `failures`: shapes graphs that must be refused, and why.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
import rdflib
from path_texts import path_text
from rdflib import BNode, Graph
from rdflib.namespace import RDF
from rdflib.term import Node
from w3c import SH

from knhk.cli import main

_TOLD = json.loads((Path(__file__).parent / "cases" / "recommendation.json").read_text(encoding="utf-8"))
CASES, FAILURES, PREFIXES = _TOLD["cases"], _TOLD["failures"], _TOLD["prefixes"]
_SHORT = (
    (str(SH), ""),
    ("urn:ex:", ""),
    ("http://www.w3.org/2001/XMLSchema#", "xsd:"),
    ("http://www.w3.org/1999/02/22-rdf-syntax-ns#", "rdf:"),
)


def short(text: str) -> str:
    for long, brief in _SHORT:
        text = text.replace(long, brief)
    return text


def told(term: Node | None) -> str:
    return "-" if term is None else "[]" if isinstance(term, BNode) else short(term.n3())


def results(text: str) -> list[str]:
    with patch.object(rdflib, "NORMALIZE_LITERALS", False):
        graph = Graph().parse(data=text, format="turtle")
    rows: Counter[str] = Counter()
    for result in graph.subjects(RDF.type, SH.ValidationResult):
        component = told(graph.value(result, SH.sourceConstraintComponent)).strip("<>").removesuffix("ConstraintComponent")
        path, severity = graph.value(result, SH.resultPath), graph.value(result, SH.resultSeverity)
        row = [told(graph.value(result, SH.focusNode)), component, told(graph.value(result, SH.value))]
        row += ["-" if path is None else short(path_text(graph, path)), told(graph.value(result, SH.sourceShape))]
        row += [] if severity == SH.Violation else [told(severity)]
        rows[" ".join(row)] += 1
    return sorted(f"{count}x {row}" for row, count in rows.items())


def files(folder: Path, shapes: str, data: str | None) -> list[str]:
    written = folder / "shapes.ttl"
    written.write_text(PREFIXES + shapes, encoding="utf-8")
    other = written if data is None else folder / "data.ttl"
    if data is not None:
        other.write_text(PREFIXES + data, encoding="utf-8")
    return ["shape", "validate", "--shapes", str(written), "--data", str(other)]


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_results_are_as_the_text_says(case: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(files(tmp_path, str(case["shapes"]), case.get("data")))  # type: ignore[arg-type]
    out = capsys.readouterr()
    assert (out.err, results(out.out)) == ("", case["results"])
    assert code == (1 if case["results"] else 0)


@pytest.mark.parametrize("case", FAILURES, ids=[case["id"] for case in FAILURES])
def test_a_shapes_graph_that_is_none_is_a_failure_that_says_why(
    case: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(files(tmp_path, case["shapes"], "ex:a ex:p ex:b ."))
    out = capsys.readouterr()
    assert (code, out.out) == (2, "")
    said = json.loads(out.err)
    assert case["told"] in (said["error"], *(fault["must"] for fault in said["faults"]))
