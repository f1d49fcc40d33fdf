"""`make fuzz`: what one harness meets is counted and told, the others go on, and no find looks like a search that ended well."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from campaign import Campaign, Harness, harnesses, run, table
from parsers import PARSERS

from knhk_hot import fuzz

SAID = "#7\\tINITED cov: 3 ft: 5 corp: 2/9b\\nDone 11 runs in 1 second(s)"


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


FINE = Harness("fine", 1, lambda seconds, seed, place: python(f'print("{SAID}")'))
BREAKS = Harness("breaks", 1, lambda seconds, seed, place: python(f'print("{SAID}"); open("crash-1", "w"); exit(77)'))
HANGS = Harness("hangs", 1, lambda seconds, seed, place: python('open("timeout-1", "w"); exit(70)'))
ABSENT = Harness("absent", 1, lambda seconds, seed, place: ["/no/such/driver"])
DIES = Harness("dies", 1, lambda seconds, seed, place: python("import os; os.abort()"))


def test_every_harness_has_its_outcome_whatever_the_others_meet(tmp_path: Path) -> None:
    campaign = Campaign([BREAKS, HANGS, DIES, ABSENT, FINE], time.monotonic() + 60, 2, 1, tmp_path)
    campaign.work(0)
    outcomes = {outcome.harness.name: outcome for outcome in campaign.outcomes}
    assert {name: outcome.faults for name, outcome in outcomes.items()} == {
        "fine": (), "breaks": ("crash",), "hangs": ("timeout",), "dies": ("exit -6",),
        "absent": ("no start: [Errno 2] No such file or directory: '/no/such/driver'",),
    }  # fmt: skip
    assert (outcomes["breaks"].folder / "crash-1").exists()
    counted = outcomes["fine"].counted
    assert counted is not None
    assert (counted.runs, counted.edges, counted.features, counted.inputs) == (11, 3, 5, 2)


def test_a_harness_without_a_turn_is_a_fault(tmp_path: Path) -> None:
    campaign = Campaign([FINE], time.monotonic() - 1, 2, 1, tmp_path)
    campaign.work(0)
    assert [outcome.faults for outcome in campaign.outcomes] == [("no turn",)]


def test_the_table_names_all_harnesses_and_what_was_found(tmp_path: Path) -> None:
    every = harnesses()
    assert {harness.name for harness in every} == {"tables", *fuzz.DRIVERS, *(f"parser {name}" for name in PARSERS)}
    outcomes = [
        run(Harness(every[0].name, 1, FINE.command), 1, 1, tmp_path),
        run(Harness(every[1].name, 1, BREAKS.command), 1, 1, tmp_path),
    ]
    rows = table(outcomes).splitlines()
    assert [row.split(" | ")[-1] for row in rows[2:]] == ["– |", "crash |", "1 |"]
    assert rows[2].startswith(f"| {every[0].name} | 11 | 3 | 5 | 2 |")
