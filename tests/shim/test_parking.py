"""What R1 cannot decide waits for the agent, and for no one else."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import Agent, Parked, Rig, pack_id, rig, token, wait_for
from shim_ring import all_records, observation

pytestmark = pytest.mark.server


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        made.configure(stable=build_pack(made.packs))
        yield made


@pytest.mark.parametrize("word", [b"cold", b"escape"])
def test_the_agent_admits(point: Rig, word: bytes) -> None:
    answer = point.post(word)
    assert answer.status == 200
    (parked,) = point.agent.parked
    assert parked.receipt.hex() == answer.receipt
    assert parked.arms == ((pack_id(build_pack(point.packs)), 0, 1, 1, b""),)
    seen = observation(parked.o)
    assert (seen.body, seen.route, seen.attributes["sub"]) == (word, "create", "alice")
    assert point.app.receipts() == [answer.receipt]
    assert point.app.bodies() == [word]
    assert all_records(point.rings) == {}, "its leaves are the agent's"


def test_the_agent_denies_with_its_own_problem(point: Rig) -> None:
    problem = json.dumps({"type": "https://knhk.dev/problems/denied", "violations": [{"guard": "cold"}]}).encode()
    point.agent.verdict = lambda _: (200, 2, problem)
    answer = point.post(b"cold")
    assert (answer.status, answer.body) == (403, problem)
    assert answer.receipt == point.agent.parked[0].receipt.hex()
    assert point.app.seen == []


def test_not_decided_in_time_is_202_and_the_repeat_passes_with_the_decision(point: Rig) -> None:
    def later(parked: Parked) -> tuple[int, int, bytes]:
        return (202, 1, b"") if parked.decision == bytes(16) else (200, 1, b"")

    point.agent.verdict = later
    first = point.post(b"cold")
    decision = first.headers["knhk-decision"]
    assert (first.status, first.reason, first.problem["decision"]) == (202, "parked", decision)
    assert (first.receipt, point.app.seen) == (decision, [])
    again = point.post(b"cold", headers={"knhk-decision": decision})
    assert again.status == 200
    assert again.receipt != decision
    assert point.agent.parked[1].decision.hex() == decision
    assert "knhk-decision" not in point.app.seen[0][2]
    assert all_records(point.rings) == {}


def test_an_unknown_decision_is_refused(point: Rig) -> None:
    point.agent.verdict = lambda _: (410, 1, b"")
    for body in (b"cold", b"fine"):
        answer = point.post(body, headers={"knhk-decision": "0" * 32})
        assert (answer.status, answer.reason) == (403, "decision-invalid")
        assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "REFUSED"
    assert point.app.seen == []


def test_a_decision_does_not_help_what_r1_denies(point: Rig) -> None:
    assert point.post(b"bad", headers={"knhk-decision": "0" * 32}).status == 403
    assert (point.agent.parked, point.app.seen) == ([], [])


WORTHLESS = [
    (200, 1, True, 0),
    (200, 1, False, None),
    (503, 1, True, None),
    (504, 1, True, None),
    (410, 1, True, None),
    (200, 3, True, None),
    (200, 0, True, None),
]


@pytest.mark.parametrize(("status", "verdict", "marked", "flip"), WORTHLESS)
def test_only_the_agents_own_word_counts(point: Rig, status: int, verdict: int, marked: bool, flip: int | None) -> None:
    def answer(parked: Parked) -> tuple[int, int, bytes]:
        if flip is not None:
            object.__setattr__(parked, "receipt", bytes([parked.receipt[flip] ^ 1]) + parked.receipt[1:])
        return status, verdict, b""

    point.agent.verdict, point.agent.marked = answer, marked
    got = point.post(b"cold")
    assert (got.status, got.reason) == (202, "parked")
    record = all_records(point.rings)[str(got.receipt)]
    assert (record.enforced.kind, record.enforced.verdict, record.o.body) == ("PARK", "", b"cold")
    assert point.app.seen == []


def test_a_dead_agent_parks_and_a_new_one_decides(point: Rig) -> None:
    point.agent.close()
    answer = point.post(b"cold")
    assert (answer.status, answer.headers["knhk-decision"]) == (202, answer.receipt)
    assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "PARK"
    point.agent = Agent(point.agent.path)
    point.agent.start()
    assert wait_for("the agent is found again", lambda: point.post(b"cold").status == 200)


def test_a_missing_cluster_parks(point: Rig) -> None:
    point.configure(stable=build_pack(point.packs), agentCluster="nowhere")
    answer = wait_for("the new configuration", lambda: (got := point.post(b"cold")).status == 202 and got)
    assert all_records(point.rings)[str(answer.receipt)].enforced.kind == "PARK"


def test_a_slow_agent_is_a_202(point: Rig) -> None:
    point.configure(stable=build_pack(point.packs), parkTimeoutMs=50)
    point.agent.gate.clear()
    answer = wait_for("the shorter time-out", lambda: (got := point.post(b"cold")).status == 202 and got)
    assert answer.problem["retryAfterMs"] == 50
    assert point.app.seen == []


def test_clients_that_leave_while_parked_harm_nobody(point: Rig) -> None:
    point.agent.gate.clear()
    head = f"POST /invoices HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token()}\r\n"
    request = head + "content-type: application/json\r\ncontent-length: 4\r\n\r\ncold"
    for reset in [False, True] * 5:
        before = len(point.agent.parked)
        s = socket.create_connection(("127.0.0.1", point.port))
        s.sendall(request.encode())
        wait_for("parked", lambda before=before: len(point.agent.parked) > before or len(point.agent.parked) >= 10)
        if reset:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    point.agent.gate.set()
    assert point.post(b"cold").status == 200
    assert point.app.bodies() == [b"cold"]


def test_swaps_while_parked_end_under_the_pack_that_began(point: Rig) -> None:
    a, b = build_pack(point.packs), build_pack(point.packs, "bad,fine")
    point.agent.gate.clear()
    with ThreadPoolExecutor(16) as clients:
        parked = [clients.submit(point.post, b"cold %d" % n) for n in range(16)]
        wait_for("all parked", lambda: len(point.agent.parked) == 16)
        point.configure(stable=b)
        assert wait_for("B rules", lambda: point.post(b"fine").status == 403)
        point.configure(stable=a)
        assert wait_for("A rules", lambda: point.post(b"fine").status == 200)
        point.agent.gate.set()
        answers = [client.result() for client in parked]
    assert [answer.status for answer in answers] == [200] * 16
    assert {arm[0] for one in point.agent.parked for arm in one.arms} == {pack_id(a)}
    assert len({answer.receipt for answer in answers}) == 16
