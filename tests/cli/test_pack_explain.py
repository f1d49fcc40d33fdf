"""`knhk pack explain`: class and reason, kernels, cost and terms of each guard, and the graph of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from knhk_gen.table import kernel_cycles

RULES = """    - name: pairs
      kind: ask
      target: https://example.com/ns#Order
      inline: |
        PREFIX ex: <https://example.com/ns#>
        ASK { $this ?any ?x . ?other ex:currency ?x . ?other ex:total ?y }
"""


def explained(knhk: Any, pack: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in knhk("pack", "explain", pack).out["guards"]}


def test_each_guard_says_line_class_reason_kernel_cost_and_terms(knhk: Any, pack: Path) -> None:
    row = explained(knhk, pack)["shapes.OrderShape.total.maxInclusive"]
    line = next(n for n, text in enumerate((pack / "pack.yaml").read_text().splitlines(), 1) if "sh:maxInclusive" in text)
    assert (row["class"], row["kernels"], row["cost"]) == (
        "R1",
        {"compare": 1},
        {"rows": 1, "folds": 0, "tests": 0, "cycles": kernel_cycles()["compare"]},
    )
    assert row["source"] == f"{pack}/pack.yaml:{line}"
    assert row["terms"] == ["https://example.com/ns#Order", "https://example.com/ns#total"]
    assert row["target"] == "class https://example.com/ns#Order"
    assert explained(knhk, pack)["shapes.OrderShape.currency.minCount"]["kernels"] == {"ask_sp": 1}


def test_what_only_a_query_engine_can_decide_says_why(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("    - name: order\n", RULES + "    - name: order\n"))
    row = explained(knhk, pack)["pairs"]
    assert row["class"] == "C1"
    assert "C1, " in row["why"]
    assert len(row["why"]) > len("x: C1, ")
    assert row["kernels"] == {}
    assert {"https://example.com/ns#currency", "https://example.com/ns#total"} <= set(row["terms"])


def test_dot_draws_every_guard_and_what_it_reads(knhk: Any, pack: Path) -> None:
    text = knhk("pack", "explain", pack, "-o", "dot").text
    assert text.startswith("digraph plan {")
    assert text.count("{") == text.count("}") == 1
    guards = re.findall(r'^  (g\d+) \[shape=box.*label="([^"\\]*)', text, re.MULTILINE)
    assert [name for _, name in guards] == list(explained(knhk, pack))
    terms = dict(re.findall(r'^  (x\d+) \[shape=plaintext, label="([^"]*)"', text, re.MULTILINE))
    edges = set(re.findall(r"^  (g\d+) -> (x\d+);", text, re.MULTILINE))
    total = next(node for node, name in guards if name.endswith("total.datatype"))
    assert "https://example.com/ns#total" in {terms[x] for g, x in edges if g == total}


def test_a_format_of_one_command_is_no_format_of_another(knhk: Any, pack: Path) -> None:
    answer = knhk("pack", "check", pack, "-o", "dot")
    assert answer.exit == 2
    catalog = {(c["noun"], c["verb"]): c for c in knhk("catalog").out["commands"]}
    choices = {words: next(a["choices"] for a in c["arguments"] if "-o" in a["names"]) for words, c in catalog.items()}
    assert "dot" in choices["pack", "explain"]
    assert "dot" not in choices["pack", "check"]
