"""verify_log on a whole folder: all is well, and damage anywhere is reported with what and where."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.signer_local import establish
from knhk.adapters.signer_roles import rotate
from knhk.lockchain import PolicyEvent, statement
from knhk.wiring import replays
from knhk.wiring.archive import opened_folder
from knhk.wiring.restore import Left, verified
from knhk.wiring.signing import established, keys_in
from knhk_runtime.record import SEGMENT_MAGIC, frame
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_event
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries, log_records
from knhk_verify.errors import Bad
from knhk_verify.signed import canonical, verify_keys
from knhk_verify.tree import leaf_hash

ORIGIN = "knhk.dev/test"


def test_a_sound_log_verifies(made: Any) -> None:
    report = verify_log(made.path, made.vkey, made.root_public)
    assert report.bad == []
    assert report.notes == []
    assert (report.size, report.receipts, report.leaves, report.events, report.observations) == (603, 400, 600, 3, 400)
    entries = list(log_entries(made.path))
    assert len(entries) == 603
    assert len({leaf_hash(entry) for entry in entries}) == 603


FILES = ["checkpoint", "keys.json", "root.pub"]


def _files(folder: Path) -> list[str]:
    named = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(n for n in named if n in FILES or n.startswith("tile/") or n.endswith(".seg"))


def test_a_flipped_bit_in_any_file_is_reported_with_that_file(folder: Any) -> None:
    chance = random.Random(3)
    files = _files(folder.path)
    assert len([name for name in files if name.startswith("tile/")]) >= 8
    for name in files:
        path = folder.path / name
        whole = path.read_bytes()
        for at in {0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(6))}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
            report = verify_log(folder.path, folder.vkey, None if name == "root.pub" else folder.root_public)
            said = [f"{bad['where']}: {bad['what']}" for bad in report.bad]
            expected = "keys.json" if name == "root.pub" else name
            assert any(expected in line or name in line for line in said), (name, at, said)
        path.write_bytes(whole)
    assert verify_log(folder.path, folder.vkey, folder.root_public).bad == []


def test_meta_that_names_another_log_is_reported(folder: Any) -> None:
    meta = folder.path / "meta.json"
    meta.write_text(meta.read_text().replace("knhk.dev/test", "knhk.dev/tesu"))
    assert {bad["where"] for bad in verify_log(folder.path, folder.vkey, folder.root_public).bad} == {"meta.json origin", "meta.json vkey"}


def test_an_altered_entry_is_told_from_an_altered_tile(folder: Any) -> None:
    bundle = folder.path / "tile/entries/000"
    whole = bundle.read_bytes()
    at = 5 * 120 + 2 + 60  # byte 60 of entry 5: its H(A)
    bundle.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    said = [f"{bad['where']}: {bad['what']}" for bad in verify_log(folder.path, folder.vkey, folder.root_public).bad]
    assert any(line.startswith("tile/entries/000 offset 600: entry 5 was altered") for line in said), said
    bundle.write_bytes(whole)
    tile = folder.path / "tile/0/001"
    hashes = tile.read_bytes()
    tile.write_bytes(hashes[:64] + bytes(32) + hashes[96:])
    report = verify_log(folder.path, folder.vkey, folder.root_public)
    assert [bad["where"] for bad in report.bad] == ["tile/0/001 hash 2 (offset 64)"]


def test_a_segment_that_is_not_named_as_one_is_refused_with_its_name(folder: Any) -> None:
    stray = folder.path / "observations/agent/old.seg"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(bytes(64))
    with pytest.raises(Bad, match=r"observations/agent/old\.seg: is not named as a segment"):
        list(log_records(folder.path))


def test_a_folder_of_partial_tiles_may_go_while_it_is_listed(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, scandir = folder.path / "tile/0/000.p", os.scandir
    gone.mkdir()

    def listing(path: Any) -> Any:
        if Path(path) == gone:
            gone.rmdir()  # as the sequencer does when the tile is full
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    assert verify_log(folder.path, folder.vkey, folder.root_public).bad == []
    assert not gone.exists()


def test_a_folder_that_cannot_be_listed_is_reported(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, scandir = folder.path / "tile/0", os.scandir

    def listing(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    assert {"where": "tile/0", "what": "cannot be read: Permission denied"} in verify_log(folder.path, folder.vkey, folder.root_public).bad


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/000", "tile/0/000", "tile/1/000.p/2", "tile/0/002.p/91"])
def test_a_missing_file_is_reported(folder: Any, name: str) -> None:
    (folder.path / name).unlink()
    assert any(name in bad["where"] for bad in verify_log(folder.path, folder.vkey, folder.root_public).bad)


def test_a_file_that_does_not_belong_is_reported(folder: Any) -> None:
    (folder.path / "tile/0/999x").write_bytes(b"")
    assert verify_log(folder.path, folder.vkey, folder.root_public).bad == [{"where": "tile/0/999x", "what": "is not the path of a tile"}]


def test_an_event_that_is_in_the_log_twice_in_other_bytes_is_noted(tmp_path: Path) -> None:
    """Its signature covers the statement alone: who writes the log can put an old event in once more, with a member beside."""
    signer = establish(tmp_path / "keys", ORIGIN, datetime(2026, 11, 23, tzinfo=UTC))
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    event = signer.bundle("rollout", statement(PolicyEvent("Promoted", ("pack/erp/p@1", "ab" * 32), "control", "2026-11-23T10:00:00Z")))
    log.commit([parse_event(event), parse_event(canonical({**json.loads(event), "again": 1}))])
    assert log.integrate()
    log.close()
    (tmp_path / "log" / "keys.json").write_bytes(signer.keys_json())
    report = verify_log(tmp_path / "log", signer.vkey(ORIGIN), signer.root_public())
    assert report.bad == []
    assert report.notes == [
        {
            "where": f"tile/entries/000.p/2 offset {2 + len(event)} (entry 1)",
            "what": "says what tile/entries/000.p/2 offset 0 (entry 0) says: one event stands in the log twice, in other bytes",
        }
    ]
    keys = verify_keys(signer.keys_json(), signer.root_public())
    assert [index for index, _ in replays.events(opened_folder(tmp_path / "log").served, keys)] == [0]
    left = Left(tmp_path, "main", (), (), str(tmp_path / "log"), tmp_path, tmp_path / "keys")
    assert [index for index, _, _ in verified(left, datetime.now(UTC)).events] == [0]


def test_an_event_of_before_its_keys_end_that_stands_after_later_ones_is_noted(tmp_path: Path) -> None:
    """Who has a key that was replaced, and a way into the log, can say an old time; not where the event stands."""
    turned = datetime(2026, 11, 23, 12, tzinfo=UTC)
    signer = established(tmp_path / "keys", ORIGIN, turned - timedelta(days=1))
    made = rotate(tmp_path / "keys", keys_in(tmp_path / "keys"), "rollout", ORIGIN, turned, timedelta(hours=1))
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())

    def event(number: int, at: str) -> dict[str, Any]:
        return statement(PolicyEvent("Promoted", (f"pack/erp/p@{number}", "ab" * 32), "control", f"2026-11-23T{at}:00Z"))

    said = [
        made.by_old(event(0, "11:00")),
        signer.bundle("rollout", event(1, "12:30")),
        made.by_old(event(2, "12:45")),  # both keys count
        signer.bundle("rollout", event(3, "14:00")),
        made.by_old(event(4, "11:30")),
        signer.bundle("rollout", event(5, "13:30")),
    ]
    log.commit([parse_event(each) for each in said])
    assert log.integrate()
    log.close()
    (tmp_path / "log" / "keys.json").write_bytes(signer.keys_json())
    report = verify_log(tmp_path / "log", signer.vkey(ORIGIN), signer.root_public())
    assert report.bad == []
    assert [note["what"] for note in report.notes] == [
        "is of 2026-11-23T11:30:00Z, by a key that was over at 2026-11-23T13:00:00Z, and stands after an event of 2026-11-23T14:00:00Z: "
        "it waited for the log, or is not as old as it says"
    ]
    assert report.notes[0]["where"].endswith("(entry 4)")


def test_another_key_is_refused(folder: Any) -> None:
    other = "knhk.dev/other+" + folder.vkey.partition("+")[2]
    with pytest.raises(ValueError, match="key id"):
        verify_log(folder.path, other)
    bad = verify_log(folder.path, folder.vkey, bytes(32)).bad
    assert any(b["where"].startswith("keys.json") for b in bad)


def _segment(folder: Any, number: int, payloads: list[bytes]) -> Path:
    path: Path = folder.path / f"observations/erp.orders/{number:016x}.seg"
    path.write_bytes(SEGMENT_MAGIC + number.to_bytes(8, "big") + b"".join(map(frame, payloads)))
    return path


def test_a_record_rewritten_with_right_hashes_is_not_the_one_in_the_log(
    folder: Any, make_record: Callable[[int], tuple[bytes, tuple[bytes, ...]]]
) -> None:
    _segment(folder, 1, [make_record(200)[0], *folder.records[201:]])
    said = verify_log(folder.path, folder.vkey, folder.root_public).bad
    assert said
    assert all("is not the leaf of receipt" in bad["what"] for bad in said)


def test_a_record_that_a_restarted_agent_repeats_is_only_noted(
    folder: Any, make_record: Callable[[int], tuple[bytes, tuple[bytes, ...]]]
) -> None:
    _segment(folder, 1, [*folder.records[200:], make_record(399)[0]])
    report = verify_log(folder.path, folder.vkey, folder.root_public)
    assert report.bad == []
    assert all("repeats receipt" in note["what"] for note in report.notes)
    assert report.notes


def test_a_record_beyond_the_acknowledged_one_is_pending_and_before_it_missing(
    folder: Any, make_record: Callable[[int], tuple[bytes, tuple[bytes, ...]]]
) -> None:
    path = _segment(folder, 1, [*folder.records[200:], make_record(1000)[0]])
    report = verify_log(folder.path, folder.vkey, folder.root_public)
    assert report.bad == []
    assert [note["what"] for note in report.notes] == ["is not in the log yet"]
    (path.parent / "acked").write_text(f"{1:016x} {path.stat().st_size}\n")
    assert [b["what"][-36:] for b in verify_log(folder.path, folder.vkey, folder.root_public).bad] == [
        "is not in the log, though acknowledged"[-36:]
    ]


def test_a_shortened_segment_is_reported(folder: Any) -> None:
    path = folder.path / f"observations/erp.orders/{1:016x}.seg"
    path.write_bytes(path.read_bytes()[:-5])
    assert any(path.name in bad["where"] for bad in verify_log(folder.path, folder.vkey, folder.root_public).bad)


@pytest.mark.parametrize("number", [0, 1])
def test_acknowledged_segments_that_are_missing_are_reported(folder: Any, number: int) -> None:
    for path in sorted((folder.path / "observations/erp.orders").glob("*.seg"))[number:]:
        path.unlink()
    bad = verify_log(folder.path, folder.vkey, folder.root_public).bad
    assert ["it was acknowledged to offset" in b["what"] for b in bad] == [True]
