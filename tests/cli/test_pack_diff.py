"""`knhk pack diff`: what differs between two packs, which samples notice, and the exit code for a CI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

SHARED_OBJECTS = True


@pytest.fixture
def other(pack: Path, tmp_path: Path) -> Path:
    """A copy of the pack, for changes."""
    folder = tmp_path / "other"
    shutil.copytree(pack, folder)
    return folder


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Three orders."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for name, body in {
        "small": '{"id": "1", "currency": "EUR", "total": 10}',
        "large": '{"id": "2", "currency": "EUR", "total": 900}',
        "huge": '{"id": "3", "currency": "EUR", "total": 5000}',
    }.items():
        (folder / f"{name}.json").write_text(body)
    return folder


def change(pack: Path, old: str, new: str) -> None:
    file = pack / "pack.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_pack_and_its_copy_do_not_differ(knhk: Any, pack: Path, other: Path, samples: Path) -> None:
    (other / "pack.yaml").write_text("# a comment moves every line\n" + (other / "pack.yaml").read_text())
    answer = knhk("pack", "diff", pack, other, "--samples", samples, "--fail-on", "guards")
    assert answer.exit == 0
    assert answer.out["guards"] == {"added": [], "removed": [], "changed": {}}
    assert answer.out["samples"] == {"all": 3, "changed": []}


def test_a_lower_limit_is_told_with_the_sample_and_the_guard(knhk: Any, pack: Path, other: Path, samples: Path) -> None:
    change(other, "maxInclusive 1000", "maxInclusive 500")
    answer = knhk("pack", "diff", pack, other, "--samples", samples)
    assert answer.exit == 1
    guard = "shapes.OrderShape.total.maxInclusive"
    assert list(answer.out["guards"]["changed"]) == [guard]
    rule = {change["what"]: change for change in answer.out["guards"]["changed"][guard]}["rule"]
    assert "max 1000000000" in rule["before"]
    assert "max 500000000" in rule["after"]
    assert answer.out["samples"]["changed"] == [
        {"name": "large.json", "before": "ADMIT", "after": "DENY", "guards": [guard], "verdict": True}
    ]


FAIL_ON = {"verdicts": 1, "admits": 0, "guards": 1, "never": 0}


@pytest.mark.parametrize("choice", FAIL_ON)
def test_the_exit_code_is_chosen(knhk: Any, pack: Path, other: Path, samples: Path, choice: str) -> None:
    change(other, "maxInclusive 1000", "maxInclusive 500")
    assert knhk("pack", "diff", pack, other, "--samples", samples, "--fail-on", choice).exit == FAIL_ON[choice]
    assert knhk("pack", "diff", other, pack, "--samples", samples, "--fail-on", choice).exit == (choice != "never")


def test_guards_come_and_go(knhk: Any, pack: Path, other: Path) -> None:
    change(other, 'sh:minCount 1 ; sh:message "An order needs a currency."', "sh:maxCount 3")
    told = knhk("pack", "diff", pack, other).out
    assert told["guards"]["added"] == ["shapes.OrderShape.currency.maxCount"]
    assert told["guards"]["removed"] == ["shapes.OrderShape.currency.minCount"]
    change(other, "ex:total: total", "ex:total: sum")
    change(other, "{name: orders, mapping: order}", "{name: purchases, mapping: order}")
    told = knhk("pack", "diff", pack, other).out
    assert told["mappings"] == {"order": "changed"}
    assert told["routes"] == {"orders": "removed", "purchases": "added"}


def test_a_pattern_that_changed_is_told_though_no_table_holds_it(knhk: Any, pack: Path, other: Path) -> None:
    change(pack, "sh:minCount 1 ;", 'sh:pattern "^[A-Z]{3}$" ;')
    change(other, "sh:minCount 1 ;", 'sh:pattern "^[A-Z]{2}$" ;')
    payload = pack / "order.json"
    payload.write_text('{"id": "1", "currency": "EUR"}')
    answer = knhk("pack", "diff", pack, other, "--payload", payload)
    assert answer.out["guards"]["changed"]["shapes.OrderShape.currency.pattern"][0]["what"] == "rule"
    assert answer.out["samples"]["changed"][0]["guards"] == ["shapes.OrderShape.currency.pattern"]


def test_expectations_beside_the_packs_are_the_samples(knhk: Any, pack: Path, other: Path) -> None:
    case = '  - {name: "a large one", body: \'{"id": "1", "currency": "EUR", "total": 900}\', verdict: ADMIT}\n'
    (pack / "tests.yaml").write_text("cases:\n" + case)
    change(other, "maxInclusive 1000", "maxInclusive 500")
    answer = knhk("pack", "diff", pack, other)
    assert [c["name"] for c in answer.out["samples"]["changed"]] == ["a large one"]


def test_markdown_is_for_a_pull_request(knhk: Any, pack: Path, other: Path, samples: Path) -> None:
    change(other, "maxInclusive 1000", "maxInclusive 500")
    text = knhk("pack", "diff", pack, other, "--samples", samples, "-o", "markdown").text
    assert text.startswith("## Policy difference: verdicts change\n")
    assert "| large.json | ADMIT | DENY | shapes.OrderShape.total.maxInclusive |" in text


def test_an_empty_folder_of_samples_is_a_fault(knhk: Any, pack: Path, other: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = knhk("pack", "diff", pack, other, "--samples", empty)
    assert answer.exit == 1
    assert answer.err["faults"] == [{"where": str(empty), "value": "no payloads", "must": "must hold files *.json or *.xml"}]
