"""Erasing records from segments that nobody appends to: O, A and salt become zeros, places stay (formats/frame.md)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file
from knhk_runtime.record import ERASED, SEGMENT_HEAD, Record, frame, parse_record, scan_frames
from knhk_verify.errors import Bad

_HEAD = struct.Struct(">BBHQ16s")


def erase_segment(path: Path, is_wanted: Callable[[Record], bool]) -> int:
    """How many records were erased; the file is replaced whole, or stays as it is. Raises Corrupt and OSError."""
    data = path.read_bytes()
    if len(data) < SEGMENT_HEAD:
        return 0
    try:
        frames, end = scan_frames(data, int(path.stem, 16), str(path))
        found = [(at, parse_record(payload, f"{path} offset {at}"), len(payload)) for at, payload in frames]
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    made, erased = bytearray(data), 0
    for at, record, size in found:
        if not record.erased and is_wanted(record):
            made[at : at + 8 + size] = frame(_erased(record))
            erased += 1
    if erased:
        replace_file(path, bytes(made[:end]) + data[end:], os.stat(path).st_mode & 0o777)
    return erased


def _erased(record: Record) -> bytes:
    parts = [_HEAD.pack(1, len(record.leaves), ERASED, 0, bytes(16)), *record.leaves]
    parts += [len(field).to_bytes(4, "big") + bytes(len(field)) for field in (record.observation, *record.actions)]
    return b"".join(parts)
