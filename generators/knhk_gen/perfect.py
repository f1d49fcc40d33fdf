"""Minimal perfect hash of distinct strings (formats/perfect.md): same keys, same numbers.

`place` here is the definition, in plain Python; hot_c/src/perfect.c does the same for millions of keys and is handed in as `Place`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MASK64: Final = (1 << 64) - 1
PRIME: Final = (1 << 61) - 1
MIX1: Final = 0x9E3779B97F4A7C15
MIX2: Final = 0xBF58476D1CE4E5B9
CHUNK: Final = 7
PILOTS: Final = 1 << 16
BUCKET_MAX: Final = 256
TRIES: Final = 64
KEYS_MAX: Final = 1 << 24

Placed = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Pilots of the buckets, places of the slots beyond the keys, and the key of each place."""


@dataclass(frozen=True)
class Seed:
    """`r` is the point at which strings are evaluated as polynomials, 1 … 2⁶⁰−1; `x` whitens."""

    r: int
    x: int


Place = Callable[[Sequence[bytes], Seed], Placed | None]
"""Places distinct keys under a seed; None when two of them cannot be told apart or a bucket finds no room."""


class NoPlace(ValueError):
    """Keys that have no perfect hash; the message says why."""


@dataclass(frozen=True)
class Perfect:
    seed: Seed
    pilots: Sequence[int]
    remap: Sequence[int]
    order: Sequence[int]  # key of each place

    def place_of(self, key: bytes) -> int:
        """The place of one of the keys; of any other string some place."""
        return place_of(hash64(key, self.seed), len(self.order), self.pilots, self.remap)


def hash64(data: bytes, seed: Seed) -> int:
    """knhk_hash of hot_c/src/bytes.h: a polynomial over 7-byte chunks modulo 2⁶¹−1 (Carter, Wegman 1979), then mixed by bijections."""
    acc = len(data)
    for i in range(0, len(data) or 1, CHUNK):
        sum_ = acc * seed.r + int.from_bytes(data[i : i + CHUNK], "little")
        acc = (sum_ & PRIME) + (sum_ >> 61)
    h = (acc ^ seed.x) * MIX2 & MASK64
    return h ^ h >> 32


def seeds(keys: Sequence[bytes]) -> Iterator[Seed]:
    """The seeds to try, drawn from the keys: whoever chooses keys against a seed changes it by that."""
    drawn = hashlib.sha256()
    for key in keys:
        drawn.update(len(key).to_bytes(8, "little") + key)
    for attempt in range(TRIES):
        digest = hashlib.sha256(b"knhk perfect hash 1\0" + bytes([attempt]) + drawn.digest()).digest()
        r = int.from_bytes(digest[:8], "little") >> 4
        yield Seed(r or 1, int.from_bytes(digest[8:16], "little"))


def sizes(n: int) -> tuple[int, int]:
    """Buckets and slots of n keys."""
    return n // 4 + 1, n + n // 32 + 2


def slot_of(h: int, pilot: int, nslots: int) -> int:
    return ((((h ^ (pilot * MIX1 & MASK64)) * MIX2 & MASK64) >> 32) * nslots) >> 32


def place_of(h: int, n: int, pilots: Sequence[int], remap: Sequence[int]) -> int:
    """knhk_place of hot_c/include/knhk_perfect.h."""
    nbuckets, nslots = sizes(n)
    slot = slot_of(h, pilots[(h >> 32) * nbuckets >> 32], nslots)
    return slot if slot < n else remap[slot - n]


def place(keys: Sequence[bytes], seed: Seed) -> Placed | None:
    """Hash and displace (Belazzougui, Botelho, Dietzfelbinger 2009): the largest bucket first takes the least pilot that finds room."""
    n = len(keys)
    nbuckets, nslots = sizes(n)
    hashes = [hash64(key, seed) for key in keys]
    buckets: list[list[int]] = [[] for _ in range(nbuckets)]
    for number, h in enumerate(hashes):
        buckets[(h >> 32) * nbuckets >> 32].append(number)
    pilots, key_at = [0] * nbuckets, [-1] * nslots
    for bucket in sorted(range(nbuckets), key=lambda b: (-len(buckets[b]), b)):
        if not buckets[bucket]:
            break
        found = _pilot([hashes[number] for number in buckets[bucket]], key_at)
        if found is None:
            return None
        pilots[bucket], slots = found
        for number, slot in zip(buckets[bucket], slots, strict=True):
            key_at[slot] = number
    free = iter([slot for slot in range(n) if key_at[slot] < 0])
    remap = [next(free) if key_at[slot] >= 0 else 0 for slot in range(n, nslots)]
    for slot, to in zip(range(n, nslots), remap, strict=True):
        if key_at[slot] >= 0:
            key_at[to] = key_at[slot]
    return pilots, remap, key_at[:n]


def _pilot(hashes: Sequence[int], key_at: Sequence[int]) -> tuple[int, list[int]] | None:
    if len(hashes) > BUCKET_MAX or len(set(hashes)) < len(hashes):
        return None
    for pilot in range(PILOTS):
        slots: list[int] = []
        for h in hashes:
            slot = slot_of(h, pilot, len(key_at))
            if key_at[slot] >= 0 or slot in slots:
                break
            slots.append(slot)
        else:
            return pilot, slots
    return None


def build(keys: Sequence[bytes], place: Place = place) -> Perfect:
    """The perfect hash of distinct `keys`. Raises NoPlace when a key occurs twice, when there are none or too many, or when no seed of
    the bounded number serves (a million keys of a kilobyte each: one seed fails with a probability below 2⁻¹², all of them never)."""
    if not 1 <= len(keys) < KEYS_MAX:
        raise NoPlace(f"{len(keys)} keys: must be 1 to {KEYS_MAX - 1}")
    if len(set(keys)) < len(keys):
        known: set[bytes] = set()
        twice = next(key for key in keys if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise NoPlace(f"{twice[:80]!r} occurs twice: keys must be distinct")
    for seed in seeds(keys):
        placed = place(keys, seed)
        if placed is not None:
            return Perfect(seed, *placed)
    raise NoPlace(f"none of {TRIES} seeds spreads these {len(keys)} keys")
