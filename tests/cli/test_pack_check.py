"""`knhk pack check --prove` and over several packs: agreement, planted bugs of the compiler, conflicts with their payloads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from knhk.wiring import packs
from knhk.wiring.home import Home
from knhk_gen import abac, ask, emit_guards, lower, shacl

RULES = """
    - name: limits
      kind: ask
      target: https://example.com/ns#Order
      inline: |
        PREFIX ex: <https://example.com/ns#>
        ASK { $this ex:total ?t FILTER(?t > 0) }
    - name: rights
      kind: abac
      inline: |
        @prefix abac: <https://knhk.dev/ns/abac#> . @prefix ex: <https://example.com/ns#> .
        ex:Orders a abac:Policy ; abac:scope "place" ; abac:rule ex:place .
        ex:place a abac:Permission ; abac:action "place" ; abac:resource ex:Order ;
          abac:limit [ abac:path ex:total ; abac:atMost 500 ] ; abac:window [ abac:from "08:00" ; abac:until "18:00" ] .
    - name: order
      kind: mapping"""


DATA = """apiVersion: knhk.dev/v1alpha1
kind: DataBundle
metadata: {name: roles, namespace: erp}
spec:
  version: 1.0.0
  source:
    inline: |
      @prefix ex: <https://example.com/ns#> .
      ex:ada ex:limit 1 .
"""


@pytest.fixture
def rules(pack: Path) -> Path:
    """The small pack with a query and an access rule."""
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("\n    - name: order\n      kind: mapping", RULES))
    return pack


def test_a_right_pack_agrees_and_says_what_was_compared(knhk: Any, rules: Path) -> None:
    answer = knhk("pack", "check", rules, "--prove", "--cases", 300, "-o", "json")
    assert answer.exit == 0, answer.error_text
    ((_, proof),) = answer.out["proofs"].items()
    assert (proof["cases"], proof["seed"]) == (300, 1)
    assert "scalar" in proof["kernels"]
    assert proof["judged"]["compared"] >= 200
    assert proof["guards"]["both"] >= proof["guards"]["all"] - 1, proof
    again = knhk("pack", "check", rules, "--prove", "--cases", 300, "-o", "json").out["proofs"]
    other = knhk("pack", "check", rules, "--prove", "--cases", 300, "--seed", 2, "-o", "json").out["proofs"]
    assert list(again.values()) == [proof]
    assert next(iter(other.values()))["digest"] != proof["digest"]


def _range_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = emit_guards.range_words
    monkeypatch.setattr(emit_guards, "range_words", lambda test: (right(test)[0], right(test)[1] - 1))


def _greater_or_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ask._comparison
    monkeypatch.setattr(ask, "_comparison", lambda op, constant: right(">=" if op == ">" else op, constant))


def _at_most_is_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    right = abac._constant_test
    turned = {"atMost": "atLeast"}

    def test(rules: Any, node: Any, relation: str) -> Any:
        made = dict(right(rules, node, relation))
        return {**made, "min": made["max"], "max": None} if relation in turned else made

    monkeypatch.setattr(abac, "_constant_test", test)


def _a_minute_late(monkeypatch: pytest.MonkeyPatch) -> None:
    right = abac._seconds
    monkeypatch.setattr(abac, "_seconds", lambda text: right(text) + 60 * (text == "08:00"))


def _a_guard_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    right = shacl.Lowering.guards
    monkeypatch.setattr(shacl.Lowering, "guards", lambda self: [g for g in right(self) if g.param.component != "MaxInclusive"])


def _the_target_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lower._query_target
    nowhere = {"kind": "class", "classes": ["https://example.com/ns#Nothing"]}
    monkeypatch.setattr(lower, "_query_target", lambda source: right(source) and nowhere)


PLANTED = [
    (_range_off_by_one, "failing by the", ('"total":1000', '"total":500')),
    (_greater_or_equal, "limits: passing by the", ('"total":0',)),
    (_at_most_is_at_least, "rights.Orders.permission", None),
    (_a_minute_late, "rights.Orders.permission: failing by the", None),
    (_a_guard_is_dropped, "MaxInclusiveConstraintComponent: no guard by the", None),
    (_the_target_is_lost, "limits: passing by the", None),
]


@pytest.mark.parametrize(("plant", "told", "smallest"), PLANTED, ids=[p.__name__.strip("_") for p, _, _ in PLANTED])
def test_a_planted_bug_of_the_compiler_is_found_named_and_made_small(
    knhk: Any, rules: Path, monkeypatch: pytest.MonkeyPatch, plant: Any, told: str, smallest: tuple[str, ...] | None
) -> None:
    plant(monkeypatch)
    answer = knhk("pack", "check", rules, "--prove", "--cases", 600, "-o", "json")
    assert answer.exit == 1
    (fault,) = answer.out["faults"]
    assert told in fault["value"]
    assert "a bug of the compiler" in fault["must"]
    body = fault["value"].split(" on ", 1)[1]
    assert len(json.loads(body[: body.rindex("}") + 1])) <= 3
    if smallest is not None:
        assert any(text in fault["value"] for text in smallest)


def test_a_bug_refuses_the_build_and_a_proof_is_in_the_provenance(
    knhk: Any, rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    words = ("pack", "build", rules, "--registry", registry, "-o", "json")
    with_data(rules)
    with monkeypatch.context() as planted:
        _range_off_by_one(planted)
        refused = knhk(*words)
        assert refused.exit == 1
        (fault,) = refused.err["faults"]
        assert " kernels, passing by the sources, on {" in fault["value"]
        assert '"total":500' in fault["value"] or '"total":1000' in fault["value"]
        assert "this is a bug of the compiler" in fault["must"]
    assert not [path for path in registry.rglob("*") if path.is_file()], "nothing was published, no data bundle either"
    from knhk.reconcilers import building

    built = knhk(*words, "--cases", 200)
    assert built.exit == 0, built.error_text
    told = building.provenance_of(packs.store(registry), built.out["digest"], packs.keys(Home(tmp_path / "home").keys))
    assert told.proof == built.out["proof"]
    assert told.proof is not None
    assert told.proof["cases"] == 200
    assert told.proof["bundle"] == built.out["bundle"]["file"].removeprefix("sha256:")
    short, long = knhk(*words), knhk(*words, "--prove")
    assert short.out["digest"] == long.out["digest"] == built.out["digest"], "a proof does not change what is built"
    assert [answer.out["proof"]["asked"] for answer in (short, long)] == [packs.PROOF.cases, 1000]


def with_data(pack: Path) -> None:
    """The pack reads a data bundle that lies beside it."""
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("\n  targets:", "\n  dataBundles: [{name: roles}]\n  targets:"))
    (pack / "roles.yaml").write_text(DATA)


def edited(pack: Path, tmp_path: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A copy of a pack under another name, with changes."""
    folder = tmp_path / name
    shutil.copytree(pack, folder)
    text = (folder / "pack.yaml").read_text().replace("name: small", f"name: {name}")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "pack.yaml").write_text(text)
    return folder


def by_kind(answer: Any, kind: str) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    return {tuple(c["guards"]): c["witnesses"] for c in answer.out["conflicts"] if c["kind"] == kind}


def test_rules_that_contradict_each_other_are_named_with_payloads(knhk: Any, pack: Path, tmp_path: Path) -> None:
    other = edited(pack, tmp_path, "other", ("sh:maxInclusive 1000", "sh:minExclusive 1000"))
    answer = knhk("pack", "check", pack, other, "--cases", 200, "-o", "json")
    assert answer.exit == 1
    found = by_kind(answer, "contradictory")
    name = ("erp/small@1.0.0: shapes.OrderShape.total.maxInclusive", "erp/other@1.0.0: shapes.OrderShape.total.minExclusive")
    assert list(found) == [name]
    low, high = (json.loads(w["body"])["total"] for w in found[name])
    assert float(low) <= 1000 < float(high)


def test_a_rule_behind_a_stricter_one_and_one_that_cannot_fail_are_named(knhk: Any, pack: Path, tmp_path: Path) -> None:
    never = "sh:property [ sh:path ex:currency ; sh:maxCount 1 ] ;\n          sh:property [ sh:path ex:total ; sh:maxInclusive 1000"
    looser = edited(pack, tmp_path, "looser", ("sh:maxInclusive 1000", "sh:maxInclusive 2000"))
    extra = edited(pack, tmp_path, "extra", ("sh:property [ sh:path ex:total ; sh:maxInclusive 1000", never))
    answer = knhk("pack", "check", pack, looser, "--cases", 200, "-o", "json")
    assert answer.exit == 0
    shadowed = by_kind(answer, "shadowed")
    name = ("erp/looser@1.0.0: shapes.OrderShape.total.maxInclusive", "erp/small@1.0.0: shapes.OrderShape.total.maxInclusive")
    assert [w["shows"].split()[-1] for w in shadowed[name]] == ["both", "alone"]
    assert 1000 < float(json.loads(shadowed[name][1]["body"])["total"]) <= 2000
    never_firing = by_kind(knhk("pack", "check", pack, extra, "--cases", 200, "-o", "json"), "never-firing")
    assert list(never_firing) == [("erp/extra@1.0.0: shapes.OrderShape.currency.maxCount",)]


def ruled(pack: Path, tmp_path: Path, name: str, shapes: str, rule: str = "") -> Path:
    """The pack with other shapes on an order, and a rule as a query."""
    text = (pack / "pack.yaml").read_text()
    old = text[text.index("ex:OrderShape") : text.index("    - name: order")]
    query = (
        f"    - name: rule\n      kind: ask\n      target: https://example.com/ns#Order\n      inline: |\n        {rule}\n" if rule else ""
    )
    return edited(pack, tmp_path, name, (old, f"ex:S a sh:NodeShape ; sh:targetClass {shapes} .\n{query}"))


MIN, NONE = (
    "ex:Order ; sh:property [ sh:path ex:currency ; sh:minCount 1 ]",
    "ex:Order ; sh:property [ sh:path ex:currency ; sh:maxCount 0 ]",
)
A, AB = (f'ex:Order ; sh:property [ sh:path ex:currency ; sh:pattern "^{text}[0-9]+$" ]' for text in ("(A|C)", "A"))
IN_B = 'ex:Order ; sh:property [ sh:path ex:currency ; sh:in ( "B" "C" ) ]'
ZERO = "ex:Order ; sh:property [ sh:path ex:total ; sh:minCount 1 ]"
STARTS = "PREFIX ex: <https://example.com/ns#> ASK { $this ex:currency ?x FILTER(strstarts(?x, 'Z')) }"
TOLD = [
    pytest.param((MIN, ""), (NONE, ""), "contradictory", ("S.currency.minCount", "S.currency.maxCount"), id="absence"),
    pytest.param((A, ""), (IN_B, ""), "contradictory", ("S.currency.pattern", "S.currency.in"), id="W1 and R1"),
    pytest.param((A, ""), (ZERO, STARTS), "contradictory", ("S.currency.pattern", "rule"), id="shapes and query"),
    pytest.param((A, ""), (AB, ""), "shadowed", ("S.currency.pattern", "S.currency.pattern"), id="patterns"),
    pytest.param((MIN.replace("Order", "Nothing"), ""), (ZERO, ""), "never-firing", ("S.currency.minCount",), id="unreached"),
]


@pytest.mark.parametrize(("one", "two", "kind", "guards"), TOLD)
def test_each_witness_is_one_by_the_word_of_the_packs(
    knhk: Any, pack: Path, tmp_path: Path, one: tuple[str, str], two: tuple[str, str], kind: str, guards: tuple[str, ...]
) -> None:
    folders = [ruled(pack, tmp_path, name, *rules) for name, rules in (("one", one), ("two", two))]
    found = by_kind(knhk("pack", "check", *folders, "--cases", 200, "-o", "json"), kind)
    (name,) = [name for name in found if [part.removeprefix("shapes.") for part in _parts(name)] == list(guards)] or [()]
    assert name, found
    witnesses = found[name]
    assert len(witnesses) == (1 if kind == "never-firing" else 2)
    for witness in witnesses:
        body = tmp_path / "body.json"
        body.write_text(witness["body"])
        failing = {
            f"erp/{folder.name}@1.0.0: {each['guard']}"
            for folder in folders
            for each in knhk("pack", "decide", folder, "--payload", body, "-o", "json").out["failing"]
        }
        assert failing & set(name) == _failing(witness["shows"], name)


def _parts(name: tuple[str, ...]) -> list[str]:
    return [each.split(": ", 1)[1] for each in name]


def _failing(shows: str, name: tuple[str, ...]) -> set[str]:
    """Which of the guards must fail on a witness."""
    if shows == "fails both":
        return set(name)
    return {each for each in name if f"fails {each}" in shows}


def test_every_faulty_pack_is_told_at_once(knhk: Any, pack: Path, tmp_path: Path) -> None:
    bad = edited(pack, tmp_path, "bad", ("sh:minCount 1", "sh:minCnt 1"))
    worse = edited(pack, tmp_path, "worse", ("sh:minCount 1", 'sh:minCount "x"'))
    answer = knhk("pack", "check", bad, worse, "-o", "json")
    assert answer.exit == 1
    assert {Path(f["where"].rsplit(":", 1)[0]).parent.name for f in answer.out["faults"]} == {"bad", "worse"}


def test_literals_that_are_wrong_on_purpose_are_no_news(knhk: Any, caplog: pytest.LogCaptureFixture) -> None:
    order = Path(__file__).resolve().parents[2] / "examples" / "packs" / "order"
    assert knhk("pack", "check", order, "--prove", "--cases", 150).exit == 0
    assert not caplog.records
