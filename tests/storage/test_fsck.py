"""fsck: every altered, missing and superfluous object is told with its place, and what the entries give is written anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from log_commands import flip, run
from machines import KEY, Clock, Machine, leaves
from memory_store import MemoryStore
from published_log import read

from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.opening import open_store
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.core import Log, lock
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.publication import StorePublication
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.fsck import fsck, mend
from knhk_runtime.tlog.notes import format_checkpoint, format_vkey, sign_note
from knhk_verify.note import Checkpoint

SIZE = 600
ROWS = leaves(0, SIZE)
HASHES = ("tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2")
BUNDLES = ("tile/entries/000", "tile/entries/001", "tile/entries/002.p/88")


@pytest.fixture
def log(tmp_path: Path, store: ObjectStore) -> ObjectStore:
    """A log of 600 entries, with partial tiles of an older checkpoint of 560, and a sequencer that has ended."""
    machine = Machine(tmp_path / "one", store, Clock())
    made, lease = machine.start()
    for start, stop in ((0, 560), (560, SIZE)):
        machine.append(made, ROWS[start:stop])
        made.integrate()
    made.close()
    lease.give_back()
    assert [found.where for found in fsck(store, KEY.verifier).mendable()] == []
    return store


def test_a_whole_log_has_no_faults(log: ObjectStore) -> None:
    found = fsck(log, KEY.verifier)
    assert (found.size, found.bad, found.notes, found.tiles) == (SIZE, [], [], 9)


@pytest.mark.parametrize("key", HASHES)
@pytest.mark.parametrize("how", ["altered", "cut", "longer", "missing"])
def test_hashes_are_told_and_written_anew_from_the_entries(log: ObjectStore, key: str, how: str) -> None:
    whole = log.get(key).data
    if how == "missing":
        log.delete([key])
    else:
        log.put(key, {"altered": flip(whole, 40), "cut": whole[:-1], "longer": whole + b"1"}[how])
    found = fsck(log, KEY.verifier)
    assert [one.where for one in found.bad] == [key], found.bad
    assert how != "altered" or "hash 1 (offset 32) is not what" in found.bad[0].what
    assert [one.where for one in mend(log, found)] == [key]
    assert log.get(key).data == whole
    assert fsck(log, KEY.verifier).bad == []


def test_what_only_an_older_checkpoint_needs_is_noted_and_mended(log: ObjectStore) -> None:
    whole = log.get("tile/0/002.p/48").data
    log.put("tile/0/002.p/48", flip(whole, 40))
    found = fsck(log, KEY.verifier)
    assert (found.bad, [one.where for one in found.notes]) == ([], ["tile/0/002.p/48"])
    assert [one.where for one in mend(log, found)] == ["tile/0/002.p/48"]
    assert log.get("tile/0/002.p/48").data == whole


@pytest.mark.parametrize("key", BUNDLES)
def test_entries_are_told_and_never_made(log: ObjectStore, key: str) -> None:
    whole, number = log.get(key).data, BUNDLES.index(key) * 256
    log.put(key, flip(whole, 2 + 10 + 3 * 120))
    found = fsck(log, KEY.verifier)
    assert any(one.where == f"{key} entry {number + 3}" and "altered" in one.what for one in found.bad), found.bad
    log.delete([key])
    missing = fsck(log, KEY.verifier)
    assert any(one.where == key and "is missing" in one.what for one in missing.bad)
    assert missing.mendable() == found.mendable() == []
    log.put(key, whole)
    assert fsck(log, KEY.verifier).bad == []


def test_entries_that_a_wider_bundle_begins_with_are_cut_out_of_it(log: ObjectStore) -> None:
    note = log.get("checkpoint").data
    log.put("tile/entries/002.p/90", log.get("tile/entries/002.p/88").data + b"".join(b"\x00\x76" + row for row in leaves(600, 602)))
    whole = log.get("tile/entries/002.p/88").data
    log.delete(["tile/entries/002.p/88"])
    found = fsck(log, KEY.verifier)
    assert [one.where for one in found.bad] == ["tile/entries/002.p/88"]
    assert {one.where for one in mend(log, found)} == {"tile/entries/002.p/88", "tile/entries/002.p/90"}
    assert (log.get("tile/entries/002.p/88").data, log.get("checkpoint").data) == (whole, note)
    assert fsck(log, KEY.verifier).bad == []


def test_a_checkpoint_of_another_key_or_tree_is_told(log: ObjectStore) -> None:
    whole = log.get("checkpoint").data
    for at in (2, whole.index(b"\n", 20) + 3, whole.index(b"\n", whole.index("— ".encode())) - 20):
        log.put("checkpoint", flip(whole, at))
        assert any(one.where.startswith("checkpoint") for one in fsck(log, KEY.verifier).bad)
    log.delete(["checkpoint"])
    assert [one.what for one in fsck(log, KEY.verifier).bad] == ["is missing"]


def test_what_is_in_the_way_is_told_and_removed(log: ObjectStore) -> None:
    for key in ("tile/entries/005", "tile/0/000.p/7", "tile/1/001"):
        log.put(key, b"left by a writer")
    log.put("tile/zero", b"")
    found = fsck(log, KEY.verifier)
    assert found.bad == []
    assert [(one.where, one.mend) for one in sorted(found.notes, key=lambda one: one.where)] == [
        ("tile/0/000.p/7", b""),
        ("tile/1/001", b""),
        ("tile/entries/005", b""),
        ("tile/zero", None),
    ]
    assert len(list(mend(log, found))) == 3
    assert [one.where for one in fsck(log, KEY.verifier).notes] == ["tile/zero"]
    assert read(log)[2] == ROWS


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log in its own folder, with entries in the WAL."""
    made = Log(tmp_path / "log", KEY, Disk())
    machine = Machine(tmp_path / "log", MemoryStore(), Clock())
    machine.append(made, ROWS[:300])
    made.integrate()
    machine.append(made, ROWS[300:302])
    made.close()
    return tmp_path / "log"


def test_a_folder_is_checked_and_mended_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tile/0/000").unlink()
    (folder / "tile/0/001.p/44.tmp").write_bytes(b"half")
    code, told = run(capsys, "fsck", str(folder))
    assert (code, [(row["where"], row["mendable"]) for row in told["bad"]]) == (1, [("tile/0/000", True)])
    code, told = run(capsys, "fsck", str(folder), "--repair")
    assert (code, told["bad"], told["mended"]) == (0, [], ["tile/0/000", str(folder / "tile/0/001.p/44.tmp")])
    log = Log(folder, KEY, Disk())
    assert (log.integrated, log.durable) == (300, 302)
    log.close()


def test_a_wal_that_contradicts_the_tree_or_was_altered_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = sorted((folder / "wal").iterdir())[0]
    whole = segment.read_bytes()
    segment.write_bytes(flip(whole, 60))
    code, told = run(capsys, "fsck", str(folder))
    assert code == 1
    assert told["bad"][0]["where"].startswith(f"wal/{segment.name} offset")
    segment.write_bytes(whole[:-1])
    code, told = run(capsys, "fsck", str(folder))
    assert (code, [row["where"].split(" ")[0] for row in told["notes"]]) == (0, [f"wal/{segment.name}"])


def test_a_log_that_is_written_is_not_mended(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    held = lock(folder)
    assert run(capsys, "fsck", str(folder))[0] == 0
    assert run(capsys, "fsck", str(folder), "--repair")[0] not in (0, 1)
    os.close(held)
    assert run(capsys, "fsck", str(folder), "--repair")[0] == 0
    machine = Machine(tmp_path / "one", FolderStore(tmp_path / "store"), Clock())
    _, lease = machine.start()
    assert run(capsys, "fsck", str(tmp_path / "store"), "--repair")[0] not in (0, 1)
    lease.give_back()
    assert run(capsys, "fsck", str(tmp_path / "store"), "--repair")[0] == 0


@pytest.mark.server
def test_a_bucket_is_checked(s3_address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(f"{s3_address}/log")
    machine = Machine(tmp_path / "one", store, Clock())
    log, lease = machine.start()
    machine.append(log, ROWS)
    log.integrate()
    lease.give_back()
    store.put("tile/0/001", bytes(8192))
    code, told = run(capsys, "fsck", f"{s3_address}/log", "--vkey", format_vkey(KEY.verifier))
    assert (code, told["bad"][0]["where"]) == (1, "tile/0/001")
    code, told = run(capsys, "fsck", f"{s3_address}/log", "--repair")
    assert (code, told["mended"], told["size"]) == (0, ["tile/0/001"], SIZE)


def test_what_waits_for_witnesses_is_covered_and_never_removed(tmp_path: Path, store: ObjectStore) -> None:
    lease = Machine(tmp_path / "one", store, Clock()).lease()
    assert lease.take() == 0
    made = Log(tmp_path / "one", KEY, Disk(), public=StorePublication(store, lease), witnessed=True)
    for start, stop in ((0, 300), (300, SIZE)):
        made.commit([parse_append(encode_batch(ROWS[start:stop]))])
        made.integrate()
        if stop < SIZE:
            made.publish(made.signed)
    made.close()
    lease.give_back()
    found = fsck(store, KEY.verifier)
    assert (found.size, found.bad, list(mend(store, found))) == (SIZE, [], [])

    again = Machine(tmp_path / "another", store, Clock()).start()[0]
    assert (again.integrated, again.published, again.index_of(entry_key(ROWS[-1]))) == (SIZE, SIZE, SIZE - 1)
    again.close()


def test_a_published_checkpoint_that_the_signed_one_does_not_extend_is_told(log: ObjectStore) -> None:
    other = Checkpoint(KEY.verifier.name, 500, bytes(32))
    log.put("signed", log.get("checkpoint").data)
    log.put("checkpoint", sign_note(format_checkpoint(other), KEY.verifier.name, KEY.verifier.public, KEY.sign).encode())
    assert [one.where for one in fsck(log, KEY.verifier).bad] == ["checkpoint"]


def test_with_a_signed_checkpoint_that_cannot_be_read_nothing_is_removed(log: ObjectStore) -> None:
    log.put("signed", b"torn")
    log.put("tile/entries/009", b"who knows")
    found = fsck(log, KEY.verifier)
    assert ([one.where for one in found.bad], found.mendable()) == (["signed"], [])
