"""Leaves as they are appended to a log (formats/log.md), many at once; other threads run meanwhile."""

from __future__ import annotations

from knhk_hot.native import ffi, lib

FIELDS = int(lib.KNHK_LEAF_FIELDS)


def sound_leaves(items: bytes | memoryview, allowed: bytes) -> int:
    """How many of the items of 137 bytes {key 17, length, leaf 118} are, from the first on, leaves without fault under keys of their own.
    `allowed`: FIELDS × 256 bytes, of which byte 256 i + b is not 0 where byte i of a leaf may be b."""
    count, rest = divmod(len(items), lib.KNHK_ENTRY_SIZE)
    if rest or len(allowed) != 256 * FIELDS:
        raise ValueError(f"{len(items)} bytes are no items of {lib.KNHK_ENTRY_SIZE}, or {len(allowed)} no table of {256 * FIELDS}")
    return int(lib.knhk_sound_leaves(ffi.from_buffer("uint8_t[]", items), count, ffi.from_buffer("uint8_t[]", allowed)))
