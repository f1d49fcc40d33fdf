"""Tables of random packs and of example packs with their mutants, under ASan and UBSan; `make fuzz` searches (docs/fuzzing.md)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tables import Tables, of_example, of_random_packs, written

from knhk_hot import fuzz

pytestmark = pytest.mark.xdist_group("fuzz-drivers")  # one worker builds them

MUTANTS = 500


def judge(tables: Tables, folder: Path) -> None:
    text, inputs = written(tables, folder)
    driver = fuzz.build_driver(fuzz.REPLAY, "decide", text, folder)
    try:
        assert fuzz.replay("decide", MUTANTS, driver=driver, inputs=inputs) == len(inputs) + MUTANTS
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{tables.name}: {error.stderr[-4000:]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tables_of_random_packs_are_read_within_bounds(tmp_path: Path) -> None:
    for tables in of_random_packs(3):
        judge(tables, tmp_path / tables.name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tables_of_an_example_and_its_mutants_are_read_within_bounds(tmp_path: Path) -> None:
    for name in ("order", "payment"):
        judge(of_example(name), tmp_path / name)
