"""Dictionaries: look-ups by the perfect hash at 4,096 and a million keys, one by one and in batches, beside open addressing and dict."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from bench.figures import Figures, Goal, Row, single, spread
from bench.native import ffi, loops
from knhk_gen import perfect
from knhk_hot import perfect as native

SIZES = {"4,096": (4096, "first cache"), "1 M": (1_000_000, "beyond the caches")}
GOALS = {("4,096", 1): 1.4, ("4,096", 2): 2.1, ("1 M", 2): 20.0}  # ../shared/facts/performance.md, on keys that were hashed before
LOOPS = (
    "hash of a string alone", "place of a hashed key", "place and compare of a hashed key", "string: hash, place, compare of bytes",
    "string, each after the last (dependent)", "anchor: open addressing under the same hash, compare of bytes",
)  # fmt: skip
ASKED = 65_536


@dataclass(frozen=True)
class Strings:
    """Strings one after the other, as C reads them."""

    values: Sequence[bytes]
    text: Any = field(init=False)
    offsets: Any = field(init=False)

    def __post_init__(self) -> None:
        offsets = array("Q", accumulate(map(len, self.values), initial=0))
        object.__setattr__(self, "text", ffi.from_buffer("uint8_t[]", b"".join(self.values) + bytes(8)))
        object.__setattr__(self, "offsets", ffi.from_buffer("uint64_t[]", offsets))


def keys_of(count: int) -> list[bytes]:
    return [b"https://example.com/vendors/%d" % (7919 * i) for i in range(count)]


def _timed(work: Callable[[], object]) -> float:
    begun = time.process_time_ns()
    work()
    return float(time.process_time_ns() - begun)


def _size(name: str, count: int, samples: int) -> list[Row]:
    keys = keys_of(count)
    found = perfect.build(keys, native.place)
    built = _timed(lambda: native.place(keys, found.seed))
    bits = (16 * len(found.pilots) + 32 * len(found.remap)) / count
    rows = [
        Row(f"{name} keys: build", "ns/key", single(built / count), "CPU, laying the keys out included"),
        Row(f"{name} keys: size of the tables", "bits/key", single(bits), "pilots and remap; strings and offsets beside"),
    ]
    chance = random.Random(20261125)
    asked = [chance.choice(keys) for _ in range(ASKED)]
    mine, theirs = Strings([keys[i] for i in found.order]), Strings([*asked, b""])
    pilots, remap = ffi.new("uint16_t[]", list(found.pilots)), ffi.new("uint32_t[]", list(found.remap))
    library = loops().bench_keys_of(mine.text, mine.offsets, count, found.seed.r, found.seed.x, pilots, remap)
    hashes = ffi.new("uint64_t[]", [perfect.hash64(key, found.seed) for key in asked])
    told = ffi.new("uint64_t *")
    for what, label in enumerate(LOOPS):
        taken = [loops().bench_keys_ask(library, theirs.text, theirs.offsets, hashes, ASKED, what, told) / ASKED for _ in range(samples)]
        if what >= 2 and told[0] != ASKED:
            raise ValueError(f"{label}: {told[0]} of {ASKED} keys were found")
        goal = GOALS.get((name, what))
        rows.append(Row(f"{name} keys: {label}", "ns", spread(taken), goal=None if goal is None else Goal(goal, most=True)))
    return rows + _batches(name, keys, found, asked, samples)


def _batches(name: str, keys: Sequence[bytes], found: perfect.Perfect, asked: Sequence[bytes], samples: int) -> list[Row]:
    dictionary = native.Dictionary([keys[i] for i in found.order], found.seed, found.pilots, found.remap)
    prepared = native.Asked(asked)
    known = dict.fromkeys(keys, 0)
    batch = [_timed(lambda: dictionary.ask(prepared)) / ASKED for _ in range(samples)]
    python = [_timed(lambda: sum(known[key] for key in asked)) / ASKED for _ in range(max(3, samples // 8))]
    return [
        Row(f"{name} keys: strings in batches, lines fetched ahead", "ns", spread(batch), "groups of 16"),
        Row(f"{name} keys: anchor: dict of Python", "ns", spread(python), "hash kept in the bytes object after the first time"),
    ]


def run(quick: bool) -> Figures:
    samples = 4 if quick else 64
    rows = [row for name, (count, _) in SIZES.items() for row in _size(name, count // 64 if quick else count, samples)]
    notes = [
        f"keys are IRIs of 28 to 38 bytes; {ASKED:,} of them are asked in random order, all are found; CPU time of the thread",
        "goals are figures of ../shared/facts/performance.md for keys that were hashed before, on another machine",
    ]
    return Figures("dictionary", "Dictionaries: strings to numbers by the perfect hash", tuple(rows), tuple(notes))
