"""What is live promises less only by an event that says so, and by the word of those whom its stages ask."""

from __future__ import annotations

from typing import Any

import pytest
from rollout_world import PACK, POINT, World, pack, point

from knhk.api.conditions import ready_of
from knhk.model.resource import Key, Resource

P1 = Key("EnforcementPoint", "erp", "p1")
ASKS = "  rollout:\n    approvals: [{stage: production, notAuthor: false}]\n"
SEALED = "  maxUnwitnessedSeconds: 60\n  privacy: {subjects: [{attribute: who}]}\n"


def asking(version: str, durability: str = "log", **more: Any) -> str:
    return at(pack(version, **more), durability).replace("  rollout:\n", ASKS)


def at(text: str, durability: str) -> str:
    return text + f"  receipts: {{durability: {durability}}}\n"


def approve(world: World, revision: str, person: str = "ada") -> None:
    spec = {"pack": "orders", "revision": revision, "stage": "production", "approver": f"local:{person}"}
    world.store.apply(Resource("Approval", "erp", f"{person}-{revision[7:15]}", spec))


def reason(world: World, key: Key = PACK) -> str:
    return str(ready_of(world.get(key).status).get("reason", ""))


def events(world: World, kind: str = "Loosened") -> list[dict[str, Any]]:
    return [s["predicate"] for s in world.log.statements() if s["predicate"]["kind"] == kind]


@pytest.fixture
def live() -> World:
    """1.0.0 is live at the level log, approved, at a point that seals."""
    world = World()
    world.apply(point() + SEALED, asking("1.0.0"))
    world.until(lambda: reason(world) == "Unapproved")
    approve(world, world.get().status["revision"]["digest"])
    world.until_phase("Live")
    world.until(lambda: reason(world, P1) == "Running")
    return world


def test_a_level_is_lowered_by_an_event_that_says_what_was_and_what_is() -> None:
    world = World()
    world.apply(point(), at(pack("1.0.0"), "log"))
    world.until_phase("Live")
    world.apply(at(pack("1.0.0"), "disk"))
    world.until(lambda: world.document()["stable"]["durability"] == "disk")
    (told,) = events(world)
    assert told["evidence"]["loosened"] == [{"field": "receipts.durability", "was": "log", "is": "disk"}]
    assert told["evidence"]["unreviewed"] is True
    assert world.document()["epoch"] == world.kinds().index("Loosened")
    world.apply(at(pack("1.0.0"), "region"))
    world.until(lambda: world.document()["stable"]["durability"] == "region")
    assert len(events(world)) == 1


def test_a_level_that_is_lowered_waits_for_a_word_about_that_very_change(live: World) -> None:
    live.apply(asking("1.0.0", "ring"))
    live.until(lambda: reason(live) == "Unapproved")
    loosening = live.get().status["loosening"]
    assert loosening["changes"] == ["receipts.durability is to be ring, and was log"]
    assert loosening["digest"] in live.ready()["message"]
    live.run(20)
    live.start()
    live.run(20)
    assert (live.document()["stable"]["durability"], events(live)) == ("log", [])
    approve(live, loosening["digest"], "eve")
    live.until(lambda: "durability" not in live.document()["stable"])
    (told,) = events(live)
    assert told["evidence"]["approvedBy"] == ["local:eve"]
    assert "loosening" not in live.get().status
    assert live.ready()["status"] == "True"
    assert live.kinds().index("Loosened") > max(i for i, kind in enumerate(live.kinds()) if kind == "Approved")


def test_what_is_taken_back_waits_for_nobody_and_the_next_time_is_another(live: World) -> None:
    live.apply(asking("1.0.0", "ring"))
    live.until(lambda: "loosening" in live.get().status)
    first = live.get().status["loosening"]["digest"]
    approve(live, first, "eve")
    live.apply(asking("1.0.0"))
    live.until(lambda: live.ready()["status"] == "True" and "loosening" not in live.get().status)
    live.apply(asking("1.0.0", "ring"))
    live.until(lambda: "loosening" in live.get().status)
    live.run(20)
    assert live.get().status["loosening"]["digest"] != first
    assert (live.document()["stable"]["durability"], events(live)) == ("log", [])


def test_a_version_that_wants_less_has_what_is_live_until_that_is_approved_too(live: World) -> None:
    live.apply(asking("1.1.0", "ring", constraint="sh:minCount 1 ; sh:maxCount 9"))
    live.until(lambda: reason(live) == "Unapproved")
    approve(live, live.get().status["revision"]["digest"])
    live.until_phase("Live", "1.1.0")
    live.run(20)
    assert (live.document()["stable"]["version"], live.document()["stable"]["durability"]) == ("1.1.0", "log")
    approve(live, live.get().status["loosening"]["digest"])
    live.until(lambda: "durability" not in live.document()["stable"])


def test_a_point_promises_less_when_its_stage_has_approved_it_and_rollbacks_reach_it_meanwhile(live: World) -> None:
    before = live.document()["pointConfig"]
    live.apply(point() + "  maxUnwitnessedSeconds: 0\n")
    live.until(lambda: reason(live, P1) == "Unapproved")
    live.start()
    live.run(20)
    assert live.document()["pointConfig"] == before
    loosening = live.get(P1).status["loosening"]
    assert loosening["changes"] == ["maxUnwitnessedSeconds is to be 0, and was 60", "privacy is to be clear, and was sealed"]
    live.bad = frozenset({"2.0.0"})
    live.apply(asking("2.0.0", constraint="sh:minCount 2"))
    live.until_phase("RolledBack", "2.0.0")
    assert (live.document()["candidate"], live.document()["pointConfig"]) == (None, before)
    approve(live, loosening["digest"], "eve")
    live.until(lambda: live.document()["pointConfig"] != before)
    (told,) = events(live)
    assert told["point"] == POINT
    assert told["evidence"]["loosened"] == [
        {"field": "maxUnwitnessedSeconds", "was": 60, "is": 0},
        {"field": "privacy", "was": "sealed", "is": "clear"},
    ]
    assert told["evidence"]["approvedBy"] == ["local:eve"]
    live.until(lambda: reason(live, P1) == "Running")
    assert live.get(P1).status["promises"] == {"failure": "Closed", "maxUnwitnessedSeconds": 0, "privacy": "clear"}
    assert "loosening" not in live.get(P1).status


def test_a_point_without_a_pack_that_asks_anybody_promises_less_by_an_event() -> None:
    world = World()
    world.apply(point() + SEALED)
    world.until(lambda: reason(world, P1) == "Running")
    world.apply(point() + "  maxUnwitnessedSeconds: 90\n", pack("1.0.0"))
    world.until_phase("Live")
    world.settle()
    (told,) = events(world)
    assert [row["field"] for row in told["evidence"]["loosened"]] == ["maxUnwitnessedSeconds", "privacy"]
    assert PACK.name not in told.get("pack", {})
