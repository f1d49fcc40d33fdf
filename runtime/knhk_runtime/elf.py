"""What a pack's shared object states about itself, read from its ELF file without loading it (ELF-64, little-endian).

So the claim of an object for another processor can be checked too, and nothing of it runs before the check.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from knhk.model.faults import Corrupt

SYMBOL = b"knhk_pack_v1"
MACHINES = {62: "amd64", 183: "arm64"}
PT_LOAD, SHT_DYNSYM = 1, 11
PLAN_OFFSET = 48  # of plan_sha256 in knhk_pack: five u32, four bytes of padding, three pointers


@dataclass(frozen=True)
class Stated:
    """Architecture, ABI version, number of guards and plan digest (hexadecimal)."""

    arch: str
    abi: int
    guards: int
    plan_digest: str


def stated(data: bytes, where: str) -> Stated:
    """What the `knhk_pack_v1` of a shared object says. Raises Corrupt, naming `where`, when it is not a pack."""
    try:
        return _stated(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise Corrupt(where, f"must be a shared object of a pack: {error}") from error


def _stated(data: bytes) -> Stated:
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not ELF-64, little-endian")
    machine = struct.unpack_from("<H", data, 18)[0]
    if machine not in MACHINES:
        raise ValueError(f"machine {machine} is neither amd64 nor arm64")
    at = _file_offset(data, _symbol_address(data))
    abi, guards = struct.unpack_from("<II", data, at)
    (plan,) = struct.unpack_from("<32s", data, at + PLAN_OFFSET)
    return Stated(MACHINES[machine], abi, guards, plan.hex())


def _symbol_address(data: bytes) -> int:
    sections, size, count = (
        struct.unpack_from("<Q", data, 40)[0],
        *struct.unpack_from("<HH", data, 58),
    )
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, sections + i * size) for i in range(count)]
    dynamic = next((header for header in headers if header[1] == SHT_DYNSYM), None)  # ELF has at most one: work stays linear
    if dynamic is not None:
        names = headers[dynamic[6]][4]
        for at in range(dynamic[4], dynamic[4] + dynamic[5], 24):
            name, _info, _other, _section, value, _size = struct.unpack_from("<IBBHQQ", data, at)
            if data[names + name : names + name + len(SYMBOL) + 1] == SYMBOL + b"\0":
                return int(value)
    raise ValueError(f"no symbol {SYMBOL.decode()}")


def _file_offset(data: bytes, address: int) -> int:
    segments, size, count = (
        struct.unpack_from("<Q", data, 32)[0],
        *struct.unpack_from("<HH", data, 54),
    )
    for i in range(count):
        kind, _flags, offset, start, _physical, in_file, _in_memory, _align = struct.unpack_from("<IIQQQQQQ", data, segments + i * size)
        if kind == PT_LOAD and start <= address and address + PLAN_OFFSET + 32 <= start + in_file:
            return int(offset + address - start)
    raise ValueError("knhk_pack_v1 is not in the file")
