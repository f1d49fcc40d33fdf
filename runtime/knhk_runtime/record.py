"""O, A, frames, outbox and WAL records (formats/observation.md, action.md, frame.md): strict parsing; leaves as they are written."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

from knhk_verify.errors import Bad
from knhk_verify.leaf import LAYOUT, LEAF_SIZE, Leaf, parse_leaf

NO_ACTION = bytes(32)  # H(A) of a disposition
LAST_NS = (1 << 63) - 1  # in 2262: the latest time that a table tells; eight bytes in O and leaf hold more


def encode_leaf(leaf: Leaf) -> bytes:
    """The 118 bytes of a leaf; raises Bad when `parse_leaf` would."""
    head = (1, leaf.kind, leaf.klass, leaf.verdict, leaf.mode, leaf.flags, leaf.region)
    try:
        data = LAYOUT.pack(*head, leaf.h_o, leaf.h_a, leaf.pack, leaf.time_ns, leaf.receipt_id, 0)
    except struct.error as error:
        raise Bad("leaf", f"a field is out of range: {error}") from error
    if parse_leaf(data) != leaf:
        raise Bad("leaf", "h_o and h_a must have 32 bytes, pack 20, receipt_id 16")
    return data


def entry_key(entry: bytes) -> bytes:
    """Idempotency key, 17 bytes: of a leaf receipt id ‖ (flags & 1), of a policy event from its SHA-256 with the last top bit set."""
    if entry[:1] == b"{":
        return event_key(sha256(entry).digest())
    if len(entry) != LEAF_SIZE:
        raise Bad("entry", "is neither a leaf of 118 bytes nor a policy event")
    return entry[100:116] + bytes([entry[5] & 1])


def event_key(digest: bytes) -> bytes:
    """Idempotency key of the policy event with this SHA-256."""
    return digest[:16] + bytes([digest[16] | 0x80])


def leaf_digest(leaf: bytes) -> bytes:
    """What tells a leaf from another with its key."""
    return sha256(leaf).digest()[:16]


def h_o(salt: bytes, observation: bytes) -> bytes:
    """H(O): SHA-256("knhk.dev/o/v1\\n" ‖ salt ‖ O), salt 16 bytes."""
    return sha256(b"knhk.dev/o/v1\n" + salt + observation).digest()


def h_a(salt: bytes, action: bytes) -> bytes:
    """H(A): SHA-256("knhk.dev/a/v1\\n" ‖ salt ‖ A), salt 16 bytes."""
    return sha256(b"knhk.dev/a/v1\n" + salt + action).digest()


def o_key(observation: bytes) -> bytes:
    """O-key: the hash of O with its time set to zero."""
    return sha256(b"knhk.dev/o-key/v1\n" + observation[:4] + bytes(8) + observation[12:]).digest()


class _Cursor:
    """Reads fields one after another and refuses to go past the end."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    def bad(self, what: str) -> Bad:
        return Bad(f"{self.where} offset {self.at}", what)

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise self.bad(f"{count} bytes go past the end")
        self.at += count
        return self.data[self.at - count : self.at]

    def field(self, size: int) -> bytes:
        """What has its length, of `size` bytes, before it."""
        start = self.at + size
        end = start + int.from_bytes(self.data[self.at : start], "big")
        if end > len(self.data) or start > len(self.data):
            return self.take(self.number(size))  # raises
        self.at = end
        return self.data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self, data: bytes, pattern: re.Pattern[str] | None = None) -> str:
        try:
            value = data.decode()
        except UnicodeDecodeError as error:
            raise self.bad("is not UTF-8") from error
        if pattern is not None and not pattern.fullmatch(value):
            raise self.bad(f"{value!r} does not match {pattern.pattern}")
        return value

    def end(self) -> None:
        if self.at != len(self.data):
            raise self.bad("bytes after the end")


_REGION, _NAME = re.compile(r"[a-z0-9-]{0,63}"), re.compile(r"[a-z0-9_.-]{1,63}")
_RECORD, _ACTION = struct.Struct(">BBHQ16s"), struct.Struct(">4sBBH")


@dataclass(frozen=True)
class Observation:
    """O, parsed; `attributes` in ascending order of their names."""

    time_ns: int
    region: str
    route: str
    bundle: bytes
    evaluator: bytes
    attributes: tuple[tuple[str, str], ...]
    body: bytes


def parse_observation(data: bytes, where: str = "O") -> Observation:
    """Observation of the bytes of O; raises Bad with the offset."""
    c = _Cursor(data, where)
    if c.take(4) != b"KNO1":
        raise Bad(where, "must begin with KNO1")
    time_ns = c.number(8)
    region = c.text(c.field(2), _REGION)
    route = c.text(c.field(2))
    bundle, evaluator, names, values = c.take(32), c.take(32), list[str](), list[str]()
    for _ in range(c.number(2)):
        names.append(c.text(c.field(2), _NAME))
        values.append(c.text(value := c.field(4)))
        if len(names) > 64 or len(value) > 4096 or (len(names) > 1 and names[-2] >= names[-1]):
            raise c.bad("attributes must be at most 64 of at most 4,096 bytes, names ascending")
    body = c.field(4)
    if len(body) > 1 << 20:
        raise c.bad("the body must have at most 1 MiB")
    c.end()
    return Observation(time_ns, region, route, bundle, evaluator, tuple(zip(names, values, strict=True)), body)


@dataclass(frozen=True)
class Action:
    """A, parsed: verdict 1 ADMIT or 2 DENY, number of guards, numbers of the failing ones, output triples."""

    verdict: int
    guards: int
    failing: tuple[int, ...]
    triples: tuple[bytes, ...]


def parse_action(data: bytes, where: str = "A") -> Action:
    """Action of the bytes of A; raises Bad with the offset."""
    c = _Cursor(data, where)
    magic, verdict, reserved, guards = _ACTION.unpack(c.take(_ACTION.size))
    if magic != b"KNA1":
        raise Bad(where, "must begin with KNA1")
    bits = int.from_bytes(c.take((guards + 7) // 8), "little")
    if verdict not in (1, 2) or reserved or bits >> guards:
        raise c.bad("verdict must be 1 or 2, reserved and unused bits 0")
    triples = tuple(c.field(4) for _ in range(c.number(2)))
    if len(triples) > 8 or list(triples) != sorted(set(triples)):
        raise c.bad("triples must be at most 8, ascending")
    c.end()
    return Action(verdict, guards, tuple(i for i in range(bits.bit_length()) if bits >> i & 1), triples)


# ---- frames -----------------------------------------------------------------------------------

SEGMENT_MAGIC = b"KNHKSEG1"
SEGMENT_HEAD = 16
MAX_FRAME = 64 << 20


def frame(payload: bytes) -> bytes:
    """`payload` with its length and CRC-32 in front."""
    size = len(payload).to_bytes(4, "big")
    return size + crc32(payload, crc32(size)).to_bytes(4, "big") + payload


def _whole(data: bytes, at: int, size: int) -> bool:
    """Whether a frame of `size` payload bytes with the right CRC begins at `at`, whatever length it states."""
    crc = crc32(memoryview(data)[at + 8 : at + 8 + size], crc32(size.to_bytes(4, "big")))
    return crc.to_bytes(4, "big") == data[at + 4 : at + 8]


def _torn(data: bytes, at: int) -> bool:
    """Whether what begins at `at` is a write that was cut off, not a whole frame whose length was altered: it is not
    whole with the length it would need, and no whole frame of type 1 follows it."""
    left = len(data) - at - 8
    if left < 1 or not any(memoryview(data)[at:]):
        return True
    if _whole(data, at, left):
        return False
    start = data.find(b"\1", at + 17)
    while start != -1:
        size = int.from_bytes(data[start - 8 : start - 4], "big")
        if 0 < size <= len(data) - start and _whole(data, start - 8, size):
            return False
        start = data.find(b"\1", start + 1)
    return True


def scan_frames(data: bytes, number: int, where: str) -> tuple[list[tuple[int, bytes]], int]:
    """([(offset, payload)], end of the last whole frame) of a segment with this number in its head. What lies after the
    end is a torn tail. Raises Bad with file and offset for corruption."""
    if len(data) < SEGMENT_HEAD or data[:SEGMENT_HEAD] != SEGMENT_MAGIC + number.to_bytes(8, "big"):
        raise Bad(f"{where} offset 0", f"must begin with KNHKSEG1 and {number}")
    frames, at = list[tuple[int, bytes]](), SEGMENT_HEAD
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        whole = at + 8 + size <= len(data) and 0 < size <= MAX_FRAME
        if whole and not _whole(data, at, size):
            raise Bad(f"{where} offset {at}", f"the frame of {size} bytes does not match its CRC: it was altered")
        if not whole and _torn(data, at):
            break
        if not whole:
            raise Bad(f"{where} offset {at}", f"the frame states a length of {size}, which was altered")
        frames.append((at, data[at + 8 : at + 8 + size]))
        at += 8 + size
    return frames, at


@dataclass(frozen=True)
class Record:
    """An outbox record: one O, and a leaf and an A for each arm (A empty for a disposition). `sealed`: O is an envelope
    (formats/envelope.md), which holds the salt and the whole A."""

    erased: bool
    cluster: int
    salt: bytes
    leaves: tuple[bytes, ...]
    observation: bytes
    actions: tuple[bytes, ...]
    sealed: bool = False


PLAIN, ERASED, SEALED = 0, 1, 2


def parse_record(data: bytes, where: str) -> Record:
    """Record of an outbox payload; raises Bad with the offset in it."""
    c = _Cursor(data, where)
    kind, arms, flags, cluster, salt = _RECORD.unpack(c.take(_RECORD.size))
    if kind != 1 or arms not in (1, 2) or flags > SEALED:
        raise Bad(where, f"type {kind}, {arms} leaves, flags {flags}: must be 1, 1 or 2, 0 to 2")
    leaves = tuple(c.take(LEAF_SIZE) for _ in range(arms))
    observation = c.field(4)
    actions = tuple(c.field(4) for _ in range(arms))
    c.end()
    return Record(flags == ERASED, cluster, salt, leaves, observation, actions, flags == SEALED)


def erased_payload(record: Record) -> bytes:
    """What an erasure leaves of a record's payload: its leaves, and zeros as long as salt, O and A were."""
    parts = [_RECORD.pack(1, len(record.leaves), ERASED, 0, bytes(16)), *record.leaves]
    parts += [len(field).to_bytes(4, "big") + bytes(len(field)) for field in (record.observation, *record.actions)]
    return b"".join(parts)


def check_record(record: Record, where: str) -> None:
    """Raises Bad unless each leaf's H(O), H(A), time and verdict are those of the bytes beside it. Erased or sealed: nothing to
    check here."""
    if record.erased or record.sealed:
        return
    observation = parse_observation(record.observation, f"{where} O")
    for arm, (data, action) in enumerate(zip(record.leaves, record.actions, strict=True)):
        leaf = parse_leaf(data, f"{where} leaf {arm}")
        if leaf.h_o != h_o(record.salt, record.observation) or leaf.time_ns != observation.time_ns:
            raise Bad(f"{where} leaf {arm}", "H(O) is not that of salt and O beside it, or the time differs")
        if leaf.kind == 1 and leaf.h_a != h_a(record.salt, action):
            raise Bad(f"{where} leaf {arm}", "H(A) is not that of salt and A beside it")
        if leaf.kind == 1 and parse_action(action, f"{where} A {arm}").verdict != leaf.verdict:
            raise Bad(f"{where} leaf {arm}", "the verdict is not that of A")
        if leaf.kind != 1 and action:
            raise Bad(f"{where} A {arm}", "must be empty for a disposition")


def parse_wal_payload(data: bytes, where: str) -> tuple[int, list[bytes], list[bytes]]:
    """(first index, keys, entries) of a WAL payload; raises Bad with the offset in it."""
    c = _Cursor(data, where)
    if c.number(1) != 1:
        raise Bad(where, "is not a payload of type 1")
    first, keys, entries = c.number(8), list[bytes](), list[bytes]()
    for _ in range(c.number(4)):
        keys.append(c.take(17))
        entries.append(c.take(c.number(2)))
    c.end()
    return first, keys, entries
