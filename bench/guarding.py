"""The agent's part of durability, as a process of its own: the product's drain loop, outbox, uploader and the socket that shims ask.

Run as `python -m bench.guarding RING_DIR FOLDER AGENT_SOCKET SEQUENCER_SOCKET`; ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

from knhk_hot.drain import Ring
from knhk_runtime.exchange.loaded import LoadedPacks
from knhk_runtime.outbox.records import Entries
from knhk_runtime.outbox.segments import Cursor, Segments
from knhk_runtime.outbox.settling import Settling
from knhk_runtime.outbox.upload import Outbox, Uploader
from knhk_runtime.parking.decisions import Decisions
from knhk_runtime.parking.judge import ArmJudge
from knhk_runtime.parking.server import ParkServer, Point
from knhk_runtime.ring.drain import DrainLoop
from knhk_runtime.ring.observed import ObservedQueue
from knhk_runtime.sequencer_client import SequencerClient
from knhk_runtime.tiers.pool import WarmEvaluator
from knhk_runtime.waiting import InClear

POINT = Point(0, 5000, 5000)
WITHIN_S = 60.0


def _never(*_: object) -> Any:
    raise AssertionError("no record of this bench waits for a lower tier")


async def run(rings: Path, folder: Path, agent: Path, sequencer: Path) -> None:
    """Until SIGTERM."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    outbox = Outbox(Segments(folder / "outbox"))
    uploader = Uploader(outbox, Cursor(folder / "outbox" / "acked", outbox.segments.start()), SequencerClient(sequencer, WITHIN_S))
    observed = ObservedQueue(folder / "observed", _never, lambda made: None, InClear())

    def commit(made: Entries, _drained: object) -> None:
        outbox.commit(made)

    drain = DrainLoop(rings, Ring.open, commit, observed.put)
    settling = Settling(lambda: outbox.segments.durable, lambda: observed.end, drain.hurry)
    settling.acked.move(uploader.cursor.position)
    outbox.on_durable = lambda: _soon(loop, uploader)

    def drained(source: bytes, tail: int) -> None:
        loop.call_soon_threadsafe(settling.drained, source, tail)

    drain.on_drained = drained
    uploader.on_acked = settling.acknowledged
    evaluator = WarmEvaluator()
    judge = ArmJudge(LoadedPacks(evaluator, _never), evaluator)
    server = ParkServer(judge, Decisions(folder / "decisions.db", InClear()), outbox.commit, lambda: POINT, settling)
    await server.start(agent)
    drain.start()
    tasks = [asyncio.create_task(uploader.run()), asyncio.create_task(_follow(SequencerClient(sequencer, WITHIN_S), settling))]
    await ended.wait()
    for task in tasks:
        task.cancel()
    await server.stop()
    await asyncio.to_thread(drain.stop)
    evaluator.close()


def _soon(loop: asyncio.AbstractEventLoop, uploader: Uploader) -> None:
    loop.call_soon_threadsafe(uploader.wake)


async def _follow(client: SequencerClient, settling: Settling) -> None:
    published = regions = 0
    while True:
        told = await client.stages((published, regions))
        published, regions = int(told["published"]), int(told["regions"])
        settling.held(regions)


if __name__ == "__main__":
    asyncio.run(run(*map(Path, sys.argv[1:])))
