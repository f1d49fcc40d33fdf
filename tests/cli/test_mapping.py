"""`knhk mapping test`: which path made which triple; faults of the mapping and of the payload with their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACK = ROOT / "examples" / "packs" / "invoice-controls" / "1.0.0"
PAYLOAD = ROOT / "examples" / "payloads" / "gobl-us-invoice-us-us.json"

XML_MAPPING = """format: xml
namespaces: {"": "urn:a"}
prefixes: {ex: "https://e.x/"}
maps:
  - id: item
    iterator: /Doc/Item
    subject: {template: "https://e.x/i/{@id}"}
    class: ex:Item
    properties:
      ex:day: {path: Day, as: {date: YYYYMMDD}}
      ex:note: Note
"""
BODY = '<Doc xmlns="urn:a"><Item id="1"><Day>20240229</Day></Item></Doc>'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    mapping, payload = tmp_path / "items.yaml", tmp_path / "items.xml"
    mapping.write_text(XML_MAPPING)
    payload.write_text(BODY)
    return mapping, payload


def test_each_triple_of_a_packs_mapping_names_its_path(knhk: Any) -> None:
    done = knhk("mapping", "test", PACK, "--payload", PAYLOAD)
    assert done.exit == 0
    data = done.out
    paths = {(t["path"], t["object"]) for t in data["triples"]}
    assert ("$.doc.totals.payable", '"1620.00"^^<http://www.w3.org/2001/XMLSchema#decimal>') in paths
    assert ("$.doc.lines[*] (map line)", "_:line.0") in paths
    assert ("$.doc.lines[*] (class)", "<https://example.com/ns/invoice#Line>") in paths
    lines = (PACK / "pack.yaml").read_text().splitlines()
    for triple in data["triples"]:
        file, _, line = triple["source"].rpartition(":")
        assert Path(file).samefile(PACK / "pack.yaml")
        assert lines[int(line) - 1].strip()
    assert data["faults"] == []


def test_a_mapping_alone(knhk: Any, files: tuple[Path, Path]) -> None:
    mapping, payload = files
    done = knhk("mapping", "test", mapping, "--payload", payload)
    assert done.exit == 0
    data = done.out
    assert [(t["map"], t["path"], t["object"]) for t in data["triples"]] == [
        ("item", "/Doc/Item (class)", "<https://e.x/Item>"),
        ("item", "/Doc/Item/Day | date", '"2024-02-29"^^<http://www.w3.org/2001/XMLSchema#date>'),
    ]
    assert [(s["path"], s["source"]) for s in data["silent"]] == [("/Doc/Item/Note", f"{mapping}:11")]
    shown = knhk("mapping", "test", mapping, "--payload", payload, "-o", "table").text
    assert "2024-02-29" in shown
    assert "/Doc/Item/Note" in shown


def test_a_payload_that_is_refused(knhk: Any, files: tuple[Path, Path]) -> None:
    mapping, payload = files
    payload.write_text(BODY.replace("20240229", "20240230"))
    done = knhk("mapping", "test", mapping, "--payload", payload)
    assert done.exit == 1
    (fault,) = done.out["faults"]
    assert fault == {"where": f"{payload} /Doc/Item/Day", "value": "20240230", "must": "must be a date in the form that the mapping says"}


def test_a_faulty_mapping_names_its_line(knhk: Any, files: tuple[Path, Path]) -> None:
    mapping, payload = files
    mapping.write_text(XML_MAPPING.replace("ex:note: Note", "ex:note: //Note"))
    done = knhk("mapping", "test", mapping, "--payload", payload)
    assert done.exit == 1
    assert [fault["where"] for fault in done.err["faults"]] == [f"{mapping}:11"]


def test_wrong_arguments(knhk: Any, files: tuple[Path, Path]) -> None:
    mapping, payload = files
    assert knhk("mapping", "test", mapping).exit == 2
    assert knhk("mapping", "test", PACK, "--payload", payload, "--mapping", "none").exit == 2
    assert knhk("mapping", "test", mapping, "--payload", payload.with_name("none")).exit == 3
    assert knhk("mapping", "test", payload, "--payload", payload).exit == 1
