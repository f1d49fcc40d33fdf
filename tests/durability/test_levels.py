"""Each level of durability: what was answered at it survives what it must, and what the level below loses there is shown to be lost.

Losses are made certain by stopping the stage after the level before the requests are sent: what they left is there and nowhere else."""

from __future__ import annotations

import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from agent_world import until
from durability_house import MISS_MS, House
from shim_rig import Answer

from knhk_verify.leaf import Leaf

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
BODIES = (b"fine 1", b"fine 2", b"bad", b"fine 3", b"cold good")
STATUSES = [200, 200, 403, 200, 200]
ADMIT, DENY, UNAVAILABLE = 1, 2, 3


def receipts(answers: list[Answer]) -> list[str]:
    return [str(answer.receipt) for answer in answers]


def verdicts(answers: list[Answer]) -> dict[str, int]:
    return {str(answer.receipt): DENY if answer.status == 403 else ADMIT for answer in answers}


def told(leaves: dict[str, Leaf]) -> dict[str, int]:
    return {receipt: leaf.verdict for receipt, leaf in leaves.items()}


@pytest.mark.parametrize("level", ["ring", "disk", "log", "region"])
@pytest.mark.failure("Envoy", "receipts")
@pytest.mark.failure("agent", "receipts")
def test_a_process_is_lost_and_no_receipt(house: House, level: str) -> None:
    """At every level: Envoy and agent are killed, and each answer has its one leaf in the outbox of the next agent and in the log."""
    if level == "region":
        house.start_regions(1)
    house.start(level)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(house.rig.post, [body for body in BODIES[:4] for _ in range(8)]))
    house.kill_process()
    house.start_agent()
    until(lambda: verdicts(answers).keys() <= house.in_outbox().keys(), "the rings are drained")
    until(lambda: len(house.in_log(receipts(answers))) == len(answers), "and uploaded")
    assert told(house.in_log(receipts(answers))) == verdicts(answers)
    assert len(house.world.records()) >= len(answers)
    assert set(house.in_outbox()) == set(receipts(answers)), "a leaf for each decision, and no other"


@pytest.mark.failure("memory", "receipts")
def test_a_disk_keeps_what_memory_loses(house: House) -> None:
    """The node loses power: what was answered at `disk` is in the outbox; at `ring` it was in memory alone."""
    house.start("disk")
    answers = house.post(*BODIES)
    assert [answer.status for answer in answers] == STATUSES
    house.lose_memory()
    assert told(house.in_outbox()) == verdicts(answers)


def test_a_ring_is_lost_with_memory(house: House) -> None:
    house.start("ring")
    house.stop(house.agent)
    answers = house.post(*BODIES[:4])
    assert [answer.status for answer in answers] == STATUSES[:4]
    house.lose_memory()
    assert house.in_outbox() == {}
    house.start_agent()
    assert house.in_log(receipts(answers)) == {}


def test_a_log_keeps_what_the_node_loses(house: House) -> None:
    """The guard's node and its disk are lost: what was answered at `log` is in the log, and verifies."""
    house.start("log")
    answers = house.post(*BODIES)
    assert [answer.status for answer in answers] == STATUSES
    house.lose_node()
    assert told(house.in_log(receipts(answers))) == verdicts(answers)


def test_a_disk_is_lost_with_the_node(house: House) -> None:
    house.start("disk")
    house.stop(house.sequencer)
    answers = house.post(*BODIES)
    assert [answer.status for answer in answers] == STATUSES
    house.lose_node()
    assert house.sequencer is not None
    house.sequencer.kill()
    house.sequencer.wait()
    house.start_sequencer()
    assert house.in_log(receipts(answers)) == {}


@pytest.mark.failure("region", "receipts")
def test_a_region_keeps_what_its_loss_takes(house: House) -> None:
    """Guard, node, log and its disk are lost: what was answered at `region` is in the mirrors of others, under the log's signature."""
    house.start_regions(1)
    house.start("region")
    house.stop(house.regions["eu"])  # one of the two is enough
    answers = house.post(*BODIES)
    assert [answer.status for answer in answers] == STATUSES
    house.lose_region()
    assert told(house.in_mirrors(receipts(answers))) == verdicts(answers)


def test_a_log_is_lost_with_its_zone(house: House) -> None:
    """The node and the disk of the sequencer, before anybody has copied it."""
    house.start_regions(1)
    house.start("log")
    for region in house.regions.values():
        house.stop(region)
    answers = house.post(*BODIES)
    assert [answer.status for answer in answers] == STATUSES
    house.lose_region()
    for region in house.regions.values():
        region.send_signal(signal.SIGCONT)
    assert house.in_mirrors(receipts(answers)) == {}


@pytest.mark.failure("region", "traffic")
def test_with_too_few_regions_no_answer_at_their_level(house: House) -> None:
    """Durability `region` of two, and one is away: 503 and a leaf that says so, while checkpoints wait; with it back all goes on."""
    house.start_regions(2)
    house.start("region", MISS_MS)
    house.stop(house.regions["ap"])
    answers = house.post(*BODIES[:3], BODIES[4])
    assert {(answer.status, answer.reason) for answer in answers} == {(503, "receipt-not-durable")}
    assert house.rig.app.seen == []
    house.regions["ap"].send_signal(signal.SIGCONT)
    until(lambda: house.post(b"fine")[0].status == 200, "it goes on")


@pytest.mark.failure("witness", "traffic")
def test_unwitnessed_for_longer_than_the_point_allows(house: House) -> None:
    """No witness cosigns: after maxUnwitnessedSeconds the point fails closed with a leaf that says so; with a witness back it goes on."""
    house.start_regions(1)
    house.start("ring", unwitnessed_s=1)
    until(lambda: house.post(b"fine")[0].status == 200, "witnesses cosign")  # within that second, on a machine that may be full
    for region in house.regions.values():
        house.stop(region)
    answer = until(lambda: next((one for one in house.post(b"fine") if one.status != 200), None), "the time is over")
    assert (answer.status, answer.reason) == (503, "unwitnessed")
    until(lambda: str(answer.receipt) in house.in_outbox(), "its leaf is drained")
    assert house.in_outbox()[str(answer.receipt)].kind == UNAVAILABLE
    for region in house.regions.values():
        region.send_signal(signal.SIGCONT)
    until(lambda: house.post(b"fine")[0].status == 200, "it goes on")


@pytest.mark.failure("sequencer", "traffic")
def test_without_the_log_no_answer_at_its_level(house: House) -> None:
    """Durability `log` and no sequencer: requests get 503 and a leaf that says so, in the outbox and, later, in the log."""
    house.start("log", MISS_MS)
    house.stop(house.sequencer)
    answers = house.post(*BODIES[:3], BODIES[4])
    assert {(answer.status, answer.reason) for answer in answers} == {(503, "receipt-not-durable")}
    assert house.rig.app.seen == []
    assert house.sequencer is not None
    until(lambda: set(receipts(answers)) <= house.in_outbox().keys(), "their leaves are drained")
    house.sequencer.send_signal(signal.SIGCONT)
    until(lambda: len(house.in_log(receipts(answers))) == len(answers), "and arrive")
    decided = [bytes([*bytes.fromhex(r)[:8], bytes.fromhex(r)[8] & 0x7F, *bytes.fromhex(r)[9:]]).hex() for r in receipts(answers)]
    assert {leaf.kind for leaf in house.in_log(receipts(answers)).values()} == {UNAVAILABLE}
    assert [leaf.verdict for leaf in house.in_log(decided).values()] == [ADMIT, ADMIT, DENY, ADMIT], "the decisions are there, too"
    until(lambda: house.post(b"fine")[0].status == 200, "and it goes on")


def test_a_disk_that_is_full_keeps_the_answer(house: House) -> None:
    """No room for the outbox: nothing is answered as durable that is not; with room again it goes on."""
    house.start("disk", MISS_MS)
    until(lambda: house.post(b"fine")[0].status == 200, "there is room")  # within MISS_MS, on a machine that may be full
    assert house.agent is not None
    used = max(path.stat().st_size for path in house.world.outbox.glob("*.seg"))
    resource.prlimit(house.agent.pid, resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    answer = house.post(b"fine")[0]
    assert (answer.status, answer.reason) == (503, "receipt-not-durable")
    resource.prlimit(house.agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: house.post(b"fine")[0].status == 200, "there is room again")
    assert answer.receipt in house.in_outbox()
