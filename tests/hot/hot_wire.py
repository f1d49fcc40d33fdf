"""Wire formats by their pages in formats/, written apart from the product's code: what C and Python are held against."""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

TIME_NS = 1_790_000_000_123_456_789
XSD = "http://www.w3.org/2001/XMLSchema#"


def str16(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def bytes32(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def observation(
    body: bytes,
    route: str = "create",
    attributes: Mapping[str, str] | None = None,
    time_ns: int = TIME_NS,
    region: str = "local",
    bundle: bytes = bytes(32),
    evaluator: bytes = bytes(32),
) -> bytes:
    """O (formats/observation.md)."""
    attributes = {} if attributes is None else attributes
    out = b"KNO1" + struct.pack(">Q", time_ns) + str16(region.encode()) + str16(route.encode()) + bundle + evaluator
    out += struct.pack(">H", len(attributes))
    for name, value in sorted(attributes.items()):
        out += str16(name.encode()) + bytes32(value.encode())
    return out + bytes32(body)


def action(verdict: int, guards: int, failing: Sequence[int]) -> bytes:
    """A without output triples (formats/action.md)."""
    bits = bytearray(-(-guards // 8))
    for i in failing:
        bits[i // 8] |= 1 << i % 8
    return b"KNA1" + bytes([verdict, 0]) + struct.pack(">H", guards) + bytes(bits) + b"\0\0"


Term = tuple[int, str, str]  # kind, lexical, datatype or language


def iri(text: str) -> Term:
    return (1, text, "")


def literal(text: str, datatype: str = XSD + "string") -> Term:
    return (2, text, datatype)


def tagged(text: str, language: str) -> Term:
    return (3, text, language)


@dataclass(frozen=True)
class Perfect:
    """A perfect hash (formats/perfect.md)."""

    r: int
    x: int
    pilots: list[int]
    remap: list[int]
    keys: list[bytes]  # at their places


def seeds(keys: Sequence[bytes]) -> list[tuple[int, int]]:
    drawn = hashlib.sha256(b"".join(struct.pack("<Q", len(key)) + key for key in keys)).digest()
    numbers = [struct.unpack("<2Q", hashlib.sha256(b"knhk perfect hash 1\0%c" % k + drawn).digest()[:16]) for k in range(64)]
    return [(a >> 4 or 1, b) for a, b in numbers]


def hash64(key: bytes, r: int, x: int) -> int:
    acc = len(key)
    for at in range(0, max(1, len(key)), 7):
        acc = sum(reversed(divmod(acc * r + int.from_bytes(key[at : at + 7], "little"), 2**61)))
    h = (acc ^ x) * 0xBF58476D1CE4E5B9 % 2**64
    return h ^ h >> 32


def slot(h: int, pilot: int, slots: int) -> int:
    mixed = (h ^ pilot * 0x9E3779B97F4A7C15 % 2**64) * 0xBF58476D1CE4E5B9 % 2**64
    return (mixed >> 32) * slots // 2**32


def perfect(keys: Sequence[bytes]) -> Perfect:
    """By the page; only the first seed is tried."""
    (r, x), n = seeds(keys)[0], len(keys)
    count, slots = n // 4 + 1, n + n // 32 + 2
    buckets: list[list[bytes]] = [[] for _ in range(count)]
    for key in keys:
        buckets[(hash64(key, r, x) >> 32) * count // 2**32].append(key)
    pilots = [0] * count
    taken: dict[int, bytes] = {}
    for i in sorted(range(count), key=lambda i: -len(buckets[i])):
        hashes = [hash64(key, r, x) for key in buckets[i]]
        while len({slot(h, pilots[i], slots) for h in hashes} - taken.keys()) < len(hashes):
            pilots[i] += 1
        taken |= {slot(h, pilots[i], slots): key for h, key in zip(hashes, buckets[i], strict=True)}
    free = [at for at in range(n) if at not in taken]
    remap = [free.pop(0) if at in taken else 0 for at in range(n, slots)]
    taken |= {to: taken[at] for at, to in zip(range(n, slots), remap, strict=True) if at in taken}
    return Perfect(r, x, pilots, remap, [taken[at] for at in range(n)])


def bundle(subjects: Mapping[str, Sequence[tuple[str, Term]]], caller: str | None = None) -> bytes:
    """A data bundle (formats/bundle.md)."""
    texts = {""} | ({caller} if caller is not None else set())
    for name, facts in subjects.items():
        texts.add(name)
        for p, (_, lexical, second) in facts:
            texts |= {p, lexical, second}
    found = perfect(sorted(text.encode() for text in texts))
    number = {key.decode(): i for i, key in enumerate(found.keys)}
    triples, first, offsets = [], [0], [0]
    for key in found.keys:
        offsets.append(offsets[-1] + len(key))
        triples += sorted(
            (number[p], number[lexical], number[second], kind) for p, (kind, lexical, second) in subjects.get(key.decode(), ())
        )
        first.append(len(triples))
    head = (len(number), len(triples), offsets[-1], 0xFFFFFFFF if caller is None else number[caller], found.r, found.x)
    out = struct.pack("<8s4I2Q", b"KNHKBND2", *head)
    words = [struct.pack(f"<{len(part)}I", *part) for part in (found.remap, offsets, first)]
    pilots = struct.pack(f"<{len(found.pilots)}H", *found.pilots)
    for part in (pilots, *words, b"".join(found.keys), b"".join(struct.pack("<3IB3x", *fact) for fact in triples)):
        out += bytes(-len(out) % 8) + part
    return out


def caller_iri(template: str, sub: str) -> str:
    return template.replace("{}", quote(sub, safe="-._~"))


@dataclass(frozen=True)
class Arm:
    """One arm of a ring record."""

    pack: bytes = b"P" * 20
    kind: int = 1
    klass: int = 1
    verdict: int = 1
    mode: int = 1
    flags: int = 0
    a: bytes = action(1, 1, ())
    duration_ns: int = 0


@dataclass(frozen=True)
class Record:
    """One ring record."""

    receipt: bytes
    o: bytes
    arms: tuple[Arm, ...] = (Arm(),)
    region: int = 3
    cluster: int = 77


def leaf(record: Record, arm: Arm, salt: bytes) -> bytes:
    """formats/leaf.md."""
    h_o = hashlib.sha256(b"knhk.dev/o/v1\n" + salt + record.o).digest()
    h_a = hashlib.sha256(b"knhk.dev/a/v1\n" + salt + arm.a).digest() if arm.kind == 1 else bytes(32)
    head = bytes([1, arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags]) + struct.pack(">H", record.region)
    return head + h_o + h_a + arm.pack + record.o[4:12] + record.receipt + b"\0\0"


def frame(record: Record, salt: bytes) -> bytes:
    """An outbox frame (formats/frame.md)."""
    payload = struct.pack(">BBHQ", 1, len(record.arms), 0, record.cluster) + salt
    payload += b"".join(leaf(record, arm, salt) for arm in record.arms)
    payload += bytes32(record.o) + b"".join(bytes32(arm.a) for arm in record.arms)
    length = struct.pack(">I", len(payload))
    return length + struct.pack(">I", zlib.crc32(length + payload)) + payload


def ring_header(capacity: int, source: bytes = b"SOURCE01", worker: int = 0, generation: int = 1) -> bytes:
    """Header of formats/ring.md, nothing written yet."""
    head = struct.pack("<8sII16sQQ8s", b"KNHKRNG1", 1, worker, b"B" * 16, capacity, generation, source)
    return head.ljust(4096, b"\0")


def ring_record(record: Record, position: int, commit: int | None = None) -> bytes:
    """A record at a position, padded to a multiple of 64."""
    size = 128 + len(record.o) + sum(len(arm.a) for arm in record.arms)
    length = (size + 63) // 64 * 64
    time_ns = struct.unpack(">Q", record.o[4:12])[0]
    out = struct.pack("<QII", position + 1 if commit is None else commit, length, 1)
    out += record.receipt + struct.pack("<QQIHBB", time_ns, record.cluster, len(record.o), record.region, len(record.arms), 0)
    for arm in record.arms:
        out += (
            arm.pack
            + bytes([arm.kind, arm.klass, arm.verdict, arm.mode, arm.flags, 0, 0, 0])
            + struct.pack("<II", len(arm.a), arm.duration_ns)
        )
    return (out.ljust(128, b"\0") + record.o + b"".join(arm.a for arm in record.arms)).ljust(length, b"\0")


class Producer:
    """The shim's end of a ring file."""

    def __init__(self, path: Path, capacity: int = 4 << 20, start: int = 0) -> None:
        self.path, self.capacity, self.head = path, capacity, start
        path.write_bytes(ring_header(capacity) + bytes(capacity))
        self._file = path.open("r+b")
        self.map = mmap.mmap(self._file.fileno(), 0)
        self.store(128, start)
        self.store(192, start)

    def store(self, offset: int, value: int) -> None:
        self.map[offset : offset + 8] = struct.pack("<Q", value)

    def load(self, offset: int) -> int:
        return int(struct.unpack_from("<Q", self.map, offset)[0])

    def put(self, record: Record) -> None:
        """Writes a record, with a pad when it does not fit before the end."""
        data = ring_record(record, self.head)
        left = self.capacity - self.head % self.capacity
        if left < len(data):
            self.write(struct.pack("<QII", self.head + 1, left, 2), left)
            data = ring_record(record, self.head)
        self.write(data, len(data))

    def write(self, data: bytes, length: int) -> None:
        at = 4096 + self.head % self.capacity
        self.map[at : at + len(data)] = data
        self.head += length
        self.store(128, self.head)

    def close(self) -> None:
        self.map.close()
        self._file.close()
