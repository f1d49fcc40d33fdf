"""A small log folder with leaves, events, observations and keys, as the sequencer and an agent leave it."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from knhk.adapters.signer_local import establish
from knhk.lockchain import PolicyEvent, statement
from knhk_runtime.record import SEGMENT_MAGIC, encode_leaf, frame, h_a, h_o
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append, parse_event
from knhk_runtime.sequencer_client import encode_batch
from knhk_verify.leaf import Leaf

sys.path.insert(0, str(Path(__file__).parent))
ORIGIN = "knhk.dev/test"


@dataclass(frozen=True)
class Folder:
    """A log folder, its checkpoint key, the root key, and the records that its segment holds."""

    path: Path
    vkey: str
    root_public: bytes
    records: tuple[bytes, ...]


def _string(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def observation_bytes(time_ns: int, body: bytes) -> bytes:
    attributes = ((b"action", b"approve"), (b"sub", b"ann"))
    pairs = b"".join(_string(name, 2) + _string(value, 4) for name, value in attributes)
    head = b"KNO1" + time_ns.to_bytes(8, "big") + _string(b"local", 2) + _string(b"orders", 2) + bytes(64)
    return head + len(attributes).to_bytes(2, "big") + pairs + _string(body, 4)


def action_bytes(verdict: int, guards: int = 9) -> bytes:
    failing = (0 if verdict == 1 else 1 << 8).to_bytes((guards + 7) // 8, "little")
    return b"KNA1" + bytes((verdict, 0)) + guards.to_bytes(2, "big") + failing + bytes(2)


def record_bytes(number: int, chance: random.Random) -> tuple[bytes, tuple[bytes, ...]]:
    """(outbox payload, leaves): every third is a disposition, every second has two arms."""
    salt, time_ns = chance.randbytes(16), 1_700_000_000_000_000_000 + number
    o, decided, arms = observation_bytes(time_ns, b'{"n":%d}' % number), number % 3 != 2, 1 + number % 2
    actions = tuple(action_bytes(1 + (number + arm) % 2) if decided else b"" for arm in range(arms))
    leaves = tuple(
        encode_leaf(
            Leaf(
                kind=1 if decided else 2,
                klass=1 if decided else 0,
                verdict=action[4] if decided else 0,
                mode=1 + arm,
                flags=arm,
                region=0,
                h_o=h_o(salt, o),
                h_a=h_a(salt, action) if decided else bytes(32),
                pack=bytes([arm + 1]) * 20,
                time_ns=time_ns,
                receipt_id=b"RING0001" + number.to_bytes(8, "big"),
            )
        )
        for arm, action in enumerate(actions)
    )
    head = bytes((1, arms)) + bytes(2) + number.to_bytes(8, "big") + salt
    return head + b"".join(leaves) + _string(o, 4) + b"".join(_string(a, 4) for a in actions), leaves


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Made once; 400 records give about 600 leaves: two full bundles, a partial one, two tile levels."""
    base = tmp_path_factory.mktemp("log")
    now, chance = datetime(2026, 11, 23, 10, tzinfo=UTC), random.Random(7)
    signer = establish(base / "keys", ORIGIN, now)
    log = Log(base / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    records = [record_bytes(number, chance) for number in range(400)]
    for start in range(0, 400, 150):
        leaves = [leaf for _, of_record in records[start : start + 150] for leaf in of_record]
        log.commit([parse_append(encode_batch(leaves))])
        event = PolicyEvent("Promoted", (f"pack/erp/p@{start}", "ab" * 32), "control", "2026-11-23T10:00:00Z", step=start)
        log.commit([parse_event(signer.bundle("rollout", statement(event)))])
        assert log.integrate()
    log.close()
    for name in ("keys.json", "root.pub"):
        shutil.copy(base / "keys" / name, base / "log" / name)
    source = base / "log" / "observations" / "erp.orders"
    source.mkdir(parents=True)
    for number in range(2):
        frames = b"".join(frame(payload) for payload, _ in records[number * 200 : number * 200 + 200])
        (source / f"{number:016x}.seg").write_bytes(SEGMENT_MAGIC + number.to_bytes(8, "big") + frames)
    (source / "acked").write_text(f"{1:016x} {(source / f'{1:016x}.seg').stat().st_size}\n")
    return Folder(base / "log", signer.vkey(ORIGIN), signer.root_public(), tuple(payload for payload, _ in records))


@pytest.fixture
def folder(made: Folder, tmp_path: Path) -> Folder:
    """A copy that a test may damage."""
    shutil.copytree(made.path, tmp_path / "log")
    return Folder(tmp_path / "log", made.vkey, made.root_public, made.records)


@pytest.fixture
def make_record() -> Callable[[int], tuple[bytes, tuple[bytes, ...]]]:
    """(outbox payload, leaves) of a numbered record, fresh salt."""
    chance = random.Random(11)
    return lambda number: record_bytes(number, chance)


SOURCE = Path(__file__).parents[2] / "verifier" / "knhk_verify"
NEEDED = ("cryptography", "cffi", "pycparser", "_cffi_backend")  # cryptography, and what it is made of
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the verifier in an environment of its own: its source and cryptography, nothing else of ours or of others."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False, symlinks=True)
    installed, site = Path(sysconfig.get_path("platlib")), next(folder.glob("lib/python*/site-packages"))
    shutil.copytree(SOURCE, site / "knhk_verify", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        for path in installed.glob(f"{name}*"):
            (site / path.name).symlink_to(path)

    def run(*arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
        command = ["-c", code] if code else ["-m", "knhk_verify", *map(str, arguments)]
        return subprocess.run([folder / "bin" / "python", "-I", *command], capture_output=True, text=True, check=False, cwd=folder)

    return run
