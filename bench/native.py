"""loops.c as a library, built for each run into a folder that ends with the process; and packs opened through it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cffi

from knhk_hot.toolchain import COMPILE, HOST, TARGETS, artifacts, run_zig

HERE = Path(__file__).parent
_CDEF = """
uint64_t bench_many(uintptr_t many, uint32_t kernel, const void *c, uint32_t n, uint32_t rounds, const uint64_t *x,
  uint64_t *out, uint32_t samples);
void *bench_open(const char *path, const char *variant, const uint8_t *bundle, size_t len, size_t o_max);
uint64_t bench_decide(void *p, const uint8_t *o, const size_t *len, size_t m, uint32_t rounds, uint8_t *verdicts);
uint64_t bench_batch(void *p, const uint8_t *o, const size_t *len, size_t m, uint32_t rounds, uint8_t *verdicts);
uint64_t bench_lanes_batch(void *p, const uint8_t *o, size_t len, uint32_t rounds);
uint64_t bench_part(void *p, const uint8_t *o, size_t len, uint32_t rounds, uint32_t what);
void *bench_keys_of(const uint8_t *text, const uint64_t *offset, uint32_t n, uint64_t r, uint64_t x, const uint16_t *pilots,
  const uint32_t *remap);
uint64_t bench_keys_ask(void *k, const uint8_t *asked, const uint64_t *offset, const uint64_t *asked_hash, uint32_t m, uint32_t what,
  uint64_t *found);
uint64_t bench_leaf(uintptr_t sha256, uint32_t rounds, uint8_t *digest);
uint64_t bench_produce(uint8_t *ring, uint64_t capacity, const uint8_t *record, uint32_t length, uint64_t most, uint64_t *sequence);
"""
ffi = cffi.FFI()
ffi.cdef(_CDEF)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="knhk-bench-")


def compile_c(name: str, *flags: str) -> Path:
    """bench/NAME.c, built for this machine; `flags` say whether it becomes a library or a program."""
    out = Path(_folder().name) / name
    include = [f"-I{folder}" for folder in (artifacts().include, artifacts().include.parent / "src")]
    run_zig(["cc", "-target", TARGETS[HOST], *COMPILE, *include, *flags, f"{name}.c", "-o", str(out)], HERE)
    return out


@cache
def loops() -> Any:
    """The library of loops.c."""
    return ffi.dlopen(str(compile_c("loops", "-shared", "-ldl")))


@cache
def _pack_file(so: bytes, number: int) -> Path:
    path = Path(_folder().name) / f"pack-{number}.so"
    path.write_bytes(so)
    return path


class NativePack:
    """A pack with inputs, timed in C. `observations` are canonical O."""

    def __init__(self, so: bytes, observations: Sequence[bytes], variant: str, bundle: bytes | None = None) -> None:
        path = _pack_file(so, abs(hash(so)))
        self._bundle = ffi.NULL if bundle is None else ffi.from_buffer("uint8_t[]", bundle)
        longest = max(map(len, observations))
        self._pack = loops().bench_open(str(path).encode(), variant.encode(), self._bundle, len(bundle or b""), longest)
        if self._pack == ffi.NULL:
            raise ValueError(f"the pack has no variant {variant} that runs here")
        self._count = len(observations)
        self._joined = ffi.from_buffer("uint8_t[]", b"".join(observations))
        self._lengths = ffi.new("size_t[]", [len(o) for o in observations])
        self._verdicts = ffi.new("uint8_t[]", self._count)

    def decide(self, rounds: int) -> float:
        """Nanoseconds of CPU for a decision, over all inputs `rounds` times."""
        taken = loops().bench_decide(self._pack, self._joined, self._lengths, self._count, rounds, self._verdicts)
        return float(taken) / (rounds * self._count)

    def batch(self, rounds: int) -> float:
        """Nanoseconds of CPU for a decision, all inputs in one batch, `rounds` times."""
        taken = loops().bench_batch(self._pack, self._joined, self._lengths, self._count, rounds, self._verdicts)
        return float(taken) / (rounds * self._count)

    def verdicts(self) -> list[int]:
        """Verdicts of the last `decide` or `batch`: 1 admit, 2 deny, 0 not decided by R1."""
        return list(self._verdicts)

    def extract(self, rounds: int) -> float:
        """Nanoseconds of CPU to read the first input."""
        return float(loops().bench_part(self._pack, self._joined, self._lengths[0], rounds, 0)) / rounds

    def guards(self, rounds: int) -> float:
        """Nanoseconds of CPU for all guards over the first input, read already."""
        return float(loops().bench_part(self._pack, self._joined, self._lengths[0], rounds, 1)) / rounds

    def guards_batched(self, rounds: int) -> float:
        """Nanoseconds of CPU for all guards over the first input, read already, of one in a batch of 16."""
        return float(loops().bench_lanes_batch(self._pack, self._joined, self._lengths[0], rounds)) / (16 * rounds)


def address(owner: Any, library: Any, name: str) -> int:
    """Address of a function of a cffi library."""
    return int(owner.cast("uintptr_t", owner.addressof(library, name)))
