"""Logs, witnesses and regions under a thousand seeds of crashes, lost and forged messages, and a stolen key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from regions import play
from run import replayed

RUN = Path(__file__).resolve().parents[1] / "sim" / "run.py"
SEEDS, PARTS = 1000, 4


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_of_regions_holds_under_every_seed(part: int) -> None:
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        outcome = play(seed)
        assert not outcome.law, replayed(seed, 150, world="regions")


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Sets of Python have another order in each process: nothing may follow from it."""
    command = [sys.executable, str(RUN), "--world", "regions", "--seed", "7", "--tail", "0"]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True) for seed in "12"
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.count("\n") > 20
