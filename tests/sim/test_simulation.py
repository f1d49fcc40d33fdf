"""The control plane under a thousand seeds of faults, deaths, people and time; and that a seed is enough to see it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run import replayed
from simulation import play

from knhk.model.phases import WORKING, Event, Phase

RUN = Path(__file__).with_name("run.py")
SEEDS, PARTS, SWITCHED = 1000, 10, 100
ENDS = (Phase.PENDING, Phase.SIGNED, Phase.ROLLING, Phase.STALLED)

# Of MOVES, those that the reconcilers make (docs/simulation.md): the events of a build are one write, so Compiled and Built never rest.
REACHED = {
    (Phase.PENDING, Event.COMPILED),
    (Phase.COMPILED, Event.BUILT),
    (Phase.BUILT, Event.SIGNED),
    (Phase.SIGNED, Event.ROLLOUT_STARTED),
    (Phase.ROLLING, Event.STEP_ADVANCED),
    (Phase.ROLLING, Event.PROMOTED),
    (Phase.PENDING, Event.REFUSED),
    (Phase.ROLLING, Event.ROLLED_BACK),
    (Phase.STALLED, Event.ROLLED_BACK),
    (Phase.STALLED, Event.RESUMED),
    *((phase, Event.ABORTED) for phase in ENDS),
    *((phase, Event.STALLED) for phase in WORKING if phase in ENDS),
    *((phase, Event.SUPERSEDED) for phase in ENDS),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.failure("operator", "rollout")
@pytest.mark.failure("API server", "rollout")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_holds_under_every_seed(part: int) -> None:
    for seed in range(part * SEEDS // PARTS, (part + 1) * SEEDS // PARTS):
        outcome = play(seed)
        assert not outcome.law, replayed(seed, 150)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "focus", [{"switches": 0.3}, {"waves": 1.0, "restarts": 0.2}, {"waves": 1.0, "scaling": 0.3, "busy": 0.2}, {"witnesses": 0.3}], ids=str
)
def test_every_law_holds_while_flags_are_turned_people_approve_and_steps_are_in_waves(focus: dict[str, float]) -> None:
    for seed in range(SWITCHED):
        outcome = play(seed, focus=focus)
        assert not outcome.law, replayed(seed, 150, focus)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_move_that_can_be_made_is_made() -> None:
    """Where requests come now and then, rollouts are held, and go on or back."""
    left = set(REACHED)
    for seed in range(SEEDS, 2 * SEEDS):
        moves = play(seed, focus={"busy": 0.2 if seed % 2 else 0.9, "bad": 0.5}).moves
        assert moves <= REACHED, f"seed {seed}: new moves, to be told in docs/simulation.md"
        left -= moves
        if not left:
            return
    raise AssertionError(f"never made: {sorted(left)}")


@pytest.mark.slow
def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Sets of Python have another order in each process: nothing may follow from it."""
    traces = [_run("--seed", "440", "--tail", "0", PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert traces[0] == traces[1]
    assert traces[0].count("\n") > 100


def test_a_run_says_how_many_seeds_it_played() -> None:
    found = _run("--start", "3", "--seeds", "2", "--processes", "1")
    assert "seeds 3 to 4: every law holds" in found.stdout
    assert found.returncode == 0


def _run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *args], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
