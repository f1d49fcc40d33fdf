"""What is live promises less only by an event that says so, and by the word of those whom its stages ask."""

from __future__ import annotations

import pytest
from promising_packs import P1, SEALED, approve, asking, at, events, live_world, reason
from rollout_world import PACK, POINT, World, pack, point


@pytest.fixture
def live() -> World:
    return live_world()


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


# ---- whom a pack waits for ------------------------------------------------------------------------

FREE = "  rollout:\n"


def waits_for(text: str, rows: str) -> str:
    return text.replace(FREE, f"{FREE}    approvals: [{rows}]\n")


def test_approvals_taken_out_of_a_live_pack_are_asked_once_more(live: World) -> None:
    assert live.get().status["promises"]["approvals"] == [{"point": "p1", "count": 1, "notAuthor": False}]
    live.apply(at(pack("1.0.0"), "log"))
    live.until(lambda: reason(live) == "Unapproved")
    live.run(20)
    loosening = live.get().status["loosening"]
    assert (loosening["changes"], events(live)) == (["rollout.approvals is to be p1: nobody, and was p1: 1"], [])
    approve(live, loosening["digest"], "eve")
    live.until(lambda: "loosening" not in live.get().status)
    (told,) = events(live)
    assert told["evidence"]["loosened"] == [{"field": "rollout.approvals", "was": "p1: 1", "is": "p1: nobody"}]
    assert told["evidence"]["approvedBy"] == ["local:eve"]
    assert "promises" not in live.get().status
    live.apply(at(pack("1.1.0", constraint="sh:minCount 1 ; sh:maxCount 9"), "log"))
    live.until_phase("Live", "1.1.0")


def test_a_version_that_takes_approvals_out_waits_for_them_all_the_same(live: World) -> None:
    live.apply(at(pack("1.1.0", constraint="sh:minCount 1 ; sh:maxCount 9"), "ring"))
    live.until(lambda: reason(live) == "Unapproved")
    live.start()
    live.run(20)
    assert live.document()["mode"] == "Shadow"
    approve(live, live.get().status["revision"]["digest"])
    live.until_phase("Live", "1.1.0")
    live.until(lambda: reason(live) == "Unapproved")
    loosening = live.get().status["loosening"]
    assert [row.partition(" ")[0] for row in loosening["changes"]] == ["receipts.durability", "rollout.approvals"]
    approve(live, loosening["digest"], "eve")
    live.until(lambda: "durability" not in live.document()["stable"])


@pytest.mark.parametrize(
    ("was", "to", "targets"),
    [
        ("{stage: production, count: 2, notAuthor: false}", "{stage: production, notAuthor: false}", "{point: p1}"),
        ("{stage: production, notAuthor: false}", "", "{point: p1, stage: canary}"),
        (
            "{stage: production, notAuthor: false, approvers: [ada, eve]}",
            "{stage: production, notAuthor: false, approvers: [ada, eve, bob]}",
            "{point: p1}",
        ),
    ],
)
def test_fewer_people_another_stage_or_other_people_are_less_too(was: str, to: str, targets: str) -> None:
    world = World()
    world.apply(point(), waits_for(pack("1.0.0"), was))
    world.until(lambda: reason(world) == "Unapproved")
    for person in ("ada", "eve"):
        approve(world, world.get().status["revision"]["digest"], person)
    world.until_phase("Live")
    world.apply(waits_for(pack("1.0.0", targets=targets), to))
    world.until(lambda: "loosening" in world.get().status, 800)
    assert world.get().status["loosening"]["changes"][0].startswith("rollout.approvals is to be p1: ")
    assert reason(world) == "Unapproved"


def test_more_people_are_asked_at_once_and_by_no_event(live: World) -> None:
    live.apply(at(waits_for(pack("1.0.0"), "{stage: production, count: 2}"), "log"))
    live.until(lambda: live.get().status["promises"]["approvals"][0]["count"] == 2)
    live.run(8)
    assert (events(live), live.ready()["status"]) == ([], "True")
    assert live.get().status["promises"]["approvals"] == [{"point": "p1", "count": 2, "notAuthor": True}]
