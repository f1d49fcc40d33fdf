"""A ring file with a producer in C (formats/ring.md): the records are copies of one real decision with their own receipt ids."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
from pathlib import Path

from bench.native import ffi, loops

HEADER, ASLEEP, RINGS = 4096, 336, 392
RECORD_HEADER = 128
DECISION, R1, ENFORCED = 1, 1, 1


def record(o: bytes, a: bytes, verdict: int, source: bytes, pack: bytes = b"benchmark pack......") -> bytes:
    """One decision of one arm, a multiple of 64 bytes; receipt number and commit word are the producer's."""
    length = (RECORD_HEADER + len(o) + len(a) + 63) // 64 * 64
    head = struct.pack("<QII16sQQIHBB", 0, length, 1, source + bytes(8), int.from_bytes(o[4:12], "big"), 0, len(o), 0, 1, 0)
    arm = struct.pack("<20sBBBBB3xII", pack, DECISION, R1, verdict, ENFORCED, 0, len(a), 0)
    return ((head + arm).ljust(RECORD_HEADER, b"\0") + o + a).ljust(length, b"\0")


class ProducerRing:
    """A ring file of `capacity` bytes in `folder`, held as a living shim holds it."""

    def __init__(self, folder: Path, capacity: int) -> None:
        boot, self.source = secrets.token_hex(8), secrets.token_bytes(8)
        self.path, self._capacity = folder / f"{boot}-1-0.ring", capacity
        head = struct.pack("<8sII16sQQ8s", b"KNHKRNG1", 1, 0, bytes.fromhex(boot) + bytes(8), capacity, 1, self.source)
        making, bell = self.path.with_suffix(".tmp"), folder / "bell"
        self._bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if bell.exists() else -1
        rings = (self._bell >= 0).to_bytes(8, "little")
        making.write_bytes(head.ljust(RINGS, b"\0") + rings.ljust(HEADER - RINGS, b"\0") + bytes(capacity))
        self._file = making.open("r+b")
        fcntl.flock(self._file, fcntl.LOCK_SH)
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._at = ffi.from_buffer("uint8_t[]", self._map, require_writable=True)
        self._sequence = ffi.new("uint64_t *")
        making.rename(self.path)
        self._ring_bell()

    def produce(self, record: bytes, most: int) -> int:
        """Commits up to `most` records; fewer when there is no room. Gives the number."""
        made = int(loops().bench_produce(self._at, self._capacity, record, len(record), most, self._sequence))
        if self._map[ASLEEP]:
            self._map[ASLEEP] = 0
            self._ring_bell()
        return made

    def _ring_bell(self) -> None:
        if self._bell >= 0:
            os.write(self._bell, b"!")

    def close(self) -> None:
        """Gives the file back; it stays until it is removed."""
        ffi.release(self._at)
        self._map.close()
        self._file.close()
        if self._bell >= 0:
            os.close(self._bell)
