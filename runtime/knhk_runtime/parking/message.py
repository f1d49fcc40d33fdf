"""KNPK and KNPA, the parking messages of formats/agent.md."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from knhk.model.faults import Fault, Refused
from knhk_runtime.outbox.records import ENFORCED, PARK, payloads
from knhk_runtime.outbox.settling import DISK, REGION
from knhk_runtime.record import parse_record
from knhk_runtime.ring.entries import RingRecord
from knhk_verify.leaf import parse_leaf

DECIDE, DECIDED, UNAVAILABLE, REFUSED = 1, 2, 3, 4
ADMIT, DENY = 1, 2
NO_DECISION = bytes(16)
_HEAD = struct.Struct(">4sBBBB16sQ16s")
_ARM = struct.Struct(">20sBBHI")
_ANSWER = struct.Struct(">4sBBBB16sI")
_DURABLE = struct.Struct(">4sBBBB16sQ")
MAX_O, MAX_A = (1 << 20) + (1 << 19), 1 << 20
MAX_MESSAGE = 4 << 20
_O_HEAD = 12
_STATES = {1: DECIDED, 2: DECIDE, 3: UNAVAILABLE, 4: REFUSED}  # of leaf kinds


@dataclass(frozen=True)
class ParkedArm:
    """One arm as the shim left it; `a` is empty unless the shim decided."""

    pack: bytes
    flags: int
    mode: int
    state: int
    a: bytes


@dataclass(frozen=True)
class Parked:
    """A request that waits. `decision` is 16 zero bytes when it is not a repetition."""

    receipt: bytes
    cluster: int
    decision: bytes
    arms: tuple[ParkedArm, ...]
    o: bytes
    level: int = 0  # what its leaves must survive, beyond this disk, before the answer (settling.py)

    @property
    def enforced(self) -> int:
        """Index of the arm whose verdict counts."""
        return next(index for index, arm in enumerate(self.arms) if arm.mode == 1)


def _bad(at: int, what: str, must: str) -> Refused:
    return Refused([Fault(f"KNPK offset {at}", what, must)])


def parse_parked(data: bytes) -> Parked:
    """Raises Refused, saying at which offset."""
    if len(data) < _HEAD.size:
        raise _bad(len(data), "ends too early", f"must have {_HEAD.size} bytes of head")
    magic, version, count, level, zero, receipt, cluster, decision = _HEAD.unpack_from(data)
    if (magic, version, zero) != (b"KNPK", 1, 0) or count not in (1, 2) or level > REGION:
        raise _bad(0, data[:8].hex(), f"must be KNPK, version 1, one or two arms, durability 0 to {REGION}, zero")
    at = _HEAD.size
    arms = []
    for _ in range(count):
        if len(data) < at + _ARM.size:
            raise _bad(at, "ends too early", "must hold an arm")
        pack, flags, mode, state, length = _ARM.unpack_from(data, at)
        at += _ARM.size
        if mode not in (1, 2) or state not in (1, 2, 3, 4) or length > MAX_A or len(data) < at + length:
            raise _bad(at, f"mode {mode}, state {state}, {length} bytes of A", "must be an arm of formats/agent.md")
        if (length > 0) != (state == DECIDED):
            raise _bad(at, f"{length} bytes of A in state {state}", "must have an A exactly when the shim decided")
        arms.append(ParkedArm(pack, flags, mode, state, data[at : at + length]))
        at += length
    length = int.from_bytes(data[at : at + 4], "big")
    if len(data) != at + 4 + length or length > MAX_O or data[at + 4 : at + 8] != b"KNO1":
        raise _bad(at, f"O of {length} bytes", "must be O, and the end of the message")
    if [arm.mode for arm in arms].count(1) != 1:
        raise _bad(_HEAD.size, "modes", "must have one enforced arm")
    return Parked(receipt, cluster, decision, tuple(arms), data[at + 4 :], level)


@dataclass(frozen=True)
class Awaited:
    """A decision in a ring whose answer waits: `position` is where its record ends, `level` what it must survive. `is_open`: the agent
    judges its other arm first."""

    receipt: bytes
    position: int
    level: int
    is_open: bool


def parse_awaited(data: bytes) -> Awaited:
    """Raises Refused."""
    if len(data) != _DURABLE.size:
        raise Refused([Fault("KNDU", f"{len(data)} bytes", f"must be {_DURABLE.size}")])
    magic, version, level, is_open, zero, receipt, position = _DURABLE.unpack(data)
    if (magic, version, zero) != (b"KNDU", 1, 0) or is_open > 1 or not DISK <= level <= REGION:
        raise Refused([Fault("KNDU", data[:8].hex(), f"must be KNDU, version 1, durability {DISK} to {REGION}, 0 or 1, zero")])
    return Awaited(receipt, position, level, bool(is_open))


def left_parked(frames: bytes) -> Iterator[Parked]:
    """Requests that the shim answered 202 by itself, out of the frames of a batch: the agent was away or too slow."""
    for start, end in payloads(frames):
        record = parse_record(frames[start:end], "drained")
        leaves = [parse_leaf(leaf) for leaf in record.leaves]
        if any((leaf.kind, leaf.mode) == (PARK, ENFORCED) for leaf in leaves):
            pairs = zip(leaves, record.actions, strict=True)
            arms = tuple(ParkedArm(leaf.pack, leaf.flags, leaf.mode, _STATES[leaf.kind], a) for leaf, a in pairs)
            yield Parked(leaves[0].receipt_id, record.cluster, NO_DECISION, arms, record.observation)


def left_aside(records: Sequence[RingRecord]) -> Iterator[Parked]:
    """The same, out of the records of a batch whose other arm must be judged here too."""
    for record in records:
        if any((arm.kind, arm.mode) == (PARK, ENFORCED) for arm in record.arms):
            arms = tuple(ParkedArm(arm.pack, arm.flags, arm.mode, _STATES[arm.kind], arm.a) for arm in record.arms)
            yield Parked(record.receipt, record.cluster, NO_DECISION, arms, record.o)


def answer(receipt: bytes, verdict: int, problem: bytes, durable: bool = True) -> bytes:
    """Body of 200. `durable`: the leaves are so sure as was asked."""
    return _ANSWER.pack(b"KNPA", 1, verdict, int(not durable), 0, receipt, len(problem)) + problem


def bundle_of(o: bytes) -> bytes:
    """Digest of the data bundle that O names. Raises Refused when O ends before it."""
    at = _O_HEAD
    for _ in range(2):
        at += 2 + int.from_bytes(o[at : at + 2], "big")
    if len(o) < at + 32:
        raise _bad(at, "O ends too early", "must hold the digest of the bundle")
    return o[at : at + 32]
