"""Stories of rollouts from end to end: what a person applies, what points are told, what the status and the log say."""

from __future__ import annotations

import json

import pytest
from fakes import NS
from rollout_world import BUNDLE, PACK, POINT, STEPS, World, bundle, pack, payload, point

from knhk.decide.rollout import Wait, decide
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Conflict, NotFound, Stalled, Waiting
from knhk.model.phases import Phase
from knhk.model.resource import Key, Resource
from knhk.reconcilers.context import statement_of
from knhk.reconcilers.observing import Observer
from knhk.reconcilers.plans import Plans

P1 = Key("EnforcementPoint", "erp", "p1")


@pytest.fixture
def live() -> World:
    """1.0.0 is live at p1."""
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    return world


def modes(world: World, name: str = POINT) -> list[tuple[str, int]]:
    """Mode and weight of the documents of a point, in order, repeats left out."""
    found: list[tuple[str, int]] = []
    for where, envelope in world.fleet.handed:
        document = payload(envelope)
        if where == name and (document["mode"], document["weight"]) not in found[-1:]:
            found.append((document["mode"], document["weight"]))
    return found


def test_a_first_version_goes_through_shadow_and_canary_to_live(live: World) -> None:
    assert modes(live) == [("Stable", 0), ("Shadow", 0), ("Canary", 100), ("Canary", 500), ("Stable", 0)]
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.document()["candidate"] is None
    events = [kind for kind in live.kinds() if kind != "PointChanged"]
    assert events == ["Compiled", "Built", "Signed", "RolloutStarted", "StepAdvanced", "StepAdvanced", "Promoted"]
    assert live.ready()["status"] == "True"


def test_every_event_becomes_a_receipt_that_holds_its_bytes(live: World) -> None:
    live.settle()
    receipts = {r.spec["logIndex"]: r.spec for r in live.receipts()}
    assert sorted(receipts) == list(range(len(live.log.entries)))
    assert all(receipts[i]["bundle"].encode() == entry for i, entry in enumerate(live.log.entries))
    assert all("pending" not in r.status for kind in ("PolicyPack", "EnforcementPoint") for r in live.store.list(kind).resources)


def test_epochs_are_indexes_of_the_events_that_ordered_the_document(live: World) -> None:
    last = live.log.statements()[live.document()["epoch"]]
    assert last["predicate"]["kind"] == "Promoted"


def test_a_bad_version_is_rolled_back_with_its_reason_and_denied(live: World) -> None:
    live.bad = frozenset({"1.1.0"})
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.until_phase("RolledBack")
    live.step()
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.document()["candidate"] is None
    status = live.get().status
    finding = status["revision"]["findings"][0]
    assert finding["tolerance"] == "maxNewDenials"
    assert finding["value"] == "0.3333"
    assert finding["threshold"] == "0.01"
    assert finding["pairs"] > 0
    assert finding["samples"] == ["ab" * 16]
    assert "maxNewDenials" in live.ready()["message"]
    assert [row["digest"] for row in status["denyList"]] == [status["revision"]["digest"]]
    assert status["live"]["version"] == "1.0.0"
    assert modes(live)[-2:] == [("Shadow", 0), ("Stable", 0)]


@pytest.mark.parametrize(
    ("what", "tolerance", "value", "threshold"), [("slow", "maxLatencyRatio", "1170.29", "2"), ("cold", "maxR1Drop", "1.0000", "0.1")]
)
def test_a_version_that_says_the_same_but_costs_more_is_rolled_back(
    live: World, what: str, tolerance: str, value: str, threshold: str
) -> None:
    """Status and policy receipt name the tolerance, what was measured, what was allowed and on how many requests."""
    setattr(live, what, frozenset({"1.1.0"}))
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.until_phase("RolledBack")
    live.settle()
    (finding,) = live.get().status["revision"]["findings"]
    assert (finding["tolerance"], finding["value"], finding["threshold"]) == (tolerance, value, threshold)
    assert finding["pairs"] > 0
    assert f"{tolerance} is {value}, must be {threshold} at most" in live.ready()["message"]
    (event,) = [s["predicate"] for s in live.log.statements() if s["predicate"]["kind"] == "RolledBack"]
    assert event["evidence"]["finding"] == finding
    assert live.document()["candidate"] is None


def test_bytes_that_were_rolled_back_are_refused_for_ever(live: World) -> None:
    live.bad = frozenset({"1.1.0"})
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.until_phase("RolledBack")
    denied = live.get().status["revision"]["digest"]
    for deadline in (601, 602):
        live.apply(pack("1.1.0", constraint="sh:minCount 2", deadline=deadline))
        live.until_phase("Stalled")
        assert live.ready()["reason"] == "DenyListed"
        assert denied in live.ready()["message"]
    live.clock.ns += 2 * 86_400 * NS
    live.until_phase("Aborted")
    live.apply(pack("1.1.0", constraint="sh:minCount 2", deadline=603))
    live.until_phase("Stalled")
    assert live.kinds().count("RolloutStarted") == 2
    assert live.document()["stable"]["version"] == "1.0.0"


@pytest.mark.parametrize("seen", [True, False], ids=["with its receipt", "before its receipt"])
def test_what_was_rolled_back_stays_denied_when_the_pack_is_deleted_and_applied_again(live: World, seen: bool) -> None:
    live.bad = frozenset({"1.1.0"})
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.covers = seen
    live.until_phase("RolledBack")
    denied = live.get().status["revision"]["digest"]
    if seen:
        live.settle()
    live.store.delete(PACK)
    live.run(1)
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.run(8)
    live.covers = True
    live.until_phase("Stalled")
    assert live.ready()["reason"] == "DenyListed"
    assert denied in live.ready()["message"]
    live.apply(pack("1.2.0"))
    live.bad = frozenset()
    live.until_phase("Live", "1.2.0")


def test_going_back_to_the_live_version_needs_no_rollout(live: World) -> None:
    live.bad = frozenset({"1.1.0"})
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.until_phase("RolledBack")
    started = live.kinds().count("RolloutStarted")
    live.apply(pack("1.0.0"))
    live.until_phase("Live", "1.0.0")
    live.run(10)
    assert live.kinds().count("RolloutStarted") == started
    assert live.kinds().count("Promoted") == 1
    assert live.ready()["status"] == "True"


@pytest.mark.parametrize(("no_data", "phase", "reason"), [("Abort", "Aborted", "NoData"), ("Hold", "Stalled", "NoData")])
def test_without_traffic_the_deadline_decides(live: World, no_data: str, phase: str, reason: str) -> None:
    live.traffic = 0
    live.apply(pack("1.1.0", no_data=no_data, deadline=5))
    live.until_phase(phase)
    live.run(4)
    assert live.ready()["reason"] == reason
    assert live.document()["stable"]["version"] == "1.0.0"
    assert (live.document()["candidate"] is not None) == (no_data == "Hold")


def test_a_held_rollout_goes_on_when_data_comes(live: World) -> None:
    live.traffic = 0
    live.apply(pack("1.1.0", no_data="Hold", deadline=5))
    live.until_phase("Stalled")
    live.traffic = 12
    live.until_phase("Live", "1.1.0")
    assert "Resumed" in live.kinds()


def test_onnodata_promote_goes_forward_without_pairs(live: World) -> None:
    live.traffic = 0
    live.apply(pack("1.1.0", no_data="Promote", deadline=5))
    live.until_phase("Live", "1.1.0")


def test_suspend_stops_where_it_is_and_goes_on_after(live: World) -> None:
    live.apply(pack("1.1.0"))
    live.until(lambda: live.document()["mode"] == "Canary")
    live.apply(pack("1.1.0", suspend="true"))
    live.run(4)
    before = live.document()
    live.clock.ns += 3600 * NS
    live.run(20)
    assert live.document()["candidate"] == before["candidate"]
    assert live.document()["weight"] == before["weight"]
    assert live.ready()["reason"] == "Suspended"
    live.apply(pack("1.1.0"))
    live.until_phase("Live", "1.1.0")
    assert live.kinds().count("RolloutStarted") == 2
    assert "Superseded" not in live.kinds()


def test_a_suspended_bad_version_is_still_rolled_back(live: World) -> None:
    live.traffic = 0
    live.apply(pack("1.1.0", suspend="true"))
    live.run(8)
    assert live.get().status["revision"]["phase"] == "Signed"
    live.apply(pack("1.1.0"))
    live.until_phase("Rolling")
    live.apply(pack("1.1.0", suspend="true"))
    live.bad, live.traffic = frozenset({"1.1.0"}), 12
    live.until_phase("RolledBack")


def test_abort_ends_the_rollout_and_is_answered(live: World) -> None:
    live.apply(pack("1.1.0"))
    live.until_phase("Rolling")
    live.annotate(PACK, abort=f"{live.get().generation} wrong limits")
    live.until_phase("Aborted")
    live.run(4)
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.document()["candidate"] is None
    assert live.ready()["message"] == "wrong limits"
    assert "knhk.dev/abort" not in live.get().annotations
    live.apply(pack("1.2.0"))
    live.until_phase("Live", "1.2.0")


def test_a_request_to_abort_never_meets_another_generation(live: World) -> None:
    live.annotate(PACK, abort="1 too late")
    live.run(2)
    assert "knhk.dev/abort" not in live.get().annotations
    live.annotate(PACK, abort="1 too late")
    live.store.update(_with_version(live, "1.1.0"))
    live.until_phase("Live", "1.1.0")


def _with_version(world: World, version: str):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    found = world.get()
    return replace(found, spec={**found.spec, "version": version})


def test_abort_reaches_a_pack_that_is_being_built(live: World) -> None:
    live.executor.hold = True
    live.apply(pack("1.1.0"))
    live.run(4)
    live.annotate(PACK, abort="stop")
    live.run(4)
    assert live.get().status["revision"]["phase"] == "Aborted"
    live.executor.release()
    live.run(4)
    assert live.get().status["revision"]["phase"] == "Aborted"


def test_a_newer_version_takes_the_place_of_one_that_rolls(live: World) -> None:
    live.apply(pack("1.1.0"))
    live.until(lambda: live.document()["mode"] == "Canary")
    live.executor.hold = True
    live.apply(pack("1.2.0"))
    live.run(2)
    assert live.document()["candidate"] is None
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.log.statements()[live.document()["epoch"]]["predicate"]["kind"] == "Superseded"
    live.executor.hold = False
    live.executor.release()
    live.until_phase("Live", "1.2.0")
    assert [(row["version"], row["outcome"]) for row in live.get().status["history"]] == [("1.0.0", "Retired"), ("1.1.0", "Retired")]


def test_a_newer_version_takes_the_place_of_one_that_is_built(live: World) -> None:
    live.executor.hold = True
    live.apply(pack("1.1.0"))
    live.run(3)
    live.apply(pack("1.2.0"))
    live.run(3)
    live.executor.hold = False
    live.executor.release()
    live.until_phase("Live", "1.2.0")
    assert not any(s["subject"][0]["name"].endswith("@1.1.0") for s in live.log.statements())


def test_a_refused_spec_touches_nothing_that_runs(live: World) -> None:
    live.apply(bundle(), point("p2"))
    live.run(4)
    before = live.document()
    faulty = pack("1.1.0", constraint="sh:minCount -1", targets="{point: p2}", bundles="{name: roles}")
    live.apply(faulty)
    live.until_phase("Stalled")
    live.run(10)
    assert live.document() == before
    assert live.get().status["faults"][0]["must"]
    assert live.get().status["live"]["version"] == "1.0.0"
    assert live.document("erp/p2")["stable"] is None
    live.apply(pack("1.1.0"))
    live.until_phase("Live", "1.1.0")
    assert "faults" not in live.get().status


def test_new_data_reaches_points_under_a_new_epoch() -> None:
    world = World()
    world.apply(point(), bundle(1), pack("1.0.0", bundles="{name: roles}"))
    world.until_phase("Live")
    before = world.document()
    world.apply(bundle(2))
    world.run(4)
    after = world.document()
    assert after["data"]["digest"] == world.get(BUNDLE).status["image"] != before["data"]["digest"]
    assert after["epoch"] > before["epoch"]
    assert after["stable"] == before["stable"]
    assert world.kinds().count("DataPublished") == 2


def test_new_data_reaches_points_while_a_version_rolls() -> None:
    world = World(traffic=0)
    world.apply(point(), bundle(1), pack("1.0.0", bundles="{name: roles}"))
    world.until_phase("Rolling")
    world.run(2)
    before = world.document()
    world.apply(bundle(2))
    world.run(4)
    assert world.document()["data"] != before["data"]
    assert (world.document()["mode"], world.document()["candidate"]) == ("Shadow", before["candidate"])
    world.traffic = 12
    world.until_phase("Live")


def test_wrong_data_and_deleted_data_leave_points_as_they_are() -> None:
    world = World()
    world.apply(point(), bundle(1), pack("1.0.0", bundles="{name: roles}"))
    world.until_phase("Live")
    before = world.document()
    world.apply(bundle(1).replace("ex:limit 1", "ex:limit"))
    world.run(4)
    assert world.ready(BUNDLE)["reason"] == "Refused"
    assert world.document() == before
    world.store.delete(BUNDLE)
    world.run(4)
    assert world.document() == before


def test_a_pack_waits_for_its_data_and_its_point() -> None:
    world = World()
    world.apply(pack("1.0.0", bundles="{name: roles}"))
    world.run(10)
    assert "DataBundle erp/roles must be there" in world.ready()["message"]
    world.apply(bundle())
    world.run(10)
    assert "EnforcementPoint erp/p1 must be there" in world.ready()["message"]
    world.apply(point())
    world.until_phase("Live")


def test_a_document_that_comes_late_undoes_nothing(live: World) -> None:
    """Of a publisher that slept in the middle of its call (tests/sim, seed 54)."""
    late = next(envelope for _, envelope in live.fleet.handed if payload(envelope)["mode"] == "Canary")
    newest = live.fleet.documents[POINT]
    with pytest.raises(Conflict):
        live.fleet.publish_document(POINT, late)
    assert live.fleet.documents[POINT] == newest


def test_a_document_is_renewed_before_it_ends(live: World) -> None:
    before = live.document()
    live.clock.ns += 13 * 3600 * NS
    live.run(6)
    after = live.document()
    assert after["notAfter"] > before["notAfter"]
    assert after["epoch"] > before["epoch"]
    assert live.kinds().count("DocumentRenewed") == 1


def test_documents_are_signed_again_when_the_key_is_replaced(live: World) -> None:
    live.signer.turn("rollout")
    live.run(6)
    keyids = [row["keyid"] for row in json.loads(live.fleet.documents[POINT])["signatures"]]
    assert keyids == [live.signer.keyid("rollout")]


def test_an_event_orders_one_document_only_even_while_its_receipt_is_pending() -> None:
    world = World(traffic=0, covers=False)
    world.apply(point())
    world.run(2)
    before = world.document()
    world.signer.turn("rollout")
    world.run(2)
    assert world.document()["epoch"] > before["epoch"]


@pytest.mark.parametrize("found", [b"", b"{", b'{"payload": 7}', b'{"payload": "e30="}'])
def test_a_published_document_that_is_damaged_is_published_again(live: World, found: bytes) -> None:
    live.fleet.documents[POINT] = found
    live.placement.running.clear()
    live.run(4)
    assert live.document()["stable"]["version"] == "1.0.0"


def test_a_deleted_live_pack_leaves_the_baseline(live: World) -> None:
    live.store.delete(PACK)
    live.run(4)
    assert (live.document()["stable"], live.document()["candidate"]) == (None, None)
    assert live.document()["baseline"] == "Deny"
    live.settle()


def test_a_pack_deleted_while_it_rolls_leaves_the_baseline() -> None:
    world = World(traffic=0)
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Rolling")
    world.store.delete(PACK)
    world.run(4)
    assert (world.document()["mode"], world.document()["candidate"]) == ("Stable", None)
    world.settle()


def test_a_deleted_point_is_ended_and_comes_back_as_it_was(live: World) -> None:
    live.store.delete(P1)
    live.run(4)
    assert live.placement.running == {}
    live.run(20)
    live.apply(point())
    live.run(4)
    assert set(live.placement.running) == {POINT}
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.get().status["revision"]["phase"] == "Live"


def test_a_point_deleted_while_the_controller_was_away_is_ended(live: World) -> None:
    live.store.delete(P1)
    live.start()
    live.run(2)
    assert live.placement.running == {}


def test_one_point_has_one_pack(live: World) -> None:
    live.apply(pack("1.0.0", name="another"))
    other = Key("PolicyPack", "erp", "another")
    live.run(20)
    assert live.get(other).status["revision"]["phase"] == "Signed"
    assert "must be free: PolicyPack orders has it" in live.ready(other)["message"]
    length = len(live.log.entries)
    live.run(40)
    assert len(live.log.entries) == length
    live.store.delete(PACK)
    live.until_phase("Live", key=other)
    assert live.document()["stable"]["name"] == "another"


def test_an_older_pack_that_comes_later_does_not_take_a_point_away(live: World) -> None:
    live.apply(point("p2"), pack("1.0.0", name="aaa", targets="{point: p2}"))
    aaa = Key("PolicyPack", "erp", "aaa")
    live.until_phase("Live", key=aaa)
    live.apply(pack("1.0.0", name="aaa", targets="{point: p1}, {point: p2}"))
    live.run(40)
    assert live.document()["stable"]["name"] == "orders"
    assert live.document("erp/p2")["stable"]["name"] == "aaa"


def test_targets_move_when_the_version_is_live_and_not_before(live: World) -> None:
    live.apply(point("p2"))
    live.executor.hold = True
    live.apply(pack("1.0.0", targets="{point: p2}"))
    live.run(6)
    assert live.document()["stable"]["version"] == "1.0.0"
    live.executor.hold = False
    live.executor.release()
    live.until_phase("Live")
    live.run(6)
    assert live.document()["stable"] is None
    assert live.document("erp/p2")["stable"]["version"] == "1.0.0"


@pytest.mark.parametrize("targets", ["{point: p2}", "{point: p1}, {point: p2}"], ids=["moves", "spreads"])
def test_a_new_version_reaches_a_point_that_the_live_one_does_not_have(live: World, targets: str) -> None:
    """Nothing is enforced at the new point, so that nothing there can differ (tests/sim, seed 97)."""
    live.apply(point("p2"), pack("1.1.0", targets=targets))
    live.until_phase("Live", "1.1.0")
    assert live.document("erp/p2")["stable"]["version"] == "1.1.0"


def test_at_a_point_that_the_live_version_has_a_bad_one_is_found_though_it_reaches_a_new_one_too(live: World) -> None:
    live.bad = frozenset({"1.1.0"})
    live.apply(point("p2"), pack("1.1.0", targets="{point: p1}, {point: p2}"))
    live.until_phase("RolledBack", "1.1.0")


def test_two_points_roll_together_and_back_together(live: World) -> None:
    live.apply(point("p2"), pack("1.1.0", targets="{point: p1}, {point: p2}"))
    live.until_phase("Live", "1.1.0")
    live.bad = frozenset({"1.2.0"})
    live.apply(pack("1.2.0", targets="{point: p1}, {point: p2}"))
    live.until_phase("RolledBack")
    live.step()
    for name in (POINT, "erp/p2"):
        assert live.document(name)["stable"]["version"] == "1.1.0"
        assert live.document(name)["candidate"] is None


@pytest.mark.parametrize("again", [False, True], ids=["gone", "applied again"])
def test_events_of_a_pack_whose_deletion_nobody_saw_are_told(live: World, again: bool) -> None:
    live.settle()
    live.log.away = True
    live.apply(pack("1.1.0"))
    live.until(lambda: bool(live.get().status.get("pending")))
    live.run(1)
    owed = [row["bundle"].encode() for row in live.get().status["pending"]]
    live.store.delete(PACK)
    if again:
        live.apply(pack("1.2.0"))
    live.store.forget()
    live.run(2)
    live.log.away = False
    live.run(20)
    assert all(live.log.entries.count(bundle) == 1 for bundle in owed)
    indexes = {live.log.entries.index(bundle) for bundle in owed}
    assert indexes <= {int(receipt.name.rpartition("-")[2]) for receipt in live.store.list("Receipt").resources}


@pytest.mark.failure("API server", "receipts")
def test_the_last_event_of_what_was_deleted_unseen_is_told(live: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status was written after the controller looked at it last, with an event that the log did not take yet."""
    live.apply(pack("1.1.0"))
    live.until_phase("Rolling")
    live.settle()
    live.log.away = True
    live.apply(pack("1.2.0"))
    live.step()
    last = live.get()
    assert len(last.status["pending"]) == 1
    live.store.delete(PACK)
    live.store.forget()
    monkeypatch.setattr(live.store, "departed", lambda: (last,))
    live.log.away = False
    live.run(10)
    assert "Superseded" in live.kinds()


@pytest.mark.failure("sequencer", "rollout")
def test_without_the_log_nothing_is_published_and_nothing_is_lost(live: World) -> None:
    live.log.away = True
    handed = len(live.fleet.handed)
    live.apply(pack("1.1.0"))
    live.run(20)
    assert len(live.fleet.handed) == handed
    live.log.away = False
    live.until_phase("Live", "1.1.0")
    live.settle()


def test_a_point_that_cannot_be_placed_still_gets_its_pack_back(live: World) -> None:
    live.placement.taken.add(POINT)
    live.store.delete(PACK)
    live.run(4)
    assert live.document()["stable"] is None
    assert live.ready(P1)["reason"] == "PortInUse"


def test_what_envoy_starts_with_is_signed_by_the_document_and_lies_there_before_it(live: World) -> None:
    """Who changes what Envoy starts with changes nothing that an agent takes: its digest is in a document, under an event of its own."""
    first = live.document()
    assert first["bootstrap"] == sha256_hex(live.fleet.bootstraps[POINT])
    live.fleet.bootstraps[POINT] = b"without the guard"
    live.run(2)
    assert sha256_hex(live.fleet.bootstraps[POINT]) == first["bootstrap"]
    live.apply(point().replace("/orders", "/invoices"))
    live.run(4)
    after = live.document()
    assert first["bootstrap"] != after["bootstrap"] == sha256_hex(live.fleet.bootstraps[POINT])
    assert after["epoch"] > first["epoch"]
    live.settle()


def test_a_bootstrap_that_cannot_be_made_leaves_the_one_that_was_signed(live: World) -> None:
    before = live.document()
    live.placement.taken.add(POINT)
    live.store.delete(PACK)
    live.run(4)
    assert live.document()["epoch"] > before["epoch"]
    assert live.document()["bootstrap"] == before["bootstrap"]


@pytest.mark.failure("agent", "rollout")
def test_unreadable_statistics_stop_the_way_forward_only(live: World) -> None:
    live.apply(point("p2"), pack("1.1.0", targets="{point: p1}, {point: p2}"))
    live.until_phase("Rolling")
    live.fleet.torn.add("erp/p2")
    live.run(20)
    assert live.get().status["revision"]["arm"] == "Shadow"
    assert "erp/p2 must be readable" in live.ready()["message"]
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack")


@pytest.mark.parametrize("error", [Stalled("Forbidden", "exceeded quota: count/events"), NotFound("the namespace is going")])
def test_where_no_event_can_be_made_everything_else_goes_on(live: World, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(event: object) -> None:
        raise error

    monkeypatch.setattr(live.store, "record", full)
    live.apply(point("p2"))
    live.run(20)
    assert live.ready(Key("EnforcementPoint", "erp", "p2"))["reason"] == "Running"


@pytest.mark.failure("API server", "receipts")
def test_a_namespace_that_takes_no_receipts_keeps_no_other_waiting(live: World, monkeypatch: pytest.MonkeyPatch) -> None:
    create = live.store.create

    def full(resource: Resource) -> Resource:
        if resource.key.kind == "Receipt" and resource.namespace == "erp":
            raise Stalled("Forbidden", "exceeded quota: count/receipts.knhk.dev")
        return create(resource)

    live.settle()
    told = len(live.receipts())
    monkeypatch.setattr(live.store, "create", full)
    live.apply(pack("1.1.0"))
    live.until_phase("Live", "1.1.0")
    live.apply(point("p2").replace("namespace: erp", "namespace: crm"))
    live.run(20)
    assert len([receipt for receipt in live.receipts() if receipt.namespace == "erp"]) == told
    assert any(receipt.namespace == "crm" for receipt in live.receipts())
    monkeypatch.undo()
    live.settle()


@pytest.mark.failure("registry", "rollout")
@pytest.mark.parametrize("lost", [False, True], ids=["away", "image-lost"])
def test_a_new_leader_takes_a_bad_version_back_without_the_registry(live: World, lost: bool) -> None:
    live.apply(pack("1.1.0"))
    live.until(lambda: live.get().status["revision"].get("arm") == "Canary")
    live.registry.away = not lost
    if lost:
        live.registry.blobs.clear()
    live.start()
    live.run(20)
    assert live.get().status["revision"]["phase"] == "Rolling", "good figures alone take it no further"
    assert "must be readable" in live.ready()["message"]
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack")
    assert live.document()["candidate"] is None


@pytest.mark.failure("registry", "rollout")
def test_abort_is_met_without_the_registry(live: World) -> None:
    live.apply(pack("1.1.0"))
    live.until_phase("Rolling")
    live.registry.away = True
    live.start()
    live.annotate(PACK, abort="stop")
    live.until_phase("Aborted")


@pytest.mark.failure("disk", "rollout")
def test_a_full_disk_delays_a_build_and_says_so(live: World) -> None:
    live.registry.full = True
    live.apply(pack("1.1.0"))
    live.run(10)
    assert "No space left" in live.ready()["message"]
    live.registry.full = False
    live.until_phase("Live", "1.1.0")


def test_a_resting_world_writes_nothing(live: World) -> None:
    live.traffic = 0
    live.settle()
    live.run(10)
    moments = len([m for m in live.fate.moments if "status" in m or "document" in m or "append" in m])
    live.run(100)
    assert len([m for m in live.fate.moments if "status" in m or "document" in m or "append" in m]) == moments


@pytest.mark.parametrize(
    ("steps", "then"),
    [
        ("steps: [{weight: 10, minPairs: 20}]", ("Canary", 100)),
        ("steps: [{weight: 5, minPairs: 20}, {weight: 30, minPairs: 20}, {weight: 90, minPairs: 20}]", ("Canary", 300)),
        ("steps: [{weight: 80, minPairs: 20}]", ("Shadow", 0)),
    ],
)
def test_a_rollout_whose_steps_change_goes_on_with_no_more_than_it_had(live: World, steps: str, then: tuple[str, int]) -> None:
    live.apply(pack("1.1.0"))
    live.until(lambda: live.document()["weight"] == 500)
    live.traffic = 0
    live.apply(pack("1.1.0").replace(STEPS, steps))
    live.run(4)
    assert (live.document()["mode"], live.document()["weight"]) == then
    assert live.kinds().count("RolloutStarted") == 2
    live.traffic = 12
    live.until_phase("Live", "1.1.0")


def test_a_rollout_whose_steps_change_can_still_be_rolled_back(live: World) -> None:
    live.apply(pack("1.1.0"))
    live.until(lambda: live.document()["weight"] == 500)
    live.apply(pack("1.1.0").replace(STEPS, "steps: [{weight: 10, minPairs: 20}]"))
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack", "1.1.0")


@pytest.mark.failure("disk", "rollout")
def test_a_rollout_whose_documents_cannot_be_published_ends_at_its_deadline(live: World) -> None:
    live.apply(pack("1.1.0", deadline=30))
    live.until_phase("Rolling")
    live.fleet.full = True
    live.until_phase("Aborted", "1.1.0")
    live.fleet.full = False
    live.run(8)
    assert live.document()["stable"]["version"] == "1.0.0"
    assert live.document()["candidate"] is None


@pytest.mark.failure("agent", "seen")
def test_a_point_whose_statistics_cannot_be_read_is_not_called_ready(live: World) -> None:
    live.run(8)
    assert live.ready(P1)["status"] == "True"
    live.fleet.torn.add(POINT)
    live.run(8)
    assert live.ready(P1)["status"] == "Unknown"
    assert "must be JSON" in live.ready(P1)["message"]
    live.fleet.torn.clear()
    live.run(8)
    assert live.ready(P1)["status"] == "True"


@pytest.mark.failure("agent", "seen")
def test_a_point_whose_agent_is_silent_is_not_called_ready(live: World, monkeypatch: pytest.MonkeyPatch) -> None:
    live.run(8)
    monkeypatch.setattr(live, "_judge", lambda _name: None)
    live.run(60)
    assert live.ready(P1)["status"] == "Unknown"
    assert "has told nothing since" in live.ready(P1)["message"]
    monkeypatch.undo()
    live.run(8)
    assert live.ready(P1)["status"] == "True"


@pytest.mark.failure("disk", "seen")
def test_a_full_disk_delays_a_data_bundle_and_says_so(live: World) -> None:
    live.registry.full = True
    live.apply(bundle())
    live.run(8)
    assert live.ready(BUNDLE)["status"] == "Unknown"
    assert "No space left" in live.ready(BUNDLE)["message"]
    live.registry.full = False
    live.run(8)
    assert live.ready(BUNDLE)["status"] == "True"


def test_events_of_a_pack_that_was_replaced_within_a_turn_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted and applied again right after a write of this controller, which knows the object as it was before."""
    world = World()
    world.apply(point(), pack("1.0.0"))
    write = world.store.update_status
    replaced_uids, let_go_early = set[str](), set[str]()

    def replaced(resource: Resource) -> Resource:
        told = write(resource)
        if told.key == PACK and told.status["revision"]["phase"] == "Signed":
            monkeypatch.setattr(world.store, "update_status", write)
            replaced_uids.add(told.uid)
            world.store.delete(PACK)
            world.apply(pack("1.1.0"))
            world.controller.queue.put(PACK, 0.0)  # it is due again within the turn, as for another's change
        return told

    def released(resource: Resource) -> None:
        if resource.uid in replaced_uids and "Signed" not in world.kinds():
            let_go_early.add(resource.uid)

    monkeypatch.setattr(world.store, "update_status", replaced)
    monkeypatch.setattr(world.store, "release", released)
    world.until_phase("Live", "1.1.0")
    subjects = [row["subject"][0]["name"] for row in world.log.statements() if row["predicate"]["kind"] == "Signed"]
    assert sorted(subjects) == ["pack/erp/orders@1.0.0", "pack/erp/orders@1.1.0"]
    assert not let_go_early
    world.settle()


def test_a_pack_that_gives_up_brings_no_point_what_the_point_s_owner_has_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packs want one point. The one that has it starts while the log takes no such event; the other is aborted."""
    world, other = World(), Key("PolicyPack", "erp", "other")
    world.apply(point(), pack("1.0.0"), pack("1.0.0", name="other"))
    append = world.log.append_event

    def refuses(bundle: bytes) -> int:
        if statement_of(bundle.decode())["predicate"]["kind"] == "RolloutStarted":
            raise Waiting("LogUnreachable", "the sequencer does not answer", 0.5)
        return append(bundle)

    monkeypatch.setattr(world.log, "append_event", refuses)
    world.until_phase("Rolling")
    world.until_phase("Signed", key=other)
    world.annotate(other, abort="not now")
    world.until_phase("Aborted", key=other)
    world.run(4)
    assert world.document()["candidate"] is None
    monkeypatch.undo()
    world.until_phase("Live")


def test_an_aborted_revision_of_the_bytes_that_are_live_asks_for_nothing_more(live: World) -> None:
    live.apply(pack("1.0.0", targets="{point: p1}, {point: later}"))
    live.until_phase("Signed")
    live.annotate(PACK, abort="not now")
    live.until_phase("Aborted")
    live.settle()
    seen = Observer(live.controller.ports, Plans(live.registry, live.clock)).look(live.get(), Phase.ABORTED)
    assert isinstance(decide(seen.facts), Wait)
