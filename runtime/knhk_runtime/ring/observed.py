"""Requests whose observed arm the tables could not decide: set aside durably, then judged in the background; no ring waits."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.log import log
from knhk_runtime.outbox.records import OBSERVED, PARK, Arm, Entries, encode, payloads, time_of
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.parking.decisions import Judged
from knhk_runtime.record import frame
from knhk_runtime.ring.entries import RingRecord
from knhk_runtime.waiting import Boxes

_READ_BYTES = 1 << 20
QUIET_S = 1.0
_HEAD = struct.Struct(">16sHQBI")
_ARM = struct.Struct(">20sBBBBBI")
Decide = Callable[[bytes, bytes], Judged]
Commit = Callable[[Entries], object]


def pack_record(record: RingRecord) -> bytes:
    """The bytes in which a record is set aside (private to the agent)."""
    parts = [_HEAD.pack(record.receipt, record.region, record.cluster, len(record.arms), len(record.o)), record.o]
    for arm in record.arms:
        parts += [_ARM.pack(arm.pack, arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags, len(arm.a)), arm.a]
    return b"".join(parts)


def unpack_record(data: bytes) -> tuple[bytes, int, int, bytes, tuple[Arm, ...]]:
    """(receipt, region, cluster, O, arms)."""
    receipt, region, cluster, count, length = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    o, arms = data[_HEAD.size : at], []
    for _ in range(count):
        pack, kind, klass, verdict, mode, flags, size = _ARM.unpack_from(data, at)
        at += _ARM.size + size
        arms.append(Arm(pack, kind, klass, verdict, mode, flags, data[at - size : at]))
    return receipt, region, cluster, o, tuple(arms)


class ObservedQueue:
    """Segments of records that wait, judged one after another by one thread; a crash repeats the last ones, which appends forgive. Segments
    that were judged are removed."""

    def __init__(self, folder: Path, decide: Decide, commit: Commit, boxes: Boxes) -> None:
        """Raises Corrupt and OSError."""
        self._segments = Segments(folder)
        self._cursor = Cursor(folder / "done", self._segments.start())
        if self._cursor.position < self._segments.start():  # it is not synced, and what was judged is gone
            self._cursor.move(self._segments.start())
        self._decide = decide
        self._commit = commit
        self._boxes = boxes
        self.on_judged: Callable[[Position], None] = lambda position: None  # told up to where records are in the outbox
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="observed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, records: Sequence[RingRecord]) -> None:
        """Durable when it returns."""
        frames = [frame(self._boxes.close(pack_record(record), time_of(record.o))) for record in records]
        self._segments.sync(self._segments.append(b"".join(frames)))
        self._wake.set()

    @property
    def end(self) -> Position:
        """Where what is set aside durably ends."""
        return self._segments.durable

    @property
    def judged(self) -> Position:
        """Up to here it is in the outbox."""
        return self._cursor.position

    @property
    def idle(self) -> bool:
        return self._cursor.position >= self._segments.durable

    def stop(self) -> None:
        """Ends after the record that is being judged."""
        self._end.set()
        self._wake.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        quiet_s: float | None = QUIET_S
        while not self._end.is_set():
            try:
                if self._step() or self._wake.wait(quiet_s):
                    quiet_s = QUIET_S
                else:
                    self._forget()
                    quiet_s = None
                self._wake.clear()
            except Corrupt as error:
                log("observed", fault=str(error))
                return
            except Exception as error:  # storage, or a fault of ours: the record stays where it is
                log("observed", fault=repr(error))
                self._end.wait(1.0)

    def _step(self) -> bool:
        frames, end = self._segments.read(self._cursor.position, _READ_BYTES)
        if not frames:
            return False
        first = end.offset - len(frames)
        for start, stop in payloads(frames):
            if self._end.is_set():
                return True
            if (data := self._boxes.open(frames[start:stop], str(self._segments.path(end.segment)))) is not None:
                self._commit(self._judge(data))
            else:
                log("observed", fault="a request waited for longer than its key is kept, or given to a guard, and has no leaf")
            self._move(Position(end.segment, first + stop))
        return True

    def _move(self, position: Position) -> None:
        self._cursor.move(position)
        self.on_judged(position)

    def _forget(self) -> None:
        """Nothing came for a while: what was judged goes."""
        self._segments.rotate()
        frames, end = self._segments.read(self._cursor.position, 1)
        if not frames and end > self._cursor.position:
            self._move(end)
        self._segments.remove_before(self._cursor.position.segment)

    def _judge(self, data: bytes) -> Entries:
        receipt, region, cluster, o, arms = unpack_record(data)
        return encode(receipt, region, cluster, o, tuple(self._settle(arm, o) for arm in arms))

    def _settle(self, arm: Arm, o: bytes) -> Arm:
        if (arm.kind, arm.mode) != (PARK, OBSERVED):
            return arm
        made = self._decide(arm.pack, o)
        return Arm(arm.pack, made.kind, made.klass, made.verdict, arm.mode, arm.flags, made.a)
