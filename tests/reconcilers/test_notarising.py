"""Others outside bear witness to receipts and images, or are away: what waits for them then, and what never does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pytest
from fakes import Died, FakeClock, FakeNotary
from rollout_world import PACK, World, pack, point

from knhk.adapters.telemetry_prometheus import PrometheusTelemetry
from knhk.lockchain import bundle_of
from knhk.model.canonical import canonical
from knhk.model.faults import Stalled, Waiting
from knhk.model.keeping import Keep
from knhk.model.oci import SIGNED
from knhk.model.resource import Resource
from knhk.reconcilers.notarising import AT_ONCE, STALLED_S

AWAY = Waiting("Sigstore", "rekor does not answer", 5.0)


def live(notary: FakeNotary) -> World:
    world = World(bad=frozenset({"1.1.0"}), notary=notary)
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    return world


def notarised(world: World) -> list[Resource]:
    return [receipt for receipt in world.receipts() if "sigstore" in receipt.status]


def said(receipt: Resource) -> tuple[str, str, str]:
    (found,) = (row for row in receipt.status["conditions"] if row["type"] == "Notarised")
    return found["status"], found["reason"], found["message"]


def test_every_receipt_gets_witnesses_and_keeps_what_is_in_the_log() -> None:
    world = live(FakeNotary())
    world.settle()
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    for receipt in world.receipts():
        outside = json.loads(receipt.status["sigstore"])
        assert outside["dsseEnvelope"] == json.loads(receipt.spec["bundle"])["dsseEnvelope"]
        assert receipt.spec["bundle"].encode() in world.log.entries
        assert said(receipt)[0] == "True"
    assert_the_log_has_it(world)
    assert "Notarised" not in {receipt.spec["event"] for receipt in world.receipts()}


def assert_the_log_has_it(world: World) -> None:
    """What each Receipt's status has of others, the log has in one event about that very entry."""
    told = [index for index, kind in enumerate(world.kinds()) if kind == "Notarised"]
    assert sorted(receipt.status["sigstoreIndex"] for receipt in world.receipts()) == told
    for receipt in world.receipts():
        status, entry = receipt.status, receipt.spec["bundle"].encode()
        event = world.log.statements()[status["sigstoreIndex"]]
        assert bundle_of(entry, event).decode() == status["sigstore"]
        assert event["predicate"]["evidence"]["logIndex"] == receipt.spec["logIndex"]
        assert event["subject"][0]["name"] == f"receipt/erp/{receipt.name}"
        assert sha256(world.log.entries[status["sigstoreIndex"]]).hexdigest() == status["sigstoreEvent"]
        assert "pending" not in status


@pytest.mark.parametrize("moment", range(0, 60, 2))
def test_killed_at_any_moment_each_receipt_has_one_event(moment: int) -> None:
    world = World(notary=FakeNotary())
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.fate.at = len(world.fate.moments) + moment
    for _ in range(120):
        try:
            world.step()
        except Died:
            world.start()
    assert len(notarised(world)) == len(world.receipts()) == len(world.kinds()) - world.kinds().count("Notarised")
    assert_the_log_has_it(world)


def test_a_receipt_whose_making_was_said_to_have_failed_gets_witnesses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world, lies = World(notary=FakeNotary()), list[str]()
    create = world.store.create

    def lying(resource: Resource) -> Resource:
        made = create(resource)
        if resource.kind == "Receipt" and resource.spec["event"] == "Signed" and not lies:
            lies.append(resource.name)
            raise Waiting("Unreachable", "the store does not answer", 0.5)
        return made

    monkeypatch.setattr(world.store, "create", lying)
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.settle()
    world.until(lambda: len(notarised(world)) == len(world.receipts()), 40)
    assert len(lies) == 1


def test_of_two_leaders_that_were_answered_one_writes_the_event() -> None:
    """The deposed one had asked before, and is answered after."""
    world = World(notary=(late := FakeNotary(silent=True)))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.settle()
    world.log.away = True
    deposed, world.notary = world.controller, FakeNotary()
    world.start()
    world.run(2)
    assert 0 < len([receipt for receipt in world.receipts() if "pending" in receipt.status]) < len(world.receipts())
    late.silent = False
    late.answer()
    for step in range(20):
        world.log.away = step < 6
        deposed.tick()
        world.step()
    world.until(lambda: all("sigstoreIndex" in receipt.status for receipt in world.receipts()))
    assert_the_log_has_it(world)


def test_while_the_log_is_away_what_came_is_kept_and_nobody_is_asked_twice() -> None:
    world = live(notary := FakeNotary(silent=True))
    world.settle()
    world.log.away = True
    notary.answer()
    world.run(4)
    waits = [receipt for receipt in world.receipts() if "pending" in receipt.status]
    assert waits
    assert all("sigstoreIndex" not in receipt.status for receipt in waits)
    asked = notary.asked
    world.start()
    world.run(4)
    world.log.away, notary.silent = False, False
    notary.answer()
    world.until(lambda: all("sigstoreIndex" in receipt.status for receipt in world.receipts()))
    assert_the_log_has_it(world)
    assert notary.asked - asked <= len(world.receipts()) - len(waits)


def test_what_came_goes_into_the_log_though_nobody_is_asked_any_more() -> None:
    world = live(notary := FakeNotary(silent=True))
    world.settle()
    world.log.away = True
    notary.answer()
    world.run(4)
    waits = {receipt.name for receipt in world.receipts() if "pending" in receipt.status}
    world.notary, world.keep, world.log.away = None, Keep(4, 0, 0), False
    world.start()
    world.run(60)
    subjects = {s["subject"][0]["name"] for s in world.log.statements() if s["predicate"]["kind"] == "Notarised"}
    assert waits
    assert subjects == {f"receipt/erp/{name}" for name in waits}


class Other(FakeNotary):
    """Gives what is none of this receipt, or nothing that the log could take."""

    def __init__(self, spoil: Callable[[dict[str, Any]], object]) -> None:
        super().__init__()
        self.spoil = spoil

    def notarised(self, role: str, bundle: bytes) -> bytes:
        document = json.loads(super().notarised(role, bundle))
        if role == "rollout":
            self.spoil(document)
        return canonical(document)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda document: document["dsseEnvelope"].update(payload="e30="), "must be around the same statement"),
        (lambda document: document.update(mediaType="another"), "must be application/vnd.dev.sigstore.bundle.v0.3+json"),
        (lambda document: document.update(more="x" * 65_536), "the log takes no event as large as that"),
    ],
)
def test_what_does_not_fit_comes_neither_into_the_status_nor_into_the_log(spoil: Callable[[dict[str, Any]], object], says: str) -> None:
    world = live(Other(spoil))
    world.settle()
    world.until(lambda: any("conditions" in receipt.status for receipt in world.receipts()))
    for waits in (said(receipt) for receipt in world.receipts() if "conditions" in receipt.status):
        assert waits[:2] == ("False", "Sigstore")
        assert says in waits[2]
    assert notarised(world) == []
    assert "Notarised" not in world.kinds()


def test_metrics_tell_how_many_have_nobody_outside() -> None:
    world = World(notary=(notary := FakeNotary(silent=True)), telemetry=(told := PrometheusTelemetry(FakeClock())))
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.settle()
    world.run(2)
    assert f"knhk_receipts_unwitnessed {len(world.receipts())}.0" in told.text().decode()
    notary.silent = False
    notary.answer()
    world.until(lambda: "knhk_receipts_unwitnessed 0.0" in told.text().decode())
    assert f'knhk_policy_events_total{{event="Notarised"}} {len(world.receipts())}.0' in told.text().decode()


@pytest.mark.failure("signer", "rollout")
@pytest.mark.parametrize("silent", [True, False])
def test_a_rollback_and_its_receipt_wait_for_nobody_outside(silent: bool) -> None:
    notary = FakeNotary()
    world = live(notary)
    world.apply(pack("1.1.0", constraint="sh:minCount 2"))
    world.until(lambda: world.kinds().count("Signed") == 2)
    assert "RolledBack" not in world.kinds()
    notary.silent, notary.away = silent, AWAY
    world.until_phase("RolledBack", "1.1.0")
    assert world.document()["stable"]["version"] == "1.0.0"
    world.settle()
    assert "RolledBack" in {receipt.spec["event"] for receipt in world.receipts()}
    assert len(notarised(world)) < len(world.receipts())
    notary.silent, notary.away = False, None
    notary.answer()
    world.until(lambda: len(notarised(world)) == len(world.receipts()))


def test_who_is_away_is_asked_again_later_and_receipts_say_so() -> None:
    world = live(notary := FakeNotary(away=None))
    world.settle()
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    notary.away, before = AWAY, notary.asked
    world.apply(pack("1.2.0", constraint="sh:minCount 3"), point("p2"))
    world.until(lambda: world.ready()["reason"] == "Sigstore")
    world.until(lambda: "PointChanged" in world.kinds()[-1])
    assert world.ready()["message"] == "rekor does not answer"
    world.run(8)
    assert world.document()["stable"]["version"] == "1.0.0"
    assert notary.asked - before <= 12  # not at each turn
    (waits,) = {said(receipt) for receipt in world.receipts() if "sigstore" not in receipt.status and "conditions" in receipt.status}
    assert waits == ("False", "Sigstore", "rekor does not answer")
    notary.away = None
    world.until_phase("Live", "1.2.0")
    world.settle()
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    digest = world.document()["stable"]["digest"]
    hints = [json.loads(world.registry.read(told))["verificationMaterial"]["publicKey"]["hint"] for told in _bundles(world, digest)]
    assert sorted(hint == "outside build" for hint in hints) == [False, False, True, True]


def _bundles(world: World, digest: str) -> list[str]:
    manifests = [json.loads(world.registry.read(told.digest)) for told in world.registry.referrers(digest, SIGNED)]
    return [row["digest"] for manifest in manifests for row in manifest["layers"]]


def test_a_controller_that_dies_finds_what_is_left() -> None:
    notary = FakeNotary(silent=True)
    world = live(notary)
    world.settle()
    assert notarised(world) == []
    world.notary = FakeNotary()
    world.start()
    world.until(lambda: len(notarised(world)) == len(world.receipts()) > 0)


def test_what_a_person_must_mend_is_said_and_tried_again() -> None:
    notary = FakeNotary()
    world = live(notary)
    notary.away = Stalled("TrustedRoot", "must be another")
    world.settle()
    world.until(lambda: any("conditions" in receipt.status and "sigstore" not in receipt.status for receipt in world.receipts()))
    notary.away = None
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    assert world.get(PACK).status["revision"]["phase"] == "Live"


class Picky(FakeNotary):
    """Refuses some for good."""

    def __init__(self, refuses: Callable[[bytes], bool]) -> None:
        super().__init__()
        self.refuses, self.refused = refuses, 0

    def notarised(self, role: str, bundle: bytes) -> bytes:
        if self.refuses(bundle):
            self.asked += 1
            self.refused += 1
            raise Stalled("Sigstore", "is signed by no key of role rollout")
        return super().notarised(role, bundle)


def test_one_that_is_refused_for_good_is_set_aside_and_the_others_go_on() -> None:
    """The first of many: nobody waits for it, and a person is told."""
    world = live(FakeNotary(silent=True))
    world.settle()
    first = min(world.receipts(), key=lambda receipt: int(receipt.spec["logIndex"]))
    world.notary = notary = Picky(lambda bundle: bundle == first.spec["bundle"].encode())
    world.start()
    began_s = world.clock.now_ns() / 1e9
    world.until(lambda: len(notarised(world)) == len(world.receipts()) - 1)
    assert world.clock.now_ns() / 1e9 - began_s < STALLED_S
    assert said(world.store.get(first.key)) == ("False", "Sigstore", "is signed by no key of role rollout")
    told = [(event.type, event.reason, event.message) for event in world.store.events(first.key)]
    assert told == [("Warning", "Sigstore", "is signed by no key of role rollout")]
    notary.refuses = lambda bundle: False
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    assert_the_log_has_it(world)


def test_that_nobody_answers_is_one_event_however_many_wait_and_one_more_when_it_happens_again() -> None:
    world = live(FakeNotary(silent=True))
    world.settle()
    world.notary = away = FakeNotary(away=AWAY)
    world.start()

    def warned() -> int:
        return sum(event.type == "Warning" for receipt in world.receipts() for event in world.store.events(receipt.key))

    def waits() -> int:
        return sum("conditions" in receipt.status and "sigstore" not in receipt.status for receipt in world.receipts())

    world.until(lambda: waits() == len(world.receipts()) > AT_ONCE)
    assert warned() == 1
    away.away = None
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    away.away = AWAY
    world.apply(pack("1.2.0", constraint="sh:minCount 3"), point("p2"))
    world.until(lambda: waits() > 0)
    assert warned() == 2


def test_where_all_are_refused_few_are_asked_at_a_time() -> None:
    world = live(FakeNotary(silent=True))
    world.settle()
    assert len(world.receipts()) > AT_ONCE
    world.notary = notary = Picky(lambda bundle: True)
    world.start()
    for _ in range(20):  # of no time that passes
        world.controller.tick()
    assert 0 < notary.refused <= AT_ONCE


@pytest.mark.parametrize("act", ["get", "update_status"])
def test_a_store_that_a_person_must_mend_is_not_tried_at_each_turn(act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = live(notary := FakeNotary(silent=True))
    world.settle()
    notary.silent, tried, broken = False, list[str](), True
    real = getattr(world.store, act)

    def stalled(what: Any) -> Resource:
        if broken and what.kind == "Receipt":
            tried.append(what.name)
            raise Stalled("Forbidden", "receipts/status: must be allowed")
        found: Resource = real(what)
        return found

    monkeypatch.setattr(world.store, act, stalled)
    notary.answer()
    world.until(lambda: bool(tried))
    for _ in range(20):  # of no time that passes
        world.controller.tick()
    assert len(tried) == 1
    broken = False
    world.until(lambda: len(notarised(world)) == len(world.receipts()))
    assert_the_log_has_it(world)


def test_a_log_that_is_away_is_not_tried_at_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    world = live(notary := FakeNotary(silent=True))
    world.settle()
    tried, away, append = list[int](), True, world.log.append_events

    def waiting(bundles: Sequence[bytes]) -> list[int]:
        if away:
            tried.append(len(bundles))
            raise Waiting("Log", "the log does not answer", 5.0)
        return append(bundles)

    monkeypatch.setattr(world.log, "append_events", waiting)
    notary.silent = False
    notary.answer()
    world.until(lambda: bool(tried))
    for _ in range(20):
        world.controller.tick()
    assert len(tried) == 1
    away = False
    world.until(lambda: len(notarised(world)) == len(world.receipts()) and not any("pending" in each.status for each in world.receipts()))
    assert_the_log_has_it(world)
