"""Receipts stay up to a bound; what leaves stands in the log, and nothing is forgotten that decides."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from fakes import NS, Died, FakeClock, FakeNotary
from rollout_world import PACK, World, pack, point

from knhk.adapters.telemetry_prometheus import PrometheusTelemetry
from knhk.decide.keeping import DAY_S, WITNESS_WITHIN_S
from knhk.model.keeping import Keep
from knhk.model.resource import Resource
from knhk.ports.telemetry import Silent


def names(world: World) -> list[str]:
    return sorted(receipt.name.rpartition("-")[2] for receipt in world.receipts())


def expected(world: World, most: int) -> list[str]:
    """The newest, beside those that stay."""
    kinds = [statement["predicate"]["kind"] for statement in world.log.statements()]
    assert len(kinds) == len(world.log.entries)
    stay = [index for index, kind in enumerate(kinds) if kind in ("Promoted", "RolledBack")]
    others = [index for index in range(len(kinds)) if index not in stay]
    return [f"{index:08d}" for index in sorted([*stay, *others[len(others) - most + len(stay) :]])]


def counted(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests that look for, read or remove Receipts from now on."""
    asked: list[str] = []
    for call in ("heads", "delete", "get", "list"):
        inner = getattr(world.store, call)

        def told(first: object, *rest: object, call: str = call, inner: object = inner) -> object:
            if "Receipt" in str(first):
                asked.append(call)
            return inner(first, *rest)  # type: ignore[operator]

        monkeypatch.setattr(world.store, call, told)
    return asked


def rolled(world: World, *versions: str) -> None:
    for version in versions:
        world.apply(pack(version))
        world.until_phase("RolledBack" if version in world.bad else "Live", version)


@pytest.fixture
def world() -> World:
    found = World(keep=Keep(5, 0, 0))
    found.apply(point())
    rolled(found, "1.0.0", "1.1.0")
    return found


def test_the_newest_stay_and_the_log_has_all(world: World) -> None:
    world.run(20)
    assert len(world.log.entries) > 8
    assert len(names(world)) == 5
    assert names(world) == expected(world, 5)


def test_at_rest_nothing_is_asked_or_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(20)
    asked = counted(world, monkeypatch)
    world.run(200)
    assert asked == []


def test_no_bounds_no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    asked = counted(world, monkeypatch)
    world.run(5)
    assert asked == []


def test_what_the_log_does_not_have_stays(world: World) -> None:
    """Such as after a disaster that took the end of the log: the Receipt may be all that is left of an event."""
    world.run(20)
    first = world.receipts()[0]
    stranger = Resource("Receipt", "erp", "promoted-00000000", {**first.spec, "bundle": '{"no": "entry"}', "logIndex": 0})
    moved = Resource("Receipt", "erp", "promoted-00000001", {**first.spec, "logIndex": 1})
    for receipt in (stranger, moved):
        world.store.create(receipt)
    world.start()
    world.run(20)
    assert {"promoted-00000000", "promoted-00000001"} <= {receipt.name for receipt in world.receipts()}
    assert len(world.receipts()) == 5, "they count"


def test_while_the_log_is_away_nothing_is_removed(world: World) -> None:
    world.run(20)
    world.keep, world.log.away = Keep(2, 0, 0), True
    world.start()
    world.run(100)
    assert len(world.receipts()) == 5
    world.log.away = False
    world.run(100)
    assert len(world.receipts()) == 2


def test_age_counts_from_when_it_was_made(world: World) -> None:
    world.run(20)
    world.keep = Keep(0, 0, 30)
    world.start()
    world.run(8)
    assert len(world.receipts()) == 5
    world.clock.ns += 10_000 * DAY_S * NS
    world.run(8)
    assert [receipt.labels["event"] for receipt in world.receipts()] == ["Promoted", "Promoted"], "what is live is still answered for"


def test_a_pack_that_was_rolled_back_is_not_tried_again_when_its_receipts_are_gone_and_it_is_applied_anew(world: World) -> None:
    world.bad = frozenset({"1.2.0"})
    rolled(world, "1.2.0", "1.3.0", "1.4.0")
    world.run(40)
    kept = [receipt for receipt in world.receipts() if receipt.labels["event"] == "RolledBack"]
    assert len(world.receipts()) == 5
    assert len(kept) == 1
    world.store.delete(PACK)
    world.run(8)
    world.start()
    world.apply(pack("1.2.0"))
    world.run(40)
    assert world.get().status["revision"]["phase"] != "Live"
    assert [row["digest"][7:47] for row in world.get().status["denyList"]] == [kept[0].labels["packDigest"]]


@pytest.mark.parametrize("moment", range(0, 40, 3))
def test_killed_at_any_moment_it_goes_on(moment: int) -> None:
    world = World(keep=Keep(4, 0, 0))
    world.apply(point())
    rolled(world, "1.0.0", "1.1.0")
    world.fate.at = len(world.fate.moments) + moment
    world.apply(pack("1.2.0"))
    for _ in range(120):
        try:
            world.step()
        except Died:
            world.start()
    assert [statement["predicate"]["kind"] for statement in world.log.statements()].count("Promoted") == 3
    assert names(world) == expected(world, 4)


def test_labels_say_what_a_receipt_is_of() -> None:
    world = World()
    world.apply(point())
    rolled(world, "1.0.0", "1.1.0")
    world.settle()
    promoted = next(receipt for receipt in world.receipts() if receipt.labels["event"] == "Promoted")
    digest = world.get().status["history"][0]["digest"]
    told = {"event": "Promoted", "pack": "orders", "actor": "test", "verdict": "Pass"}
    assert promoted.labels == {**told, "packDigest": digest.removeprefix("sha256:")[:40]}
    assert promoted.spec | told == promoted.spec


# ---- what others outside are still to say ------------------------------------------------------


def unwitnessed(bound: int, telemetry: PrometheusTelemetry | None = None) -> tuple[World, FakeNotary]:
    """Live, with so many Receipts kept, and nobody outside who answers."""
    notary = FakeNotary(silent=True)
    world = World(keep=Keep(bound, 0, 0), notary=notary, telemetry=telemetry or Silent())
    world.apply(point())
    rolled(world, "1.0.0")
    world.run(20)
    return world, notary


def indexes(world: World) -> list[int]:
    return sorted(receipt.spec["logIndex"] for receipt in world.receipts())


def test_one_that_is_to_be_witnessed_waits_for_that_before_it_leaves() -> None:
    world, notary = unwitnessed(4)
    assert len(world.receipts()) == len(world.log.entries) == 8
    first = world.receipts()[0]
    notary.silent = False
    notary.answer()
    world.run(60)
    told = {s["subject"][0]["digest"]["sha256"] for s in world.log.statements() if s["predicate"]["kind"] == "Notarised"}
    assert sha256(first.spec["bundle"].encode()).hexdigest() in told
    assert len(told) == 8, "all, though half of them left"
    assert len(world.receipts()) == 4


def test_it_waits_neither_for_ever_nor_in_any_number_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = PrometheusTelemetry(FakeClock())
    world, _ = unwitnessed(3, telemetry)
    assert indexes(world) == list(range(2, 8)), "three stay, three wait, two may not wait any longer"
    assert "knhk_receipts_left_unwitnessed_total 2.0" in telemetry.text().decode()
    world.clock.ns += (WITNESS_WITHIN_S + 60) * NS
    world.run(20)
    left = [record.getMessage() for record in caplog.records if "before anybody outside bore witness" in record.getMessage()]
    assert len(world.receipts()) == 3
    assert len(left) == len(world.log.entries) - 3
    assert f"knhk_receipts_left_unwitnessed_total {len(left)}.0" in telemetry.text().decode()


def test_at_rest_nothing_is_asked_of_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = unwitnessed(4)
    asked = counted(world, monkeypatch)
    world.run(200)
    assert asked == []


def test_one_whose_witness_the_log_lost_stays() -> None:
    world = World(notary=FakeNotary())
    world.apply(point())
    rolled(world, "1.0.0")
    world.until(lambda: all("sigstoreIndex" in receipt.status for receipt in world.receipts()) and world.receipts() != [])
    world.settle()
    first = min(world.receipts(), key=lambda receipt: int(receipt.spec["logIndex"]))
    world.store.update_status(replace(first, status={**first.status, "sigstoreEvent": "ab" * 32}))
    world.keep = Keep(2, 0, 0)
    world.start()
    world.run(60)
    assert first.name in {receipt.name for receipt in world.receipts()}
    assert len(world.receipts()) == 2
