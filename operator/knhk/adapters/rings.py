"""What is left in a folder of rings (formats/ring.md) when their producers are gone: emptied rings go, others stay for the next agent."""

from __future__ import annotations

import struct
from pathlib import Path

MAGIC = b"KNHKRNG1"
HEADER_BYTES = 4096
HEAD, TAIL = 128, 192


def sweep(folder: Path) -> tuple[Path, ...]:
    """Removes emptied and half-made rings, the bell beside them, and the folder when nothing is left. Gives the rings that are kept: they
    hold records that nobody has made durable, or cannot be read. Call it when neither Envoy nor agent runs."""
    if not folder.is_dir():
        return ()
    kept = []
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".tmp") or path.is_fifo() or is_empty(path):
            path.unlink(missing_ok=True)
        else:
            kept.append(path)
    if not kept:
        folder.rmdir()
    return tuple(kept)


def is_empty(path: Path) -> bool:
    """Whether everything that was committed to the ring was consumed durably. False for what is no ring."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
        return False
    head, tail = (struct.unpack_from("=Q", header, offset)[0] for offset in (HEAD, TAIL))
    return bool(head == tail)
