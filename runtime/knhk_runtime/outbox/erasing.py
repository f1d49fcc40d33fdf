"""Erasing records from segments: O, A and salt become zeros, places stay (formats/frame.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file
from knhk_runtime.record import SEGMENT_HEAD, Record, erased_payload, frame, parse_record, scan_frames
from knhk_verify.errors import Bad


def is_copy(source: str) -> bool:
    """Whether an outbox is the copy of a pod's, which the log's server keeps (formats/delta.md)."""
    return "~" in source


def erase_segment(path: Path, is_wanted: Callable[[Record], bool]) -> int:
    """How many records were erased of a segment that nobody adds to meanwhile; the file is replaced whole, or stays as it is. Raises as
    `records_in`."""
    data = _read(path)
    made, erased = bytearray(data), 0
    for at, size, record in _frames(path, data):
        if not record.erased and is_wanted(record):
            made[at : at + 8 + size] = frame(erased_payload(record))
            erased += 1
    if erased:
        replace_file(path, bytes(made), os.stat(path).st_mode & 0o777)
    return erased


def records_in(path: Path) -> Iterator[Record]:
    """Of a segment; of one that is gone meanwhile none, and of a copy none of what is no record: a pod may send anything. All
    of the segment is in memory. Raises Corrupt and OSError."""
    return (record for _, _, record in _frames(path, _read(path)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _frames(path: Path, data: bytes) -> Iterator[tuple[int, int, Record]]:
    """(offset, bytes of the payload, record)."""
    if len(data) < SEGMENT_HEAD:
        return
    try:
        frames, _ = scan_frames(data, int(path.stem, 16), str(path))
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    for at, payload in frames:
        try:
            yield at, len(payload), parse_record(payload, f"{path} offset {at}")
        except Bad as error:
            if is_copy(path.parent.name):
                continue
            raise Corrupt(error.where, error.what) from error
