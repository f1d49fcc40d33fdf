"""Every decision has its receipt: counted from the application's database and the callers' side, not from the ring."""

from __future__ import annotations

import pytest
from system_world import World, assert_covered, fast_pack

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("system")]


def test_rows_and_responses_have_their_leaves(world: World) -> None:
    """Each row has one enforced ADMIT leaf over the body that the application saw; each response one leaf for each pack and arm."""
    with world.traffic(rate_s=80):
        first = world.roll(fast_pack("1.0.0"))
        second = world.roll(fast_pack("1.0.1"))
    world.down()
    covered = assert_covered(world)
    assert covered.rows > 100
    assert covered.unanswered <= world.lost
    assert {answer.status for answer in world.answers} <= {200, 201, 202, 403}  # 202: parked, where the machine was late
    packs = {leaf.pack.hex() for leaf in world.leaves()}
    assert packs >= {revision["digest"].removeprefix("sha256:")[:40] for revision in (first, second)}
    assert world.verify()["replayed"] >= covered.rows
