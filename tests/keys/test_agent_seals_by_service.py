"""An agent in a cluster seals by the key service: no name on its disk, and without the service nothing in clear."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from agent_world import World, until
from keys_requests import did, opened
from keys_world import KeyWorld, token
from sealing_agent import NAME, OTHER, PRIVACY, files_with, ids, put, start

from knhk_runtime.keys_wire import State

pytestmark = pytest.mark.server


def test_what_it_seals_opens_with_the_services_keys_and_no_name_lies_anywhere(world: World, keys: KeyWorld) -> None:
    ring = start(world, keys, keys.api.guard("erp/orders", "one"))
    for number in range(200):
        put(world, ring, f"{number}.{NAME}")
    until(lambda: len(world.records()) == 200, f"all are in the outbox: {world.stats()}")
    found = opened(keys, keys.api.reader("audit", ("open", "erp")), *ids(world))
    assert len({key for _, key in found}) == 200
    assert {state for state, _ in found} == {State.KEPT}
    until(lambda: world.stats()["acked"] == 200, "the log has them")
    told = [NAME.encode(), *(key for _, key in found)]
    assert files_with(world.base, *told) == files_with(keys.base, *told) == []


def test_while_the_service_is_away_a_known_subject_is_sealed_and_a_new_one_waits_in_the_ring(world: World, keys: KeyWorld) -> None:
    ring = start(world, keys, keys.api.guard("erp/orders", "one"))
    put(world, ring, NAME)
    until(lambda: len(world.records()) == 1, "sealed")
    keys.kill()
    put(world, ring, NAME)
    until(lambda: len(world.records()) == 2, "sealed by the key that it has")
    put(world, ring, OTHER)
    until(lambda: any("cannot seal" in row["what"] for row in world.stats()["refused"]), "it says that it cannot seal")
    assert len(world.records()) == 2
    keys.start()
    until(lambda: len(world.records()) == 3, "the ring kept it")
    assert len(set(ids(world))) == 2
    assert files_with(world.base, NAME.encode(), OTHER.encode()) == []


def test_beyond_a_quota_a_new_subject_waits_in_the_ring_until_it_is_raised(world: World, keys: KeyWorld) -> None:
    """As while the service is away: nothing is lost, and nothing written in clear."""
    keys.kill()
    keys.quota = ("--keys-of-point=1", "--keys-of-namespace=1")
    keys.start()
    ring = start(world, keys, keys.api.guard("erp/orders", "one"))
    put(world, ring, NAME)
    until(lambda: len(world.records()) == 1, "sealed")
    put(world, ring, OTHER)
    until(lambda: any("at most 1 new keys of a point" in row["what"] for row in world.stats()["refused"]), "it says why it cannot seal")
    assert len(world.records()) == 1
    keys.kill()
    keys.quota = ()
    keys.start()
    until(lambda: len(world.records()) == 2, "the ring kept it")
    assert files_with(world.base, NAME.encode(), OTHER.encode()) == []


def test_after_an_erasure_a_new_record_of_the_subject_has_another_key(world: World, keys: KeyWorld) -> None:
    ring = start(world, keys, keys.api.guard("erp/orders", "one"))
    put(world, ring, NAME)
    until(lambda: len(world.records()) == 1, "sealed")
    segments = len(list(world.outbox.glob("*.seg")))
    eraser = keys.api.reader("privacy", ("erase", "erp"), ("open", "erp"))
    (old,) = ids(world)
    did(keys, eraser, "destroy", erasure="e" * 32, ids=[old.hex()])
    until(lambda: len(list(world.outbox.glob("*.seg"))) > segments, "it saw that, and begins another segment")
    put(world, ring, NAME)
    until(lambda: len(world.records()) == 2, "sealed anew")
    new = ids(world)[1]
    assert [state for state, _ in opened(keys, eraser, old, new)] == [State.DESTROYED, State.KEPT]


@pytest.mark.parametrize("given", [token("nobody"), "other"], ids=["of nobody", "of another point"])
def test_a_token_of_nobody_or_of_another_point_seals_nothing(world: World, keys: KeyWorld, given: str) -> None:
    ring = start(world, keys, keys.api.guard("erp/invoices", "two") if given == "other" else given)
    put(world, ring, NAME)
    until(lambda: any("cannot seal" in row["what"] for row in world.stats()["refused"]), "it says that it cannot seal")
    assert world.records() == []
    assert files_with(world.base, NAME.encode()) == []


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where whoever connects hears nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_service_that_never_answers_holds_up_neither_documents_nor_the_end(world: World, keys: KeyWorld, silent: int) -> None:
    keys.kill()
    keys.port = silent
    ring = start(world, keys, keys.api.guard("erp/orders", "one"))
    put(world, ring, NAME)
    until(lambda: any("cannot seal" in row["what"] for row in world.stats()["refused"]), "it says that it cannot seal")
    point = world.point_json(version=2, privacy=PRIVACY)
    world.desire(world.sign(world.rollout(epoch=2, pointConfig=hashlib.sha256(point).hexdigest())), point)
    world.runs(2)
    assert world.records() == []
    agent = world.running[-1]
    agent.terminate()
    assert agent.wait(60) == 0
    assert files_with(world.base, NAME.encode()) == []
