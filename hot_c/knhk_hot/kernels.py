"""The six kernels by themselves, as packs have them inside: masks of chunks, and what an evaluation takes (hot_c/include/knhk_kernels.h).

The library of kernels is opened by path (cffi, ABI mode): which instruction sets it holds is known only when it is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from knhk_hot.toolchain import HERE, artifacts

LANES = 8
KERNELS = ("ASK_SP", "ASK_SPO", "COUNT", "COMPARE", "VALIDATE", "UNIQUE")
ISAS = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "bmi2"}),
    "avx2": frozenset({"avx2", "bmi1", "popcnt"}),
    "neon": frozenset({"asimd"}),
    "scalar": frozenset[str](),
}
_CHUNK = "typedef struct { uint64_t key[8], obj[8], val[8], meta[8]; } knhk_chunk;\n"

Lane = tuple[int, int, int, int]  # key, object, value, meta
NO_LANE: Lane = (0, 0, 0, 0)


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of one evaluation, of `samples` batch means over chunks in the first cache."""

    best_ns: float
    median_ns: float
    samples: int


@cache
def _library() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    text = (HERE / "kernels.cdef").read_text()
    ffi.cdef(_CHUNK + "".join(text.replace("ISA", isa) for isa in ISAS))
    return ffi, ffi.dlopen(str(artifacts().kernels))


def _flags() -> frozenset[str]:
    """Features of this processor, as Linux names them."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return frozenset(found[1].split()) if found else frozenset()


@cache
def variants() -> tuple[str, ...]:
    """Instruction sets that the library holds and this processor has, best first."""
    _, library = _library()
    flags = _flags()
    return tuple(isa for isa, needed in ISAS.items() if needed <= flags and hasattr(library, f"knhk_ask_sp_{isa}"))


class Chunks:
    """Lanes in chunks of eight, aligned as the kernels need them."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        ffi, _ = _library()
        self.count = max(1, -(-len(lanes) // LANES))
        self._memory = ffi.new("uint8_t[]", self.count * ffi.sizeof("knhk_chunk") + 64)
        start = int(ffi.cast("uintptr_t", self._memory))
        self.at = ffi.cast("knhk_chunk *", self._memory + (-start % 64))
        padded = [*lanes, *[NO_LANE] * (self.count * LANES - len(lanes))]
        for i in range(self.count):
            rows = padded[i * LANES : (i + 1) * LANES]
            self.at[i].key, self.at[i].obj, self.at[i].val, self.at[i].meta = map(list, zip(*rows, strict=True))


def masks(kernel: str, variant: str, chunks: Chunks, words: Sequence[int]) -> list[int]:
    """The mask of each chunk. `words`: key and what the kernel compares with, as knhk_kernels.h orders them."""
    ffi, library = _library()
    call = getattr(library, f"knhk_{kernel.lower()}_{variant}")
    key, *rest = words
    extra = {"COUNT": [ffi.new("uint32_t *")], "VALIDATE": [ffi.new("uint64_t[5]", rest)]}.get(kernel, rest)
    return [int(call(chunks.at + i, key, *extra)) for i in range(chunks.count)]


def timing(kernel: str, variant: str, chunks: Chunks, words: Sequence[int], samples: int = 64) -> Timing:
    """What one evaluation of a chunk takes, by the clock of this machine: other work on it makes it slower, never faster."""
    ffi, library = _library()
    many, rounds = getattr(library, f"knhk_many_{variant}"), max(1, 4096 // chunks.count)
    numbers = ffi.new("uint64_t[6]", [*words, *[0] * (6 - len(words))])
    spent = []
    for _ in range(samples):
        start = time.perf_counter_ns()
        many(KERNELS.index(kernel), chunks.at, chunks.count, rounds, numbers)
        spent.append((time.perf_counter_ns() - start) / (rounds * chunks.count))
    spent.sort()
    return Timing(spent[0], spent[len(spent) // 2], samples)
