"""How durable receipts must be is said in the rollout document, beside the pack, and counts at once."""

from __future__ import annotations

from rollout_world import World, pack, point


def with_durability(text: str, level: str) -> str:
    return text + f"  receipts: {{durability: {level}}}\n"


def test_the_document_says_it_of_each_pack_while_one_follows_the_other() -> None:
    world = World()
    world.apply(point(), with_durability(pack("1.0.0"), "disk"))
    world.until_phase("Live")
    assert world.document()["stable"]["durability"] == "disk"
    world.apply(with_durability(pack("1.1.0"), "log"))
    world.until(lambda: world.get().status["revision"].get("arm") == "Canary")
    assert [world.document()[arm]["durability"] for arm in ("stable", "candidate")] == ["disk", "log"]
    world.until_phase("Live")
    assert world.document()["stable"]["durability"] == "log"
    assert "durability" not in str(world.document()["candidate"])


def test_a_changed_level_builds_nothing_and_counts_at_once() -> None:
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    before = world.document()
    assert "durability" not in before["stable"]
    for level in ("log", "disk"):
        world.apply(with_durability(pack("1.0.0"), level))
        world.run(4)
        assert (world.get().status["revision"]["phase"], world.document()["stable"]) == ("Live", {**before["stable"], "durability": level})
    world.apply(pack("1.0.0"))
    world.run(4)
    assert world.document()["stable"] == before["stable"]
    assert world.document()["epoch"] > before["epoch"]


def test_a_level_that_changed_beside_the_targets_is_the_new_one() -> None:
    """The same bytes for other points are live at once; the level of before goes with the spec of before."""
    world = World()
    world.apply(point(), point("p2"), with_durability(pack("1.0.0"), "log"))
    world.until_phase("Live")
    world.apply(pack("1.0.0", targets="{point: p1}, {point: p2}"))
    world.run(8)
    world.until_phase("Live")
    assert "durability" not in world.document()["stable"]
