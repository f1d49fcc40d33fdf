"""Records of an outbox (formats/frame.md) as columns of the Δ log (formats/delta.md), a batch at a time: no Python per record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from knhk_hot import drain  # noqa: F401 - chooses who hashes
from knhk_hot.native import ffi, lib

ALTERED, NO_RECORD = int(lib.KNHK_FRAME_ALTERED), int(lib.KNHK_FRAME_NO_RECORD)
KEY_SIZE, DIGEST_SIZE, LEAF_SIZE = int(lib.KNHK_KEY_SIZE), int(lib.KNHK_DIGEST_SIZE), int(lib.KNHK_LEAF_SIZE)
SEALED, ERASED = int(lib.KNHK_ROW_SEALED), int(lib.KNHK_ROW_ERASED)
BYTES_MAX = (1 << 31) - 1
_room = ffi.new_allocator(should_clear_after_alloc=False)
_WIDTHS = {"receipt": 32, "pack": 40, "key": 16, "bundle": 64, "evaluator": 64, "leaf": LEAF_SIZE, "salt": 16, "subject": 64}
_TEXT = ("receipt", "pack", "route", "actor", "key", "bundle", "evaluator", "leaf", "salt", "observation", "action", "subject")
_NEVER_NULL = ("receipt", "pack", "key", "leaf")
_NUMBERS = {
    "time_us": "int64_t", "time_ns": "int64_t", "at": "int64_t", "slot": "int64_t", "guards": "int32_t",
    **dict.fromkeys(("kind", "klass", "verdict", "mode", "flags", "judged", "holds"), "uint8_t"),
}  # fmt: skip


@dataclass(frozen=True)
class Scanned:
    """The n records at the start of some bytes. `starts`: n + 1 places of their frames, the last is where they end; `firsts`: n + 1 numbers
    of leaves; `times`: of the first leaf of each, as it says; `weights`: bytes that the rows of each take, about; `keys`: of all leaves;
    `observed`, `acted`: bytes of O and of A, each as often as a leaf has it; `why`: 0, ALTERED or NO_RECORD for the frame after them."""

    starts: Sequence[int]
    firsts: Sequence[int]
    times: Sequence[int]
    weights: Sequence[int]
    keys: Sequence[bytes]
    observed: int
    acted: int
    why: int


@dataclass(frozen=True)
class Text:
    """A column of values of any length, in the layout of Arrow: rows + 1 offsets (i32), bytes; `valid`: a byte for each row, 0 where it is
    null; None: it never is. Buffers may be longer than what they hold."""

    offsets: Any
    data: Any
    valid: Any


@dataclass(frozen=True)
class Columns:
    """`rows` rows. `numbers`: columns of one number each: i64 time_us, time_ns, at (place of the frame), slot (region × 2³² + hour since
    1970), i32 guards, u8 kind, klass, verdict, mode, flags (of the leaf, with SEALED and ERASED), judged (0: guards and failing are null),
    holds (1: O and A are what the leaf commits to, or are sealed or erased). `failing`: of i32; whether one is null, `judged` says. `keys`,
    `digests`: of the leaves. `refused`: numbers of records of which a part is not as its page says: they have no row."""

    rows: int
    numbers: dict[str, Any]
    text: dict[str, Text]
    failing: Text
    keys: Sequence[bytes]
    digests: Sequence[bytes]
    refused: Sequence[int]


def scan(data: bytes) -> Scanned:
    """The whole records at the start of `data`, which has at most BYTES_MAX bytes."""
    if len(data) > BYTES_MAX:
        raise ValueError(f"{len(data)} bytes are more than {BYTES_MAX}")
    cap = len(data) // lib.KNHK_FRAME_LEAST
    made = ffi.new("knhk_scanned *")
    made.cap = cap
    made.starts, made.firsts = starts, firsts = _room("uint32_t[]", cap + 1), _room("uint32_t[]", cap + 1)
    made.times, made.weights = times, weights = _room("uint64_t[]", cap), _room("uint64_t[]", cap)
    made.keys = keys = _room("uint8_t[]", 2 * cap * KEY_SIZE)
    why = lib.knhk_records_scan(ffi.from_buffer("uint8_t[]", data), len(data), made)
    n = made.nrecords
    return Scanned(
        ffi.unpack(starts, n + 1), ffi.unpack(firsts, n + 1), ffi.unpack(times, n), ffi.unpack(weights, n),
        _cut(keys, made.nleaves, KEY_SIZE), made.observed, made.acted, why,
    )  # fmt: skip


def columns(data: bytes, found: Scanned) -> Columns:
    """Rows of the records that `scan` has found in `data`, a row for each leaf."""
    n, room = len(found.times), found.firsts[-1]
    made = ffi.new("knhk_columns *")
    numbers = {name: _room(f"{kind}[]", room) for name, kind in _NUMBERS.items()}
    offsets, failing = _room("int32_t[]", room + 1), _room("int32_t[]", 8 * found.acted)
    keys, digests = _room("uint8_t[]", room * KEY_SIZE), _room("uint8_t[]", room * DIGEST_SIZE)
    refused, starts = _room("uint32_t[]", n), ffi.new("uint32_t[]", found.starts)
    made.failing_offsets, made.failing, made.keys, made.digests, made.refused = offsets, failing, keys, digests, refused
    for name, memory in numbers.items():
        setattr(made, name, memory)
    text = [_text(made.text[number], name, room, found) for number, name in enumerate(_TEXT)]
    lib.knhk_records_columns(ffi.from_buffer("uint8_t[]", data), starts, n, made)
    rows = made.nrows
    return Columns(
        rows,
        {name: _first(memory, rows) for name, memory in numbers.items()},
        {name: _filled(*memory, rows) for name, memory in zip(_TEXT, text, strict=True)},
        _filled(offsets, failing, None, rows),
        _cut(keys, rows, KEY_SIZE),
        _cut(digests, rows, DIGEST_SIZE),
        ffi.unpack(refused, made.nrefused),
    )


def _text(column: Any, name: str, room: int, found: Scanned) -> tuple[Any, Any, Any]:
    """Memory for a column: offsets, bytes, valid."""
    size = room * _WIDTHS[name] if name in _WIDTHS else found.acted if name == "action" else found.observed
    offsets, data = _room("int32_t[]", room + 1), _room("uint8_t[]", size)
    valid = None if name in _NEVER_NULL else _room("uint8_t[]", room)
    column.offsets, column.data, column.valid = offsets, data, ffi.NULL if valid is None else valid
    return offsets, data, valid


def _filled(offsets: Any, data: Any, valid: Any, rows: int) -> Text:
    return Text(_first(offsets, rows + 1), _first(data, offsets[rows]), None if valid is None else _first(valid, rows))


def _first(memory: Any, count: int) -> Any:
    """A buffer over the first elements, which keeps the memory."""
    return ffi.buffer(memory, count * ffi.sizeof(ffi.typeof(memory).item))


def _cut(memory: Any, count: int, size: int) -> list[bytes]:
    data = ffi.buffer(memory, count * size)[:]
    return [data[at : at + size] for at in range(0, count * size, size)]
