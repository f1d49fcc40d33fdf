"""The drain thread over real rings, without an agent around it: whatever fails when, each record is handed on, and set aside once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from agent_process import GUARDS
from agent_rings import ASLEEP, HEAD, RINGS, TAIL, Producer, Request
from agent_world import observation, until

from knhk_hot.drain import Ring
from knhk_runtime.outbox.records import DECISION, ENFORCED, OBSERVED, PARK, Arm, Entries
from knhk_runtime.ring import drain as draining
from knhk_runtime.ring.bell import Bell
from knhk_runtime.ring.drain import BATCH_BYTES, DrainLoop
from knhk_runtime.ring.entries import Drained, RingRecord
from knhk_runtime.tiers.action import action_bytes
from knhk_verify.leaf import parse_leaf

PACK, OTHER = b"\1" * 20, b"\2" * 20
ADMIT = Arm(PACK, DECISION, 1, 1, ENFORCED, 0, action_bytes(GUARDS, []))
OPEN = Arm(OTHER, PARK, 3, 0, OBSERVED, 1, b"")


class Sink:
    """Where records go; `fails` many batches find no room first."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.receipts: list[bytes] = []
        self.aside: list[bytes] = []

    def commit(self, made: Entries, drained: Drained) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        leaves = [drained.leaves[at : at + 118] for at in range(0, len(drained.leaves), 118)]
        self.receipts += [parse_leaf(leaf).receipt_id for leaf in leaves]

    def set_aside(self, records: Sequence[RingRecord]) -> None:
        self.aside += [record.receipt for record in records]


@pytest.fixture
def loop(tmp_path: Path) -> Callable[[Sink], DrainLoop]:
    return lambda sink: DrainLoop(tmp_path, Ring.open, sink.commit, sink.set_aside)


def put(ring: Producer, body: bytes, *arms: Arm) -> bytes:
    receipt = ring.next_receipt()
    assert ring.put(Request(receipt, 0, 7, observation(body), arms))
    return receipt


@pytest.mark.failure("Envoy", "receipts")
def test_a_record_behind_a_long_pad_is_not_lost_when_the_ring_ends(tmp_path: Path, loop: Callable[[Sink], DrainLoop]) -> None:
    """A pad may be longer than a batch: a batch without records is not the end of a ring that its producer has closed."""
    ring, sink = Producer(tmp_path), Sink()
    sent = [put(ring, b"x" * (960 << 10), ADMIT) for _ in range(3)]
    drain = loop(sink)
    drain.start()
    until(lambda: len(sink.receipts) == 3, "the first records")
    drain.stop()
    to_end = ring.capacity - ring.words[HEAD // 8] % ring.capacity
    assert BATCH_BYTES < to_end < 1300 << 10, "the pad is longer than a batch"
    sent.append(put(ring, b"z" * (1300 << 10), ADMIT))
    ring.close_ring()
    again = loop(sink)
    again.start()
    until(lambda: not list(tmp_path.glob("*.ring")), "the closed ring is removed")
    again.stop()
    assert sink.receipts == sent


def test_a_batch_that_finds_no_room_is_set_aside_once(tmp_path: Path, loop: Callable[[Sink], DrainLoop]) -> None:
    """While the outbox has no room the batch is tried again; what was set aside for the tiers is not set aside again each time."""
    ring, sink = Producer(tmp_path), Sink(fails=3)
    plain, aside = put(ring, b"a", ADMIT), put(ring, b"b", ADMIT, OPEN)
    drain = loop(sink)
    drain.start()
    until(lambda: sink.receipts, "there is room again")
    until(lambda: drain.storage_fault == "", "the fault is over")
    drain.stop()
    assert (sink.receipts, sink.aside) == ([plain], [aside])
    ring.close()


@pytest.mark.failure("agent", "receipts")
def test_it_ends_under_traffic_with_what_was_there_when_it_was_told(tmp_path: Path) -> None:
    """An agent that is to end has its records to upload: what Envoy writes from then on waits in the ring for the next one."""
    ring, sink, told = Producer(tmp_path), Sink(), threading.Event()

    def commit(made: Entries, drained: Drained) -> None:
        sink.commit(made, drained)
        assert told.wait(60)
        put(ring, b"one more", ADMIT)  # so that no look ever finds the ring empty

    drain = DrainLoop(tmp_path, Ring.open, commit, sink.set_aside)
    sent = [put(ring, bytes([n]) * (700 << 10), ADMIT) for n in range(3)]  # more than a batch
    drain.start()
    until(lambda: sink.receipts, "it is at its first batch")
    end = threading.Thread(target=drain.stop, daemon=True)
    end.start()
    told.set()
    end.join(120)
    assert not end.is_alive()
    assert sink.receipts[:3] == sent
    assert ring.words[HEAD // 8] > ring.words[TAIL // 8]
    ring.close()


def test_what_comes_while_it_sleeps_wakes_it(tmp_path: Path, loop: Callable[[Sink], DrainLoop], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the bell wakes it here: of a new ring, of a record after a long rest, of the ring's end, and of who waits."""
    monkeypatch.setattr(draining, "SLEEP_S", 3600.0)
    sink = Sink()
    drain = loop(sink)
    drain.start()
    for worker in range(1, 20):  # one may come a moment after it has looked
        other = Producer(tmp_path, worker)
        until(lambda other=other: other.words[ASLEEP // 8] == 1, "it sleeps beside a new ring")
        other.close_ring()
    ring = Producer(tmp_path)
    until(lambda: ring.words[ASLEEP // 8] == 1, "it sleeps beside a new ring")
    sent = [put(ring, b"first", ADMIT)]
    until(lambda: sink.receipts == sent, "the first record")
    until(lambda: ring.words[ASLEEP // 8] == 1, "it sleeps again")
    sent.append(put(ring, b"second", ADMIT))
    until(lambda: sink.receipts == sent, "the second record")
    until(lambda: ring.words[ASLEEP // 8] == 1, "and again")
    ring.words[ASLEEP // 8] = 0
    drain.hurry()
    until(lambda: ring.words[ASLEEP // 8] == 1, "who waits is heard")
    ring.close_ring()
    until(lambda: not list(tmp_path.glob("*.ring")), "the closed ring is removed")
    drain.stop()


def test_a_ring_whose_producer_does_not_ring_is_looked_into(
    tmp_path: Path, loop: Callable[[Sink], DrainLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "SLEEP_S", 3600.0)
    ring, sink = Producer(tmp_path), Sink()
    assert ring.words[RINGS // 8] == 0, "made before there was a bell"
    drain = loop(sink)
    drain.start()
    sent = []
    for number in range(3):
        sent.append(put(ring, b"%d" % number, ADMIT))
        until(lambda: sink.receipts == sent, "the record")
    drain.stop()
    assert ring.words[ASLEEP // 8] == 0
    ring.close()


def test_the_bell_is_made_anew_over_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "bell").write_bytes(b"no FIFO")
    bell = Bell(tmp_path)
    bell.ring()
    assert bell.wait(3600.0)
    assert not bell.wait(0.0)
    for _ in range(1 << 17):  # more than a FIFO holds
        bell.ring()
    assert bell.wait(3600.0)
    bell.close()
    bell.ring()
