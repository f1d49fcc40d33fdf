"""The log under a thousand seeds of kills, power cuts, lying disks and stores, and writers that sleep; and that a seed is enough to see it
again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from log_simulation import play
from run import replayed

RUN = Path(__file__).resolve().parents[1] / "sim" / "run.py"
SEEDS, PARTS = 1000, 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.failure("sequencer", "receipts")
@pytest.mark.failure("disk", "receipts")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_of_the_log_holds_under_every_seed(part: int) -> None:
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        outcome = play(seed)
        assert not outcome.law, replayed(seed, 150, world="log")


def test_a_seed_of_the_log_gives_the_same_run_in_every_process() -> None:
    traces = [_run("--seed", "67", "--tail", "0", PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert traces[0] == traces[1]
    assert traces[0].count("\n") > 30
    assert "every law holds" in traces[0]


def _run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), "--world", "log", *args]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
