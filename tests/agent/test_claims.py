"""A ring is its agent's from the first moment that the log can be told so; only yes, no, or not knowing of claims ends that."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from knhk_runtime.http1 import Answer
from knhk_runtime.outbox import upload
from knhk_runtime.outbox.records import ENTRY_SIZE, Entries
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.outbox.upload import Outbox, Uploader
from knhk_runtime.record import frame
from knhk_runtime.sequencer_client import SequencerClient

OURS, TAKEN = b"source-1", b"source-0"


class Slow:
    """A log that takes its time for a claim, and acknowledges everything."""

    def __init__(self) -> None:
        self.entries = 0

    async def append_body(self, body: bytes) -> list[int]:
        self.entries += int.from_bytes(body[:4], "big")
        return []

    async def claim(self, sources: Collection[bytes]) -> None:
        await asyncio.sleep(0.2)


async def _flushed(folder: Path) -> int:
    """How many entries the log had when an agent was told that everything is acknowledged."""
    outbox, slow = Outbox(Segments(folder)), Slow()
    uploader = Uploader(outbox, Cursor(folder / "acked", outbox.segments.durable), slow)
    running = asyncio.create_task(uploader.run())
    await uploader.flush(10)
    uploader.claim(OURS)
    outbox.commit(Entries(frame(b"x"), b"y" * ENTRY_SIZE, 1))
    await uploader.flush(10)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return slow.entries


def test_an_agent_that_ends_uploads_what_became_durable_last(tmp_path: Path) -> None:
    """In a pod nobody comes after it: what it leaves in its outbox is gone with the pod."""
    assert asyncio.run(_flushed(tmp_path)) == 1


@dataclass
class Log:
    """As HttpClient: a log that answers claims so, then yes to all but TAKEN."""

    statuses: list[int]
    claimed: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def request(self, method: str, target: str, body: bytes = b"", timeout_s: float = 0.0) -> Answer:
        assert (method, target) == ("POST", "/sources")
        sources = {body[at : at + 8] for at in range(0, len(body), 8)}
        status = self.statuses.pop(0) if self.statuses else 409 if TAKEN in sources else 204
        (self.refused if status == 409 else self.claimed if status == 204 else set()).update(sources)
        if self.claimed | self.refused >= {OURS, TAKEN}:
            self.done.set()
        return Answer(status, {}, b"{}")


async def _claimed(folder: Path, log: Log, sources: Collection[bytes]) -> None:
    client = SequencerClient(folder / "none")
    client._client = log  # type: ignore[assignment]
    uploader = Uploader(Outbox(Segments(folder)), Cursor(folder / "acked", Position(0, 0)), client)
    for source in sources:
        uploader.claim(source)
    running = asyncio.create_task(uploader.run())
    async with asyncio.timeout(30):
        await log.done.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("statuses", [[], [401], [503, 429, 401]], ids=["at once", "a certificate that was over", "away"])
def test_a_ring_is_claimed_whatever_became_of_another_and_of_the_first_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: list[int]
) -> None:
    monkeypatch.setattr(upload, "LAST_PAUSE_S", 0.01)
    log = Log(statuses)
    asyncio.run(_claimed(tmp_path, log, (TAKEN, OURS)))
    assert (log.claimed, log.refused) == ({OURS}, {TAKEN})


async def _claimed_while_it_looks(folder: Path, log: Log) -> None:
    client = SequencerClient(folder / "none")
    client._client = log  # type: ignore[assignment]
    outbox = Outbox(Segments(folder))
    uploader = Uploader(outbox, Cursor(folder / "acked", outbox.segments.durable), client)
    loop, look, looks = asyncio.get_running_loop(), outbox.next_entries, list[Position]()

    async def claim() -> None:
        uploader.claim(OURS)
        uploader.claim(TAKEN)

    def looking(at: Position) -> tuple[bytes, int, Position]:
        looks.append(at)
        if len(looks) == 1:
            asyncio.run_coroutine_threadsafe(claim(), loop).result()
        return look(at)

    outbox.next_entries = looking  # type: ignore[method-assign]
    running = asyncio.create_task(uploader.run())
    async with asyncio.timeout(60):
        await log.done.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_a_ring_that_comes_while_an_idle_outbox_is_looked_into_is_claimed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LAST_PAUSE_S", 3600.0)  # nothing but the claim wakes it
    log = Log([])
    asyncio.run(_claimed_while_it_looks(tmp_path, log))
    assert log.claimed == {OURS}
