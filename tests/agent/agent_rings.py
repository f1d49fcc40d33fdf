"""Rings by formats/ring.md in plain Python: a producer as the shim is one, and the consumer's end for tests without the native library."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from knhk_runtime.outbox.records import DECISION, OBSERVED, PARK, Arm, encode
from knhk_verify.record import entry_key

HEADER = 4096
HEAD, TAIL, FULL, BEAT, CLOSED = 128, 192, 256, 320, 384


@dataclass(frozen=True)
class Request:
    """One record."""

    receipt: bytes
    region: int
    cluster: int
    o: bytes
    arms: tuple[Arm, ...]


class _Map:
    def __init__(self, path: Path, writable: bool = True) -> None:
        self.path = path
        self.file = path.open("r+b")
        self.map = mmap.mmap(self.file.fileno(), 0)
        self.words = memoryview(self.map).cast("Q")
        self.capacity = self.words[4]

    def at(self, position: int) -> int:
        return HEADER + position % self.capacity

    def close(self) -> None:
        if self.file.closed:
            return
        self.words.release()
        self.map.close()
        self.file.close()


class Producer(_Map):
    """The shim's end. Holds the shared lock of a living producer until `die` or `close_ring`."""

    def __init__(self, folder: Path, worker: int = 0, capacity: int = 4 << 20, boot: str | None = None) -> None:
        boot = boot or secrets.token_hex(8)
        path = folder / f"{boot}-1-{worker}.ring"
        making = path.with_suffix(".ring.tmp")
        source = secrets.token_bytes(8)
        head = bytearray(HEADER)
        struct.pack_into("<8sII16sQQ8s", head, 0, b"KNHKRNG1", 1, worker, bytes.fromhex(boot) + bytes(8), capacity, 1, source)
        making.write_bytes(bytes(head) + bytes(capacity))
        super().__init__(making)
        fcntl.flock(self.file, fcntl.LOCK_SH)
        making.rename(path)
        self.path = path
        self.source, self.sequence = source, 0

    def next_receipt(self) -> bytes:
        self.sequence += 1
        return self.source + self.sequence.to_bytes(8, "big")

    def put(self, request: Request) -> bool:
        """False when the ring is full."""
        size = 128 + len(request.o) + sum(len(arm.a) for arm in request.arms)
        whole = (size + 63) // 64 * 64
        head = self.words[HEAD // 8]
        to_end = self.capacity - head % self.capacity
        pad = to_end if to_end < whole else 0
        if whole + pad > self.capacity - (head - self.words[TAIL // 8]):
            self.words[FULL // 8] += 1
            return False
        if pad:
            self._publish(head, struct.pack("<II", pad, 2), pad)
            head += pad
        self._publish(head, self._body(request, whole), whole)
        return True

    def _body(self, request: Request, whole: int) -> bytes:
        time_ns = int.from_bytes(request.o[4:12], "big")
        out = struct.pack(
            "<II16sQQIHBB", whole, 1, request.receipt, time_ns, request.cluster, len(request.o), request.region, len(request.arms), 0
        )
        for arm in request.arms:
            out += struct.pack("<20sBBBBB3xII", arm.pack, arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags, len(arm.a), 0)
        out = out.ljust(120, b"\0") + request.o + b"".join(arm.a for arm in request.arms)
        return out

    def _publish(self, head: int, body: bytes, length: int) -> None:
        at = self.at(head)
        self.words[at // 8] = 0
        self.map[at + 8 : at + 8 + len(body)] = body
        self.words[at // 8] = head + 1
        self.words[HEAD // 8] = head + length

    def close_ring(self) -> None:
        """As config_destroy does."""
        self.words[CLOSED // 8] = 1
        self.close()

    def die(self) -> None:
        """As kill -9 does: the lock goes, nothing is written."""
        self.close()


@dataclass
class Batch:
    frames: bytes = b""
    leaves: bytes = b""
    keys: bytes = b""
    n_records: int = 0
    counts: Counter[tuple[bytes, int, int, int]] = field(default_factory=Counter)
    parked: list[Request] = field(default_factory=list)
    discordant: list[Request] = field(default_factory=list)
    clusters: bytes = b""
    new_tail: int = 0


class Consumer(_Map):
    """knhk_runtime.ring.entries.Ring in Python."""

    def drain(self, max_bytes: int) -> Batch:
        tail, head = self.words[TAIL // 8], self.words[HEAD // 8]
        batch = Batch(new_tail=tail)
        frames, leaves = [], []
        while batch.new_tail < head and batch.new_tail - tail < max_bytes:
            at = self.at(batch.new_tail)
            if self.words[at // 8] != batch.new_tail + 1:
                raise ValueError(f"{self.path} position {batch.new_tail}: the commit word must be {batch.new_tail + 1}")
            length, kind = struct.unpack_from("<II", self.map, at + 8)
            batch.new_tail += length
            if kind == 2:
                continue
            batch.n_records += 1
            request = self._read(at)
            if any((arm.kind, arm.mode) == (PARK, OBSERVED) for arm in request.arms):
                batch.parked.append(request)
                continue
            batch.clusters += struct.pack("=Q", request.cluster)
            batch.counts.update((arm.pack, arm.kind, arm.verdict, arm.klass) for arm in request.arms)
            if {(arm.kind, arm.verdict) for arm in request.arms} == {(DECISION, 1), (DECISION, 2)}:
                batch.discordant.append(request)
            made = encode(request.receipt, request.region, request.cluster, request.o, request.arms)
            frames.append(made.frames)
            leaves += [made.entries[i + 19 : i + 137] for i in range(0, len(made.entries), 137)]
        batch.frames, batch.leaves = b"".join(frames), b"".join(leaves)
        batch.keys = b"".join(map(entry_key, leaves))
        return batch

    def _read(self, at: int) -> Request:
        receipt, _, cluster, o_len, region, count, _ = struct.unpack_from("<16sQQIHBB", self.map, at + 16)
        end, arms = at + 128 + o_len, []
        for number in range(count):
            pack, kind, klass, verdict, mode, flags, size = struct.unpack_from("<20sBBBBB3xI", self.map, at + 56 + 36 * number)
            arms.append(Arm(pack, kind, klass, verdict, mode, flags, self.map[end : end + size]))
            end += size
        return Request(receipt, region, cluster, self.map[at + 128 : at + 128 + o_len], tuple(arms))

    def commit(self, new_tail: int) -> None:
        self.words[TAIL // 8] = new_tail

    def beat(self) -> None:
        self.words[BEAT // 8] = time.monotonic_ns()

    @property
    def closed(self) -> bool:
        return self.words[CLOSED // 8] == 1

    @property
    def full(self) -> int:
        return self.words[FULL // 8]


def consumer(path: Path) -> Consumer:
    """Opener of the agent."""
    with path.open("rb") as file:
        if file.read(8) != b"KNHKRNG1" or os.fstat(file.fileno()).st_size < HEADER:
            raise ValueError(f"{path}: must begin with KNHKRNG1")
    return Consumer(path)
