"""A deletion leaves its event, and what was promised under a name outlives the object that promised it."""

from __future__ import annotations

from typing import Any

import pytest
from promising_packs import P1, SEALED, approve, at, events, live_world, reason
from rollout_world import BUNDLE, PACK, World, bundle, pack, payload, point

from knhk.api import parse
from knhk.lockchain.events import parse_event
from knhk.model.faults import Waiting
from knhk.model.resource import Key
from knhk.ports.store import Listing
from knhk.reconcilers import restoring
from knhk.reconcilers.provenance import spec_digest


def flag(default: str) -> str:
    spec = f"{{pack: orders, variants: {{'on': true, 'off': false}}, defaultVariant: '{default}'}}"
    return f"apiVersion: knhk.dev/v1alpha1\nkind: FeatureFlag\nmetadata: {{name: canary, namespace: erp}}\nspec: {spec}\n"


def deletions(world: World) -> dict[str, dict[str, Any]]:
    """Predicates by subject."""
    found = [s for s in world.log.statements() if s["predicate"]["kind"] == "Deleted"]
    assert len(found) == len({s["subject"][0]["name"] for s in found})
    return {s["subject"][0]["name"]: s for s in found}


@pytest.fixture
def live() -> World:
    return live_world()


def test_each_deletion_leaves_one_event_of_what_was_there() -> None:
    world = World()
    world.apply(point(), bundle(), flag("on"), pack("1.0.0", bundles="{name: roles}"))
    world.until_phase("Live")
    world.run(8)
    there = {key: world.get(key) for key in (PACK, P1, BUNDLE, Key("FeatureFlag", "erp", "canary"))}
    for key in there:
        world.store.delete(key)
    world.run(8)
    found = deletions(world)
    assert set(found) == {"pack/erp/orders@1.0.0", "point/erp/p1", "data/erp/roles@1.0.0", "flag/erp/canary"}
    was = there[PACK]
    told = found["pack/erp/orders@1.0.0"]
    assert told["subject"][0]["digest"]["sha256"] == spec_digest(was)
    assert told["predicate"]["evidence"] == {"uid": was.uid, "generation": was.generation, "promises": {}}
    assert told["predicate"]["pack"]["digest"] == was.status["live"]["digest"]
    world.settle()
    world.start()
    world.run(8)
    assert len(deletions(world)) == 4


def test_an_object_that_another_takes_the_place_of_was_deleted_too() -> None:
    world = World()
    world.apply(point())
    world.until(lambda: reason(world, P1) == "Running")
    before = world.get(P1).uid
    world.store.delete(P1)
    world.apply(point())
    world.run(8)
    assert deletions(world)["point/erp/p1"]["predicate"]["evidence"]["uid"] == before


def test_a_deletion_that_is_seen_while_the_store_is_half_away_leaves_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.merged_only = frozenset({"erp"})
    world.start()
    world.apply(point())
    world.until(lambda: reason(world, P1) == "NotMerged")
    world.run(8)
    there = world.store.list

    def away(kind: str, *which: Any) -> Listing:
        if kind == "PolicyRepository":
            raise Waiting("ApiServer", "the API server does not answer", 1.0)
        return there(kind, *which)

    monkeypatch.setattr(world.store, "list", away)
    world.store.delete(P1)
    world.run(8)
    monkeypatch.undo()
    world.run(8)
    assert deletions(world)["point/erp/p1"]["predicate"]["evidence"]["stays"] == "the API server does not answer"


def test_a_pack_that_is_made_again_promises_what_it_did(live: World) -> None:
    live.store.delete(PACK)
    live.until(lambda: live.document()["stable"] is None)
    live.settle()
    live.start()  # whoever leads next knows it, too
    live.apply(at(pack("1.0.1", constraint="sh:minCount 1 ; sh:maxCount 9"), "ring"))
    live.until(lambda: reason(live) == "Unapproved")
    assert live.document()["mode"] == "Shadow"
    live.store.delete(PACK)  # once more, before it was live
    live.settle()
    live.apply(at(pack("1.0.1", constraint="sh:minCount 1 ; sh:maxCount 9"), "ring"))
    live.until(lambda: reason(live) == "Unapproved")
    approve(live, live.get().status["revision"]["digest"])
    live.until_phase("Live", "1.0.1")
    live.until(lambda: "loosening" in live.get().status)
    live.run(20)
    assert (live.document()["stable"]["durability"], events(live)) == ("log", [])
    approve(live, live.get().status["loosening"]["digest"], "eve")
    live.until(lambda: "durability" not in live.document()["stable"])
    live.store.delete(PACK)
    live.settle()
    live.apply(pack("1.0.2", constraint="sh:minCount 1 ; sh:maxCount 8"))
    live.until_phase("Live", "1.0.2")  # what was let is let
    assert "promises" not in live.get().status


def test_a_point_that_is_made_again_promises_what_it_did(live: World) -> None:
    before = live.document()["pointConfig"]
    live.store.delete(P1)
    live.until(lambda: "erp/p1" not in live.placement.running)
    live.start()
    handed = len(live.fleet.handed)
    live.apply(point() + "  maxUnwitnessedSeconds: 0\n")
    live.until(lambda: reason(live, P1) == "Unapproved")
    live.run(20)
    assert {payload(envelope)["pointConfig"] for _, envelope in live.fleet.handed[handed:]} <= {before}
    loosening = live.get(P1).status["loosening"]
    assert loosening["changes"] == ["maxUnwitnessedSeconds is to be 0, and was 60", "privacy is to be clear, and was sealed"]
    approve(live, loosening["digest"], "eve")
    live.until(lambda: live.document()["pointConfig"] != before)
    (told,) = events(live)
    assert told["evidence"]["approvedBy"] == ["local:eve"]
    live.until(lambda: reason(live, P1) == "Running")


def test_a_point_that_is_made_again_as_it_was_waits_for_nobody(live: World) -> None:
    live.store.delete(P1)
    live.until(lambda: "erp/p1" not in live.placement.running)
    live.apply(point() + SEALED)
    live.until(lambda: reason(live, P1) == "Running")
    assert events(live) == []


def given(told: restoring.Told, *texts: str) -> tuple[set[Key], list[str]]:
    """What a restore from a commit with these texts makes, and what it notes."""
    resources, notes = restoring.resources(told, [one for text in texts for one in parse(text, "commit.yaml")], reviews=False)
    return {resource.key for resource in resources}, notes


def history(world: World) -> restoring.Told:
    return restoring.told([(index, parse_event(said)) for index, said in enumerate(world.log.statements())])


def test_a_restore_brings_nothing_back_that_was_deleted_until_it_was_made_again() -> None:
    world, texts = World(), (point(), flag("on"), pack("1.0.0"))
    world.apply(*texts)
    world.until_phase("Live")
    world.run(8)
    world.store.delete(PACK)
    world.store.delete(Key("FeatureFlag", "erp", "canary"))
    world.run(8)
    told = history(world)
    keys, notes = given(told, *texts)
    assert keys == {P1}
    entries = [index for index, kind in enumerate(world.kinds()) if kind == "Deleted"]
    assert [f"entry {index} of the log says that it was deleted" in " ".join(notes) for index in entries] == [True, True]
    assert restoring.lost(told, ()) == []
    world.apply(pack("1.0.1", constraint="sh:minCount 1 ; sh:maxCount 9"))
    world.until_phase("Live", "1.0.1")
    world.settle()
    told = history(world)
    assert given(told, *texts)[0] == {P1, PACK}
    assert restoring.live_points(told, "erp/orders") == ["p1"]
    assert [fault.where for fault in restoring.lost(told, ())] == ["PolicyPack erp/orders"]
