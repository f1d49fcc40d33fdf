"""`knhk pack check --prove` and extraction: bodies of JSON and XML become the graph that their mapping says, and nothing else is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knhk_gen import emit_mapping, functions, mapping
from knhk_gen.functions import FUNCTIONS, Kind

SHARED_OBJECTS = True
PACK = """apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {{name: small, namespace: erp}}
spec:
  version: 1.0.0
  sources:
    - name: shapes
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/ns#> .
        ex:S a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:total ; sh:maxInclusive 1000.5 ] .
    - name: order
      kind: mapping
      inline: |
        prefixes: {{ex: "https://example.com/ns#"}}
{mapping}
  routes: [{{name: orders, mapping: order}}]
  targets: [{{point: gate}}]
"""
JSON = """
maps:
  - id: order
    iterator: "$"
    subject: {template: "https://example.com/orders/{id}"}
    class: ex:Order
    properties:
      ex:total: {path: total, as: decimalComma}
      ex:day: {path: day, datatype: xsd:date}
      ex:line: {child: line}
      ex:main: {join: line, on: {child: main, parent: no}}
  - id: line
    iterator: "$.lines[*]"
    subject: {blank: true}
    class: ex:Line
    properties: {ex:no: no, ex:text: {template: "{no} of {kind|trim}", node: literal}}
"""
XML = """
format: xml
namespaces: {"": "urn:a"}
maps:
  - id: order
    iterator: /Doc/Order
    subject: {template: "https://example.com/orders/{@id}"}
    class: ex:Order
    properties: {ex:total: Amt, ex:currency: "Amt/@Ccy", ex:name: Name, ex:second: "Name[2]", ex:any: "*:Any", ex:line: {child: line}}
  - id: line
    iterator: /Doc/Order/Line
    subject: {blank: true}
    properties: {ex:text: "."}
"""


@pytest.fixture
def packs(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        indented = "\n".join(" " * 8 + line for line in text.strip().split("\n"))
        (tmp_path / "pack.yaml").write_text(PACK.format(mapping=indented))
        return tmp_path / "pack.yaml"

    return write


def prove(knhk: Any, pack: Path) -> Any:
    return knhk("pack", "check", pack, "--prove", "--cases", 300, "-o", "json")


@pytest.mark.parametrize("text", [JSON, XML], ids=["json", "xml"])
def test_a_right_extraction_agrees(knhk: Any, packs: Any, text: str) -> None:
    answer = prove(knhk, packs(text))
    assert answer.exit == 0, answer.out["faults"]
    ((_, proof),) = answer.out["proofs"].items()
    assert proof["cases"] >= 200
    assert proof["judged"]["compared"] >= 100, proof
    assert proof["judged"]["refused"] >= 10, proof
    assert proof["guards"] == {"both": 1, "all": 1}


def _comma_is_point(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Kind(FUNCTIONS["decimalPoint"].number, datatype=FUNCTIONS["decimalComma"].datatype)
    monkeypatch.setattr(functions, "FUNCTIONS", {**FUNCTIONS, "decimalComma": wrong})
    monkeypatch.setattr(emit_mapping, "FUNCTIONS", {**FUNCTIONS, "decimalComma": wrong})


def _a_datatype_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapping._Lowering._object
    monkeypatch.setattr(mapping._Lowering, "_object", lambda *args: right(*args) | ({"datatype": None} if args[1].value else {}))


def _unknown_members_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapping.lower_mapping
    from knhk_gen import lower

    monkeypatch.setattr(lower, "lower_mapping", lambda *args: right(*args) | {"unknownMembers": "Allow"})


def _a_join_takes_the_first_key(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapping._Lowering._join

    def join(self: Any, prop: Any) -> Any:
        made = right(self, prop)
        return made | {"parentKey": {"ref": [{"key": "kind"}]}}

    monkeypatch.setattr(mapping._Lowering, "_join", join)


def _every_element_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = emit_mapping.path_of
    monkeypatch.setattr(emit_mapping, "path_of", lambda steps: right([{k: v for k, v in s.items() if k != "index"} for s in steps]))


def _any_namespace_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    right = emit_mapping.path_of
    monkeypatch.setattr(
        emit_mapping, "path_of", lambda steps: right([s | ({"element": "Any"} if s.get("element") == "* Any" else {}) for s in steps])
    )


def _attributes_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapping._Lowering._parse
    monkeypatch.setattr(mapping._Lowering, "_parse", lambda self, text: right(self, text.replace("@Ccy", "@Currency")))


TAKEN = "mapping order: taken by the"
OTHERWISE = "mapping order: extracted otherwise by the"
REFUSED = "mapping order: refused by the"
PLANTED = [
    (JSON, _comma_is_point, (OTHERWISE, TAKEN, REFUSED), '"total"'),
    (JSON, _a_datatype_is_lost, (OTHERWISE,), '"day"'),
    (JSON, _unknown_members_pass, (TAKEN,), '"unlisted"'),
    (JSON, _a_join_takes_the_first_key, (OTHERWISE,), '"main"'),
    (XML, _every_element_is_counted, (OTHERWISE,), "Name"),
    (XML, _any_namespace_is_none, (REFUSED,), "Any"),
    (XML, _attributes_are_lost, (REFUSED, TAKEN), "Curr"),
    (XML, _unknown_members_pass, (TAKEN,), "unlisted"),
]


@pytest.mark.parametrize(
    ("text", "plant", "told", "shown"), PLANTED, ids=[f"{p[0][:9].strip()[:4]}-{p[1].__name__.strip('_')}" for p in PLANTED]
)
def test_a_planted_bug_of_extraction_is_found_and_made_small(
    knhk: Any, packs: Any, monkeypatch: pytest.MonkeyPatch, text: str, plant: Any, told: tuple[str, ...], shown: str
) -> None:
    plant(monkeypatch)
    answer = prove(knhk, packs(text))
    assert answer.exit == 1
    (fault,) = answer.out["faults"]
    assert fault["value"].startswith(told), fault
    assert "a bug of the compiler" in fault["must"]
    body = fault["value"].split(", on ", 1)[1]
    assert shown in body
    assert len(body) < 260, body
