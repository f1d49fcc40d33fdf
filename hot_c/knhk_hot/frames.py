"""Frames that the outbox holds (formats/frame.md), many at once; other threads run meanwhile."""

from __future__ import annotations

from knhk_hot.native import ffi, lib

_NONE = (1 << 8 * ffi.sizeof("size_t")) - 1


def sound_frames(data: bytes) -> tuple[int, int]:
    """(bytes of the whole frames at the start of `data`, how many of those bytes come before the first frame whose CRC is not its own)."""
    sound = ffi.new("size_t *")
    whole = int(lib.knhk_whole_frames(ffi.from_buffer("uint8_t[]", data), len(data), sound))
    return whole, int(sound[0])


def entries_of_frames(frames: bytes) -> bytes:
    """What is appended to a log of whole frames of records: 137 bytes for each leaf (formats/log.md). Raises ValueError when a frame goes
    past the end or has no room for the leaves that it says."""
    data = ffi.from_buffer("uint8_t[]", frames)
    count = lib.knhk_entries_of_frames(data, len(frames), ffi.NULL, 0)
    if count == _NONE:
        raise ValueError("a frame has no room for its leaves")
    out = bytearray(count * lib.KNHK_ENTRY_SIZE)
    lib.knhk_entries_of_frames(data, len(frames), ffi.from_buffer("uint8_t[]", out), count)
    return bytes(out)
