"""The six kernels over one chunk of eight lanes, and packs of many guards over one Δ."""

from __future__ import annotations

import random
from typing import Any

from bench import inputs
from bench.figures import Figures, Goal, Row, Spread, spread
from bench.native import NativePack, ffi, loops
from knhk_hot.kernels import variants
from knhk_hot.pack import Pack
from knhk_hot.toolchain import artifacts

TITLE = "Kernels and guards"
KERNELS = ("ASK_SP", "ASK_SPO", "COUNT", "COMPARE", "VALIDATE", "UNIQUE")
CONTROL, NOTHING = 6, 99
CHUNKS = 4  # of 256 bytes: they stay in L1
ROUNDS = 256  # × CHUNKS evaluations make a batch of 1,024
GOALS = {"avx512": Goal(2.0, most=True, on_high=True), "avx2": Goal(2.0, most=True)}  # p99 of batch means; median
PACK_GOALS = {(64, "avx512"): Goal(0.40, most=True)}


def _chunks() -> tuple[Any, Any]:
    """Chunks of one subject with four predicates; filled from a fixed seed."""
    chance = random.Random(8)
    words = []
    for _ in range(CHUNKS):
        words += [(1 << 32) | (10 + i // 2) for i in range(8)]
        words += [(3 << 60) | chance.randrange(1, 9) for _ in range(8)]
        words += [(1 << 60) | ((1 << 59) + chance.randrange(1000)) for _ in range(8)]
        words += [4 | 8 | (11 << 8) | (chance.randrange(40) << 40) for _ in range(8)]
    memory = ffi.new("uint64_t[]", len(words) + 8)
    start = -int(ffi.cast("uintptr_t", memory)) % 64 // 8
    for i, word in enumerate(words):
        memory[start + i] = word
    return memory, memory + start


ARGUMENTS = {  # key, then what the kernel takes
    "ASK_SP": ((1 << 32) | 11,), "ASK_SPO": ((1 << 32) | 11, (3 << 60) | 5), "COUNT": ((1 << 32) | 11,),
    "COMPARE": ((1 << 32) | 11, (1 << 60) | (1 << 59), (1 << 60) | ((1 << 59) + 500)),
    "VALIDATE": ((1 << 32) | 11, 8 | (0xFFFFFF << 8), 8 | (11 << 8), 4, 0, 20), "UNIQUE": ((1 << 32) | 11,),
}  # fmt: skip


class _Batches:
    """Batch means of one variant, the cost of timing and calling taken off."""

    def __init__(self, variant: str, samples: int) -> None:
        self._ffi = type(ffi)()
        self._ffi.cdef(f"uint64_t knhk_many_{variant}(uint32_t, const void *, uint32_t, uint32_t, const uint64_t *);")
        self._library: Any = self._ffi.dlopen(str(artifacts().kernels))
        self._many = int(self._ffi.cast("uintptr_t", getattr(self._library, f"knhk_many_{variant}")))
        self._kept, self._chunk = _chunks()
        self._samples = samples
        self._empty = spread(self._raw(NOTHING, ())).median

    def _raw(self, kernel: int, arguments: tuple[int, ...]) -> list[float]:
        x = ffi.new("uint64_t[6]", list(arguments))
        out = ffi.new("uint64_t[]", self._samples)
        for count in (self._samples // 10, self._samples):  # the first is the warm-up
            loops().bench_many(self._many, kernel, self._chunk, CHUNKS, ROUNDS, x, out, count)
        return [float(t) for t in out]

    def per_op(self, kernel: int, arguments: tuple[int, ...]) -> Spread:
        return spread([max(0.0, t - self._empty) / (CHUNKS * ROUNDS) for t in self._raw(kernel, arguments)])


def _pack_rows(count: int, samples: int) -> list[Row]:
    so = inputs.linked(inputs.many_guards(count))
    names = Pack.load(so).variants
    rows, rounds = [], max(20, 200_000 // count)
    for name in names:
        native = NativePack(so, [inputs.many_input().o], name)
        got = spread([native.guards(rounds) / count for _ in range(samples)])
        rows.append(Row(f"{count}-guard pack, guards alone, {name}", "ns/guard", got, goal=PACK_GOALS.get((count, name))))
    return rows


def run(quick: bool = False) -> Figures:
    """Kernels in batches of 1,024; packs by the pack ABI."""
    samples = 200 if quick else 10_000
    rows: list[Row] = []
    for variant in variants():
        batches = _Batches(variant, samples)
        for number, kernel in enumerate(KERNELS):
            goal = GOALS.get(variant)
            rows.append(Row(f"{kernel}, {variant}", "ns/op", batches.per_op(number, ARGUMENTS[kernel]), goal=goal))
        rows.append(Row(f"control loop, {variant}", "ns/op", batches.per_op(CONTROL, (1, 2, 3)), "four dependent operations"))
    if "avx512" not in variants():
        rows.append(Row("the six, AVX-512", "ns/op", None, "not run: this processor has none"))
    for count in (64,) if quick else (64, 1024):
        rows += _pack_rows(count, 5 if quick else 50)
    notes = (
        f"Batch means: {CHUNKS * ROUNDS:,} evaluations over {CHUNKS} chunks in L1, {samples:,} batches after "
        f"{samples // 10:,} to warm up, wall time; the cost of an empty batch is taken off. It is throughput, not latency.",
        "A pack's guards are blocks of eight rows: the figure holds the look-up of focus nodes and their values and the write of A, which "
        "64 guards share.",
    )
    return Figures("kernels", TITLE, tuple(rows), notes)
