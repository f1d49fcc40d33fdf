"""Each bench runs with small sizes, and what it compares gives the same answers. Nothing here looks at times."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from bench.__main__ import BENCHES
from bench.anchors import available
from bench.figures import Goal, Row, single, spread
from bench.guards import ARGUMENTS, KERNELS
from bench.native import NativePack
from bench.verdict import agree

from bench import inputs
from knhk_hot.pack import ADMIT, DENY, Pack

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as `make bench` runs it, without touching the results of a real run."""
    return subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("name", BENCHES)
def test_a_bench_runs_with_small_sizes(name: str, tmp_path: Path) -> None:
    done = bench("--quick", "--only", name, "-o", "json", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["benches"]
    assert table["name"] == name
    assert all(math.isfinite(row["spread"]["median"]) if row["spread"] else "not run" in row["note"] for row in table["rows"])
    assert json.loads((tmp_path / "latest.json").read_text())["benches"] == [table]
    assert table["title"] in (tmp_path / "latest.md").read_text()


def test_every_engine_answers_as_the_rule_does() -> None:
    cases = inputs.access_cases()
    assert {case.admit for case in cases} == {True, False}
    engines, missing = available()
    assert {"rdflib ASK", "Oxigraph ASK", "pySHACL"} <= engines.keys(), missing
    assert {name: wrong for name, wrong in agree(engines, cases).items() if wrong} == {}


@pytest.mark.parametrize("variant", Pack.load(inputs.access_pack()).variants)
def test_the_timed_loops_decide_as_the_rule_does(variant: str) -> None:
    cases = inputs.access_cases()
    native = NativePack(inputs.access_pack(), [case.o for case in cases], variant)
    native.decide(1)
    assert native.verdicts() == [ADMIT if case.admit else DENY for case in cases]


def test_a_pack_of_many_guards_has_them_all_and_they_hold() -> None:
    pack = Pack.load(inputs.linked(inputs.many_guards(64)))
    assert len(pack.guards) == 64
    assert {guard.klass for guard in pack.guards} == {"R1"}
    assert pack.bind().decide(inputs.many_input().o).verdict == ADMIT


def test_kernels_have_arguments() -> None:
    assert set(ARGUMENTS) == set(KERNELS)


def test_a_goal_is_told_with_how_far_it_was_missed() -> None:
    assert Row("a", "×", single(50), goal=Goal(100)).judged() == "≥ 100: missed by ×2.00"
    assert Row("a", "ns", spread([1, 1, 3]), goal=Goal(2, most=True)).judged() == "≤ 2.00: reached"
    assert Row("a", "ns", spread([1, 1, 3]), goal=Goal(2, most=True, on_high=True)).judged() == "≤ 2.00 (p99): missed by ×1.50"


def test_a_wrong_name_says_which_there_are() -> None:
    done = bench("--only", "nothing")
    assert done.returncode == 2
    assert "verdict" in done.stderr
