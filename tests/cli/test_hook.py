"""`knhk hook`: the blueprint's own command, and questions whose answers a reader can check by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knhk_gen.table import kernel_cycles

EX = "http://example.org/"
DELTA = (
    "@prefix ex: <http://example.org/> .\n"
    + "".join(f'ex:order ex:line "{i}" .\n' for i in range(10))
    + 'ex:order ex:total 12.5 ; ex:note "n" .\nex:other ex:line "3" .\n'
)


def test_the_command_of_the_blueprint(knhk: Any) -> None:
    answer = knhk("hook", "execute", "ASK_SP", "--predicate", "http://example.org/hasPermission")
    assert answer.exit == 0
    told = answer.out
    assert (told["verdict"], told["masks"], told["class"], told["cost"]) == (
        "ADMIT",
        ["00000001"],
        "R1",
        {"lanes": 3, "chunks": 1, "cycles": kernel_cycles()["ask_sp"]},
    )
    assert told["time"]["best_ns"] > 0
    assert told["kernel"]
    assert len(told["delta"]) == 3
    denied = knhk("hook", "execute", "ask_sp", "--predicate", "http://example.org/hasLicence").out
    assert (denied["verdict"], denied["masks"]) == ("DENY", ["00000000"])


QUESTIONS = {
    "COUNT of many lanes joins chunks": (("COUNT", "-p", EX + "line", "--min", "10", "--max", "10"), "ADMIT"),
    "COUNT above": (("COUNT", "-p", EX + "line", "--max", "9"), "DENY"),
    "COUNT of none": (("COUNT", "-p", EX + "absent"), "DENY"),
    "SPO string": (("ASK_SPO", "-p", EX + "line", "--object", '"7"'), "ADMIT"),
    "SPO bare word": (("ASK_SPO", "-p", EX + "note", "--object", "n"), "ADMIT"),
    "SPO other type": (("ASK_SPO", "-p", EX + "line", "--object", "7"), "DENY"),
    "SP of another subject": (("ASK_SP", "-p", EX + "total", "-s", EX + "other"), "DENY"),
    "SP of nobody": (("ASK_SP", "-p", EX + "total", "-s", EX + "nobody"), "DENY"),
    "COMPARE at the bound": (("COMPARE", "-p", EX + "total", "--max", "12.5"), "ADMIT"),
    "COMPARE beyond": (("COMPARE", "-p", EX + "total", "--max", "12.499999"), "DENY"),
    "COMPARE another family": (("COMPARE", "-p", EX + "note", "--min", "0"), "DENY"),
    "VALIDATE datatype": (("VALIDATE", "-p", EX + "total", "--datatype", "xsd:decimal"), "ADMIT"),
    "VALIDATE length": (("VALIDATE", "-p", EX + "note", "--min", "2"), "DENY"),
    "VALIDATE kind": (("VALIDATE", "-p", EX + "note", "--kind", "iri"), "DENY"),
}


@pytest.mark.parametrize("variant", ["scalar", None])
@pytest.mark.parametrize("name", QUESTIONS)
def test_answers(knhk: Any, tmp_path: Path, name: str, variant: str | None) -> None:
    words, verdict = QUESTIONS[name]
    file = tmp_path / "delta.ttl"
    file.write_text(DELTA)
    answer = knhk("hook", "execute", *words, "--data", file, *(("--kernel", variant) if variant else ()))
    assert answer.exit == 0, answer.err
    assert answer.out["verdict"] == verdict
    assert answer.out["kernel"] == (variant or answer.out["kernel"])


def test_unique_finds_the_value_that_two_subjects_share(knhk: Any, tmp_path: Path) -> None:
    file = tmp_path / "delta.ttl"
    file.write_text(f'<{EX}a> <{EX}code> "1" . <{EX}b> <{EX}code> "2" . <{EX}c> <{EX}code> "1" .')
    answer = knhk("hook", "execute", "UNIQUE", "-p", EX + "code", "--data", file).out
    assert (answer["verdict"], answer["masks"]) == ("DENY", ["00000101"])


def test_a_value_beyond_the_tables_goes_to_the_class_below(knhk: Any, tmp_path: Path) -> None:
    file = tmp_path / "delta.ttl"
    file.write_text(f"<{EX}a> <{EX}total> 1.00000001 .")
    answer = knhk("hook", "execute", "COMPARE", "-p", EX + "total", "--max", "2", "--data", file).out
    assert (answer["verdict"], answer["class"]) == (None, "W1")


FAULTY = {
    "object": (("ASK_SPO", "-p", EX + "a"), "--object"),
    "bounds": (("COMPARE", "-p", EX + "a"), "--min, --max"),
    "no number": (("COMPARE", "-p", EX + "a", "--max", "many"), "--max"),
    "families": (
        ("COMPARE", "-p", EX + "a", "--min", "1", "--max", '"2026-01-01"^^<http://www.w3.org/2001/XMLSchema#date>'),
        "--min, --max",
    ),
    "count": (("COUNT", "-p", EX + "a", "--min", "-1"), "--min"),
    "nothing to validate": (("VALIDATE", "-p", EX + "a"), "--datatype, --kind, --min, --max"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_question_that_is_none_says_what_it_needs(knhk: Any, name: str) -> None:
    words, where = FAULTY[name]
    answer = knhk("hook", "execute", *words)
    assert answer.exit == 1
    assert answer.err["faults"][0]["where"] == where


def test_a_delta_that_is_no_turtle_is_told_with_its_line(knhk: Any, tmp_path: Path) -> None:
    file = tmp_path / "delta.ttl"
    file.write_text("<http://a/b> <http://a/c> 1 .\nex:a ex:b 1 .")
    answer = knhk("hook", "execute", "ASK_SP", "-p", EX + "a", "--data", file)
    assert answer.exit == 1
    assert answer.err["faults"][0]["where"] == f"{file}:2"


def test_every_variant_is_compared_with_the_definitions(knhk: Any) -> None:
    answer = knhk("hook", "test", "--cases", "600")
    assert answer.exit == 0
    assert "scalar" in answer.out["variants"]
    assert {row["name"] for row in answer.out["hooks"]} == {"ASK_SP", "ASK_SPO", "COUNT", "COMPARE", "VALIDATE", "UNIQUE"}
    assert all(row["hits"] > 10 and row["wrong"] == 0 for row in answer.out["hooks"])


def test_a_variant_that_lies_is_caught(knhk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from knhk_hot import kernels

    honest = kernels.masks
    monkeypatch.setattr(kernels, "masks", lambda kernel, *rest: [m ^ (kernel == "COMPARE") for m in honest(kernel, *rest)])
    answer = knhk("hook", "test", "--cases", "60")
    assert answer.exit == 1
    assert {row["name"] for row in answer.out["hooks"] if row["wrong"]} == {"COMPARE"}
    assert answer.out["wrong"][0]["mask"] != answer.out["wrong"][0]["expected"]


def test_hooks_of_a_pack_are_its_guards(knhk: Any, pack: Path) -> None:
    rows = {row["id"]: row for row in knhk("hook", "list", pack).out["hooks"]}
    assert rows["shapes.OrderShape.total.maxInclusive"]["kernels"] == {"COMPARE": 1}
    assert knhk("hook", "list").out["hooks"] == []
    listed = knhk("hook", "list").out
    assert len(listed["kernels"]) == 6
    assert all(set(kernel["ns"]) == set(listed["variants"]) and min(kernel["ns"].values()) > 0 for kernel in listed["kernels"])
