"""SIGKILL at random moments under traffic: nothing acknowledged is lost or counted twice, and the rollout ends where it must."""

from __future__ import annotations

import random

import pytest
from system_world import AGENT, ENVOY, SEQUENCER, World, assert_covered, fast_pack, until

KILLS = 30
CONTROL_KILLS = 3
CONTROL_PLANE = "control plane"
SEED = 20_261_123
LONGEST_PAUSE_S = 1.0
LANES = 8

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("system"), pytest.mark.timeout(420)]


def kill(world: World, name: str) -> None:
    """One SIGKILL; returns when it runs again."""
    if name == CONTROL_PLANE:
        world.kill_control()
        world.up()
    else:
        world.until_restarted(name, world.kill(name))


def kill_plan(chance: random.Random) -> list[str]:
    """Whom to kill, in order: each child about as often, the control plane in between."""
    names = [(AGENT, ENVOY, SEQUENCER)[i % 3] for i in range(KILLS - CONTROL_KILLS)] + [CONTROL_PLANE] * CONTROL_KILLS
    chance.shuffle(names)
    return names


@pytest.mark.failure("Envoy", "traffic")
@pytest.mark.failure("Envoy", "receipts")
@pytest.mark.failure("Envoy", "rollout")
@pytest.mark.failure("agent", "receipts")
@pytest.mark.failure("agent", "rollout")
@pytest.mark.failure("sequencer", "receipts")
@pytest.mark.failure("sequencer", "rollout")
@pytest.mark.failure("operator", "traffic")
@pytest.mark.failure("operator", "receipts")
@pytest.mark.failure("operator", "rollout")
def test_kills_at_random_moments(world: World) -> None:
    """30 SIGKILLs of agent, Envoy, sequencer, control plane in a rollout: all rows and responses keep their one receipt; it goes live."""
    chance = random.Random(SEED)
    with world.traffic(rate_s=80, writes_only=True) as traffic:
        world.roll(fast_pack("1.0.0"))
        world.apply(fast_pack("1.0.1", shadow=500, step=1_000))
        until(lambda: world.revision().get("phase") == "Rolling", "the second version rolls")
        for number, name in enumerate(kill_plan(chance)):
            answered = len(world.answers)
            traffic.wait(chance.uniform(0.0, LONGEST_PAUSE_S))
            kill(world, name)
            until(lambda seen=answered: len(world.answers) > seen, f"answers after kill {number} of {name}")
        assert world.revision()["version"] == "1.0.1"
        world.until_phase("1.0.1", "Live")
    world.until_logged()
    world.down()
    covered = assert_covered(world)
    assert covered.unanswered <= world.lost <= KILLS * LANES, covered
    assert world.verify()["replayed"] >= covered.rows
