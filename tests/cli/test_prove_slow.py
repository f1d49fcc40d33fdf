"""`knhk pack check --prove` and the slower tiers: what they say of a graph is held against another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knhk_runtime.tiers import evaluator, shacl

SHARED_OBJECTS = True
PACK = """apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {name: slow, namespace: erp}
spec:
  version: 1.0.0
  sources:
    - name: shapes
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/ns#> .
        ex:S a sh:NodeShape ; sh:targetClass ex:Order ;
          sh:property ex:Code, ex:Parts, ex:Names, ex:Owner, ex:Back .
        ex:Code sh:path ex:code ; sh:pattern "^(a|bb)+[0-9]{2}$" .
        ex:Parts sh:path ( ex:line ex:no ) ; sh:maxCount 1 .
        ex:Names sh:path ex:line ; sh:qualifiedValueShape [ sh:path ex:no ; sh:hasValue "1" ] ; sh:qualifiedMinCount 1 .
        ex:Owner sh:path [ sh:alternativePath ( ex:owner ex:code ) ] ; sh:not [ sh:in ( "a" "b" ) ] .
        ex:Back sh:path ex:line ; sh:property [ sh:path [ sh:inversePath ex:line ] ; sh:minCount 1 ; sh:nodeKind sh:IRI ] .
    - name: sums
      kind: ask
      target: https://example.com/ns#Order
      inline: |
        PREFIX ex: <https://example.com/ns#>
        ASK { { SELECT (COUNT(DISTINCT ?n) AS ?k) WHERE { $this ex:line/ex:no ?n } } FILTER(?k < 2) }
    - name: order
      kind: mapping
      inline: |
        prefixes: {ex: "https://example.com/ns#"}
        maps:
          - id: order
            iterator: "$"
            subject: {template: "https://example.com/orders/{id}"}
            class: ex:Order
            properties: {ex:code: code, ex:owner: owner, ex:line: {child: line}}
          - id: line
            iterator: "$.lines[*]"
            subject: {blank: true}
            properties: {ex:no: no}
  routes: [{name: orders, mapping: order}]
  targets: [{point: gate}]
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    (tmp_path / "pack.yaml").write_text(PACK)
    return tmp_path / "pack.yaml"


def prove(knhk: Any, pack: Path) -> Any:
    return knhk("pack", "check", pack, "--prove", "--cases", 400, "-o", "json")


def test_right_tiers_agree_and_are_seen_to_fail_and_to_pass(knhk: Any, pack: Path) -> None:
    answer = prove(knhk, pack)
    assert answer.exit == 0, answer.out["faults"]
    ((_, proof),) = answer.out["proofs"].items()
    classes = [guard["class"] for guard in answer.out["guards"]]
    assert proof["slow"]["all"] == len(classes) - classes.count("R1") >= 4, answer.out["guards"]
    assert proof["slow"]["both"] >= proof["slow"]["all"] - 2, proof


def _patterns_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shacl._CHECKERS, "pattern", lambda *_: ())


def _a_path_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shacl.values

    def values(graph: Any, path: Any, focus: Any) -> Any:
        return right(graph, path.parts[0] if path.form == "sequence" else path, focus)

    monkeypatch.setattr(shacl, "values", values)


def _not_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shacl._CHECKERS, "not", lambda *_: ())


def _alternatives_lose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shacl.values

    def values(graph: Any, path: Any, focus: Any) -> Any:
        return right(graph, path.parts[0] if path.form == "alternative" else path, focus)

    monkeypatch.setattr(shacl, "values", values)


def _an_answer_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    right = evaluator.ask
    monkeypatch.setattr(evaluator, "ask", lambda *args: not right(*args))


PLANTED = [
    (_patterns_pass, "code.pattern: passing by"),
    (_a_path_ends_early, ": failing by"),
    (_not_is_forgotten, ".not: passing by"),
    (_alternatives_lose_one, ".not: "),
    (_an_answer_is_turned, "sums: "),
]


@pytest.mark.parametrize(("plant", "told"), PLANTED, ids=[p[0].__name__.strip("_") for p in PLANTED])
def test_a_planted_bug_of_a_slower_tier_is_found_and_made_small(
    knhk: Any, pack: Path, monkeypatch: pytest.MonkeyPatch, plant: Any, told: str
) -> None:
    plant(monkeypatch)
    answer = prove(knhk, pack)
    assert answer.exit == 1
    (fault,) = answer.out["faults"]
    assert told in fault["value"], fault
    assert "a bug of the compiler" in fault["must"]
    assert len(fault["value"].split(", on ", 1)[1] if ", on " in fault["value"] else fault["value"].split(" on ", 1)[1]) < 160
