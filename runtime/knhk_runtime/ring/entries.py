"""Batches as the hot library drains them, in the shape that outbox and uploader take: no Python per record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from knhk_runtime.outbox.records import ENTRY_SIZE, Entries
from knhk_verify.leaf import LEAF_SIZE

KEY_SIZE = 17
_LEAF_AT = KEY_SIZE + 2


class RingArm(Protocol):
    """One arm of a record, as the shim wrote it (formats/ring.md)."""

    @property
    def pack(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def klass(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def a(self) -> bytes: ...


class RingRecord(Protocol):
    """A record with an observed arm that the tables could not decide: the agent judges it and makes its leaves."""

    @property
    def receipt(self) -> bytes: ...
    @property
    def region(self) -> int: ...
    @property
    def cluster(self) -> int: ...
    @property
    def o(self) -> bytes: ...
    @property
    def arms(self) -> Sequence[RingArm]: ...


class Difference(Protocol):
    """A record whose arms decided, and not the same verdict."""

    @property
    def receipt(self) -> bytes: ...
    @property
    def cluster(self) -> int: ...
    @property
    def arms(self) -> Sequence[RingArm]: ...


class Drained(Protocol):
    """What knhk_hot.drain.Ring.drain returns. `counts`: (pack, kind, verdict, class) → leaves; `clusters`: u64 of each record;
    `latencies`: (stable, candidate) → counts by bucket of either arm."""

    @property
    def frames(self) -> bytes: ...
    @property
    def leaves(self) -> bytes: ...
    @property
    def keys(self) -> bytes: ...
    @property
    def counts(self) -> Mapping[tuple[bytes, int, int, int], int]: ...
    @property
    def discordant(self) -> Sequence[Difference]: ...
    @property
    def clusters(self) -> bytes: ...
    @property
    def latencies(self) -> Mapping[tuple[bytes, bytes], tuple[Sequence[int], Sequence[int]]]: ...
    @property
    def parked(self) -> Sequence[RingRecord]: ...
    @property
    def new_tail(self) -> int: ...


class Ring(Protocol):
    """knhk_hot.drain.Ring: one consumer. `drain` raises Corrupt-like ValueError subclasses on a broken ring."""

    def drain(self, max_bytes: int) -> Drained: ...
    def commit(self, new_tail: int) -> None: ...
    def beat(self) -> None: ...
    @property
    def tail(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def full(self) -> int: ...
    @property
    def absent(self) -> int: ...
    def heat(self) -> Mapping[bytes, tuple[int, Sequence[int]]]: ...
    def close(self) -> None: ...


def entries_of(drained: Drained) -> Entries:
    """{key, length, leaf} for each leaf, laid out column by column: 136 strided copies whatever the number of leaves."""
    count = len(drained.leaves) // LEAF_SIZE
    out = bytearray(count * ENTRY_SIZE)
    for column in range(KEY_SIZE):
        out[column::ENTRY_SIZE] = drained.keys[column::KEY_SIZE]
    out[KEY_SIZE + 1 :: ENTRY_SIZE] = bytes([LEAF_SIZE]) * count
    for column in range(LEAF_SIZE):
        out[_LEAF_AT + column :: ENTRY_SIZE] = drained.leaves[column::LEAF_SIZE]
    return Entries(bytes(drained.frames), bytes(out), count)
