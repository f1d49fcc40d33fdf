"""The controller dies before and after every change that it makes, each in turn, and a fresh one over the same stores goes on.

Reading changes nothing, so a death at a reading is the death after the change before it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from fakes import Died, Fate
from rollout_world import PACK, STEP_S, World, bundle, pack, point

from knhk.model.resource import Key

PARTS = 4  # of the moments, so that workers share them

Act = Callable[[World], None]
Story = tuple[tuple[Act, str, str], ...]

GOOD_BAD_GOOD: Story = (
    (lambda w: w.apply(point(), bundle(), pack("1.0.0", bundles="{name: roles}")), "Live", "1.0.0"),
    (lambda w: w.apply(pack("1.1.0", bundles="{name: roles}", constraint="sh:minCount 2")), "RolledBack", "1.1.0"),
    (lambda w: w.apply(bundle(2), pack("1.2.0", bundles="{name: roles}")), "Live", "1.2.0"),
)
ABORT_HOLD_REFUSE: Story = (
    (lambda w: w.apply(point(), pack("1.0.0")), "Live", "1.0.0"),
    (lambda w: _quiet(w, pack("1.1.0", no_data="Hold", deadline=2)), "Stalled", "1.1.0"),
    (lambda w: w.annotate(PACK, abort="stop"), "Aborted", "1.1.0"),
    (lambda w: w.apply(pack("1.2.0", constraint="sh:minCount -1")), "Stalled", "1.2.0"),
    (lambda w: w.apply(pack("1.0.0")), "Live", "1.0.0"),
)


def _quiet(world: World, text: str) -> None:
    world.traffic = 0
    world.apply(text)


def play(world: World, story: Story) -> None:
    """Plays a story; whenever the controller dies a fresh one takes its place."""
    for act, phase, version in story:
        act(world)
        _until(world, lambda phase=phase, version=version: _is(world, phase, version))  # type: ignore[misc]
    _until(world, lambda: len(world.receipts()) == len(world.log.entries) and not _pending(world))


def _until(world: World, true: Callable[[], bool]) -> None:
    for _ in range(300):
        if true():
            return
        try:
            world.step()
        except Died:
            world.start()
    raise AssertionError(f"not within 300 steps: {world.describe()}")


def _is(world: World, phase: str, version: str) -> bool:
    revision = world.get().status.get("revision", {})
    return (revision.get("phase"), revision.get("version")) == (phase, version)


def _pending(world: World) -> bool:
    keys = (Key("PolicyPack", "erp", "orders"), Key("EnforcementPoint", "erp", "p1"))
    return any("pending" in world.get(key).status for key in keys)


def end_state(world: World) -> tuple[object, ...]:
    """What must not depend on where the controller died."""
    status, document = world.get().status, world.document()
    return (
        [(row["version"], row["outcome"]) for row in status.get("history", [])],
        [row["digest"] for row in status.get("denyList", [])],
        status["revision"]["phase"],
        status["live"]["digest"],
        {name: document[name] for name in ("mode", "weight", "stable", "candidate", "data")},
        [kind for kind in world.kinds() if kind not in ("PointChanged", "DocumentRenewed")],
    )


def new_world(at: int = -1) -> World:
    return World(bad=frozenset({"1.1.0"}), fate=Fate(at))


@pytest.mark.slow
@pytest.mark.failure("operator", "rollout")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("story", [GOOD_BAD_GOOD, ABORT_HOLD_REFUSE], ids=["good-bad-good", "hold-abort-refuse"])
def test_a_death_at_any_moment_changes_nothing_in_the_end(story: Story, part: int) -> None:
    whole = new_world()
    play(whole, story)
    wanted = end_state(whole)
    moments = len(whole.fate.moments)
    assert moments > 100
    for at in range(part, moments, PARTS):
        world = new_world(at)
        play(world, story)
        assert end_state(world) == wanted, f"died at moment {at}, {world.fate.moments[at]}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_controller_that_dies_again_and_again_gets_there(seed: int) -> None:
    """Each life makes up to thirty changes."""
    chance, world = Random(seed), new_world()
    for act, phase, version in GOOD_BAD_GOOD:
        act(world)
        for _ in range(600):
            if _is(world, phase, version):
                break
            world.fate.at = len(world.fate.moments) + chance.randrange(60)
            try:
                world.step()
            except Died:
                world.clock.sleep(STEP_S)
                world.start()
        assert _is(world, phase, version), world.describe()
    world.fate.at = -1
    world.settle()
