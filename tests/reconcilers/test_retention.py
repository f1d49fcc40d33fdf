"""Images that no revision needs leave the registry, and no other does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import NS
from rollout_world import PACK, World, pack, point

from knhk.packaging.image import PACK_NAME
from knhk.reconcilers.retention import SWEEP_EVERY_S
from knhk.reconcilers.workshop import GRACE_S


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


def test_images_of_other_packs_and_of_deleted_ones_stay() -> None:
    world = World()
    world.apply(point(), point("p2"))
    live(world, "1.0.0")
    world.apply(pack("7.0.0", name="others", targets="{point: p2}"))
    world.until_phase("Live", "7.0.0", replace(PACK, name="others"))
    world.store.delete(replace(PACK, name="others"))
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
