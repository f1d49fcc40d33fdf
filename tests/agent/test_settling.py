"""Who waits for a receipt to be durable is told when it is, and never before."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Coroutine
from pathlib import Path
from random import Random

import pytest
from agent_rings import HEAD, Producer, Request
from agent_world import observation, until

from knhk_hot.drain import Ring
from knhk_runtime.outbox import segments as segments_module
from knhk_runtime.outbox import upload
from knhk_runtime.outbox.records import REFUSED, Arm, Entries, encode
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.outbox.settling import DISK, LOG, Reached, Settling
from knhk_runtime.outbox.upload import Outbox, Uploader
from knhk_runtime.outbox.witnessing import Unwitnessed
from knhk_runtime.record import parse_record, scan_frames
from knhk_runtime.ring.drain import DrainLoop
from knhk_runtime.ring.entries import Drained
from knhk_runtime.sequencer_client import SequencerConflict, SequencerUnavailable
from knhk_verify.leaf import parse_leaf

A, B = b"RECEIPTA" + bytes(8), b"RECEIPTB" + bytes(8)
RING, OTHER = A[:8], B[:8]


class Place:
    """Where an outbox ends, and what was set aside; `hurried`: how often somebody could not wait for the next look."""

    def __init__(self) -> None:
        self.end, self.aside, self.hurried = Position(0, 16), Position(0, 16), 0
        self.settling = Settling(lambda: self.end, lambda: self.aside, self._hurry)
        self.settling.acked.move(self.end)
        self.settling.judged.move(self.aside)

    def _hurry(self) -> None:
        self.hurried += 1


@pytest.fixture
def place() -> Place:
    return Place()


async def begun(waits: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
    """It waits."""
    task = asyncio.create_task(waits)
    await asyncio.sleep(0)
    return task


async def is_waiting(task: asyncio.Task[bool] | asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def test_a_place_wakes_those_it_has_passed_in_any_order_and_no_others() -> None:
    async def run() -> None:
        reached = Reached(0)
        tasks = {at: asyncio.create_task(reached.reach(at)) for at in (30, 10, 20)}
        await asyncio.sleep(0)
        tasks[10].cancel()
        for at, done in ((5, []), (20, [20]), (10, [20]), (30, [20, 30])):
            reached.move(at)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sorted(at for at, task in tasks.items() if task.done() and not task.cancelled()) == done
        await reached.reach(30)

    asyncio.run(run())


def test_the_disk_is_its_own_ring_s_tail(place: Place) -> None:
    async def run() -> None:
        task = await begun(place.settling.of_ring(A, 128, DISK, False))
        place.settling.drained(OTHER, 4096)
        place.settling.drained(RING, 64)
        assert await is_waiting(task)
        assert place.hurried == 1
        place.settling.drained(RING, 128)
        assert await task
        assert await place.settling.of_ring(A, 64, DISK, False)
        assert place.hurried == 1, "it was there"

    asyncio.run(run())


def test_the_log_is_what_it_acknowledged_after_the_ring_was_drained(place: Place) -> None:
    async def run() -> None:
        task = await begun(place.settling.of_ring(A, 128, LOG, False))
        place.settling.acknowledged(Position(0, 500), [0])
        place.end = Position(0, 900)
        place.settling.drained(RING, 128)
        assert await is_waiting(task)
        place.settling.acknowledged(Position(0, 899), [1])
        assert await is_waiting(task)
        place.settling.acknowledged(Position(0, 900), [2])
        assert await task

    asyncio.run(run())


def test_an_open_arm_is_judged_first(place: Place) -> None:
    """The record is on the disk, set aside, but its leaves are not even made yet."""

    async def run() -> None:
        place.settling.drained(RING, 128)
        place.aside = Position(0, 300)
        assert await place.settling.of_ring(A, 128, DISK, True)
        task = await begun(place.settling.of_ring(A, 128, LOG, True))
        assert await is_waiting(task)
        place.end = Position(0, 700)
        place.settling.judged.move(Position(0, 300))
        assert await is_waiting(task), "its leaves are in the outbox alone"
        place.settling.acknowledged(Position(0, 700), [0, 1])
        assert await task

    asyncio.run(run())


class Refusing:
    """A log that takes all leaves but those of one receipt."""

    def __init__(self, receipt: bytes) -> None:
        self._receipt = receipt

    async def append_body(self, body: bytes) -> list[int]:
        entries = [body[at : at + 137] for at in range(4, len(body), 137)]
        bad = frozenset(at for at, entry in enumerate(entries) if entry[:16] == self._receipt)
        if bad:
            raise SequencerConflict("another's", bad)
        return list(range(len(entries)))

    async def claim(self, sources: Collection[bytes]) -> None:
        return


def test_what_the_log_refuses_is_never_in_it(tmp_path: Path, place: Place) -> None:
    outbox = Outbox(Segments(tmp_path / "outbox"))
    for receipt in (A, B):
        end = outbox.commit(encode(receipt, 0, 0, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))
    uploader = Uploader(outbox, Cursor(tmp_path / "acked", outbox.segments.start()), Refusing(A))
    uploader.on_acked, uploader.on_left_out = place.settling.acknowledged, place.settling.left_out

    async def run() -> list[bool]:
        waiting = [asyncio.create_task(place.settling.of_outbox(receipt, end, LOG)) for receipt in (A, B)]
        task = asyncio.create_task(uploader.run())
        found = await asyncio.gather(*waiting)
        task.cancel()
        return found

    assert asyncio.run(run()) == [False, True]


class Slow(Cursor):
    """A file that is not replaced before `go` is set."""

    def __init__(self, path: Path, first: Position) -> None:
        self.go = threading.Event()
        self.go.set()
        super().__init__(path, first)

    def keep(self) -> None:
        assert self.go.wait(60)
        super().keep()


def test_a_cursor_that_is_slow_to_write_holds_no_receipt_up_and_is_written_in_the_end(tmp_path: Path) -> None:
    outbox, log = Outbox(Segments(tmp_path / "outbox")), Lying(took=True)
    cursor = Slow(tmp_path / "acked", outbox.segments.start())
    uploader = Uploader(outbox, cursor, log)
    cursor.go.clear()

    def put(receipt: bytes) -> Position:
        return outbox.commit(encode(receipt, 0, 0, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))

    async def run() -> Position:
        log.again.set()
        task = asyncio.create_task(uploader.run())
        for number, receipt in enumerate((A, B), 1):
            end = put(receipt)
            uploader.wake()
            async with asyncio.timeout(60):
                while uploader.uploaded < number:  # noqa: ASYNC110  told by no event
                    await asyncio.sleep(0)
        flushed = asyncio.create_task(uploader.flush(60))
        assert await is_waiting(flushed), "the file says nothing yet"
        cursor.go.set()
        await flushed
        task.cancel()
        return end

    end = asyncio.run(run())
    assert Cursor(tmp_path / "acked", Position(0, 0)).position == end


class Full(Cursor):
    """A disk that has no room `left` times."""

    left = 0

    def keep(self) -> None:
        if self.left:
            self.left -= 1
            raise OSError(28, "No space left on device")
        super().keep()


def test_a_cursor_that_cannot_be_written_is_told_once_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, stood = list[str](), list[str]()
    monkeypatch.setattr(upload, "LAST_PAUSE_S", 0.001)
    monkeypatch.setattr(upload, "log", lambda _, fault: told.append(fault))
    outbox, log = Outbox(Segments(tmp_path / "outbox")), Lying(took=True)
    outbox.commit(encode(A, 0, 0, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))
    cursor = Full(tmp_path / "acked", outbox.segments.start())
    cursor.left = 6
    uploader = Uploader(outbox, cursor, log)

    async def run() -> None:
        log.again.set()
        task = asyncio.create_task(uploader.run())
        async with asyncio.timeout(60):
            while cursor.kept < outbox.segments.durable:
                stood.append(uploader.fault)
                await asyncio.sleep(0)
            while uploader.fault:  # noqa: ASYNC110
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [fault for fault in told if "No space" in fault] == ["[Errno 28] No space left on device"]
    assert "" not in stood[next(at for at, fault in enumerate(stood) if "No space" in fault) :]


def test_more_than_is_held_in_memory_comes_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits longest is held; the rest is read back."""
    monkeypatch.setattr(upload, "HELD_BYTES", 5 * 137)
    outbox, log = Outbox(Segments(tmp_path / "outbox", segment_bytes=1500)), Lying(took=True)
    receipts = [number.to_bytes(16, "big") for number in range(1, 40)]
    for receipt in receipts:
        end = outbox.commit(encode(receipt, 0, 0, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))
    uploader = Uploader(outbox, Cursor(tmp_path / "acked", outbox.segments.start()), log)

    async def run() -> None:
        log.again.set()
        task = asyncio.create_task(uploader.run())
        await uploader.flush(60)
        task.cancel()

    asyncio.run(run())
    assert [entry[:16] for entry in log.held] == receipts
    assert uploader.cursor.position == end


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_held_all_that_was_committed_comes_once_and_in_order(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any size, of which some do not fit into memory, segments that end anywhere, and a reader in between."""
    chance = Random(seed)
    monkeypatch.setattr(upload, "HELD_BYTES", chance.choice((3, 6, 12)) * 137)
    outbox = Outbox(Segments(tmp_path, segment_bytes=chance.choice((700, 1500, 4000))))
    at, told, receipts = outbox.segments.start(), list[bytes](), list[bytes]()

    def read() -> None:
        nonlocal at
        entries, count, at = outbox.next_entries(at)
        assert len(entries) == count * 137
        told.extend(entries[first : first + 16] for first in range(0, len(entries), 137))

    for _ in range(80):
        made = list[Entries]()
        for _ in range(chance.choice((1, 1, 2, 5))):
            receipts.append(len(receipts).to_bytes(16, "big"))
            arm = Arm(bytes(20), REFUSED, 0, 2, 1, 0, b"")
            made.append(encode(receipts[-1], 0, 0, observation(b"x" * chance.choice((1, 300))), (arm,)))
        parts = [b"".join(getattr(each, name) for each in made) for name in ("frames", "entries")]
        outbox.commit(Entries(parts[0], parts[1], len(made)))
        if chance.random() < 0.1:
            outbox.segments.rotate()
        if chance.random() < 0.3:
            read()
    while at < outbox.segments.durable:
        read()
    assert told == receipts


class Lying:
    """A log that says that it has failed, once: it had not taken the batch, or had. The repetition waits for `again`."""

    def __init__(self, took: bool) -> None:
        self._took, self._lies, self.held, self.again = took, True, list[bytes](), asyncio.Event()

    async def append_body(self, body: bytes) -> list[int]:
        entries = [body[at : at + 137] for at in range(4, len(body), 137)]
        lies, self._lies = self._lies, False
        if not lies:
            await self.again.wait()
        if not lies or self._took:
            self.held += [entry for entry in entries if entry not in self.held]
        if lies:
            raise SequencerUnavailable("no answer came")
        return [self.held.index(entry) for entry in entries]

    async def claim(self, sources: Collection[bytes]) -> None:
        return


@pytest.mark.parametrize("took", [False, True])
def test_a_log_that_lies_makes_nobody_go_on_before_it_has_said_yes(tmp_path: Path, place: Place, took: bool) -> None:
    """Failed and lost, and failed but persisted: whoever waits is told after the repetition, and the leaf is in the log once."""
    outbox, log = Outbox(Segments(tmp_path / "outbox")), Lying(took)
    end = outbox.commit(encode(A, 0, 0, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))
    uploader = Uploader(outbox, Cursor(tmp_path / "acked", outbox.segments.start()), log)
    uploader.on_acked = place.settling.acknowledged

    async def run() -> None:
        waiting = asyncio.create_task(place.settling.of_outbox(A, end, LOG))
        task = asyncio.create_task(uploader.run())
        while not uploader.fault:  # noqa: ASYNC110  told by no event
            await asyncio.sleep(0)
        assert await is_waiting(waiting)
        log.again.set()
        assert await waiting
        task.cancel()

    asyncio.run(run())
    assert (len(log.held), place.settling.bound) == (1, 1)


@pytest.mark.parametrize("persisted", [False, True])
def test_a_disk_that_lies_makes_nobody_go_on_before_it_has_synced(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    """The first fdatasync says that it has failed, and did nothing, or did all of it; the record is tried again."""
    (tmp_path / "rings").mkdir()
    ring = Producer(tmp_path / "rings")
    outbox, told, real, failed = Outbox(Segments(tmp_path / "outbox")), list[int](), os.fdatasync, threading.Event()
    again = threading.Event()

    def lies_once(handle: int) -> None:
        if failed.is_set():
            again.wait()
            return real(handle)
        if persisted:
            real(handle)
        failed.set()
        raise OSError(5, "Input/output error")

    def commit(made: Entries, _drained: Drained) -> None:
        outbox.commit(made)

    drain = DrainLoop(tmp_path / "rings", Ring.open, commit, lambda records: None)
    drain.on_drained = lambda source, tail: told.append(tail)
    receipt = ring.next_receipt()
    assert ring.put(Request(receipt, 0, 7, observation(b"x"), (Arm(bytes(20), REFUSED, 0, 2, 1, 0, b""),)))
    monkeypatch.setattr(segments_module.os, "fdatasync", lies_once)
    drain.start()
    failed.wait()
    assert told == []
    again.set()
    until(lambda: told, "the repetition is durable")
    drain.stop()
    assert told == [ring.words[HEAD // 8]]
    (path,) = (tmp_path / "outbox").glob("*.seg")
    frames, _ = scan_frames(path.read_bytes(), 0, "outbox")
    found = [parse_leaf(leaf).receipt_id for _, payload in frames for leaf in parse_record(payload, "outbox").leaves]
    assert found == [receipt]
    ring.close()


def test_the_age_is_that_of_the_oldest_that_no_published_checkpoint_covers() -> None:
    age = Unwitnessed(Position(3, 16))
    age.looked(Position(3, 16), 10.0)
    assert age.seconds(12.0) == 2.0, "what an earlier run had brought to the log may wait for witnesses"
    age.published(5, 5)
    assert age.seconds(13.0) == 0.0
    age.looked(Position(3, 16), 20.0)
    age.looked(Position(3, 100), 21.0)
    age.looked(Position(3, 200), 22.0)
    assert age.seconds(25.0) == 5.0, "never younger than it is"
    age.acknowledged(Position(3, 100), 6)
    age.acknowledged(Position(3, 200), 8)
    age.published(7, 8)
    assert age.seconds(25.0) == 4.0
    age.published(8, 8)
    assert age.seconds(99.0) == 0.0


def test_an_outbox_that_never_held_anything_has_nothing_that_waits() -> None:
    """However long the log has not answered: the first receipt begins to wait when it is there."""
    age = Unwitnessed(Position(0, 16))
    for second in (10.0, 500.0):
        age.looked(Position(0, 16), second)
        assert age.seconds(second) == 0.0
    age.looked(Position(0, 100), 501.0)
    assert age.seconds(502.0) == 2.0
    age.acknowledged(Position(0, 100), 1)
    age.published(1, 1)
    assert age.seconds(503.0) == 0.0


def test_what_is_remembered_of_a_long_silence_is_bound_and_makes_nothing_younger() -> None:
    age = Unwitnessed(Position(3, 16))
    for second in range(5000):
        age.looked(Position(3, 16 + second), float(second))
        age.acknowledged(Position(3, 16 + second), second)
    assert age.seconds(5000.0) == 5000.0
    age.published(5000, 5000)
    assert age.seconds(5000.0) == 0.0
