"""`knhk pack test`: expectations told by line, coverage of guards, and mutants that no case notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from knhk.model.expectations import Edits, edited

SHARED_OBJECTS = True
GOOD = """defaults: {route: orders}
require: {coverage: 100, mutation: 100}
cases:
  - name: the largest order
    body: '{"id": "1", "currency": "EUR", "total": 1000}'
    verdict: ADMIT
    failing: []
  - name: one below
    body: '{"id": "1", "currency": "EUR", "total": 1000}'
    set: {/total: 999.5}
    verdict: DENY
    failing: [shapes.OrderShape.total.datatype]
  - name: just above, without a currency
    body: '{"id": "1", "currency": "EUR", "total": 1001}'
    remove: [/currency]
    verdict: DENY
    failing: [shapes.OrderShape.currency.minCount, shapes.OrderShape.total.maxInclusive]
  - name: just above in cents, as text
    body: '{"id": "1", "currency": "EUR", "total": 1000}'
    replace: {"1000": "1000.01"}
    verdict: DENY
    failing: [https://example.com/ns#OrderShape]
  - name: no total
    body: '{"id": "1", "currency": "EUR"}'
    verdict: ADMIT
    failing: []
  - name: no JSON
    body: '{'
    verdict: DENY
    failing: [payload]
"""


def write(pack: Path, text: str) -> Path:
    (pack / "tests.yaml").write_text(text)
    return pack / "tests.yaml"


def test_what_comes_as_expected_with_all_guards_and_all_mutants(knhk: Any, pack: Path) -> None:
    write(pack, GOOD)
    answer = knhk("pack", "test", pack)
    assert answer.out["mutation"]["survivors"] == []
    assert answer.out["coverage"]["missing"] == []
    assert (answer.exit, answer.out["ok"], answer.out["coverage"]["percent"], answer.out["mutation"]["percent"]) == (0, True, 100, 100)
    assert answer.out["mutation"]["mutants"] > 8
    assert answer.out["tiers"]["cases"] == {"R1": 6, "W1": 0, "C1": 0}


def test_a_case_that_comes_out_otherwise_is_told_with_its_line(knhk: Any, pack: Path) -> None:
    file = write(pack, GOOD.replace("failing: [payload]", "failing: [shapes.OrderShape.total.datatype]"))
    answer = knhk("pack", "test", pack, "--no-mutants")
    assert answer.exit == 1
    (wrong,) = answer.out["cases"]["wrong"]
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "name: no JSON" in text)
    assert (wrong["name"], wrong["where"], wrong["failing"]) == ("no JSON", f"{file}:{line}", ["payload"])
    assert wrong["told"] == ["payload fails too", "shapes.OrderShape.total.datatype does not fail"]
    assert answer.out["mutation"] is None


def test_without_the_case_at_the_bound_an_exclusive_bound_survives(knhk: Any, pack: Path) -> None:
    write(pack, GOOD.replace('"total": 1000}', '"total": 990}', 1))
    answer = knhk("pack", "test", pack)
    assert answer.exit == 1
    assert answer.out["cases"]["wrong"] == []
    told = [(s["guard"], s["what"]) for s in answer.out["mutation"]["survivors"]]
    assert told == [("shapes.OrderShape.total.maxInclusive", "most bound inclusive → exclusive")]
    assert all(str(pack / "pack.yaml:") in s["source"] for s in answer.out["mutation"]["survivors"])
    assert knhk("pack", "test", pack, "--mutation", "50").exit == 0


def test_a_guard_that_never_fails_is_named(knhk: Any, pack: Path) -> None:
    text = GOOD[: GOOD.index("  - name: no JSON")]
    write(pack, text)
    answer = knhk("pack", "test", pack, "--no-mutants")
    assert answer.exit == 1
    (missing,) = answer.out["coverage"]["missing"]
    assert (missing["guard"], missing["failed"], missing["passed"]) == ("payload", 0, 5)


MISTAKES = {
    "unknown field": ("    verdict: ADMIT\n", "    verdikt: ADMIT\n", "did you mean verdict?"),
    "verdict": ("verdict: ADMIT", "verdict: PERMIT", "must be ADMIT or DENY"),
    "route": ("{route: orders}", "{route: invoices}", "must be a route of the pack: orders"),
    "guard": ("failing: [payload]", "failing: [paiload]", "must be the id of a guard"),
    "pointer": ("/total: 999.5", "/lines/0/total: 999.5", "leads nowhere"),
    "no file": ("body: '{'", "payload: absent.json", "must be a file that can be read"),
    "both": ("body: '{'", "body: '{'\n    payload: absent.json", "must have payload or body, not both"),
    "text that is not there": ('{"1000": "1000.01"}', '{"7": "8"}', "occurs 0 times"),
    "time": ("{route: orders}", "{route: orders, time: '2026-13-01T00:00:00Z'}", "must be a moment of the calendar"),
    "percent": ("coverage: 100", "coverage: 101", "must be from 0 to 100"),
    "no YAML": ("require: {", "require: [", "must be well-formed YAML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_file_and_line(knhk: Any, pack: Path, name: str) -> None:
    old, new, must = MISTAKES[name]
    assert old in GOOD
    file = write(pack, GOOD.replace(old, new, 1))
    answer = knhk("pack", "test", pack)
    assert answer.exit == 1
    assert any(must in fault["must"] for fault in answer.err["faults"]), answer.err
    assert all(fault["where"].startswith(f"{file}:") for fault in answer.err["faults"])


def test_without_expectations_it_says_where_they_belong(knhk: Any, pack: Path) -> None:
    answer = knhk("pack", "test", pack)
    assert answer.exit == 1
    assert answer.err["faults"][0]["where"] == str(pack / "tests.yaml")


def test_a_pack_of_several_versions_shares_the_file_above(knhk: Any, pack: Path) -> None:
    folder = pack / "1.0.0"
    folder.mkdir()
    (pack / "pack.yaml").rename(folder / "pack.yaml")
    write(pack, GOOD)
    assert knhk("pack", "test", folder, "--no-mutants").exit == 0


def test_rules_of_the_slower_tiers_are_mutated_too(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    text = file.read_text().replace("sh:minCount 1 ;", 'sh:minCount 1 ; sh:pattern "^[A-Z]{3}$" ;')
    file.write_text(text)
    cases = GOOD.replace("100, mutation: 100", "0, mutation: 0")
    write(pack, cases)
    before = knhk("pack", "test", pack).out
    told = {s["what"] for s in before["mutation"]["survivors"] if s["guard"].endswith("pattern")}
    assert told == {"the guard is dropped", "^ of the pattern dropped", "$ of the pattern dropped"}
    more = """  - name: four letters
    body: '{"id": "1", "currency": "EURO"}'
    verdict: DENY
  - name: an old currency
    body: '{"id": "1", "currency": "oEUR"}'
    verdict: DENY
"""
    write(pack, cases + more)
    after = knhk("pack", "test", pack).out
    assert [s for s in after["mutation"]["survivors"] if s["guard"].endswith("pattern")] == []
    assert after["tiers"]["cases"]["W1"] > 0


CONSTRUCT = """    - name: marks
      kind: construct
      target: https://example.com/ns#Order
      inline: |
        PREFIX ex: <https://example.com/ns#>
        CONSTRUCT { $this ex:seen "yes" } WHERE { $this ex:total ?total }
"""


def test_triples_of_a_are_held_to_what_is_expected(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("    - name: order\n", CONSTRUCT + "    - name: order\n"))
    case = """cases:
  - name: marked
    body: '{"id": "1", "currency": "EUR", "total": 1}'
    verdict: ADMIT
    triples: ['<https://example.com/orders/1> <https://example.com/ns#seen> "yes"%s']
"""
    write(pack, case % " .")
    assert knhk("pack", "test", pack).exit == 0
    write(pack, case.replace('"yes"', '"no"') % " .")
    (wrong,) = knhk("pack", "test", pack, "--no-mutants").out["cases"]["wrong"]
    assert [told.partition(":")[0] for told in wrong["told"]] == ["makes too", "does not make"]


def test_a_request_may_lack_an_attribute_of_the_defaults(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    rule = "    - name: named\n      kind: ask\n      inline: |\n        ASK { knhk:request attr:sub ?sub }\n"
    file.write_text(file.read_text().replace("    - name: order\n", rule + "    - name: order\n"))
    case = """defaults: {attributes: {sub: alice, role: clerk}}
cases:
  - {name: somebody, body: '{"id": "1", "currency": "EUR"}', verdict: ADMIT, failing: []}
  - {name: nobody, body: '{"id": "1", "currency": "EUR"}', without: [sub], verdict: DENY, failing: [named]}
"""
    write(pack, case)
    answer = knhk("pack", "test", pack, "--no-mutants")
    assert (answer.exit, answer.out["cases"]["wrong"]) == (0, [])


def test_edits_keep_the_spelling_of_numbers() -> None:
    """Exactness depends on how a number is written: an edit of one member must not rewrite another."""
    body = b'{"a": 1.10, "b": 1E400, "c": [0.1, -0], "d/e": {"~": true}}'
    edits = Edits(set=(("/f", "2.50"), ("/c/-", "null"), ("/d~1e/~0", '"x"')), remove=("/c/1",))
    assert edited(body, edits) == b'{"a":1.10,"b":1E400,"c":[0.1,null],"d/e":{"~":"x"},"f":2.50}'


def test_below_a_denial_by_the_tables_slower_rules_are_not_covered(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("sh:minCount 1 ;", 'sh:minCount 1 ; sh:pattern "^[A-Z]{3}$" ;'))
    denied = """cases:
  - {name: denied, body: '{"id": "1", "currency": "EUR", "total": 5000}', verdict: DENY}
"""
    write(pack, denied)
    counts = {row["guard"]: row["passed"] for row in knhk("pack", "test", pack, "--no-mutants").out["coverage"]["missing"]}
    assert counts["shapes.OrderShape.currency.minCount"] == 1
    assert counts["shapes.OrderShape.currency.pattern"] == 0
    write(pack, denied + '  - {name: admitted, body: \'{"id": "1", "currency": "EUR"}\', verdict: ADMIT}\n')
    counts = {row["guard"]: row["passed"] for row in knhk("pack", "test", pack, "--no-mutants").out["coverage"]["missing"]}
    assert counts["shapes.OrderShape.currency.pattern"] == 1
