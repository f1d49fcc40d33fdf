"""Leaves to append, keys, and sequencer processes that are gone when a test ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.faults import Waiting
from knhk_runtime.record import encode_leaf
from knhk_verify.leaf import Leaf

ORIGIN = "knhk.dev/test"


@pytest.fixture
def leaves() -> Callable[[int, int], list[bytes]]:
    """Leaves of the receipt ids [start, stop)."""

    def make(start: int, stop: int) -> list[bytes]:
        ids = [b"RING0001" + number.to_bytes(8, "big") for number in range(start, stop)]
        return [encode_leaf(Leaf(1, 1, 1, 1, 0, 0, id_ * 2, id_ * 2, bytes(20), 7, id_)) for id_ in ids]

    return make


@pytest.fixture
def signer(tmp_path: Path) -> LocalSigner:
    return establish(tmp_path / "keys", ORIGIN, datetime(2026, 11, 23, tzinfo=UTC))


@dataclass
class Home:
    """A sequencer's folder, socket and key; `start` runs it as a user would."""

    base: Path
    signer: LocalSigner
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def dir(self) -> Path:
        return self.base / "log"

    @property
    def socket(self) -> Path:
        return self.base / "run" / "s.sock"

    @property
    def vkey(self) -> str:
        return self.signer.vkey(ORIGIN)

    def log(self, timeout_s: float = 20.0) -> SequencerLog:
        return SequencerLog(self.socket, timeout_s)

    def command(self, *more: str) -> list[str]:
        key = str(self.signer.key_file("log"))
        base = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(self.dir), "--socket", str(self.socket)]
        return [*base, "--origin", ORIGIN, "--key", key, *more]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """A process whose socket answers."""
        process = subprocess.Popen(self.command(*more), stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.log().checkpoint()
                return process
            except Waiting:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(process.communicate(timeout=5)[1]) from None
                time.sleep(0.02)

    def stop(self, process: subprocess.Popen[str]) -> str:
        """What it said, after SIGTERM and exit status 0."""
        process.terminate()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
        return said


@pytest.fixture
def home(tmp_path: Path, signer: LocalSigner) -> Iterator[Home]:
    home = Home(tmp_path, signer)
    yield home
    for process in home.running:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.fixture
def covered() -> Callable[[SequencerLog, int], str]:
    """Proof of an entry, as soon as a checkpoint covers it."""

    def wait(log: SequencerLog, index: int) -> str:
        deadline = time.monotonic() + 60
        while True:
            try:
                return log.proof(index)
            except Waiting:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    return wait
