"""The six kernels: scalar = AVX2 = a model in Python on random lanes; no branch on lane data and no call in the machine code."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from typing import Any

import cffi
import pytest

from knhk_hot.toolchain import HOST, artifacts
from knhk_hot.toolchain import ISAS as ISAS_OF

ISAS = ("scalar", *ISAS_OF[HOST])
KERNELS = ("ask_sp", "ask_spo", "count", "compare", "validate", "unique")
KEYS = [node << 32 | p for node in (0, 1, 7) for p in (1, 9, 0xFFFFFFFF)]
OBJECTS = [1 << 60 | 5, 3 << 60 | 8 << 32 | 5, 3 << 60 | 8 << 32 | 6, 4 << 60 | 9 << 32 | 5]
VALUES = [0, 1 << 60, (1 << 60) + 5, (2 << 60) - 1, (1 << 60) | 1 << 59, 4 << 60, 9 << 60, 12 << 60]
METAS = [length << 40 | dt << 8 | bits for length in (0, 1, 200, 0xFFFFFF) for dt in (8, 11) for bits in (1, 2, 4, 12)]


@pytest.fixture(scope="module")
def native() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    declare = "typedef struct { uint64_t key[8], obj[8], val[8], meta[8]; } knhk_chunk;\n"
    for isa in ISAS:
        declare += f"""
        uint32_t knhk_ask_sp_{isa}(const knhk_chunk *c, uint64_t key);
        uint32_t knhk_ask_spo_{isa}(const knhk_chunk *c, uint64_t key, uint64_t obj);
        uint32_t knhk_count_{isa}(const knhk_chunk *c, uint64_t key, uint32_t *n);
        uint32_t knhk_compare_{isa}(const knhk_chunk *c, uint64_t key, uint64_t lo, uint64_t hi);
        uint32_t knhk_validate_{isa}(const knhk_chunk *c, uint64_t key, const uint64_t *want);
        uint32_t knhk_unique_{isa}(const knhk_chunk *c, uint64_t key);"""
    ffi.cdef(declare)
    return ffi, ffi.dlopen(str(artifacts().kernels))


Lanes = list[tuple[int, int, int, int]]


def model(lanes: Lanes, key: int, obj: int, low: int, high: int, want: tuple[int, ...]) -> dict[str, int]:
    """Masks by the definitions."""
    mask, bits, kinds, shortest, longest = want
    here = [k == key for k, _, _, _ in lanes]
    objects = [o for k, o, _, _ in lanes if k == key]
    tests = {
        "ask_sp": here,
        "ask_spo": [k == key and o == obj for k, o, _, _ in lanes],
        "count": here,
        "compare": [k == key and low <= v <= high for k, _, v, _ in lanes],
        "validate": [k == key and m & mask == bits and m & kinds != 0 and shortest <= m >> 40 <= longest for k, _, _, m in lanes],
        "unique": [k == key and objects.count(o) > 1 for k, o, _, _ in lanes],
    }
    return {name: sum(1 << i for i, hit in enumerate(row) if hit) for name, row in tests.items()}


def test_scalar_and_simd_equal_the_model(native: tuple[Any, Any]) -> None:
    ffi, lib = native
    memory = ffi.new("uint8_t[]", 512)
    start = int(ffi.cast("uintptr_t", memory))
    chunk = ffi.cast("knhk_chunk *", memory + (-start % 64))
    pick, seen, n = random.Random(11), dict.fromkeys(KERNELS, 0), ffi.new("uint32_t *")
    for _ in range(4000):
        few = pick.sample(KEYS, 2)
        lanes = [(pick.choice([*few, 0]), pick.choice(OBJECTS), pick.choice(VALUES), pick.choice(METAS)) for _ in range(8)]
        chunk.key, chunk.obj, chunk.val, chunk.meta = map(list, zip(*lanes, strict=True))
        key, obj = pick.choice(few), pick.choice(OBJECTS)
        low, high = sorted(pick.sample([v for v in VALUES if v < 1 << 63], 2))
        want = (
            *pick.choice([(0, 0), (0xFFFFFF08, 8 << 8 | 8), (0xFFFFFF08, 11 << 8 | 8)]),
            pick.choice([1, 3, 4, 5, 7]),
            pick.choice([0, 1]),
            pick.choice([0, 200, 0xFFFFFF]),
        )
        expected = model(lanes, key, obj, low, high, want)
        for isa in ISAS:
            got = {
                "ask_sp": getattr(lib, f"knhk_ask_sp_{isa}")(chunk, key),
                "ask_spo": getattr(lib, f"knhk_ask_spo_{isa}")(chunk, key, obj),
                "count": getattr(lib, f"knhk_count_{isa}")(chunk, key, n),
                "compare": getattr(lib, f"knhk_compare_{isa}")(chunk, key, low, high),
                "validate": getattr(lib, f"knhk_validate_{isa}")(chunk, key, want),
                "unique": getattr(lib, f"knhk_unique_{isa}")(chunk, key),
            }
            assert got == expected, isa
            assert n[0] == expected["count"].bit_count()
        for name, mask in expected.items():
            seen[name] += mask != 0
    assert min(seen.values()) > 200, f"{seen}: too few cases with a hit"


def disassembly() -> dict[str, list[str]]:
    """Instructions of each exported function of the kernels' library."""
    objdump = shutil.which("objdump")
    assert objdump, "objdump is needed (Debian: apt-get install binutils)"
    text = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", str(artifacts().kernels)], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n\n", text):
        head = re.match(r"\s*[0-9a-f]+ <(\w+)>:", block)
        if head:
            found[head[1]] = [line.split("\t", 1)[1] for line in block.splitlines()[1:] if "\t" in line]
    return found


@pytest.mark.skipif(HOST != "amd64", reason="the names of branches are those of x86")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("isa", ISAS)
def test_kernels_have_no_branch_and_no_call(kernel: str, isa: str) -> None:
    code = disassembly()[f"knhk_{kernel}_{isa}"]
    assert code[-1].startswith("ret") or any(line.startswith("ret") for line in code)
    bad = [line for line in code if re.match(r"(j\w+|call\w*|loop\w*)\s", line) and not line.startswith("jmp    ")]
    assert bad == []
    if isa == "avx2":
        assert any("%ymm" in line for line in code)
