"""A request that the shim parks at the agent, as the shim tells it, and whether its decision is kept."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing

from agent_world import World, observation

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
