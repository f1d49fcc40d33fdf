"""Rings drained in batches (formats/ring.md) into outbox frames and leaves (frame.md, leaf.md): no Python per record."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from knhk_hot.native import ffi, lib

MAGIC = b"KNHKRNG1"
VERSION = 1
HEAD, TAIL, FULL, HEARTBEAT, CLOSED, ABSENT, PACKS, SAMPLES, HEAT = 128, 192, 256, 320, 384, 448, 512, 576, 640
UNWITNESSED, RINGS = 328, 392
HEAT_MAX = 216
CAPACITY_MIN = 1 << 22
RECORDS_MAX = 16384
RECORD_BYTES_MAX = 4 << 20
REASONS = {
    lib.KNHK_RING_BAD_HEAD: "head and tail must be multiples of 64 and at most the capacity apart",
    lib.KNHK_RING_BAD_COMMIT: "the commit word must be the position + 1",
    lib.KNHK_RING_BAD_LENGTH: "the length must be a multiple of 64 that holds the record and ends before head",
    lib.KNHK_RING_BAD_RECORD: "type, arms and sizes must be those of formats/ring.md",
}
_HEADER = struct.Struct("<8sII16sQQ8s")
_RECORD = struct.Struct("<QII16sQQIHBB")
_ARM = struct.Struct("<20sBBBBB3xII")


class RingCorrupt(ValueError):
    """A ring is not what formats/ring.md says; nothing after `position` was read."""

    def __init__(self, path: str, position: int, must: str) -> None:
        self.where = f"{path} position {position}"
        self.must = must
        super().__init__(f"{self.where}: {must}")


@dataclass(frozen=True)
class Arm:
    """One arm of a record; numbers as in formats/leaf.md, `a` empty for a disposition; `duration_ns`: time that its pack took, or 0."""

    pack: bytes
    kind: int
    klass: int
    verdict: int
    mode: int
    flags: int
    a: bytes
    duration_ns: int = 0


@dataclass(frozen=True)
class Record:
    """A record that the agent must judge itself: an observed arm that R1 did not decide."""

    receipt: bytes
    region: int
    cluster: int
    o: bytes
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Discordant:
    """A record whose two arms decided and did not give the same verdict."""

    receipt: bytes
    cluster: int
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Drained:
    """A batch. `leaves` are 118 bytes each, `entries` the 137 of each that a log is given (formats/log.md), in one order;
    `parked` records are in neither. `counts`: (pack, kind, verdict,
    class) → leaves. `clusters`: of each record in `frames`, native u64. `latencies`: (stable, candidate) → counts by bucket of either
    arm, over records that both decided (formats/ring.md)."""

    frames: bytes
    leaves: bytes
    entries: bytes
    n_records: int
    n_leaves: int
    parked: tuple[Record, ...]
    counts: dict[tuple[bytes, int, int, int], int]
    discordant: tuple[Discordant, ...]
    clusters: bytes
    latencies: dict[tuple[bytes, bytes], tuple[list[int], list[int]]]
    new_tail: int


@dataclass(frozen=True)
class Encoded:
    """One record as the outbox keeps it: frame, its leaves, and their entries."""

    frame: bytes
    leaves: tuple[bytes, ...]
    entries: bytes


@ffi.callback("knhk_sha256_fn")  # type: ignore[untyped-decorator]
def _by_hashlib(head: Any, head_len: int, body: Any, body_len: int, digest: Any) -> None:
    import hashlib

    h = hashlib.sha256(ffi.buffer(head, head_len))
    h.update(ffi.buffer(body, body_len))
    ffi.buffer(digest, 32)[:] = h.digest()


def _choose_sha256() -> str:
    """OpenSSL as this interpreter has it, called from C; else hashlib, called back (about 2 µs more for each hash)."""
    try:
        import _hashlib

        path = getattr(_hashlib, "__file__", None)
    except ImportError:
        path = None
    if lib.knhk_use_openssl(ffi.NULL if path is None else os.fsencode(path)):
        return "openssl"
    lib.knhk_use_sha256(_by_hashlib)
    return "hashlib"


SHA256_BY = _choose_sha256()


class _Buffers:
    """Memory for one batch of so many bytes or fewer, kept between batches of one thread."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.records_max = min(max_bytes // lib.KNHK_RECORD_MIN + 1, RECORDS_MAX)
        batch = max_bytes + RECORD_BYTES_MAX
        frames = batch + self.records_max * lib.KNHK_FRAME_EXTRA
        sizes = (frames, 2 * self.records_max * lib.KNHK_LEAF_SIZE, 2 * self.records_max * lib.KNHK_ENTRY_SIZE, batch)
        self.room = [ffi.from_buffer("uint8_t[]", mmap.mmap(-1, size)) for size in sizes]  # memory that is not used is not there
        self.records = ffi.new("knhk_drained_record[]", self.records_max)
        d = self.drained = ffi.new("knhk_drained *")
        d.frames, d.leaves, d.entries, d.aside = self.room
        d.records = self.records
        d.frames_cap, d.aside_cap = frames, batch


_local = threading.local()


def _buffers(max_bytes: int) -> _Buffers:
    known: _Buffers | None = getattr(_local, "buffers", None)
    if known is None or known.max_bytes < max_bytes:
        known = _local.buffers = _Buffers(max_bytes)
    return known


class Ring:
    """The consumer's end of one ring file. One Ring per file at a time, used by one thread at a time."""

    def __init__(self, path: str, file: Any, memory: mmap.mmap, header: tuple[Any, ...]) -> None:
        self.path = path
        self._file = file
        self._map = memory
        self._at: Any = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
        self._size = len(memory)
        self.worker = int(header[2])
        self.boot = bytes(header[3])
        self.capacity = int(header[4])
        self.generation = int(header[5])
        self.source = bytes(header[6])
        self._rings = bool(lib.knhk_ring_load(self._at, RINGS))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Ring:
        """Maps the ring at `path`. Raises RingCorrupt when it is none (or not yet), OSError when it cannot be read."""
        name = os.fspath(path)
        with open(name, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            raw = file.read(_HEADER.size)
            header = _HEADER.unpack(raw) if len(raw) == _HEADER.size else (b"", 0)
            if header[0] != MAGIC or header[1] != VERSION:
                raise RingCorrupt(name, 0, "the header must begin with KNHKRNG1 and version 1")
            capacity = header[4]
            if capacity < CAPACITY_MIN or capacity & (capacity - 1) or size != lib.KNHK_RING_HEADER + capacity:
                raise RingCorrupt(name, 0, "the capacity must be a power of two, and the file must hold header and capacity")
            memory = mmap.mmap(file.fileno(), size)
            kept = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
        return cls(name, kept, memory, header)

    def drain(self, max_bytes: int) -> Drained:
        """Records from tail on: about `max_bytes` of the ring, one record at least. Does not move the tail: make the batch durable, then
        `commit`. Raises RingCorrupt, with everything before the fault drained on the call before."""
        if os.fstat(self._file.fileno()).st_size < self._size:
            raise RingCorrupt(self.path, 0, "the file must not be truncated")
        pending = lib.knhk_ring_pending(self._at, self._size)
        if pending == 0:
            return Drained(b"", b"", b"", 0, 0, (), {}, (), b"", {}, self.tail)
        buffers = _buffers(max_bytes)
        d = buffers.drained
        d.records_cap = min(buffers.records_max, max(pending, 0) // lib.KNHK_RECORD_MIN + 1)  # the producer goes on meanwhile
        held = d.salts = ffi.from_buffer("uint8_t[]", os.urandom(lib.KNHK_SALT_SIZE * d.records_cap))
        status = lib.knhk_ring_drain(self._at, self._size, max_bytes, d)
        del held
        if status != 0 and d.new_tail == self.tail:
            raise RingCorrupt(self.path, d.bad_at, REASONS[status])
        return self._result(d)

    def _result(self, d: Any) -> Drained:
        records = (d.records[i] for i in range(d.nrecords if d.ndiscordant else 0))
        return Drained(
            frames=bytes(ffi.buffer(d.frames, d.frames_len)),
            leaves=bytes(ffi.buffer(d.leaves, d.nleaves * lib.KNHK_LEAF_SIZE)),
            entries=bytes(ffi.buffer(d.entries, d.nleaves * lib.KNHK_ENTRY_SIZE)),
            n_records=d.nrecords + d.naside,
            n_leaves=d.nleaves,
            parked=_parked(bytes(ffi.buffer(d.aside, d.aside_len))),
            counts={(bytes(c.pack), c.kind, c.verdict, c.klass): c.n for c in d.counts[0 : d.ncounts]},
            discordant=tuple(_discordant(r, d.frames) for r in records if r.discordant),
            clusters=_clusters(d),
            latencies={(bytes(x.pack[0]), bytes(x.pack[1])): (list(x.n[0]), list(x.n[1])) for x in d.latencies[0 : d.nlatencies]},
            new_tail=d.new_tail,
        )

    def commit(self, new_tail: int) -> None:
        """Gives the room up to `new_tail` back to the producer; call it after the batch is durable."""
        lib.knhk_ring_store(self._at, TAIL, new_tail)

    def beat(self, unwitnessed: bool = False) -> None:
        """Tells the producer that the consumer lives, and whether the point is to follow its `failure` for want of witnesses."""
        lib.knhk_ring_store(self._at, UNWITNESSED, int(unwitnessed))
        lib.knhk_ring_store(self._at, HEARTBEAT, time.monotonic_ns())

    def sleep(self) -> bool:
        """True when the ring is empty and its producer will ring the bell at the next record."""
        return self._rings and lib.knhk_ring_sleep(self._at, self._size) == 0

    @property
    def tail(self) -> int:
        return int(lib.knhk_ring_load(self._at, TAIL))

    @property
    def head(self) -> int:
        return int(lib.knhk_ring_load(self._at, HEAD))

    @property
    def full(self) -> int:
        """Records that were refused because the ring was full."""
        return int(lib.knhk_ring_load(self._at, FULL))

    @property
    def absent(self) -> int:
        """Judgements whose pack was not resident."""
        return int(lib.knhk_ring_load(self._at, ABSENT))

    def heat(self) -> dict[bytes, tuple[int, list[int]]]:
        """Of each pack (20 bytes): sampled decisions, and triples of its predicates in them by number."""
        found = {}
        for arm in range(2):
            pack = bytes(self._map[PACKS + 20 * arm : PACKS + 20 * (arm + 1)])
            samples = int(lib.knhk_ring_load(self._at, SAMPLES + 8 * arm))
            if samples:
                start = HEAT + 8 * HEAT_MAX * arm
                found[pack] = samples, list(struct.unpack_from(f"={HEAT_MAX}Q", self._map, start))
        return found

    @property
    def closed(self) -> bool:
        """The producer has ended; what is below head is all there will be."""
        return bool(lib.knhk_ring_load(self._at, CLOSED) == 1)

    def close(self) -> None:
        """Unmaps the file; the ring may not be used any more."""
        ffi.release(self._at)
        self._at = None
        self._map.close()
        self._file.close()


def _clusters(d: Any) -> bytes:
    """The clusters of the batch's records: every n-th word of the summaries."""
    size = ffi.sizeof("knhk_drained_record")
    words = memoryview(ffi.buffer(d.records, d.nrecords * size)).cast("B").cast("Q")
    return words[ffi.offsetof("knhk_drained_record", "cluster") // 8 :: size // 8].tobytes()


def _arm_of(arm: Any, a: bytes) -> Arm:
    return Arm(bytes(arm.pack), arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags, a, arm.duration_ns)


def _discordant(record: Any, frames: Any) -> Discordant:
    arms = (record.arm[i] for i in range(record.arms))
    made = tuple(_arm_of(arm, bytes(ffi.buffer(frames + arm.a_at, arm.a_len))) for arm in arms)
    return Discordant(bytes(record.receipt), record.cluster, made)


def _parked(raw: bytes) -> tuple[Record, ...]:
    """Records as the ring has them (checked in C), each to a multiple of 8 bytes."""
    found, at = [], 0
    while at < len(raw):
        _, _, _, receipt, _, cluster, o_len, region, count, _ = _RECORD.unpack_from(raw, at)
        end = at + lib.KNHK_RECORD_HEADER + o_len
        o, arms = raw[at + lib.KNHK_RECORD_HEADER : end], []
        for number in range(count):
            pack, kind, klass, verdict, mode, flags, size, duration_ns = _ARM.unpack_from(raw, at + 56 + _ARM.size * number)
            arms.append(Arm(pack, kind, klass, verdict, mode, flags, raw[end : end + size], duration_ns))
            end += size
        found.append(Record(receipt, region, cluster, o, tuple(arms)))
        at = (end + 7) & ~7
    return tuple(found)


def encode_record(receipt: bytes, region: int, cluster: int, o: bytes, arms: Sequence[Arm], salt: bytes | None = None) -> Encoded:
    """Frame, leaves and entries of a record that the agent makes itself (a parked decision), by the code that drains rings. `salt`: 16
    fresh random bytes by default."""
    if len(receipt) != 16 or not 1 <= len(arms) <= 2 or len(o) < 12:
        raise ValueError("a record has a receipt id of 16 bytes, one or two arms, and an O")
    native_arms = ffi.new("knhk_drained_arm[]", len(arms))
    record = ffi.new("knhk_record *")
    kept = [ffi.from_buffer("uint8_t[]", data) for data in (receipt, o, *(arm.a for arm in arms))]
    record.receipt, record.o, record.o_len = kept[0], kept[1], len(o)
    record.cluster, record.region, record.arms, record.arm = cluster, region, len(arms), native_arms
    for i, arm in enumerate(arms):
        if len(arm.pack) != 20:
            raise ValueError("a pack is named by 20 bytes")
        native_arms[i].pack, native_arms[i].a_len = arm.pack, len(arm.a)
        for name in ("kind", "klass", "verdict", "mode", "flags"):
            setattr(native_arms[i], name, getattr(arm, name))
        record.a[i] = kept[2 + i]
    room = len(o) + sum(len(arm.a) for arm in arms) + lib.KNHK_FRAME_EXTRA
    frame, n = ffi.new("uint8_t[]", room), len(arms)
    leaves, entries = ffi.new("uint8_t[]", n * lib.KNHK_LEAF_SIZE), ffi.new("uint8_t[]", n * lib.KNHK_ENTRY_SIZE)
    size = lib.knhk_encode(record, salt or os.urandom(lib.KNHK_SALT_SIZE), frame, room, leaves, entries)
    made = tuple(bytes(ffi.buffer(leaves + i * lib.KNHK_LEAF_SIZE, lib.KNHK_LEAF_SIZE)) for i in range(n))
    return Encoded(bytes(ffi.buffer(frame, size)), made, bytes(ffi.buffer(entries)))


def hash_rows(prefix: int, rows: bytes, size: int) -> bytes:
    """SHA-256 of the byte `prefix` before each of the rows of `size` bytes that fill `rows`, 32 bytes each, one after another."""
    count, rest = divmod(len(rows), size)
    if rest:
        raise ValueError(f"{len(rows)} bytes are no rows of {size}")
    out = ffi.new("uint8_t[]", 32 * count)
    lib.knhk_hash_rows(prefix, ffi.from_buffer("uint8_t[]", rows), size, count, out)
    return bytes(ffi.buffer(out, 32 * count))
