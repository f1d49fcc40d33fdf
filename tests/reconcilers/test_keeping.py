"""Receipts stay up to a bound; what leaves stands in the log, and nothing is forgotten that decides."""

from __future__ import annotations

import pytest
from fakes import NS, Died
from rollout_world import PACK, World, pack, point

from knhk.decide.keeping import DAY_S
from knhk.model.keeping import Keep
from knhk.model.resource import Resource


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
