"""Rings by formats/ring.md in plain Python: a producer as the shim is one."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from knhk_runtime.outbox.records import Arm

HEADER = 4096
HEAD, TAIL, FULL, BEAT, ASLEEP, CLOSED, RINGS = 128, 192, 256, 320, 336, 384, 392


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
        bell = folder / "bell"
        self.bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK) if bell.exists() else -1
        struct.pack_into("<Q", head, RINGS, self.bell >= 0)
        making.write_bytes(bytes(head) + bytes(capacity))
        super().__init__(making)
        fcntl.flock(self.file, fcntl.LOCK_SH)
        making.rename(path)
        self._ring_bell()
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
        if self.words[ASLEEP // 8]:
            self.words[ASLEEP // 8] = 0
            self._ring_bell()

    def _ring_bell(self) -> None:
        if self.bell >= 0:
            os.write(self.bell, b"!")

    def close_ring(self) -> None:
        """As config_destroy does."""
        self.words[CLOSED // 8] = 1
        self._ring_bell()
        self.close()

    def die(self) -> None:
        """As kill -9 does: the lock goes, nothing is written."""
        self.close()
