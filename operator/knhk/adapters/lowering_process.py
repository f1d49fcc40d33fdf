"""Lowering of resources in warm processes of their own (knhk.wiring.lowerer), bounded in time: what does not end is ended.

A resource that was not lowered in time is remembered by its digest, so that sending it again holds nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.model.canonical import sha256_hex
from knhk.model.faults import Fault

KEPT = 1_000
LINE_BYTES = 16 << 20
STARTS_WITHIN_S = 60.0
_PROBE = b"{}\n"  # no resource: its faults say that the process is warm


@dataclass(frozen=True)
class Lowered:
    """All faults of a resource; or, when nobody could say in time, why (`unfinished`)."""

    faults: tuple[Fault, ...] = ()
    unfinished: str = ""


class BoundedLowering:
    """`argv` runs knhk.wiring.lowerer; `workers` of them judge at the same time, each for at most `within_s` seconds, waiting included. One
    event loop."""

    def __init__(self, argv: tuple[str, ...], workers: int, within_s: float) -> None:
        self._argv, self._workers, self._within_s = argv, workers, within_s
        self._free: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
        self._running: set[asyncio.subprocess.Process] = set()
        self._warm: set[asyncio.subprocess.Process] = set()
        self._any_warm = asyncio.Event()
        self._starting: set[asyncio.Task[None]] = set()
        self._known: dict[str, Lowered] = {}
        self._closed = False

    @property
    def warm(self) -> bool:
        """Whether a process has answered and runs."""
        return self._any_warm.is_set()

    async def until_warm(self) -> None:
        """Returns when a process has answered and runs."""
        await self._any_warm.wait()

    def start(self) -> None:
        """Starts the processes; returns at once."""
        for _ in range(self._workers):
            self._begin()

    async def close(self) -> None:
        """Ends every process, whatever it does."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in tuple(self._running):
            await self._end(process)

    async def lowered(self, document: Mapping[str, Any]) -> Lowered:
        """What lowering says of a resource (JSON data without status)."""
        text = json.dumps(document, sort_keys=True).encode()
        key = sha256_hex(text)
        if key not in self._known:
            found = await self._asked(text)
            while len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            if found is None:
                return Lowered(unfinished=f"not begun within {self._within_s:g} s: others were being lowered")
            self._known[key] = found
        return self._known[key]

    async def _asked(self, text: bytes) -> Lowered | None:
        """None when no process was free: that says nothing of the resource."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._within_s
        try:
            process = await asyncio.wait_for(self._free.get(), self._within_s)
        except TimeoutError:
            return None
        try:
            line = await asyncio.wait_for(_answered(process, text + b"\n"), max(0.05, deadline_s - loop.time()))
        except (TimeoutError, ConnectionError):
            line = b""
        except asyncio.CancelledError:  # the API server hung up
            await self._replace(process)
            raise
        if not line.endswith(b"\n"):
            await self._replace(process)
            return Lowered(unfinished=f"not finished within {self._within_s:g} s")
        self._free.put_nowait(process)
        told = json.loads(line)
        return Lowered(tuple(Fault(*fault) for fault in told.get("faults", ())), told.get("unfinished", ""))

    async def _replace(self, process: asyncio.subprocess.Process) -> None:
        await self._end(process)
        self._begin()

    def _begin(self) -> None:
        if not self._closed:
            task = asyncio.create_task(self._start())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        """A process counts when it has answered: its imports are the slow part."""
        process = await asyncio.create_subprocess_exec(
            *self._argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env={}, start_new_session=True, limit=LINE_BYTES
        )
        self._running.add(process)
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                line = await _answered(process, _PROBE)
        except (TimeoutError, ConnectionError):
            line = b""
        except asyncio.CancelledError:
            await self._end(process)
            raise
        if line.endswith(b"\n"):
            self._warm.add(process)
            self._any_warm.set()
            self._free.put_nowait(process)
            return
        await self._end(process)
        await asyncio.sleep(1.0)
        self._begin()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._running.discard(process)
        self._warm.discard(process)
        if not self._warm:
            self._any_warm.clear()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _answered(process: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    await process.stdin.drain()
    return await process.stdout.readline()
