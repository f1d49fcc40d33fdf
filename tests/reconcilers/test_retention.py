"""Images that no revision needs leave the registry, and no other does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import NS
from rollout_world import PACK, World, pack, point

from knhk.model.faults import Deposed, Waiting
from knhk.packaging.image import PACK_NAME
from knhk.reconcilers.retention import SWEEP_EVERY_S
from knhk.reconcilers.workshop import GRACE_S, Retirement
from knhk.wiring.leading import ACTS, fence


def live(world: World, *versions: str) -> None:
    for version in versions:
        world.apply(pack(version))
        world.until_phase("Live", version)


def images(world: World) -> set[str]:
    """Versions of the pack that lie in the registry."""
    found = world.registry.listed()
    return {told.annotations["org.opencontainers.image.version"] for told in found if PACK_NAME in told.annotations}


def days(world: World, count: int = 2) -> None:
    """Enough time for sweeps."""
    for _ in range(count * int(GRACE_S / SWEEP_EVERY_S + 2)):
        world.clock.ns += int(SWEEP_EVERY_S + 1) * NS
        world.run(2)


def test_what_the_status_names_stays_however_much_time_passes() -> None:
    world = World()
    world.apply(point())
    live(world, "1.0.0", "1.1.0", "1.2.0")
    days(world)
    assert images(world) == {"1.0.0", "1.1.0", "1.2.0"}
    assert [row["version"] for row in world.get().status["history"]] == ["1.1.0", "1.0.0"]


def test_a_revision_that_left_the_history_leaves_the_registry_after_a_while() -> None:
    world = World()
    world.apply(point())
    live(world, "1.0.0", "1.1.0", "1.2.0")
    shortened = {**world.get().status, "history": world.get().status["history"][:1]}
    world.store.update_status(replace(world.get(), status=shortened))
    world.clock.ns += int(SWEEP_EVERY_S + 1) * NS
    world.run(2)
    assert "1.0.0" in images(world), "seen for the first time: what is just being built is no garbage"
    days(world)
    assert images(world) == {"1.1.0", "1.2.0"}
    assert world.registry.resolve("erp/orders:1.0.0") is None


def test_a_version_that_is_applied_again_while_images_are_taken_away_keeps_its_image() -> None:
    """The sweep was told what is needed before anybody wanted it again."""
    world = World()
    world.apply(point())
    live(world, "1.0.0", "1.1.0", "1.2.0")
    world.store.update_status(replace(world.get(), status={**world.get().status, "history": []}))
    world.clock.ns += int(SWEEP_EVERY_S + 1) * NS
    world.run(2)
    world.clock.ns += int(GRACE_S + 1) * NS
    world.executor.hold = True  # the sweep waits for its turn
    world.run(2)
    (sweep,) = world.executor.kept
    world.apply(pack("1.0.0"))
    world.until(lambda: len(world.executor.kept) == 2)
    world.executor.kept.reverse()  # the build finds the image in the registry, and then it goes
    world.executor.release()
    assert sweep[0].done()
    world.executor.hold = False
    world.until_phase("Rolling", "1.0.0")
    assert world.document()["candidate"]["digest"] in world.registry.blobs
    assert "1.0.0" in images(world)


def test_a_sweep_ends_when_nobody_waits_for_it_any_longer() -> None:
    world = World()
    world.apply(point())
    live(world, "1.0.0", "1.1.0")
    retirement = Retirement(world.registry, world.clock, 0.0)
    with pytest.raises(Waiting):
        retirement.sweep({"erp/orders": ()}, lambda: False)
    assert images(world) == {"1.0.0", "1.1.0"}
    retirement.sweep({"erp/orders": ()})
    assert images(world) == set()


def test_a_sweep_of_a_process_that_leads_no_longer_takes_nothing_away() -> None:
    world = World()
    world.apply(point())
    live(world, "1.0.0", "1.1.0")

    def check() -> None:
        raise Deposed("another leads")

    retirement = Retirement(fence(world.registry, ACTS["registry"], check), world.clock, 0.0)
    with pytest.raises(Deposed):
        retirement.sweep({"erp/orders": ()})
    assert images(world) == {"1.0.0", "1.1.0"}


def test_images_of_other_packs_and_of_deleted_ones_stay() -> None:
    world = World()
    world.apply(point(), point("p2"))
    live(world, "1.0.0")
    world.apply(pack("7.0.0", name="others", targets="{point: p2}"))
    world.until_phase("Live", "7.0.0", PACK._replace(name="others"))
    world.store.delete(PACK._replace(name="others"))
    days(world)
    assert images(world) == {"1.0.0", "7.0.0"}


def test_a_sweep_that_fails_as_nobody_thought_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.apply(point())
    live(world, "1.0.0")

    def collect_garbage() -> None:
        raise KeyError("outcome")

    monkeypatch.setattr(world.registry, "collect_garbage", collect_garbage)
    days(world, 1)
    live(world, "1.1.0")
    monkeypatch.undo()
    live(world, "1.2.0")
