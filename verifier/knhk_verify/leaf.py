"""The leaf of a decision (formats/leaf.md)."""

import struct
from dataclasses import dataclass

from knhk_verify.errors import demand

LEAF_SIZE = 118
KINDS = {1: "DECISION", 2: "PARK", 3: "UNAVAILABLE", 4: "REFUSED"}
CLASSES = {0: "none", 1: "R1", 2: "W1", 3: "C1"}
VERDICTS = {0: "none", 1: "ADMIT", 2: "DENY"}
MODES = {1: "ENFORCED", 2: "OBSERVED"}
LAYOUT = struct.Struct(">6BH32s32s20sQ16sH")


@dataclass(frozen=True)
class Leaf:
    """One (request, pack, arm); numbers as in leaf.md, hashes 32 bytes, pack 20, receipt_id 16."""

    kind: int
    klass: int
    verdict: int
    mode: int
    flags: int
    region: int
    h_o: bytes
    h_a: bytes
    pack: bytes
    time_ns: int
    receipt_id: bytes


def parse_leaf(data: bytes, where: str = "leaf") -> Leaf:
    """Leaf of exactly 118 bytes; raises Bad with the field."""
    demand(len(data) == LEAF_SIZE, where, f"has {len(data)} bytes: must be {LEAF_SIZE}")
    version, kind, klass, verdict, mode, flags, region, h_o, h_a, pack, time_ns, receipt, reserved = LAYOUT.unpack(data)
    for field, value, ok, must in (
        ("version", version, version == 1, "1"),
        ("kind", kind, kind in KINDS, "1 to 4"),
        ("class", klass, klass in CLASSES, "0 to 3"),
        ("verdict", verdict, verdict in VERDICTS and (kind != 1 or verdict > 0), "1 or 2 for a decision, else 0 to 2"),
        ("mode", mode, mode in MODES, "1 or 2"),
        ("flags", flags, flags < 64, "below 64"),
        ("H(A)", h_a.hex(), kind == 1 or not any(h_a), "zeros for a disposition"),
        ("reserved", reserved, reserved == 0, "0"),
    ):
        demand(ok, f"{where} {field}", f"{value}: must be {must}")
    return Leaf(kind, klass, verdict, mode, flags, region, h_o, h_a, pack, time_ns, receipt)
