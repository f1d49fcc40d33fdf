"""Perfect hashes of many keys (hot_c/src/perfect.h): made as knhk_gen.perfect defines them, and asked in bulk."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

from knhk_hot.native import ffi, lib

ABSENT = 0xFFFFFFFF


class Seed(Protocol):
    @property
    def r(self) -> int: ...
    @property
    def x(self) -> int: ...


def _laid_out(keys: Sequence[bytes]) -> tuple[Any, Any]:
    offsets = array("Q", accumulate(map(len, keys), initial=0))
    return ffi.from_buffer("uint8_t[]", b"".join(keys)), ffi.from_buffer("uint64_t[]", offsets)


def place(keys: Sequence[bytes], seed: Seed) -> tuple[array[int], array[int], array[int]] | None:
    """Pilots, remap and the key of each place; None when the seed cannot serve. Keys: at least one, distinct."""
    n = len(keys)
    text, offsets = _laid_out(keys)
    pilots, remap, order = array("H", bytes(2 * (n // 4 + 1))), array("I", bytes(4 * (n // 32 + 2))), array("I", bytes(4 * n))
    numbers = (ffi.from_buffer("uint16_t[]", pilots), ffi.from_buffer("uint32_t[]", remap), ffi.from_buffer("uint32_t[]", order))
    done = lib.knhk_perfect_place(text, offsets, n, (seed.r, seed.x), *numbers)
    if done < 0:
        raise MemoryError(f"no memory to place {n} keys")
    return (pilots, remap, order) if done else None


class Asked:
    """Strings to look up, laid out for C."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.count = len(values)
        self.text, self.offsets = _laid_out(values)


class Dictionary:
    """Keys at their places, and their numbers by look-up with byte compare."""

    def __init__(self, keys: Sequence[bytes], seed: Seed, pilots: Sequence[int], remap: Sequence[int]) -> None:
        """`keys` in the order of their places."""
        self._n, self._seed = len(keys), (seed.r, seed.x)
        self._text, self._offsets = _laid_out(keys)
        self._pilots, self._remap = ffi.new("uint16_t[]", list(pilots)), ffi.new("uint32_t[]", list(remap))

    def find(self, asked: Sequence[bytes]) -> array[int]:
        """The place of each string, ABSENT for one that is no key."""
        return self.ask(Asked(asked))

    def ask(self, asked: Asked) -> array[int]:
        """`find` of strings that were laid out before."""
        found = array("I", bytes(4 * asked.count))
        keys = (self._text, self._offsets, self._n, self._seed, self._pilots, self._remap)
        lib.knhk_perfect_find(*keys, asked.text, asked.offsets, asked.count, ffi.from_buffer("uint32_t[]", found))
        return found
