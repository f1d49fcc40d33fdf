"""A, the action: formats/action.md."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MAGIC = b"KNA1"
ADMIT, DENY = 1, 2
MAX_TRIPLES = 8
MAX_LINE = 4096


def denies(guard: Mapping[str, Any]) -> bool:
    """Rule 4: only sh:Violation denies; guard 0 (payload) always does."""
    return bool(guard["kind"] == "payload" or guard["severity"] == "Violation")


def verdict_of(guards: Sequence[Mapping[str, Any]], failing: Collection[int]) -> int:
    return DENY if any(denies(guards[index]) for index in failing) else ADMIT


def failing_bits(a: bytes) -> tuple[int, ...]:
    """Numbers of the guards whose bit is set."""
    size = (int.from_bytes(a[6:8], "big") + 7) // 8
    bits = int.from_bytes(a[8 : 8 + size], "little")
    return tuple(i for i in range(bits.bit_length()) if bits >> i & 1)


def action_bytes(guards: Sequence[Mapping[str, Any]], failing: Collection[int], triples: Sequence[bytes] = ()) -> bytes:
    """Canonical A for these failing guard numbers and output triples (N-Triples lines without the line feed)."""
    if len(triples) > MAX_TRIPLES or any(not 0 <= index < len(guards) for index in failing):
        raise ValueError("at most 8 triples, and failing guards must exist")
    bits = bytearray((len(guards) + 7) // 8)
    for index in failing:
        bits[index // 8] |= 1 << (index % 8)
    head = struct.pack(">4sBBH", MAGIC, verdict_of(guards, failing), 0, len(guards))
    lines = b"".join(struct.pack(">I", len(line)) + line for line in sorted(triples))
    return head + bytes(bits) + struct.pack(">H", len(triples)) + lines
