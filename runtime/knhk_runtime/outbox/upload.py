"""From the outbox to the sequencer: in the outbox's order, repeated until acknowledged."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from knhk.model.faults import Corrupt
from knhk_runtime.log import log
from knhk_runtime.outbox.records import ENTRY_SIZE, Entries, entries_of
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.sequencer_client import SequencerConflict, SequencerLacks, SequencerRefused, SequencerUnavailable

READ_BYTES = 4 << 20
BATCH_ENTRIES = 30_000  # 30,000 × 137 bytes stay below the sequencer's 8 MiB
HELD_BYTES = 8 << 20
RECEIPT_BYTES = 16  # at the beginning of an entry's key
FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0


class Sequencer(Protocol):
    """knhk_runtime.sequencer_client.SequencerClient."""

    async def append_body(self, body: bytes) -> list[int]: ...

    async def claim(self, sources: Collection[bytes]) -> None: ...


@dataclass(frozen=True)
class _Held:
    """`before`: where the frames before it end, in its own segment or in the one before."""

    before: Position
    start: Position
    end: Position
    entries: bytes
    count: int


class Outbox:
    """Segments with what was appended lately kept in memory for the uploader. Safe from any thread."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self.on_durable: Callable[[], None] = lambda: None

    def commit(self, made: Entries) -> Position:
        """Writes frames and returns their end when they are durable. Raises OSError; then they are not there."""
        with self._lock:
            written = self.segments.append(made.frames)
            self._hold(_Held(written.before, written.start, written.end, made.entries, made.count))
        self.segments.sync(written)
        self.on_durable()
        return written.end

    def _hold(self, held: _Held) -> None:
        while self._held and self._held[-1].end > held.before:  # a failed sync took them away
            self._held_bytes -= len(self._held.pop().entries)
        if self._held_bytes + len(held.entries) <= HELD_BYTES:  # else the uploader reads it back, after those that are held
            self._held.append(held)
            self._held_bytes += len(held.entries)

    def next_entries(self, at: Position) -> tuple[bytes, int, Position]:
        """Entries of durable frames from `at`, their number and where they end; from memory when they are there. Raises Corrupt."""
        found = self._from_memory(at)
        if found is not None:
            return found
        frames, end = self.segments.read(at, READ_BYTES)
        made = entries_of(frames)
        return made.entries, made.count, end

    def _from_memory(self, at: Position) -> tuple[bytes, int, Position] | None:
        """Held entries from `at` on that follow each other: of what lies between, some may not be held."""
        parts: list[bytes] = []
        count, end = 0, at
        with self._lock:
            while self._held and (self._held[0].end <= at or self._held[0].start < at):
                self._held_bytes -= len(self._held.popleft().entries)
            for held in self._held:
                if held.start != end and not (parts and held.before == end):
                    break
                if held.end > self.segments.durable or (parts and count + held.count > BATCH_ENTRIES):
                    break
                parts.append(held.entries)
                count += held.count
                end = held.end
        return (b"".join(parts), count, end) if parts else None


class Uploader:
    """Moves the cursor `acked` along the outbox. `uploaded` counts leaves acknowledged since start; `conflict` tells of those that the log
    will never have from here, which keep nothing that follows them from it."""

    def __init__(self, outbox: Outbox, cursor: Cursor, sequencer: Sequencer) -> None:
        self.outbox = outbox
        self.cursor = cursor
        self._sequencer = sequencer
        self._wake, self._flushed = asyncio.Event(), asyncio.Event()
        self.uploaded = 0
        self.fault = self.conflict = ""
        self.on_acked: Callable[[Position, Iterable[int]], None] = lambda end, indexes: None  # where acknowledgements end, their indexes
        self.on_kept: Callable[[], None] = lambda: None  # when the cursor has moved so far
        self.on_left_out: Callable[[Iterable[bytes]], None] = lambda receipts: None  # before that: receipts that the log refused
        self._unclaimed: set[bytes] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._is_unkept = False  # the cursor's file could not be replaced the last time

    def claim(self, source: bytes) -> None:
        """A ring of this agent's, before anybody can know its receipt ids: from the event loop's thread."""
        self._unclaimed.add(source)
        self.wake()

    def wake(self) -> None:
        """From the event loop's thread."""
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Everything durable is acknowledged."""
        return self.cursor.position >= self.outbox.segments.durable

    async def flush(self, limit_s: float) -> None:
        """Returns when everything durable is acknowledged, after `limit_s` at the latest, while `run` runs."""
        self._flushed.clear()  # of what was durable before
        self.wake()
        try:
            async with asyncio.timeout(limit_s):
                await self._flushed.wait()
        except TimeoutError:
            log("upload", fault="not everything was acknowledged; the next run goes on from here")

    async def run(self) -> None:
        """Until cancelled. Storage that cannot be read stops it for good and is told in `fault`."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                moved = await self._step()
                self.fault, pause = self.fault if self._is_unkept else "", FIRST_PAUSE_S
            except SequencerUnavailable as error:
                moved = False
                self._tell(str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_PAUSE_S)
            except (SequencerRefused, OSError) as error:
                moved = False
                self._tell(str(error))
                await asyncio.sleep(LAST_PAUSE_S)
            except Corrupt as error:
                self._tell(str(error))
                return
            if not moved:
                await self._sleep()

    def _tell(self, fault: str) -> None:
        if fault != self.fault:
            log("upload", fault=fault)
        self.fault = fault

    async def _sleep(self) -> None:
        self._wake.clear()
        if self.idle and (self.fault or self.cursor.kept >= self.cursor.position):
            self._flushed.set()
        if self.fault or (self.idle and not self._unclaimed):
            try:
                async with asyncio.timeout(LAST_PAUSE_S):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _step(self) -> bool:
        """One round; False when there was nothing to send."""
        await self._claim()
        entries, count, end = await asyncio.to_thread(self.outbox.next_entries, self.cursor.position)
        if end == self.cursor.position:
            self._keep_beside()
            return False
        self._flushed.clear()
        indexes = list[int]()
        for first in range(0, count, BATCH_ENTRIES):
            indexes += await self._append(entries[first * ENTRY_SIZE : (first + BATCH_ENTRIES) * ENTRY_SIZE])
        self.on_acked(end, indexes)
        self.cursor.position = end
        self._keep_beside()
        return True

    def _keep_beside(self) -> None:
        """The cursor's file follows beside the next appends: replacing one may take as long as a sync, and an old one only repeats work.
        Raises OSError of the time before."""
        if self._keeping is not None and self._keeping.done():
            ended, self._keeping = self._keeping, None
            self._is_unkept = ended.exception() is not None
            ended.result()
        if self._keeping is None and self.cursor.kept < self.cursor.position:
            self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        try:
            while self.cursor.kept < self.cursor.position:
                await asyncio.to_thread(self.cursor.keep)
                self.on_kept()
        finally:
            self.wake()

    async def _append(self, part: bytes) -> list[int]:
        """Indexes of what the log took. What it refuses as another's is left out and told."""
        count = len(part) // ENTRY_SIZE
        try:
            indexes = await self._sequencer.append_body(count.to_bytes(4, "big") + part)
        except SequencerConflict as error:
            if not error.items:
                raise
            self._tell_conflict(str(error))
            parted = [part[at * ENTRY_SIZE : (at + 1) * ENTRY_SIZE] for at in range(count)]
            self.on_left_out(parted[at][:RECEIPT_BYTES] for at in error.items if at < count)
            left = [entry for at, entry in enumerate(parted) if at not in error.items]
            return await self._append(b"".join(left)) if left else []
        self.uploaded += count
        return indexes

    async def _claim(self) -> None:
        """Each ring by itself, for the log refuses a claim whole. One that was not answered, or refused for the certificate's sake, is
        made again: who learnt a receipt id meanwhile must not be the first."""
        for source in sorted(self._unclaimed):
            try:
                await self._sequencer.claim((source,))
            except SequencerConflict as error:
                self._tell_conflict(str(error))
            except SequencerLacks as error:  # a log that knows no claims: the first leaf is one
                log("upload", unclaimed=str(error))
            self._unclaimed.discard(source)

    def _tell_conflict(self, conflict: str) -> None:
        log("upload", conflict=conflict)
        self.conflict = conflict
