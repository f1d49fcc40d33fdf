"""A follower mirrors what extends what it has, by HTTP or from a store, and refuses a fork and keeps it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from log_commands import flip, run
from machines import KEY, Clock, Machine, leaves
from memory_store import MemoryStore
from published_log import read

from folder_served import served as served_folder
from knhk.adapters import signer_roles
from knhk.adapters.log_reading import of_store
from knhk.adapters.log_url import of_url
from knhk.adapters.signer_local import FileKeys, LocalSigner, establish
from knhk_runtime.keyfile import raw_public
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import PLAIN, About, ObjectStore
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.follow import follow
from knhk_runtime.tlog.fsck import fsck
from knhk_runtime.tlog.notes import format_vkey, sign_note
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, open_note, parse_vkey


def grown(base: Path, store: ObjectStore, *batches: tuple[int, int]) -> None:
    """Appends receipts [start, stop) of each batch, each under a checkpoint of its own."""
    machine = Machine(base, store, Clock())
    log, lease = machine.start()
    for start, stop in batches:
        machine.append(log, leaves(start, stop))
        log.integrate()
    log.close()
    lease.give_back()


@pytest.mark.parametrize("steps", [(3, 9), (250, 256, 257), (256, 512)], ids=str)
def test_a_mirror_follows_from_size_to_size_and_is_a_log_of_its_own(tmp_path: Path, store: ObjectStore, steps: tuple[int, ...]) -> None:
    source, before = MemoryStore(), 0
    for size in steps:
        grown(tmp_path / "one", source, (before, size))
        found = follow("source", of_store(source), store, KEY.verifier)
        assert (found.relation, found.before, found.size) == ("ahead", before, size)
        assert follow("source", of_store(source), store, KEY.verifier).relation == "equal"
        checked = fsck(store, KEY.verifier)
        assert (checked.size, checked.bad, checked.notes) == (size, [], [])
        assert read(store)[1] == read(source)[1]
        before = size


def test_a_mirror_catches_up_over_more_than_it_writes_at_once(tmp_path: Path) -> None:
    source, mirror = MemoryStore(), MemoryStore()
    grown(tmp_path / "one", source, (0, 65_000), (65_000, 66_000), (66_000, 70_000))
    follow("source", of_store(source), mirror, KEY.verifier)
    grown(tmp_path / "one", source, (70_000, 70_001))
    assert follow("source", of_store(source), mirror, KEY.verifier).before == 70_000
    assert (read(mirror)[1], fsck(mirror, KEY.verifier).bad) == (read(source)[1], [])


def test_a_log_that_shows_less_than_before_is_told_and_loses_nothing(tmp_path: Path) -> None:
    source, mirror = MemoryStore(), MemoryStore()
    grown(tmp_path / "one", source, (0, 3))
    old = dict(source.objects)
    grown(tmp_path / "one", source, (3, 300))
    follow("source", of_store(source), mirror, KEY.verifier)
    source.objects = old
    assert follow("source", of_store(source), mirror, KEY.verifier).relation == "behind"
    assert read(mirror)[0] == 300


@pytest.mark.failure("region", "receipts")
@pytest.mark.parametrize("theirs", [(0, 2), (0, 9), (0, 300), (0, 301)], ids=["shorter", "as long", "longer", "more tiles"])
def test_a_fork_is_refused_and_both_its_checkpoints_are_kept(tmp_path: Path, theirs: tuple[int, int]) -> None:
    """A log that shows others another past, under its own good signature: the mirror stays as it is, and has the proof."""
    source, mirror, other = MemoryStore(), MemoryStore(), MemoryStore()
    grown(tmp_path / "one", source, (0, 9))
    follow("source", of_store(source), mirror, KEY.verifier)
    kept = read(mirror)
    grown(tmp_path / "two", other, (theirs[0] + 1000, theirs[1] + 1000))
    for _ in range(2):
        found = follow("other", of_store(other), mirror, KEY.verifier)
        assert found.relation == "fork"
        assert [mirror.get(key).data for key in found.kept] == [source.get("checkpoint").data, other.get("checkpoint").data]
        assert read(mirror) == kept


@pytest.mark.parametrize("key", ["tile/entries/000", "tile/entries/001.p/44", "checkpoint"])
def test_nothing_that_does_not_verify_is_under_the_mirrors_checkpoint(tmp_path: Path, key: str) -> None:
    source, mirror = MemoryStore(), MemoryStore()
    grown(tmp_path / "one", source, (0, 9))
    follow("source", of_store(source), mirror, KEY.verifier)
    kept = read(mirror)
    grown(tmp_path / "one", source, (9, 300))
    whole = source.objects[key]
    signed = whole.index("— epoch.".encode()) if key == "checkpoint" else len(whole)  # that line is no signature
    for at in range(30, signed, signed // 7):
        source.objects[key] = flip(whole, at)
        with pytest.raises(Bad):
            follow("source", of_store(source), mirror, KEY.verifier)
        assert read(mirror) == kept
    source.objects[key] = whole
    assert follow("source", of_store(source), mirror, KEY.verifier).relation == "ahead"
    assert fsck(mirror, KEY.verifier).bad == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FolderStore, str]]:
    """A log in a folder, and its address on a server that knows nothing of logs."""
    folder = tmp_path / "static"
    folder.mkdir()

    with served_folder(folder) as url:
        yield FolderStore(folder), url


def test_a_static_server_is_followed_by_the_command_and_its_fork_refused(
    tmp_path: Path, served: tuple[FolderStore, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, url = served
    grown(tmp_path / "one", store, (0, 300))
    words = ("follow", url, str(tmp_path / "mirror"), "--once", "--vkey", format_vkey(KEY.verifier))
    code, told = run(capsys, *words)
    assert (code, told) == (0, {"relation": "ahead", "size": 300, "before": 0, "kept": []})
    assert run(capsys, "diff", url, str(tmp_path / "mirror"))[0] != 0  # no pinned root here: nothing is believed
    assert read(FolderStore(tmp_path / "mirror")) == read(store)
    assert follow(url, of_url(url), FolderStore(tmp_path / "mirror"), KEY.verifier).relation == "equal"
    other = MemoryStore()
    grown(tmp_path / "two", other, (1000, 1400))
    for key, data in other.objects.items():
        store.put(key, data)
    code, told = run(capsys, *words)
    assert (code, told["relation"], len(told["kept"])) == (1, "fork", 2)
    assert json.loads((tmp_path / "mirror" / "meta.json").read_text())["origin"] == KEY.verifier.name


def test_a_folder_of_other_things_is_no_place_for_a_mirror(
    tmp_path: Path, served: tuple[FolderStore, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One in which a first mirror was ended is."""
    store, url = served
    grown(tmp_path / "one", store, (0, 300))
    words = ("follow", url, str(tmp_path / "mirror"), "--once", "--vkey", format_vkey(KEY.verifier))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "letters.txt").write_text("Dear")
    code, _ = run(capsys, *words)
    assert (code, [path.name for path in (tmp_path / "mirror").iterdir()]) == (3, ["letters.txt"])
    (tmp_path / "mirror" / "letters.txt").unlink()
    assert run(capsys, *words)[0] == 0
    (tmp_path / "mirror" / "checkpoint").unlink()
    code, told = run(capsys, *words)
    assert (code, told["relation"], told["size"]) == (0, "ahead", 300)


def test_large_bundles_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read and not yet written is bound by bytes, not by bundles of up to 16 MiB that a server may make up."""
    written = list[int]()

    class Counting(MemoryStore):
        def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
            written.append(sum(len(data) for _, data in items))
            super().put_all(items, about)

    source, mirror = MemoryStore(), Counting()
    grown(tmp_path / "one", source, (0, 1100))
    bundle = len(source.get("tile/entries/000").data)
    monkeypatch.setattr("knhk_runtime.tlog.follow.BYTES_AT_ONCE", bundle)
    assert follow("source", of_store(source), mirror, KEY.verifier).size == 1100
    assert max(written) < 2 * bundle
    assert (read(mirror)[1], fsck(mirror, KEY.verifier).bad) == (read(source)[1], [])


def test_a_key_that_turns_is_followed_by_keys_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mirror's caller has the keys.json from before; beside the log is the newer one, by the same root."""
    keys, place, origin = tmp_path / "keys", tmp_path / "log", "knhk.dev/local"
    signer = establish(keys, origin, datetime.now(UTC))
    shutil.copy(keys / "keys.json", tmp_path / "before.json")

    def grow(start: int, stop: int) -> str:
        log = Log(place, load_key(signer.key_file("log"), origin), Disk())
        log.commit([parse_append(encode_batch(leaves(start, stop)))])
        log.integrate()
        log.close()
        return (place / "checkpoint").read_text()

    def looked() -> tuple[int, Any]:
        words = ("--root", str(keys / "root.pub"), "--keys", str(tmp_path / "before.json"))
        return run(capsys, "follow", str(place), str(tmp_path / "mirror"), "--once", *words)

    grow(0, 5)
    assert looked() == (0, {"relation": "ahead", "size": 5, "before": 0, "kept": []})
    old = parse_vkey(LocalSigner(keys).vkey(origin))
    signer_roles.rotate(keys, FileKeys(keys), "log", origin, datetime.now(UTC), timedelta(hours=1))
    new = parse_vkey(LocalSigner(keys).vkey(origin))
    note = grow(5, 9)
    assert open_note(note, {old, new})[1] == {old, new}  # the overlap
    assert looked()[1]["relation"] == "ahead"  # by the one that is known
    (keys / "log.former.key").unlink()
    note = grow(9, 12)
    assert open_note(note, {old, new})[1] == {new}
    assert looked() == (1, None)  # nobody has said that the key turned
    shutil.copy(keys / "keys.json", place / "keys.json")
    assert looked()[1] == {"relation": "ahead", "size": 12, "before": 9, "kept": []}
    assert json.loads((tmp_path / "mirror" / "meta.json").read_text())["vkey"] == format_vkey(new)
    assert fsck(FolderStore(tmp_path / "mirror"), new).bad == []


def test_a_mirror_that_lacks_nothing_takes_the_checkpoint_of_the_new_key(tmp_path: Path) -> None:
    """Else it could not be verified any more once the former key is forgotten."""
    source, mirror = MemoryStore(), MemoryStore()
    grown(tmp_path / "one", source, (0, 9))
    follow("source", of_store(source), mirror, KEY.verifier)
    text = source.get("checkpoint").data.decode().rpartition("\n\n")[0] + "\n"
    key = Ed25519PrivateKey.from_private_bytes(bytes([77]) * 32)
    turned = Verifier(KEY.verifier.name, raw_public(key))
    source.put("checkpoint", sign_note(text, turned.name, turned.public, key.sign).encode())
    assert follow("source", of_store(source), mirror, turned, [KEY.verifier]).relation == "equal"
    assert fsck(mirror, turned).bad == []
    assert follow("source", of_store(source), mirror, turned).relation == "equal"
