"""A decision whose pack wants more than the ring is answered when the agent says so, and not before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import Rig, pack_id, rig, token, wait_for
from shim_ring import Record, all_records

pytestmark = pytest.mark.server
FAIL_OPEN = 16
LEVELS = {"disk": 1, "log": 2, "region": 3}


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1) as made:
        yield made


def missed(receipt: str) -> str:
    """The receipt of what became of a request whose leaf was not durable in time."""
    data = bytearray(bytes.fromhex(receipt))
    data[8] |= 0x80
    return data.hex()


def record(point: Rig, receipt: str | None) -> Record:
    return all_records(point.rings)[str(receipt)]


def test_a_ring_asks_nobody(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    assert (point.post(b"fine").status, point.post(b"bad").status) == (200, 403)
    assert point.agent.awaited == []


@pytest.mark.parametrize("level", LEVELS)
def test_an_answer_waits_with_its_one_leaf_in_the_ring(point: Rig, level: str) -> None:
    point.configure(build_pack(point.packs), durability=level)
    for body, status, reached in ((b"fine", 200, 1), (b"bad", 403, 1)):
        point.agent.gate.clear()
        point.agent.awaited.clear()
        with ThreadPoolExecutor(1) as client:
            waiting = client.submit(point.post, body)
            (awaited,) = wait_for("it waits", lambda: point.agent.awaited)
            (kept,) = [one for one in all_records(point.rings).values() if one.receipt == awaited.receipt.hex()]
            assert (kept.enforced.kind, kept.o.body) == ("DECISION", body)
            assert (not waiting.done(), body in point.app.bodies()) == (True, False)
            point.agent.gate.set()
            answer = waiting.result()
        assert (answer.status, answer.receipt, awaited.level, awaited.is_open) == (status, kept.receipt, LEVELS[level], 0)
        assert len(point.app.seen) == reached
    assert answer.problem["receipt"] == answer.receipt
    assert [found["guard"] for found in answer.problem["violations"]] != []
    assert len(all_records(point.rings)) == 2, "one leaf of each decision"


@pytest.mark.parametrize("body", [b"fine", b"bad"])
def test_not_in_time_is_503_with_a_leaf_that_says_so(point: Rig, body: bytes) -> None:
    point.configure(build_pack(point.packs), durability="log")
    point.agent.durable = lambda _: 503
    answer = point.post(body)
    assert (answer.status, answer.reason, point.app.seen) == (503, "receipt-not-durable", [])
    (awaited,) = point.agent.awaited
    assert answer.receipt == missed(awaited.receipt.hex())
    leaf = record(point, answer.receipt).enforced
    assert (leaf.kind, leaf.verdict, leaf.flags, leaf.pack) == ("UNAVAILABLE", "", 0, pack_id(build_pack(point.packs)))
    assert record(point, awaited.receipt.hex()).enforced.kind == "DECISION"
    assert sum(n for name, n in point.counters().items() if "knhk_undurable" in name) == 1


def test_a_point_that_fails_open_goes_on_counts_and_says_so(point: Rig) -> None:
    point.configure(build_pack(point.packs), durability="log", failure="Open")
    point.agent.durable = lambda _: 503
    for body, status in ((b"fine", 200), (b"bad", 403)):
        answer = point.post(body)
        assert answer.status == status
        assert record(point, answer.receipt).enforced.kind == "DECISION"
        leaf = record(point, missed(str(answer.receipt))).enforced
        assert (leaf.kind, leaf.flags) == ("UNAVAILABLE", FAIL_OPEN)
    assert (point.app.bodies(), len(point.app.receipts())) == ([b"fine"], 1)
    assert sum(n for name, n in point.counters().items() if "knhk_undurable" in name) == 2


WORTHLESS = [(204, False), (200, True), (503, True), (202, True)]


@pytest.mark.parametrize(("status", "marked"), WORTHLESS)
def test_only_the_agents_own_204_lets_go_on(point: Rig, status: int, marked: bool) -> None:
    point.configure(build_pack(point.packs), durability="disk")
    point.agent.durable, point.agent.marked = lambda _: status, marked
    assert (point.post(b"fine").reason, point.app.seen) == ("receipt-not-durable", [])


def test_a_dead_agent_and_a_slow_one_are_no_word(point: Rig) -> None:
    point.configure(build_pack(point.packs), durability="disk", durableTimeoutMs=50)
    point.agent.gate.clear()
    assert point.post(b"fine").reason == "receipt-not-durable"
    point.agent.close()
    assert point.post(b"fine").reason == "receipt-not-durable"
    assert point.app.seen == []


def test_what_the_agent_decides_is_as_durable_or_said(point: Rig) -> None:
    point.configure(build_pack(point.packs), durability="log")
    assert (point.post(b"cold").status, point.agent.parked[0].level) == (200, LEVELS["log"])
    point.agent.sure = False
    answer = point.post(b"cold")
    assert (answer.status, answer.reason, len(point.app.seen)) == (503, "receipt-not-durable", 1)
    assert answer.receipt == missed(point.agent.parked[1].receipt.hex())
    assert record(point, answer.receipt).enforced.kind == "UNAVAILABLE"
    assert point.agent.awaited == []


def test_the_enforced_pack_says_and_an_open_arm_is_told(point: Rig) -> None:
    settings = point.settings(build_pack(point.packs, "bad"), build_pack(point.packs, "bad,fine"), mode="Shadow")
    settings["candidate"]["durability"] = "region"
    point.publish(settings)
    point.start()
    assert (point.post(b"fine").status, point.agent.awaited) == (200, [])
    settings["stable"]["durability"] = "disk"
    before = point.stat("success")
    point.publish(settings)
    wait_for("the new configuration", lambda: point.stat("success") > before)
    assert point.post(b"fine").status == 200
    assert [(one.level, one.is_open) for one in point.agent.awaited] == [(1, 0)]


def test_clients_that_leave_while_they_wait_harm_nobody(point: Rig) -> None:
    point.configure(build_pack(point.packs), durability="disk")
    point.agent.gate.clear()
    head = f"POST /invoices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n"
    for number in range(1, 6):
        with socket.create_connection(("127.0.0.1", point.port)) as client:
            client.sendall((head + "content-type: application/json\r\ncontent-length: 4\r\n\r\nfine").encode())
            wait_for("it waits", lambda number=number: len(point.agent.awaited) == number)
    point.agent.gate.set()
    assert point.post(b"fine").status == 200
    assert point.app.bodies() == [b"fine"]


def test_unwitnessed_is_as_the_point_fails(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    (ring,) = point.rings.glob("*.ring")
    _unwitnessed(ring, 1)
    answer = point.post(b"fine")
    assert (answer.status, answer.reason) == (503, "unwitnessed")
    assert record(point, answer.receipt).enforced.kind == "UNAVAILABLE"
    _unwitnessed(ring, 0)
    assert point.post(b"fine").status == 200
    point.configure(build_pack(point.packs), failure="Open")
    wait_for("the other ring", lambda: len(list(point.rings.glob("*.ring"))) == 2)
    for path in point.rings.glob("*.ring"):
        _unwitnessed(path, 1)
    answer = point.post(b"fine")
    assert (answer.status, record(point, answer.receipt).enforced.flags) == (200, FAIL_OPEN)


def _unwitnessed(ring: Path, value: int) -> None:
    """As the agent says it."""
    with ring.open("r+b") as file:
        file.seek(328)
        file.write(value.to_bytes(8, "little"))
