"""Outbox records (formats/frame.md) made in Python: for requests that the agent judged. Those of the tables are made in C."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from knhk.model.faults import Corrupt
from knhk_hot.frames import entries_of_frames
from knhk_runtime.record import NO_ACTION, encode_leaf, frame, h_a, h_o
from knhk_verify.leaf import LEAF_SIZE, Leaf

DECISION, PARK, UNAVAILABLE, REFUSED = 1, 2, 3, 4
ENFORCED, OBSERVED = 1, 2
CANDIDATE, STALE, CACHED, RESUMED = 1, 2, 4, 32
ENTRY_SIZE = 17 + 2 + LEAF_SIZE
SALT_SIZE = 16
_HEAD = struct.Struct(">BBHQ16s")
_TIME = struct.Struct(">Q")


@dataclass(frozen=True)
class Arm:
    """One arm of a record before it becomes a leaf: numbers as in formats/leaf.md, `a` empty for a disposition."""

    pack: bytes
    kind: int
    klass: int
    verdict: int
    mode: int
    flags: int
    a: bytes


@dataclass(frozen=True)
class Entries:
    """Frames for the outbox and, for the same records, the entries of `POST /append` (`count` of ENTRY_SIZE bytes)."""

    frames: bytes
    entries: bytes
    count: int


def time_of(o: bytes) -> int:
    """time_ns of O."""
    return int(_TIME.unpack_from(o, 4)[0])


def encode(receipt: bytes, region: int, cluster: int, o: bytes, arms: tuple[Arm, ...]) -> Entries:
    """One record with a fresh salt."""
    salt = os.urandom(SALT_SIZE)
    hashed = h_o(salt, o)
    leaves = [_leaf(arm, receipt, region, hashed, salt, time_of(o)) for arm in arms]
    actions = b"".join(len(arm.a).to_bytes(4, "big") + arm.a for arm in arms)
    payload = _HEAD.pack(1, len(arms), 0, cluster, salt) + b"".join(leaves) + len(o).to_bytes(4, "big") + o + actions
    return Entries(frame(payload), b"".join(map(entry, leaves)), len(leaves))


def _leaf(arm: Arm, receipt: bytes, region: int, hashed: bytes, salt: bytes, time_ns: int) -> bytes:
    digest = h_a(salt, arm.a) if arm.kind == DECISION else NO_ACTION
    leaf = Leaf(arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags, region, hashed, digest, arm.pack, time_ns, receipt)
    return encode_leaf(leaf)


def entry(leaf: bytes) -> bytes:
    """{key, entry str16} of formats/log.md."""
    return leaf[100:116] + bytes([leaf[5] & 1]) + LEAF_SIZE.to_bytes(2, "big") + leaf


def payloads(frames: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each payload in whole, checked frames."""
    at = 0
    while at < len(frames):
        start = at + 8
        at = start + int.from_bytes(frames[at : at + 4], "big")
        yield start, at


def entries_of(frames: bytes) -> Entries:
    """Entries of frames that were read back. Raises Corrupt."""
    try:
        entries = entries_of_frames(frames)
    except ValueError as error:
        raise Corrupt("outbox", str(error)) from error
    return Entries(frames, entries, len(entries) // ENTRY_SIZE)
