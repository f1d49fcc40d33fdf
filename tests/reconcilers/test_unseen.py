"""A new pack is written for the first time when there is something to tell; whatever happens before meets nothing half."""

from __future__ import annotations

from collections import Counter

from rollout_world import World, pack

from knhk.api.conditions import ready_of

BUILT = Counter(("Compiled", "Built", "Signed"))


def waiting() -> World:
    """A new pack that the builder has not begun with."""
    world = World()
    world.executor.hold = True
    world.apply(pack("1.0.0"))
    world.run(2)
    return world


def goes_on(world: World) -> None:
    world.executor.hold = False
    world.executor.release()


def told_once(world: World) -> None:
    world.run(4)
    world.settle()
    assert Counter(world.kinds()) == BUILT


def test_its_build_is_told_with_all_that_was_before() -> None:
    world = waiting()
    assert (world.get().status, len(world.executor.kept)) == ({}, 1)
    goes_on(world)
    world.until_phase("Signed")
    told_once(world)


def test_one_that_is_waited_for_longer_says_so_and_keeps_its_turn() -> None:
    world = waiting()
    world.until_phase("Pending")
    assert world.ready()["message"] == "1.0.0 is to be compiled"
    assert len(world.executor.kept) == 1
    goes_on(world)
    world.until_phase("Signed")
    told_once(world)


def test_what_is_edited_before_is_built_as_it_is_now() -> None:
    world = waiting()
    world.apply(pack("1.1.0"))
    world.run(2)
    goes_on(world)
    world.until_phase("Signed", "1.1.0")
    told_once(world)
    assert {name.partition(":")[2] for name in world.registry.named} == {"1.1.0"}, "the build of what it was is taken back"


def test_what_is_edited_before_and_waits_then_takes_its_build_back() -> None:
    world = waiting()
    world.apply(pack("1.1.0", bundles="{name: rates}"))
    world.until(lambda: ready_of(world.get().status).get("reason") == "Waiting")
    goes_on(world)
    world.run(4)
    assert not world.registry.named


def test_a_crash_before_leaves_nothing_behind() -> None:
    world = waiting()
    world.start()
    world.until_phase("Signed")
    told_once(world)


def test_deleted_before_it_leaves_no_event() -> None:
    world = waiting()
    world.store.delete(world.get().key)
    world.run(2)
    goes_on(world)
    world.run(4)
    assert world.kinds() == []
    world.apply(pack("2.0.0"))
    world.until_phase("Signed", "2.0.0")
