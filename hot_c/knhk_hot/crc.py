"""CRC-32 of IEEE 802.3, the checksum of frames (formats/frame.md), at several bytes a cycle."""

from __future__ import annotations

import zlib

from knhk_hot.native import ffi, lib

_LONG = 4096  # below it the call into the library costs more than it saves


def crc32(data: bytes | memoryview, before: int = 0) -> int:
    """As `zlib.crc32`, of contiguous bytes."""
    if len(data) < _LONG:
        return zlib.crc32(data, before)
    return int(lib.knhk_crc32(before, ffi.from_buffer("uint8_t[]", data), len(data)))
