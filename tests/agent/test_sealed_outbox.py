"""A point with privacy: what the agent writes is sealed, on every way into the outbox, and without keys it writes nothing."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
from agent_parking import held_up, id16, message
from agent_process import GUARDS
from agent_rings import Request
from agent_world import World, observation, until

from knhk.adapters.key_stores import established
from knhk.adapters.wrapping_keys import FileWrapping
from knhk_runtime.durable import replace_file
from knhk_runtime.envelope import NOBODY, parse_envelope, tag_of
from knhk_runtime.outbox.records import DECISION, ENFORCED, OBSERVED, PARK, Arm
from knhk_runtime.record import SEGMENT_HEAD, Record, check_record
from knhk_runtime.subject_keys import KeyStore
from knhk_runtime.tiers.action import action_bytes
from knhk_runtime.unsealing import Unsealer
from knhk_verify.leaf import parse_leaf

pytestmark = pytest.mark.server
ADMIT_A = action_bytes(GUARDS, [])
NAME = "anna.planted@example.com"
PRIVACY = {"subjects": [{"route": "orders", "pointer": "/who"}], "retentionDays": 0}


def keys_of(world: World) -> tuple[Path, Path]:
    folder, store_key = world.base / "subjects", world.base / "store.key"
    replace_file(store_key, established(folder, FileWrapping(world.base / "kek")))
    return folder, store_key


def start(world: World, folder: Path, store_key: Path) -> None:
    world.start_agent(subject_keys=folder, store_key=store_key)


def desire(world: World, **changes: object) -> None:
    point = world.point_json(version=2, privacy=PRIVACY)
    world.desire(world.sign(world.rollout(pointConfig=hashlib.sha256(point).hexdigest(), **changes)), point)


def opened(world: World) -> list[Record]:
    keys = KeyStore(world.base / "subjects", (world.base / "store.key").read_bytes())
    try:
        found = [Unsealer(keys).open(record, "outbox") for record in world.records()]
    finally:
        keys.close()
    assert all(isinstance(record, Record) for record in found)
    return [record for record in found if isinstance(record, Record)]


def arm(world: World, kind: int = DECISION, mode: int = ENFORCED, flags: int = 0, version: str = "1.0.0") -> Arm:
    pack = bytes.fromhex(world.packs.digests[version][7:47])
    return Arm(pack, kind, 1 if kind == DECISION else 0, 1 if kind == DECISION else 0, mode, flags, ADMIT_A if kind == DECISION else b"")


def body(n: int) -> bytes:
    return b'{"n":%d,"who":"%s"}' % (n, NAME.encode())


def test_records_of_tables_and_of_the_agent_are_sealed_and_survive_a_kill(world: World) -> None:
    folder, store_key = keys_of(world)
    world.start_sequencer()
    desire(world, mode="Shadow", candidate=world.pack("1.1.0"))
    start(world, folder, store_key)
    world.runs(1)
    ring = world.ring()
    for n in range(40):
        both = (arm(world), arm(world, mode=OBSERVED, flags=1, version="1.1.0"))
        assert ring.put(Request(ring.next_receipt(), 0, 1 + n % 5, observation(body(n), sub=NAME), both))
    cold = (arm(world), arm(world, PARK, OBSERVED, 1, "1.1.0"))  # an arm that the agent must judge itself
    assert ring.put(Request(ring.next_receipt(), 0, 77, observation(b'{"who":"%s"}' % NAME.encode(), sub=NAME), cold))
    until(lambda: len(world.records()) == 41, "all are in the outbox")
    until(lambda: world.stats()["pairs"] and world.stats()["pairs"][0]["clusters"] == 6, f"counted: {world.stats()}")
    before = world.stats()["pairs"][0]
    world.running[-1].kill()
    world.running[-1].wait()
    start(world, folder, store_key)
    until(lambda: world.stats().get("counted") and world.stats()["acked"] >= 82, "counted again")
    again = world.stats()["pairs"][0]
    assert (again["pairs"], again["clusters"]) == (before["pairs"], before["clusters"]) == (41, 6)
    assert ring.put(
        Request(
            ring.next_receipt(), 0, 1, observation(body(99), sub=NAME), (arm(world), arm(world, mode=OBSERVED, flags=1, version="1.1.0"))
        )
    )
    until(lambda: len(world.records()) == 42, "the next one is there")
    until(lambda: world.stats()["pairs"][0]["pairs"] == 42, "it is counted")
    assert world.stats()["pairs"][0]["clusters"] == 6
    assert all(NAME.encode() not in path.read_bytes() for path in world.log.rglob("*") if path.is_file())
    records = opened(world)
    for record in records:
        check_record(record, "opened")
        assert NAME.encode() in record.observation


COLD = b"cold %s" % NAME.encode()


def stands_in(world: World) -> list[str]:
    """Files of the agent in which the name stands."""
    return [path.name for path in world.point.rglob("*") if path.is_file() and NAME.encode() in path.read_bytes()]


def receipts(records: Iterable[Record]) -> int:
    """How many decisions these tell of: what an agent had not let go of in its ring when it was killed is recorded once more."""
    return len({parse_leaf(record.leaves[0]).receipt_id for record in records})


def waiting_bytes(world: World) -> int:
    return sum(path.stat().st_size - SEGMENT_HEAD for path in (world.point / "state" / "observed").glob("*.seg"))


def test_what_waits_for_a_slower_tier_is_sealed_survives_a_kill_and_goes(world: World) -> None:
    """An observed arm that is set aside, and a late decision that its client has not come back for."""
    folder, store_key = keys_of(world)
    world.park_timeout_ms = 150
    world.start_sequencer()
    desire(world, mode="Shadow", candidate=world.pack("1.1.0"))
    start(world, folder, store_key)
    world.runs(1)
    until(lambda: world.park(message(world, b"cold good", 999))[0] == 200, "the evaluator is warm")
    ring, asked = world.ring(), observation(COLD, sub=NAME)

    def asks(receipt: int) -> None:
        assert world.park(message(world, b"", receipt, o=asked))[:2] == (202, "1")

    parked = held_up(world, asks)
    evaluator = world.evaluator()
    os.kill(evaluator, signal.SIGSTOP)
    assert ring.put(Request(ring.next_receipt(), 0, 77, asked, (arm(world), arm(world, PARK, OBSERVED, 1, "1.1.0"))))
    until(lambda: waiting_bytes(world) > len(asked), "it is set aside")
    assert stands_in(world) == []
    before = receipts(world.records())
    world.running[-1].kill()
    world.running[-1].wait()
    os.kill(evaluator, signal.SIGKILL)
    assert stands_in(world) == []
    start(world, folder, store_key)
    until(lambda: receipts(world.records()) == before + 1, "what was set aside is judged")
    until(lambda: waiting_bytes(world) == 0, "and goes")
    assert world.park(message(world, b"", 2, id16(parked), o=observation(COLD, sub="eve")))[:2] == (410, "1")
    again = []  # of who comes too early each repetition is recorded, too

    def passes() -> bool:
        again.append(world.park(message(world, b"", 3, id16(parked), o=asked))[:2])
        return again[-1] == (200, "1")

    assert until(passes, "the late decision passes")
    assert world.park(message(world, b"", 4, id16(parked), o=asked))[:2] == (410, "1")
    told = parked // 1000 + 1 + len(again)  # each that was held up, what was set aside, and each repetition
    assert receipts(record for record in opened(world) if record.observation == asked) == told
    assert stands_in(world) == []


def test_whom_no_rule_finds_is_nobody_and_sealed_all_the_same(world: World) -> None:
    folder, store_key = keys_of(world)
    world.start_sequencer()
    desire(world)
    start(world, folder, store_key)
    world.runs(1)
    ring = world.ring()
    for text in (body(1), b"not JSON about " + NAME.encode()):
        assert ring.put(Request(ring.next_receipt(), 0, 0, observation(text), (arm(world),)))
    until(lambda: len(world.records()) == 2, "both are in the outbox")
    keys = KeyStore(folder, store_key.read_bytes())
    named = tag_of(keys.tags_key, NAME)
    keys.close()
    assert [parse_envelope(record.observation).tag for record in world.records()] == [named, NOBODY]
    assert all(NAME.encode() not in path.read_bytes() for path in world.outbox.glob("*.seg"))


def test_without_its_keys_an_agent_writes_nothing_and_goes_on_when_they_are_back(world: World) -> None:
    folder, store_key = keys_of(world)
    world.start_sequencer()
    desire(world)
    key = store_key.read_bytes()
    store_key.unlink()
    start(world, folder, store_key)
    world.runs(1)
    ring = world.ring()
    assert ring.put(Request(ring.next_receipt(), 0, 0, observation(body(1)), (arm(world),)))
    until(lambda: any("cannot seal" in row["what"] for row in world.stats()["refused"]), "it says that it cannot seal")
    assert world.records() == []
    replace_file(store_key, key)
    until(lambda: len(world.records()) == 1, "the ring kept it")
    assert len(opened(world)) == 1


def test_an_agent_without_a_key_store_refuses_such_a_point(world: World) -> None:
    world.start_sequencer()
    desire(world)
    world.start_agent()
    until(lambda: any("key store" in row["must"] for row in world.stats().get("refused", ())), "refused and told")
    assert not world.stats()["ready"]
