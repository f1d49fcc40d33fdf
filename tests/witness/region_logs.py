"""A region's log in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from machines import KEY, Quick, leaves

from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch


def log_of(folder: Path, *rows: tuple[int, int]) -> Path:
    """A log with these leaves; called again it goes on."""
    log = Log(folder, KEY, Quick())
    for start, stop in rows:
        log.commit([parse_append(encode_batch(leaves(start, stop)))])
    log.integrate()
    log.close()
    return folder


def of_folder(folder: Path) -> Callable[[str], bytes | None]:
    return lambda path: (folder / path).read_bytes() if (folder / path).exists() else None
