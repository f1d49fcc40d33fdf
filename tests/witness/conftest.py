"""A log to cosign, its witness on a folder, and witness processes that are gone when a test ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "witness", "verify", "storage"))
from witness_world import FakeLog, Running, witness_key

from knhk_runtime.sequencer.files import Disk
from knhk_runtime.witness.core import Witness


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


@pytest.fixture
def opened(tmp_path: Path, log: FakeLog) -> Callable[[], Witness]:
    """The witness on its folder, each time as after a restart."""
    return lambda: Witness(tmp_path / "w", witness_key(), {log.origin: [log.verifier]}, Disk(), lambda: 1_700_000_000)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `knhk log witness`, or another command that says where it listens."""
    started = list[Running]()

    def start(*words: str, command: tuple[str, ...] = ("-m", "knhk.cli", "log", "witness")) -> Running:
        process = subprocess.Popen([sys.executable, *command, *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        started.append(Running(process))
        return started[-1]

    yield start
    for each in started:
        each.end()
