"""Reads ring files and observations as their formats say, on its own: nothing of ours is imported."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {1: "DECISION", 2: "PARK", 3: "UNAVAILABLE", 4: "REFUSED"}
VERDICTS = {0: "", 1: "ADMIT", 2: "DENY"}


@dataclass(frozen=True)
class Leaf:
    pack: str
    kind: str
    klass: int
    verdict: str
    enforced: bool
    flags: int
    a: bytes
    duration_ns: int


@dataclass(frozen=True)
class Observation:
    time_ns: int
    region: str
    route: str
    bundle: bytes
    attributes: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Record:
    receipt: str
    time_ns: int
    cluster: int
    region: int
    o: Observation
    leaves: tuple[Leaf, ...]

    @property
    def enforced(self) -> Leaf:
        return next(leaf for leaf in self.leaves if leaf.enforced)


def observation(o: bytes) -> Observation:
    """Strict: trailing bytes and names out of order are errors."""
    at = 12

    def take(n: int) -> bytes:
        nonlocal at
        assert at + n <= len(o), "O ends early"
        at += n
        return o[at - n : at]

    def text(n: int) -> str:
        return take(int.from_bytes(take(n), "big")).decode()

    assert o[:4] == b"KNO1"
    region, route, bundle, _evaluator = text(2), text(2), take(32), take(32)
    attributes = [(text(2), text(4)) for _ in range(int.from_bytes(take(2), "big"))]
    body = take(int.from_bytes(take(4), "big"))
    assert at == len(o), "O has trailing bytes"
    names = [name for name, _ in attributes]
    assert names == sorted(set(names))
    return Observation(int.from_bytes(o[4:12], "big"), region, route, bundle, dict(attributes), body)


def _record(data: bytes) -> Record:
    receipt, time_ns, cluster, o_len, region, arms, zero = struct.unpack_from("<16sQQIHBB", data, 16)
    assert zero == 0
    at = 128 + o_len
    leaves = []
    for number in range(arms):
        pack, kind, klass, verdict, mode, flags, a_len, duration_ns = struct.unpack_from("<20sBBBBB3xII", data, 56 + 36 * number)
        leaves.append(Leaf(pack.hex(), KINDS[kind], klass, VERDICTS[verdict], mode == 1, flags, data[at : at + a_len], duration_ns))
        at += a_len
    seen = observation(data[128 : 128 + o_len])
    return Record(receipt.hex(), time_ns, cluster, region, seen, tuple(leaves))


def records(path: Path) -> Iterator[Record]:
    """All records in [0, head): valid as long as nothing was overwritten."""
    data = path.read_bytes()
    assert data[:8] == b"KNHKRNG1"
    capacity, head = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<Q", data, 128)[0]
    assert len(data) == 4096 + capacity
    position = struct.unpack_from("<Q", data, 192)[0]
    while position < head:
        at = 4096 + position % capacity
        commit, length, kind = struct.unpack_from("<QII", data, at)
        assert commit == position + 1, f"{path}: commit word at {position}"
        if kind == 1:
            yield _record(data[at : at + length])
        position += length


def all_records(folder: Path) -> dict[str, Record]:
    """Every record of every ring, by receipt; a receipt twice is an error."""
    found: dict[str, Record] = {}
    for path in sorted(folder.glob("*.ring")):
        for record in records(path):
            assert record.receipt not in found
            found[record.receipt] = record
    return found


def drain(path: Path) -> None:
    """What the agent does after it made the records durable: tail = head, heartbeat = now."""
    with path.open("r+b") as file:
        file.seek(128)
        head = file.read(8)
        file.seek(192)
        file.write(head)
        file.seek(320)
        file.write(struct.pack("<Q", time.monotonic_ns()))


def word(path: Path, offset: int) -> int:
    return int(struct.unpack_from("<Q", path.read_bytes()[: offset + 8], offset)[0])
