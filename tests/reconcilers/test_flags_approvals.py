"""Flags that hold a canary, stages that wait for people, drift, and requests to look again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import NS
from rollout_world import PACK, POINT, World, pack, payload, point

from knhk.model.canonical import sha256_hex
from knhk.model.faults import Waiting
from knhk.model.resource import Key, Resource
from knhk.reconcilers.context import statement_of

FLAG = """apiVersion: knhk.dev/v1alpha1
kind: FeatureFlag
metadata: {{name: canary, namespace: erp}}
spec:
  pack: orders
  variants: {{"on": true, "off": false}}
  defaultVariant: "{default}"
  {more}
"""
P1 = Key("EnforcementPoint", "erp", "p1")


def flag(default: str, more: str = "") -> str:
    return FLAG.format(default=default, more=more)


def flag_status(world: World) -> dict[str, Any]:
    return dict(world.get(Key("FeatureFlag", "erp", "canary")).status)


def approvals(text: str, rows: str) -> str:
    return text.replace("  rollout:\n", f"  rollout:\n    approvals: [{rows}]\n")


@pytest.fixture
def live() -> World:
    """1.0.0 is live at p1."""
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    return world


def weights(world: World, version: str) -> list[int]:
    """Weights of the documents whose candidate is this version, in order."""
    documents = [payload(envelope) for where, envelope in world.fleet.handed if where == POINT]
    return [d["weight"] for d in documents if (d["candidate"] or {}).get("version") == version]


# -- flags --


def test_a_flag_that_is_off_keeps_a_canary_from_being_enforced_and_on_lets_it_go_on(live: World) -> None:
    live.apply(flag("off"), pack("1.1.0", constraint="sh:minCount 2"))
    live.until(lambda: live.ready()["reason"] == "Held")
    assert live.ready()["message"] == "FeatureFlag canary is off at erp/p1"
    assert live.get().status["revision"]["arm"] == "Canary"
    live.clock.ns += 2 * 600 * NS  # longer than a step may take: no time runs meanwhile
    live.run(20)
    assert live.get().status["revision"]["phase"] == "Rolling"
    assert (live.document()["mode"], live.document()["flags"], set(weights(live, "1.1.0"))) == ("Shadow", {"canary": "off"}, {0})
    before = live.document()["epoch"]
    live.apply(flag("on"))
    live.until(lambda: live.document()["mode"] == "Canary")
    document = live.document()
    assert (document["flags"], document["weight"], document["epoch"] > before) == ({"canary": "on"}, 100, True)
    event = live.log.statements()[document["epoch"]]["predicate"]
    assert (event["kind"], event["evidence"]["flags"]) == ("FlagChanged", {"canary": "on"})
    live.until_phase("Live", "1.1.0")
    assert weights(live, "1.1.0")[-2:] == [100, 500]


def test_a_step_that_was_held_begins_anew(live: World) -> None:
    live.apply(flag("off"), pack("1.1.0", constraint="sh:minCount 2"))
    live.until(lambda: "held" in live.get().status.get("revision", {}))
    live.run(20)
    seen = live.get().status["revision"]["pairs"]
    live.apply(flag("on"))
    live.until(lambda: "held" not in live.get().status["revision"])
    revision = live.get().status["revision"]
    assert revision["pairsAtStart"] >= seen > 0
    assert revision["step"] == 0


def test_a_flag_that_goes_off_in_mid_canary_takes_it_back_and_a_bad_pack_is_still_rolled_back(live: World) -> None:
    live.apply(flag("on"), pack("1.1.0", constraint="sh:minCount 2"))
    live.until(lambda: live.document()["weight"] == 100)
    live.apply(flag("off"))
    live.until(lambda: live.document()["mode"] == "Shadow")
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack")
    assert live.document()["candidate"] is None


def test_a_flag_tells_the_variant_of_each_point_and_the_epoch_that_carries_it() -> None:
    world = World()
    world.apply(point(), point("p2"), pack("1.0.0", targets="{point: p1}, {point: p2}"))
    world.apply(flag("off", 'targeting: [{var: point, values: [p2], variant: "on"}]'))
    world.until(lambda: all(row["epoch"] for row in flag_status(world).get("points", [{"epoch": 0}])))
    rows = {row["name"]: row for row in flag_status(world)["points"]}
    assert (rows["p1"]["variant"], rows["p1"]["reason"], rows["p1"]["enforced"]) == ("off", "DEFAULT", False)
    assert (rows["p2"]["variant"], rows["p2"]["reason"], rows["p2"]["enforced"]) == ("on", "TARGETING_MATCH", True)
    assert rows["p1"]["epoch"] == world.document()["epoch"]
    assert world.get(P1).status["flags"] == {"canary": "off"}


def test_a_flag_that_is_disabled_or_deleted_leaves_the_document(live: World) -> None:
    for gone in (lambda: live.apply(flag("off", "state: DISABLED")), lambda: live.store.delete(Key("FeatureFlag", "erp", "canary"))):
        live.apply(flag("off"))
        live.until(lambda: live.document()["flags"] == {"canary": "off"})
        gone()
        live.until(lambda: live.document()["flags"] == {})


def test_a_suspended_flag_stays_as_it_was(live: World) -> None:
    live.apply(flag("off"))
    live.until(lambda: live.document()["flags"] == {"canary": "off"})
    live.run(4)
    live.apply(flag("on", "suspend: true"))
    live.run(8)
    assert live.document()["flags"] == {"canary": "off"}


def test_a_flag_waits_for_its_pack() -> None:
    world = World()
    world.apply(flag("off"))
    world.run(2)
    assert world.ready(Key("FeatureFlag", "erp", "canary"))["reason"] == "Waiting"


# -- approvals --


def approve(world: World, approver: str, *, revision: str = "", stage: str = "production") -> None:
    digest = revision or world.get().status["revision"]["digest"]
    spec = {"pack": "orders", "revision": digest, "stage": stage, "approver": approver}
    name = f"{approver}-{digest[7:15]}".replace(":", "-").replace("@", "-").replace(".", "-")
    world.store.create(Resource("Approval", "erp", name, spec))


def reviewed() -> World:
    """A store that knows who wrote what."""
    world = World(reviews=True)
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    return world


def authored(world: World, user: str) -> None:
    """As the reconciler of a PolicyRepository tells who is behind a revision."""
    found = world.get()
    source = {"repository": "erp/policies", "commit": "ab" * 20, "user": user}
    world.store.update_status(replace(found, status={**found.status, "revision": {**found.status["revision"], "source": source}}))


def test_a_stage_waits_for_its_approvals_before_anything_of_it_is_enforced(live: World) -> None:
    """The embedded home: its one user's approval counts, and is marked."""
    live.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production}"))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    assert "stage production must be approved by 1; approved by: none" in live.ready()["message"]
    live.run(20)
    assert set(weights(live, "1.1.0")) == {0}
    approve(live, "local:kim")
    live.until_phase("Live", "1.1.0")
    revision = live.get().status["live"]
    assert (revision["approvedBy"], revision["unreviewed"]) == (["local:kim"], True)
    told = {s["predicate"]["kind"]: s["predicate"] for s in live.log.statements()}
    assert (told["Approved"]["actor"], told["Approved"]["stage"]) == ("local:kim", "production")
    assert told["Approved"]["evidence"]["unreviewed"] is True
    assert told["Promoted"]["evidence"]["approvedBy"] == ["local:kim"]
    live.settle()
    assert "Approved" in {receipt.spec["event"] for receipt in live.receipts()}


def test_where_the_store_knows_people_the_author_does_not_count_and_an_unknown_author_stops_all() -> None:
    world = reviewed()
    world.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production}"))
    world.until(lambda: world.ready()["reason"] == "Unapproved")
    approve(world, "ada@example.com")
    world.until(lambda: "its authors must be known" in world.ready()["message"])
    authored(world, "ada@example.com")
    world.until(lambda: "that of an author, ada@example.com, does not count" in world.ready()["message"])
    approve(world, "eve@example.com")
    world.until_phase("Live", "1.1.0")
    assert world.get().status["live"]["approvedBy"] == ["eve@example.com"]
    assert "unreviewed" not in world.get().status["live"]


def test_a_local_approval_counts_nothing_where_the_store_knows_people() -> None:
    world = reviewed()
    world.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production, notAuthor: false}"))
    world.until(lambda: world.ready()["reason"] == "Unapproved")
    approve(world, "local:kim")
    world.run(8)
    (one,) = world.store.list("Approval").resources
    assert world.ready(one.key)["reason"] == "Refused"
    assert world.ready()["reason"] == "Unapproved"


def test_an_approval_is_of_one_revision(live: World) -> None:
    live.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production}"))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    approve(live, "local:kim")
    live.apply(approvals(pack("1.2.0", constraint="sh:minCount 3"), "{stage: production}"))
    live.until_phase("Rolling", "1.2.0")
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    live.run(20)
    assert set(weights(live, "1.2.0")) == {0}


def test_a_stage_that_nobody_approves_in_time_is_aborted(live: World) -> None:
    live.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production, deadlineSeconds: 60}"))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    live.clock.ns += 700 * NS
    live.until_phase("Aborted")
    assert live.ready()["reason"] == "NotApproved"


def test_an_approval_waits_for_its_revision(live: World) -> None:
    approve(live, "local:kim", revision="sha256:" + "ab" * 32)
    live.run(4)
    (one,) = live.store.list("Approval").resources
    assert live.ready(one.key)["reason"] == "Waiting"
    assert "Approved" not in live.kinds()


def both(text: str) -> str:
    return text.replace("targets: [{point: p1}]", "targets: [{point: p1}, {point: p2}]")


def stables(world: World, name: str) -> list[str]:
    """Versions that stood in the stable place of a point's documents, in order."""
    documents = [payload(envelope) for where, envelope in world.fleet.handed if where == name]
    return [d["stable"]["version"] for d in documents if d["stable"]]


def test_a_point_that_is_added_to_a_live_pack_waits_for_the_approvals_of_its_stage(live: World) -> None:
    live.apply(point("p2"), both(approvals(pack("1.0.0"), "{stage: production}")))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    assert "stage production must be approved by 1; approved by: none" in live.ready()["message"]
    live.run(20)
    assert stables(live, "erp/p2") == []
    assert live.document()["stable"]["version"] == "1.0.0", "where it is live it stays"
    approve(live, "local:kim")
    live.until_phase("Live")
    live.until(lambda: stables(live, "erp/p2") == ["1.0.0"])
    assert live.get().status["live"]["approvedBy"] == ["local:kim"]
    document = live.document("erp/p2")
    assert live.kinds().index("Approved") < document["epoch"]


def test_a_point_that_is_added_to_a_live_pack_and_that_nobody_approves_in_time_goes_without(live: World) -> None:
    live.apply(point("p2"), both(approvals(pack("1.0.0"), "{stage: production, deadlineSeconds: 60}")))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    live.clock.ns += 700 * NS
    live.until_phase("Aborted")
    live.run(8)
    handed = len(live.fleet.handed)
    live.run(20)
    assert len(live.fleet.handed) == handed
    assert stables(live, "erp/p2") == []
    assert live.document()["stable"]["version"] == "1.0.0"


def test_a_point_that_is_added_to_a_live_pack_waits_for_its_flags(live: World) -> None:
    live.apply(flag("off", 'targeting: [{var: point, values: [p1], variant: "on"}]'), point("p2"), both(pack("1.0.0")))
    live.until(lambda: live.ready()["reason"] == "Held")
    assert live.ready()["message"] == "FeatureFlag canary is off at erp/p2"
    live.run(20)
    assert stables(live, "erp/p2") == []
    live.apply(flag("on"))
    live.until_phase("Live")
    live.until(lambda: stables(live, "erp/p2") == ["1.0.0"])


def test_targets_that_become_fewer_ask_nobody(live: World) -> None:
    live.apply(point("p2"), both(pack("1.0.0")))
    live.until(lambda: stables(live, "erp/p2") == ["1.0.0"])
    live.apply(flag("off"), approvals(pack("1.0.0"), "{stage: production}"))
    live.until_phase("Live")
    live.until(lambda: live.document("erp/p2")["stable"] is None)
    assert live.get().status["live"]["points"] == ["p1"]


def test_the_log_has_the_approvals_before_the_step_that_they_allow(live: World) -> None:
    """The approval is written, and the log is away before it got its event."""
    live.apply(approvals(pack("1.1.0", constraint="sh:minCount 2"), "{stage: production}"))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    real = live.log.append_event

    def without_approvals(bundle: bytes) -> int:
        if statement_of(bundle.decode())["predicate"]["kind"] == "Approved":
            raise Waiting("LogUnreachable", "the sequencer does not answer", 0.5)
        return real(bundle)

    live.log.append_event = without_approvals  # type: ignore[method-assign]
    approve(live, "local:kim")
    live.run(20)
    assert set(weights(live, "1.1.0")) == {0}
    live.log.append_event = real  # type: ignore[method-assign]
    live.until_phase("Live", "1.1.0")
    told = [s["predicate"] for s in live.log.statements()]
    enforced = next(i for i, one in enumerate(told) if one.get("arm") == "Canary" and one["pack"]["version"] == "1.1.0")
    assert live.kinds().index("Approved") < enforced


# -- drift, requests --


def test_a_point_that_runs_something_else_is_drifted_once_with_event_and_receipt(live: World) -> None:
    live.run(4)
    live.runs = {"stable": "sha256:" + "00" * 32, "candidate": None, "data": None}
    live.until(lambda: live.ready(P1)["reason"] == "Drifted")
    live.run(40)
    assert live.kinds().count("Drifted") == 1
    assert "must be sha256:" in live.get(P1).status["outliers"][0]["reason"]
    assert [e.type for e in live.store.events(P1) if e.reason == "Drifted"] == ["Warning"]
    live.settle()
    assert [r.spec["point"] for r in live.receipts() if r.spec["event"] == "Drifted"] == ["p1"]
    live.runs = None
    live.until(lambda: live.ready(P1)["reason"] == "Running")
    live.runs = {"stable": None, "candidate": None, "data": None}
    live.until(lambda: live.kinds().count("Drifted") == 2)


def test_a_point_remembers_what_it_came_to_run(live: World) -> None:
    live.run(4)
    assert next(row["outcome"] for row in live.get(P1).status["history"]) == "Stable"


def test_a_suspended_point_keeps_its_instances_and_still_gets_its_pack(live: World) -> None:
    live.run(4)
    before, bootstrap = live.placement.running[POINT], live.document()["bootstrap"]
    live.apply(point().replace("port: 8080", "port: 8081") + "  suspend: true\n")
    live.apply(pack("1.1.0", constraint="sh:minCount 2"))
    live.until_phase("Live", "1.1.0")
    assert live.placement.running[POINT] == before
    assert live.document()["bootstrap"] == bootstrap == sha256_hex(live.fleet.bootstraps[POINT])
    live.apply(point().replace("port: 8080", "port: 8081"))
    live.until(lambda: live.placement.running[POINT] != before)


def test_a_request_to_look_again_is_told_as_handled(live: World) -> None:
    for key in (PACK, P1):
        live.annotate(key, requestedAt="2026-11-26T05:00:00Z")
        live.until(lambda key=key: live.get(key).status.get("lastHandledRequestedAt") == "2026-11-26T05:00:00Z")
    live.run(8)
    assert live.get(P1).status["lastHandledRequestedAt"] == "2026-11-26T05:00:00Z"


def test_what_stalled_before_it_rolled_begins_anew_when_asked() -> None:
    world = World()
    world.apply(point(), pack("1.0.0", constraint="sh:minCount -1"))
    world.until_phase("Stalled")
    refused = world.kinds().count("Refused")
    world.annotate(PACK, requestedAt="again")
    world.until(lambda: world.kinds().count("Refused") == refused + 1)
    world.run(8)
    assert world.kinds().count("Refused") == refused + 1
