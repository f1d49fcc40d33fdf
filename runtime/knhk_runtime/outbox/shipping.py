"""From the outbox of a pod to its copy beside the log: what the log has acknowledged, at the same places, repeated until it is there
(formats/delta.md)."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Protocol

from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file
from knhk_runtime.log import log
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.record import SEGMENT_HEAD
from knhk_runtime.sequencer_client import CopyElsewhere, SequencerRefused, SequencerUnavailable

READ_BYTES = 1 << 20
FIRST_PAUSE_S, LAST_PAUSE_S, LOOK_EVERY_S = 0.1, 5.0, 5.0


class Copy(Protocol):
    """knhk_runtime.sequencer_client.SequencerClient."""

    async def copied(self, outbox: str) -> tuple[int, int] | None: ...

    async def copy(self, outbox: str, at: tuple[int, int], frames: bytes) -> None: ...


def outbox_id(folder: Path) -> str:
    """Of this outbox, drawn when it was made. Raises OSError and Corrupt."""
    path = folder / "id"
    if not path.exists():
        replace_file(path, os.urandom(8).hex().encode())
    found = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{16}", found):
        raise Corrupt(str(path), "must be 16 hexadecimal digits")
    return found


class Shipper:
    """`fault` says why nothing moves; `position` how far the copy reaches."""

    def __init__(self, segments: Segments, acked: Cursor, server: Copy, outbox: str) -> None:
        self._segments, self._acked, self._server, self._outbox = segments, acked, server, outbox
        self.position: Position | None = None
        self.fault = ""
        self._wake, self._flushed = asyncio.Event(), asyncio.Event()

    @property
    def idle(self) -> bool:
        """Everything that the log has acknowledged is copied."""
        return self.position is not None and self.position >= self._acked.position

    def wake(self) -> None:
        """More was acknowledged: from the event loop's thread. Where copying fails, its pauses stay."""
        if not self.fault:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            self._wake.clear()
            try:
                moved = await self._step()
                self.fault, pause = "", FIRST_PAUSE_S
            except (SequencerUnavailable, SequencerRefused, OSError, Corrupt) as error:
                self._tell(str(error))
                self._wake.clear()
                await self._sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_S)
                continue
            if not moved:
                if self.idle:
                    self._flushed.set()
                await self._sleep(LOOK_EVERY_S)

    async def _sleep(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def flush(self, limit_s: float) -> None:
        """Returns when everything acknowledged is copied, after `limit_s` at the latest, while `run` runs."""
        self._flushed.clear()  # of what was acknowledged before
        self._wake.set()
        try:
            async with asyncio.timeout(limit_s):
                await self._flushed.wait()
        except TimeoutError:
            log("ship", fault="not all records were copied; they stay in this outbox alone")

    async def _step(self) -> bool:
        """One round; False when there was nothing to send."""
        at = self.position or await self._end()
        until = self._acked.position
        frames, end = await asyncio.to_thread(self._segments.read, at, READ_BYTES) if at < until else (b"", at)
        if end > until:  # acknowledgements end between frames
            frames, end = (frames[: until.offset - at.offset], until) if end.segment == until.segment == at.segment else (b"", at)
        start = Position(end.segment, end.offset - len(frames))
        if frames:
            try:
                await self._server.copy(self._outbox, (start.segment, start.offset), frames)
            except CopyElsewhere as error:
                log("ship", resumed=str(error))
                self.position = None  # asks again
                return True
        self.position = end
        return bool(frames)

    async def _end(self) -> Position:
        found = await self._server.copied(self._outbox)
        return Position(*found) if found else Position(self._segments.start().segment, SEGMENT_HEAD)

    def _tell(self, fault: str) -> None:
        if fault != self.fault:
            log("ship", fault=fault)
        self.fault = fault
