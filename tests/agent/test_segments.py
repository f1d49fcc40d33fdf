"""The outbox's segments under several writers: no write is called durable that is not, and no writer waits for ever."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from agent_world import observation, until

from knhk.reconcilers.replaying import BASELINE_ADMIT
from knhk_runtime.outbox import segments as module
from knhk_runtime.outbox.records import DECISION, ENFORCED, Arm, Entries
from knhk_runtime.outbox.segments import Segments
from knhk_runtime.outbox.upload import Outbox
from knhk_runtime.record import frame, scan_frames
from knhk_runtime.ring.entries import RingRecord
from knhk_runtime.ring.observed import ObservedQueue
from knhk_runtime.waiting import InClear

HANG_S = 60.0


def payloads(folder: Path) -> list[bytes]:
    """What a reader after a crash would find."""
    found = []
    for path in sorted(folder.glob("*.seg")):
        found += [payload for _, payload in scan_frames(path.read_bytes(), int(path.stem, 16), str(path))[0]]
    return found


def test_writers_that_rotate_and_sync_at_once_never_wait_for_each_other(tmp_path: Path) -> None:
    segments = Segments(tmp_path, segment_bytes=64)

    def write(writer: int) -> None:
        for number in range(150):
            segments.sync(segments.append(frame(b"%d-%d-%s" % (writer, number, b"x" * 20))))

    writers = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(6)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(HANG_S)
    assert not [thread for thread in writers if thread.is_alive()], "writers wait for each other"
    assert len(set(payloads(tmp_path))) == len(payloads(tmp_path)) == 900


class Disk:
    """fdatasync of a disk that fails when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self._real = os.fdatasync
        monkeypatch.setattr(module.os, "fdatasync", self._sync)

    def _sync(self, handle: int) -> None:
        if self.fails:
            raise OSError(5, "Input/output error")
        self._real(handle)


@pytest.mark.failure("disk", "receipts")
def test_a_failed_sync_of_another_writer_is_a_failure_of_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was cut off after somebody else's failure was mine too: I must hear of it, whenever I ask."""
    disk, segments = Disk(monkeypatch), Segments(tmp_path)
    mine, other = segments.append(frame(b"mine")), segments.append(frame(b"other"))
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        segments.sync(other)
    disk.fails = False
    with pytest.raises(OSError, match="failed"):
        segments.sync(mine)
    segments.sync(segments.append(frame(b"mine again")))
    assert payloads(tmp_path) == [b"mine again"]


def test_a_failed_sync_before_a_new_segment_loses_nothing_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, segments = Disk(monkeypatch), Segments(tmp_path, segment_bytes=64)
    mine = segments.append(frame(b"m" * 40))
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        segments.append(frame(b"n" * 40))
    disk.fails = False
    with pytest.raises(OSError, match="failed"):
        segments.sync(mine)
    segments.sync(segments.append(frame(b"o" * 40)))
    assert payloads(tmp_path) == [b"o" * 40]


def test_a_new_segment_that_cannot_be_made_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails between the making of a file and its first sync leaves no file in the way."""
    segments = Segments(tmp_path, segment_bytes=64)
    segments.sync(segments.append(frame(b"m" * 40)))
    real, calls = os.fdatasync, list[int]()

    def second_fails(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(module.os, "fdatasync", second_fails)
    with pytest.raises(OSError, match="No space"):
        segments.append(frame(b"n" * 40))
    segments.sync(segments.append(frame(b"n" * 40)))
    assert payloads(tmp_path) == [b"m" * 40, b"n" * 40]


def test_what_a_failed_sync_took_away_is_never_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, outbox = Disk(monkeypatch), Outbox(Segments(tmp_path))
    first = outbox.commit(Entries(frame(b"first"), b"E1", 1))
    disk.fails = True
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            outbox.commit(Entries(frame(b"gone"), b"E2", 1))
        assert outbox.next_entries(outbox.segments.start()) == (b"E1", 1, first)
    disk.fails = False
    end = outbox.commit(Entries(frame(b"kept"), b"E3", 1))
    assert outbox.next_entries(outbox.segments.start()) == (b"E1E3", 2, end)


@pytest.mark.failure("disk", "receipts")
def test_what_a_failed_sync_took_away_is_never_uploaded_when_a_new_segment_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, outbox = Disk(monkeypatch), Outbox(Segments(tmp_path, segment_bytes=96))
    outbox.commit(Entries(frame(b"first"), b"E1", 1))
    disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        outbox.commit(Entries(frame(b"gone"), b"E2", 1))
    disk.fails = False
    end = outbox.commit(Entries(frame(b"n" * 80), b"E3", 1))
    assert end.segment == 1
    assert payloads(tmp_path) == [b"first", b"n" * 80]
    told, at = b"", outbox.segments.start()
    while at < end:
        entries, _, at = outbox.next_entries(at)
        told += entries
    assert told == b"E1E3"


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 9, 1000])
def test_however_little_a_reader_asks_for_it_gets_whole_frames(tmp_path: Path, limit: int) -> None:
    segments, made = Segments(tmp_path), [frame(bytes([number]) * 300) for number in range(3)]
    for each in made:
        segments.sync(segments.append(each))
    at, found = segments.start(), list[bytes]()
    while (read := segments.read(at, limit))[0]:
        found.append(read[0])
        at = read[1]
    assert b"".join(found) == b"".join(made)
    segments.close()


def test_what_is_set_aside_while_a_queue_tidies_up_is_judged_and_so_is_all_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A queue that was quiet closes its segment: at that very moment the next request comes. Nothing of it had a leaf before."""
    judged, comes = list[bytes](), threading.Event()
    queue = ObservedQueue(tmp_path, lambda *_: pytest.fail("no arm waits"), lambda made: judged.append(made.frames), InClear())
    rotate = Segments.rotate

    def rotating(segments: Segments) -> None:
        rotate(segments)
        if not comes.is_set():
            comes.set()
            queue.put([waits(1)])

    monkeypatch.setattr(Segments, "rotate", rotating)
    queue.start()
    assert comes.wait(HANG_S)
    queue.put([waits(2)])
    until(lambda: len(judged) == 2, "both are judged")
    queue.stop()
    assert "fault" not in capfd.readouterr().err
    assert [number for number in (1, 2) if bytes([number]) * 16 in judged[number - 1]] == [1, 2]


def waits(number: int) -> RingRecord:
    arm = Arm(bytes(20), DECISION, 0, 1, ENFORCED, 0, BASELINE_ADMIT)
    o = observation(b"{}", time_ns=time.time_ns())
    return cast(RingRecord, SimpleNamespace(receipt=bytes([number]) * 16, region=0, cluster=1, o=o, arms=(arm,)))
