"""A sequencer as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knhk.adapters.log_sequencer import SequencerLog
from knhk.model.faults import Waiting


@contextmanager
def sequencer(folder: Path, socket: Path, origin: str, key: Path) -> Iterator[SequencerLog]:
    """The log, answering; its process ends well at the end."""
    command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(folder), "--socket", str(socket), "--origin", origin]
    process = subprocess.Popen([*command, "--key", str(key)], stderr=subprocess.PIPE, text=True)
    try:
        log, deadline = SequencerLog(socket, 20.0), time.monotonic() + 60
        while True:
            try:
                log.checkpoint()
                break
            except Waiting:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield log
    finally:
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
