"""Others outside bear witness to receipts and images, or are away: what waits for them then, and what never does."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
from rollout_world import PACK, World, pack, point

from knhk.model.canonical import canonical
from knhk.model.faults import Stalled, Waiting
from knhk.model.oci import SIGNED
from knhk.model.resource import Resource

AWAY = Waiting("Sigstore", "rekor does not answer", 5.0)


@dataclass
class FakeNotary:
    """`away`: what it raises; `silent`: it never answers at all."""

    away: Exception | None = None
    silent: bool = False
    asked: int = 0
    left: list[tuple[Future[bytes], bytes]] = field(default_factory=list)

    def notarised(self, role: str, bundle: bytes) -> bytes:
        self.asked += 1
        if self.away is not None:
            raise self.away
        document = json.loads(bundle)
        document["verificationMaterial"] = {"publicKey": {"hint": f"outside {role}"}, "tlogEntries": [{"logIndex": "1"}]}
        return canonical(document)

    def ask(self, role: str, bundle: bytes) -> Future[bytes]:
        found: Future[bytes] = Future()
        self.left.append((found, bundle))
        if not self.silent:
            self.answer()
        return found

    def answer(self) -> None:
        for found, bundle in self.left:
            try:
                found.set_result(self.notarised("rollout", bundle))
            except Exception as error:
                found.set_exception(error)
        self.left.clear()


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
