"""From the rings through the outbox to the log: nothing lost, nothing twice, whoever is killed when."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from agent_process import GUARDS
from agent_rings import TAIL, Producer, Request
from agent_world import World, observation, until

from knhk.model.faults import Corrupt
from knhk_runtime.outbox.records import DECISION, ENFORCED, OBSERVED, PARK, REFUSED, Arm
from knhk_runtime.outbox.segments import Segments
from knhk_runtime.record import check_record
from knhk_runtime.tiers.action import action_bytes
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import parse_leaf

pytestmark = pytest.mark.server
ADMIT_A, DENY_A = action_bytes(GUARDS, []), action_bytes(GUARDS, [1])


def pack20(world: World, version: str) -> bytes:
    return bytes.fromhex(world.packs.digests[version][7:47])


def decided(pack: bytes, verdict: int, mode: int = ENFORCED, flags: int = 0) -> Arm:
    return Arm(pack, DECISION, 1, verdict, mode, flags, ADMIT_A if verdict == 1 else DENY_A)


def fill(ring: Producer, pack: bytes, count: int) -> list[bytes]:
    """Receipts of `count` admitted requests."""
    receipts = []
    for _ in range(count):
        receipt = ring.next_receipt()
        request = Request(receipt, 0, 7, observation(b"fine"), (decided(pack, 1),))
        if ring.put(request):
            receipts.append(receipt)
    return receipts


def receipts_of(world: World) -> list[bytes]:
    return [parse_leaf(leaf).receipt_id for record in world.records() for leaf in record.leaves]


@pytest.fixture
def up(world: World) -> World:
    world.start_sequencer()
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    world.runs(1)
    return world


def test_what_the_shim_wrote_is_durable_hashed_and_acknowledged(up: World) -> None:
    ring = up.ring()
    sent = fill(ring, pack20(up, "1.0.0"), 500)
    until(lambda: up.stats()["acked"] == 500, "500 acknowledged")
    assert receipts_of(up) == sent
    for record in up.records():
        check_record(record, "outbox")
    ring.close_ring()
    until(lambda: not list(up.rings.glob("*.ring")), "the closed ring is removed")
    row = {"admit": 500, "deny": 0, "park": 0, "refused": 0, "R1": 500, "W1": 0, "C1": 0}
    assert up.stats()["decisions"] == {pack20(up, "1.0.0").hex(): row}


def test_killed_at_random_under_a_producer_nothing_is_lost_or_doubled(up: World) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice, sent, ended = random.Random(seed), list[bytes](), threading.Event()

    def produce() -> None:
        pack = pack20(up, "1.0.0")
        ring = up.ring()
        while not ended.is_set():
            sent.extend(fill(ring, pack, dice.randrange(1, 60)))
            time.sleep(0.002)
        ring.close_ring()

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for _ in range(6):
            time.sleep(dice.random() * 1.5)
            up.running[-1].send_signal(signal.SIGKILL)
            up.running[-1].wait()
            up.start_agent()
    finally:
        ended.set()
        producer.join()
    until(lambda: not list(up.rings.glob("*.ring")), "all rings drained")
    until(lambda: (s := up.stats()).get("counted") and s["acked"] == s["durable"], "all acknowledged")
    up.running[-1].terminate()
    assert up.running[-1].wait(timeout=30) == 0
    seen = receipts_of(up)
    assert set(seen) == set(sent), f"lost {len(set(sent) - set(seen))} of {len(sent)}, seed {seed}"
    up.running[0].terminate()
    up.running[0].wait(timeout=30)
    entries = log_entries(up.log)
    assert sorted(parse_leaf(entry).receipt_id for entry in entries) == sorted(sent), f"seed {seed}"


def test_a_sequencer_that_is_away_is_waited_for_across_restarts(world: World) -> None:
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    world.runs(1)
    ring = world.ring()
    fill(ring, pack20(world, "1.0.0"), 300)
    until(lambda: world.stats()["durable"] == 300, "durable without a sequencer")
    assert world.stats()["acked"] == 0
    world.running[-1].kill()
    world.running[-1].wait()
    fill(ring, pack20(world, "1.0.0"), 50)
    world.start_sequencer()
    world.start_agent()
    until(lambda: world.stats().get("acked") == 350, "the backlog is acknowledged")


def test_a_ring_left_by_a_killed_envoy_is_drained_and_removed(world: World) -> None:
    ring = world.ring()
    sent = fill(ring, pack20(world, "1.0.0"), 100)
    ring.die()
    world.desire(world.sign(world.rollout()))
    world.start_agent()
    until(lambda: not list(world.rings.glob("*.ring")), "the ring is removed")
    assert receipts_of(world) == sent


def test_a_broken_ring_is_told_and_the_others_go_on(up: World) -> None:
    broken, sound = up.ring(0), up.ring(1)
    broken.words[128 // 8] = 64  # head moved without a record
    sent = fill(sound, pack20(up, "1.0.0"), 10)
    until(lambda: up.stats()["durable"] == 10, "the sound ring is drained")
    fault = until(lambda: [r for r in up.stats()["refused"] if str(broken.path) in r["where"]], "the broken ring is told")
    assert "commit word" in fault[0]["what"]
    assert receipts_of(up) == sent


def test_a_full_ring_is_counted(up: World) -> None:
    ring = up.ring()
    ring.words[256 // 8] = 3
    fill(ring, pack20(up, "1.0.0"), 1)
    until(lambda: up.stats()["ringFull"] == 3, "refused requests are told")


def test_sigterm_drains_uploads_and_ends_with_0(up: World) -> None:
    ring = up.ring()
    sent = fill(ring, pack20(up, "1.0.0"), 2000)
    up.running[-1].terminate()
    assert up.running[-1].wait(timeout=30) == 0
    assert receipts_of(up) == sent
    stats = up.stats()
    assert (stats["ready"], stats["acked"], stats["durable"]) == (False, 2000, 2000)
    assert not (up.point / "run" / "agent.sock").exists()


def test_a_second_agent_on_the_same_folder_is_refused(up: World) -> None:
    second = up.start_agent()
    assert second.wait(timeout=60) != 0
    assert "another agent runs on this folder" in up.said()


def test_differences_are_counted_by_cluster_guard_and_direction_and_again_after_a_restart(up: World) -> None:
    up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
    up.runs(2)
    stable, candidate = pack20(up, "1.0.0"), pack20(up, "1.1.0")
    ring = up.ring()

    def put(cluster: int, first: int, second: Arm) -> bytes:
        receipt = ring.next_receipt()
        ring.put(Request(receipt, 0, cluster, observation(b"x"), (decided(stable, first), second)))
        return receipt

    for cluster in (1, 1, 2, 0, 0):
        put(cluster, 1, decided(candidate, 1, OBSERVED, 1))
    sample = put(3, 1, decided(candidate, 2, OBSERVED, 1))
    put(3, 1, decided(candidate, 2, OBSERVED, 1))
    put(4, 2, decided(candidate, 1, OBSERVED, 1))
    put(5, 1, Arm(candidate, REFUSED, 0, 2, OBSERVED, 1, b""))

    def pair() -> dict[str, object]:
        rows = [row for row in up.stats().get("pairs", []) if row["candidate"] == candidate.hex()]
        return rows[0] if rows and up.stats()["counted"] else {}

    expected = {
        "stable": stable.hex(), "candidate": candidate.hex(), "pairs": 9, "clusters": 7, "errors": 0,
        "guards": {"amount": {"newDenials": 1, "newAdmits": 1}, "route": {"newDenials": 1, "newAdmits": 0}},
        "any": {"newDenials": 2, "newAdmits": 1}, "classes": {"stable": {"R1": 8, "W1": 0, "C1": 0},
        "candidate": {"R1": 8, "W1": 0, "C1": 0}, "bothR1": 8}, "latency": {"stable": {}, "candidate": {}},
        "enforcedDenials": 0, "lastCandidateEnforcedNs": 0,
    }  # fmt: skip
    until(lambda: pair().get("pairs") == 9, "pairs are counted")
    before = pair()
    assert {name: before[name] for name in expected} == expected
    assert before["samples"]["newDenials"][0] == sample.hex()  # type: ignore[index]
    until(lambda: up.stats()["acked"] == up.stats()["durable"], "acknowledged")
    up.running[-1].kill()
    up.running[-1].wait()
    (up.point / "stats.json").unlink()
    up.start_agent()
    until(lambda: pair() == before, f"the same counts again: {before}")


def test_a_batch_that_a_killed_agent_left_on_its_ring_is_counted_once(up: World) -> None:
    up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
    up.runs(2)
    arms = decided(pack20(up, "1.0.0"), 1), decided(pack20(up, "1.1.0"), 1, OBSERVED, 1)
    ring = up.ring()

    def put(count: int) -> None:
        for _ in range(count):
            ring.put(Request(ring.next_receipt(), 0, 7, observation(b"x"), arms))

    def pairs() -> list[int]:
        return [row["pairs"] for row in up.stats().get("pairs", []) if up.stats()["counted"]]

    put(20)
    until(lambda: pairs() == [20], "the first batches are counted")
    tail = ring.words[TAIL // 8]
    put(30)
    until(lambda: pairs() == [50], "all are counted")
    up.running[-1].kill()
    up.running[-1].wait()
    ring.words[TAIL // 8] = tail  # as if it had died before this
    put(5)
    (up.point / "stats.json").unlink()
    up.start_agent()
    until(lambda: ring.words[TAIL // 8] == ring.words[128 // 8], "the ring is drained")
    until(lambda: pairs() and pairs() != [50], "the new ones are counted")
    assert pairs() == [55]
    assert len(up.records()) == 85, "recorded twice, which the log forgives"
    assert up.stats()["durable"] == 110


def test_an_observed_arm_that_the_tables_left_open_is_judged_by_the_agent(up: World) -> None:
    up.desire(up.sign(up.rollout(mode="Shadow", candidate=up.pack("1.1.0"))))
    up.runs(2)
    ring = up.ring()
    for body in (b"cold good", b"cold bad"):
        open_arm = Arm(pack20(up, "1.1.0"), PARK, 3, 0, OBSERVED, 1, b"")
        ring.put(Request(ring.next_receipt(), 0, 9, observation(body), (decided(pack20(up, "1.0.0"), 1), open_arm)))
    until(lambda: up.stats()["durable"] == 4, "both records have their leaves")
    leaves = [parse_leaf(record.leaves[1]) for record in up.records()]
    assert [(leaf.kind, leaf.klass, leaf.verdict, leaf.mode) for leaf in leaves] == [(DECISION, 3, 1, OBSERVED), (DECISION, 3, 2, OBSERVED)]
    for record in up.records():
        check_record(record, "outbox")


# ---- segments ------------------------------------------------------------------------------------


def test_a_torn_tail_is_cut_and_an_altered_frame_is_refused_with_file_and_offset(up: World) -> None:
    ring = up.ring()
    fill(ring, pack20(up, "1.0.0"), 20)
    until(lambda: up.stats()["acked"] == 20, "20 acknowledged")
    up.running[-1].kill()
    up.running[-1].wait()
    (segment,) = up.outbox.glob("*.seg")
    whole = segment.read_bytes()
    segment.write_bytes(whole + b"\0\0\1\0half a frame")
    assert Segments(up.outbox).cut_bytes == 16
    assert segment.read_bytes() == whole
    altered = bytearray(whole)
    altered[200] ^= 1
    segment.write_bytes(bytes(altered))
    with pytest.raises(Corrupt, match=f"{segment} offset 16: "):
        Segments(up.outbox)
    agent = up.start_agent()
    assert agent.wait(timeout=60) != 0
    assert str(segment) in up.said()


def test_a_full_disk_keeps_records_in_the_ring_and_goes_on_when_there_is_room(up: World) -> None:
    ring = up.ring()
    fill(ring, pack20(up, "1.0.0"), 5)
    until(lambda: up.stats()["durable"] == 5, "drained")
    agent = up.running[-1]
    size = sum(path.stat().st_size for path in up.outbox.glob("*.seg"))
    subprocess.run(["prlimit", f"--pid={agent.pid}", f"--fsize={size + 200}:unlimited"], check=True)
    sent = fill(ring, pack20(up, "1.0.0"), 10)
    until(lambda: "storage" in up.said(), "the full disk is told")
    assert len(receipts_of(up)) == 5
    subprocess.run(["prlimit", f"--pid={agent.pid}", "--fsize=unlimited:unlimited"], check=True)
    until(lambda: up.stats()["durable"] == 15, "drained after all")
    assert receipts_of(up)[5:] == sent


def test_memory_and_readiness_are_told(up: World) -> None:
    status = Path(f"/proc/{up.running[-1].pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    start = time.monotonic()
    up.running[-1].terminate()
    up.running[-1].wait()
    (up.point / "stats.json").unlink()
    begun = time.monotonic()
    up.start_agent()
    up.runs(1)
    print(f"agent: {rss / 1024:.0f} MiB resident, stopped in {begun - start:.2f} s, ready in {time.monotonic() - begun:.2f} s")
