"""Opening a log: recovery, and refusal of what was altered, with file and offset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.adapters.signer_local import LocalSigner
from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.keyfile import raw_public
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, LogKey, lock
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.note import Verifier, parse_vkey

ORIGIN = "knhk.dev/test"
Leaves = Callable[[int, int], list[bytes]]


@pytest.fixture
def key(signer: LocalSigner) -> LogKey:
    return load_key(signer.key_file("log"), ORIGIN)


@pytest.fixture
def folder(tmp_path: Path, key: LogKey, leaves: Leaves) -> Path:
    """259 entries under the checkpoint, 4 in the WAL only, in two frames."""
    log = Log(tmp_path / "log", key, Disk())
    log.commit([parse_append(encode_batch(leaves(0, 259)))])
    log.integrate()
    log.close()
    log = Log(tmp_path / "log", key, Disk())
    log.commit([parse_append(encode_batch(leaves(259, 262)))])
    log.commit([parse_append(encode_batch(leaves(262, 263)))])
    log.close()
    return tmp_path / "log"


def _flips(data: bytes, every: int) -> list[tuple[int, bytes]]:
    return [(at, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]) for at in range(0, len(data), every)]


def _last_segment(folder: Path) -> Path:
    return sorted((folder / "wal").iterdir())[-1]


def test_what_is_in_the_wal_only_is_integrated_after_a_restart(folder: Path, key: LogKey) -> None:
    log = Log(folder, key, Disk())
    assert (log.integrated, log.durable) == (259, 263)
    assert log.integrate()
    assert log.integrated == 263
    log.close()
    assert Log(folder, key, Disk()).durable == 263


@pytest.mark.failure("sequencer", "receipts")
def test_a_torn_tail_is_cut_and_told(folder: Path, key: LogKey) -> None:
    segment = _last_segment(folder)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    log = Log(folder, key, Disk())
    assert log.durable == 262
    ((where, count),) = log.cut
    assert where.startswith(str(segment))
    assert count == 13 + 137 + 8 - 1
    log.close()


def test_every_altered_byte_of_the_wal_is_refused_with_file_and_offset(folder: Path, key: LogKey) -> None:
    segment = _last_segment(folder)
    for _, data in _flips(segment.read_bytes(), 1):
        segment.write_bytes(data)
        with pytest.raises(Corrupt) as refusal:
            Log(folder, key, Disk())
        assert refusal.value.where.startswith(str(segment))
        assert "offset" in refusal.value.where


@pytest.mark.parametrize(
    "name", ["checkpoint", "tile/0/000", "tile/0/001.p/3", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/3"]
)
def test_every_altered_byte_of_tiles_and_checkpoint_is_refused_with_the_file(folder: Path, key: LogKey, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for _, data in _flips(whole, max(1, len(whole) // 40)):
        path.write_bytes(data)
        with pytest.raises(Corrupt) as refusal:
            Log(folder, key, Disk())
        told = str(refusal.value)
        assert str(folder) in told
        assert name in told or (name.startswith("tile/entries") and ("tile/0" in told or "entries" in told)), told


@pytest.mark.parametrize(("name", "says"), [("checkpoint", "missing"), ("tile/0/000", "missing"), ("tile/entries/000", "missing")])
def test_a_missing_file_is_refused(folder: Path, key: LogKey, name: str, says: str) -> None:
    (folder / name).unlink()
    with pytest.raises(Corrupt, match=says):
        Log(folder, key, Disk())


def test_a_lost_wal_segment_is_refused(folder: Path, key: LogKey, leaves: Leaves) -> None:
    log = Log(folder, key, Disk())
    log.commit([parse_append(encode_batch(leaves(263, 270)))])
    log.close()
    segments = sorted((folder / "wal").iterdir())
    segments[-2].unlink()
    with pytest.raises(Corrupt, match=r"missing|next segment"):
        Log(folder, key, Disk())


def test_the_key_of_another_log_is_refused(folder: Path, key: LogKey) -> None:
    other = parse_vkey(format_vkey(key.verifier))
    with pytest.raises(Corrupt, match="another log"):
        Log(folder, LogKey(type(other)("knhk.dev/other", other.public), key.sign), Disk())


def told_regions(folder: Path) -> list[str]:
    told: list[str] = json.loads((folder / "meta.json").read_text())["regions"]
    return told


def test_regions_of_a_log_get_more_at_their_end_and_stay_when_none_are_named(folder: Path, key: LogKey, leaves: Leaves) -> None:
    assert told_regions(folder) == ["local"]
    for named, told in (
        (("local", "eu"), ["local", "eu"]),
        ((), ["local", "eu"]),
        (("local", "eu", "us"), ["local", "eu", "us"]),
        (("local", "eu", "us"), ["local", "eu", "us"]),
        ((), ["local", "eu", "us"]),
    ):
        log = Log(folder, key, Disk(), named)
        log.close()
        assert (told_regions(folder), log.durable) == (told, 263)


@pytest.mark.parametrize("named", [("eu",), ("eu", "local"), ("local", "us", "eu"), ("local",)])
def test_regions_that_leaves_count_by_are_neither_renamed_nor_taken_away(folder: Path, key: LogKey, named: tuple[str, ...]) -> None:
    Log(folder, key, Disk(), ("local", "eu")).close()
    with pytest.raises(Stalled, match=f"--region {','.join(named)}: must begin with local,eu"):
        Log(folder, key, Disk(), named)
    assert told_regions(folder) == ["local", "eu"]


def test_a_key_that_turns_leaves_regions_as_they_are(folder: Path, signer: LocalSigner, key: LogKey) -> None:
    Log(folder, key, Disk(), ("local", "eu")).close()
    newer = Ed25519PrivateKey.generate()
    turned = LogKey(Verifier(ORIGIN, raw_public(newer)), newer.sign, older=(key.verifier,))
    Log(folder, turned, Disk()).close()
    meta = json.loads((folder / "meta.json").read_text())
    assert (meta["vkey"], meta["regions"]) == (format_vkey(turned.verifier), ["local", "eu"])


def test_the_lock_is_for_one(tmp_path: Path) -> None:
    assert lock(tmp_path / "log") > 0
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "log")


def test_a_key_that_others_may_read_is_refused(signer: LocalSigner) -> None:
    path = signer.key_file("log")
    path.chmod(0o640)
    with pytest.raises(Stalled, match="0640: must be 0600"):
        load_key(path, ORIGIN)


def test_the_first_write_of_a_key_wins_within_and_across_batches(tmp_path: Path, key: LogKey, leaves: Leaves) -> None:
    log = Log(tmp_path / "log", key, Disk())
    a, b, c = leaves(0, 3)
    rows = log.commit([parse_append(encode_batch(batch)) for batch in ([a, b, a], [b, c], [c, a])])
    assert rows == [[0, 1, 0], [1, 2], [2, 0]]
    assert log.commit([parse_append(encode_batch([c, b, a]))]) == [[2, 1, 0]]
    log.integrate()
    log.close()
    again = Log(tmp_path / "log", key, Disk())
    assert again.commit([parse_append(encode_batch([b, a]))]) == [[1, 0]]
    again.close()
