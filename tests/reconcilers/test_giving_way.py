"""Receipts of finished builds give way while others are built: none is lost, none is made twice, none waits for ever."""

from __future__ import annotations

from fakes import NS, Died, Fate
from rollout_world import PACK, STEP_S, World, pack, point

from knhk.model.resource import Key
from knhk.reconcilers.context import GIVES_WAY_S

BUILT = ["Compiled", "Built", "Signed"]
SLOW = Key("PolicyPack", "erp", "slow")


def busy(fate: Fate | None = None) -> World:
    """A build is under way that ends when `finish` says so."""
    world = World(fate=fate or Fate())
    world.executor.hold = True
    world.apply(pack("1.0.0", name=SLOW.name, targets="{point: none}"))
    while not world.executor.kept:
        step(world)
        world.executor.hold = True  # of a fresh controller, too
    world.executor.hold = False
    world.under_way = world.executor.kept.pop()  # type: ignore[attr-defined]
    return world


def finish(world: World) -> None:
    world.executor.kept.append(world.under_way)  # type: ignore[attr-defined]
    world.executor.release()


def step(world: World) -> None:
    """A turn; of a fresh controller when this one dies."""
    try:
        world.step()
    except Died:
        world.start()


def signed(world: World) -> None:
    world.apply(pack("1.0.0", targets="{point: none}"))
    world.until_phase("Signed")


def events(world: World) -> list[str]:
    return [receipt.spec["event"] for receipt in world.receipts()]


def test_receipts_of_a_finished_build_wait_while_another_is_under_way() -> None:
    world = busy()
    signed(world)
    world.run(int(GIVES_WAY_S / STEP_S / 2))
    assert world.kinds() == BUILT
    assert events(world) == []
    assert len(world.get().status["pending"]) == len(BUILT)
    finish(world)
    world.until(lambda: len(world.kinds()) == 2 * len(BUILT))
    world.settle()
    assert sorted(events(world)) == sorted(2 * BUILT)
    assert "pending" not in world.get().status


def test_under_builds_without_end_receipts_come_a_little_later() -> None:
    world = busy()
    signed(world)
    world.run(int((GIVES_WAY_S + 2) / STEP_S))
    assert sorted(events(world)) == sorted(BUILT)
    assert "pending" not in world.get().status
    assert world.get(SLOW).status["revision"]["phase"] == "Pending"


def test_a_rollout_waits_for_no_build() -> None:
    world = busy()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Rolling")
    world.run(3)
    assert {*BUILT, "RolloutStarted"} <= set(events(world))


def test_a_deleted_pack_waits_for_no_build() -> None:
    world = busy()
    signed(world)
    world.store.delete(PACK)
    world.run(4)
    assert sorted(events(world)) == sorted([*BUILT, "Deleted"])
    assert not world.controller.journal.owes(PACK)


def test_a_clock_that_goes_back_makes_nothing_wait() -> None:
    world = busy()
    signed(world)
    world.clock.ns -= 3600 * NS
    world.run(3)
    assert sorted(events(world)) == sorted(BUILT)


def test_a_death_at_any_moment_leaves_each_event_its_one_receipt() -> None:
    whole = busy()
    signed(whole)
    whole.run(int((GIVES_WAY_S + 2) / STEP_S))
    assert len(whole.fate.moments) > 10
    for at in range(len(whole.fate.moments)):
        world = busy(Fate(at))
        world.apply(pack("1.0.0", targets="{point: none}"))
        for _ in range(int((GIVES_WAY_S + 8) / STEP_S)):
            step(world)
        own = [receipt.spec["event"] for receipt in world.receipts() if receipt.labels["pack"] == PACK.name]
        assert sorted(own) == sorted(BUILT), f"died at moment {at}, {world.fate.moments[at]}"
        assert "pending" not in world.get().status
