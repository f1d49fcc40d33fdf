"""Bodies of the key service (formats/keys.md). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum

from knhk.model.subjects import TAG_BYTES as TAG
from knhk_runtime.envelope import KEY, KEY_ID
from knhk_runtime.subject_keys import SubjectKey
from knhk_verify.errors import Bad

MOST = 4096
_WANTED, _KEY, _STATE = struct.Struct(f">{TAG}sI"), struct.Struct(f">{KEY_ID}s{KEY}s"), struct.Struct(f">B{KEY}s")
_GENERATION = struct.Struct(">Q")
MAX_BODY_BYTES = MOST * _WANTED.size
Wanted = tuple[bytes, int]
"""Tag and window."""


class State(IntEnum):
    """What became of a key."""

    UNKNOWN, KEPT, DESTROYED = 0, 1, 2


def wanted_body(wanted: Iterable[Wanted]) -> bytes:
    """Of `keys`."""
    return b"".join(_WANTED.pack(*each) for each in wanted)


def parse_wanted(body: bytes) -> list[Wanted]:
    """Raises Bad."""
    _must_be_rows(body, _WANTED.size, "tag and window")
    return list(_WANTED.iter_unpack(body))


def keys_answer(generation: int, keys: Iterable[SubjectKey]) -> bytes:
    return _GENERATION.pack(generation) + b"".join(_KEY.pack(key.id, key.key) for key in keys)


def parse_keys(body: bytes, count: int) -> tuple[int, list[SubjectKey]]:
    """The generation, and as many keys as were asked for. Raises Bad."""
    if len(body) != _GENERATION.size + count * _KEY.size:
        raise Bad("answer", f"has {len(body)} bytes, must be a generation and {count} keys")
    return _GENERATION.unpack_from(body)[0], [SubjectKey(*row) for row in _KEY.iter_unpack(body[_GENERATION.size :])]


def parse_ids(body: bytes) -> list[bytes]:
    """Of `open`. Raises Bad."""
    _must_be_rows(body, KEY_ID, "key id")
    return [body[at : at + KEY_ID] for at in range(0, len(body), KEY_ID)]


def open_answer(states: Iterable[tuple[State, bytes]]) -> bytes:
    return b"".join(_STATE.pack(*each) for each in states)


def parse_open(body: bytes, count: int) -> Sequence[tuple[State, bytes]]:
    """Raises Bad."""
    if len(body) != count * _STATE.size:
        raise Bad("answer", f"has {len(body)} bytes, must be {count} states of keys")
    try:
        return [(State(state), key) for state, key in _STATE.iter_unpack(body)]
    except ValueError as error:
        raise Bad("answer", "has a state that is none") from error


def _must_be_rows(body: bytes, size: int, what: str) -> None:
    if not body or len(body) % size or len(body) > MOST * size:
        raise Bad("body", f"has {len(body)} bytes, must be 1 to {MOST} rows of {size}: {what}")
