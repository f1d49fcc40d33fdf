"""A log's key turns while a witness follows and mirrors it: the new one counts by keys.json, the old one for what it signed before."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from machines import leaves
from memory_store import MemoryStore
from region_logs import of_folder
from witness_world import witness_key

from knhk.adapters import signer_roles
from knhk.adapters.signer_local import FileKeys, LocalSigner, establish
from knhk.lockchain import chapters
from knhk.model.faults import Stalled
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.fsck import fsck
from knhk_runtime.tlog.notes import sign_note
from knhk_runtime.witness.core import Refusal, Witness
from knhk_runtime.witness.follow import Followed
from knhk_runtime.witness.keys import LogKeys, parse_roots
from knhk_runtime.witness.mirror import Mirror
from knhk_verify.note import Verifier, b64, open_note, parse_vkey

ORIGIN = "knhk.dev/local"
ROOT = b64(bytes(32))


@dataclass
class Region:
    """A log, and the witness of another region, whose policy names the log's first key."""

    folder: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.signer = establish(self.keys, ORIGIN, self.now)
        self.first = self.vkey()
        self.start()

    @property
    def keys(self) -> Path:
        return self.folder / "keys"

    @property
    def place(self) -> Path:
        return self.folder / "log"

    def vkey(self) -> Verifier:
        return parse_vkey(LocalSigner(self.keys).vkey(ORIGIN))

    def start(self) -> None:
        """The witness, anew."""
        roots = {ORIGIN: self.signer.root_public()}
        self.known = LogKeys(self.folder / "w", {ORIGIN: [self.first]}, roots, Disk(), lambda: self.now)
        self.witness = Witness(self.folder / "w", witness_key(), self.known, Disk(), lambda: 1, self.known.ever())
        logs = {ORIGIN: lambda: of_folder(self.place)}
        self.followed = Followed(logs, self.witness.latest, self.witness.add_checkpoint, self.known.learn)

    def turn(self) -> None:
        signer_roles.rotate(self.keys, FileKeys(self.keys), "log", ORIGIN, self.now, timedelta(hours=1))

    def publish(self) -> None:
        """What the log's owner puts beside it."""
        shutil.copy(self.keys / "keys.json", self.place / "keys.json")

    def grow(self, start: int, stop: int) -> str:
        log = Log(self.place, load_key(self.signer.key_file("log"), ORIGIN), Disk())
        log.commit([parse_append(encode_batch(leaves(start, stop)))])
        log.integrate()
        log.close()
        return (self.place / "checkpoint").read_text()

    def looked(self) -> tuple[int, str]:
        """Size that the witness has cosigned, and what it says is wrong."""
        self.followed.look_at(ORIGIN)
        return self.witness.sizes()[ORIGIN], self.followed.errors[ORIGIN]


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return Region(tmp_path)


def test_a_key_that_turns_is_known_by_keys_json_and_the_old_one_counts_no_more(region: Region) -> None:
    region.grow(0, 5)
    region.publish()
    assert region.looked() == (5, "")
    region.turn()
    region.publish()
    assert open_note(region.grow(5, 9), [region.first, region.vkey()])[1] == {region.first, region.vkey()}  # the overlap
    assert region.looked() == (9, "")
    old = load_key(region.keys / "log.former.key", ORIGIN)
    (region.keys / "log.former.key").unlink()
    assert open_note(region.grow(9, 12), [region.first, region.vkey()])[1] == {region.vkey()}
    assert region.looked() == (12, "")
    region.now += timedelta(hours=2)
    region.start()
    assert region.looked() == (12, "")
    text = region.grow(12, 13).rpartition("\n\n")[0] + "\n"
    forged = sign_note(text, ORIGIN, region.first.public, old.sign)
    with pytest.raises(Refusal, match=r"is not signed by a key of knhk.dev/local that this witness knows"):
        region.witness.add_checkpoint(f"old 12\n\n{forged}".encode())
    assert region.looked() == (13, "")


def test_what_was_cosigned_by_the_old_key_alone_is_opened_when_that_is_over(region: Region) -> None:
    """The witness was away all through the overlap."""
    region.grow(0, 5)
    assert region.looked() == (5, "")
    region.turn()
    region.publish()
    region.grow(5, 7)
    region.now += timedelta(hours=2)
    (region.keys / "log.former.key").unlink()
    region.grow(7, 9)
    region.start()
    assert region.looked() == (9, "")
    region.start()
    assert region.looked() == (9, "")


@pytest.mark.parametrize("there", [(0, 1), (1,), (1, 1), ()])
def test_a_key_of_the_policy_that_is_over_stays_so_whichever_chapters_a_log_leaves_out(
    region: Region, monkeypatch: pytest.MonkeyPatch, there: tuple[int, ...]
) -> None:
    """The same one twice is no other one."""
    monkeypatch.setattr(signer_roles, "CHAPTER", 1)
    for _ in range(3):
        region.now += timedelta(hours=2)
        region.turn()
    bare, former = chapters.apart((region.keys / "keys.json").read_bytes())
    assert len(former) == 2
    data = json.dumps({**json.loads(bare), "chapters": [former[at] for at in there]}).encode()
    region.known.learn(ORIGIN, lambda name: data)
    assert region.vkey() in region.known[ORIGIN]
    assert region.first not in region.known[ORIGIN]
    assert region.first in region.known.over(ORIGIN)


def test_an_older_keys_json_or_one_that_the_root_has_not_signed_is_told_and_changes_nothing(region: Region) -> None:
    region.grow(0, 5)
    region.publish()
    before = (region.place / "keys.json").read_bytes()
    region.turn()
    region.publish()
    assert region.looked() == (5, "")
    for shown, told in ((before, "an older file is refused"), (before.replace(b'"sig":"', b'"sig":"AAAA'), "Bad")):
        (region.place / "keys.json").write_bytes(shown)
        assert told in region.looked()[1]
        assert region.known[ORIGIN][0] == region.vkey()


def test_a_log_that_was_in_no_policy_for_a_while_is_known_by_what_is_learnt_meanwhile(region: Region) -> None:
    """A look at it that began before a policy without logs ends after the log is back."""
    folder, roots = region.folder / "w", {ORIGIN: region.signer.root_public()}
    gone = LogKeys(folder, {}, {}, Disk(), lambda: region.now, region.known)
    back = LogKeys(folder, {ORIGIN: [region.first]}, roots, Disk(), lambda: region.now, gone)
    region.turn()
    region.known.learn(ORIGIN, lambda name: (region.keys / name).read_bytes())
    assert region.vkey() in back[ORIGIN]


def test_a_mirror_goes_on_with_the_new_key(region: Region) -> None:
    store = MemoryStore()

    async def story() -> None:
        def keys() -> tuple[list[Verifier], list[Verifier]]:
            return region.known[ORIGIN], region.known.over(ORIGIN)

        mirror = Mirror(ORIGIN, lambda: of_folder(region.place), store, keys)
        region.grow(0, 5)
        assert (await mirror.reach(5, 60.0), mirror.error) == (5, "")
        region.turn()
        region.publish()
        region.grow(5, 7)
        region.now += timedelta(hours=2)
        (region.keys / "log.former.key").unlink()
        region.grow(7, 9)
        assert await mirror.reach(9, 0.1) == 5  # it is the witness that learns
        region.followed.look_at(ORIGIN)
        assert (await mirror.reach(9, 60.0), mirror.error) == (9, "")
        assert fsck(store, region.vkey()).bad == []

    asyncio.run(story())


@pytest.mark.parametrize("text", ["one\n", f"one {ROOT} extra\n", "one !\n", "one AAAA\n", f"one {ROOT}\none {ROOT}\n"])
def test_roots_that_are_none_are_told_with_their_line(text: str) -> None:
    with pytest.raises(Stalled, match=r"roots.* line [34]"):
        parse_roots(f"# logs\n\n{text}".encode(), "roots")
    assert parse_roots(b"# none\n\n", "roots") == {}


def test_a_root_of_a_log_that_is_not_in_the_policy_is_told(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match=r"knhk.dev/loca: is no log of the policy: must be one of knhk.dev/local"):
        LogKeys(tmp_path, {ORIGIN: []}, {"knhk.dev/loca": bytes(32)}, Disk(), lambda: datetime.now(UTC))
