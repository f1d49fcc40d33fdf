"""O written and A read by the pages of formats/."""

from __future__ import annotations

import struct
from collections.abc import Mapping


def _str16(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _bytes32(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def observation(
    body: bytes,
    attributes: Mapping[str, str] | None = None,
    route: str = "r",
    region: str = "local",
    time_ns: int = 1_800_000_000_000_000_000,
    bundle: bytes = bytes(32),
) -> bytes:
    """O (formats/observation.md)."""
    rows = sorted((attributes or {}).items(), key=lambda kv: kv[0].encode())
    head = b"KNO1" + struct.pack(">Q", time_ns) + _str16(region) + _str16(route)
    pairs = b"".join(_str16(name) + _bytes32(value.encode()) for name, value in rows)
    return head + bundle + bytes(32) + struct.pack(">H", len(rows)) + pairs + _bytes32(body)


def failing(a: bytes) -> tuple[int, set[int]]:
    """(verdict, indexes of failing guards) of an A (formats/action.md)."""
    assert a[:4] == b"KNA1"
    (guards,) = struct.unpack(">H", a[6:8])
    bits = a[8 : 8 + (guards + 7) // 8]
    return a[4], {i for i in range(guards) if bits[i // 8] >> (i % 8) & 1}
