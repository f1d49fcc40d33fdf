"""A request that the shim parks at the agent, as the shim tells it, and decisions that are made late and kept."""

from __future__ import annotations

import os
import signal
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from agent_world import World, observation, until

from knhk_runtime.outbox.records import ENFORCED, OBSERVED

NONE = bytes(16)


def message(
    world: World, body: bytes, receipt: int, decision: bytes = NONE, o: bytes | None = None, versions: tuple[str, ...] = ("1.0.0",)
) -> bytes:
    """KNPK as the shim sends it: the first arm enforced, all to be decided."""
    arms = b""
    for number, version in enumerate(versions):
        pack = bytes.fromhex(world.packs.digests[version][7:47])
        arms += pack + struct.pack(">BBHI", number, ENFORCED if number == 0 else OBSERVED, 1, 0)
    o = observation(body) if o is None else o
    head = struct.pack(">4sBBH16sQ16s", b"KNPK", 1, len(versions), 0, id16(receipt), 77, decision)
    return head + arms + len(o).to_bytes(4, "big") + o


def id16(number: int) -> bytes:
    return b"shim0001" + number.to_bytes(8, "big")


def is_kept(world: World, receipt: int) -> bool:
    """Whether the agent has a late decision under this id on its disk."""
    with closing(sqlite3.connect(f"file:{world.point / 'state' / 'decisions.db'}?mode=ro", uri=True)) as db:
        return bool(db.execute("SELECT 1 FROM decision WHERE id = ?", (id16(receipt),)).fetchall())


def held_up(world: World, asks: Callable[[int], None]) -> int:
    """Asks under a receipt while the evaluator is held up, which then decides; that receipt. An agent that waits for half a second ends
    the evaluator instead: then it is done again, under another one."""
    return next(receipt for receipt in count(1000, 1000) if _decides_late(world, receipt, asks))


def _decides_late(world: World, receipt: int, asks: Callable[[int], None]) -> bool:
    until(lambda: world.park(message(world, b"cold good", receipt + 999))[0] == 200, "the evaluator is warm")
    evaluator = world.evaluator()
    os.kill(evaluator, signal.SIGSTOP)
    try:
        asks(receipt)
    finally:
        with suppress(ProcessLookupError):
            os.kill(evaluator, signal.SIGCONT)
    until(lambda: is_kept(world, receipt) or not Path(f"/proc/{evaluator}").exists(), "it decides, or is ended")
    return is_kept(world, receipt)
