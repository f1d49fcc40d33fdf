"""A control plane is lost, and made anew from Git, registry and log: what guards run goes on, what was denied stays denied."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeNotary
from restore_house import House, approve, base, flag, killed, moved_in, quiet, reviewed
from rollout_world import PACK, pack

from knhk.adapters import signer_roles
from knhk.adapters.signer_local import FileKeys, LocalSigner
from knhk.adapters.signer_roles import make_key_file
from knhk.model.faults import Refused, Stalled
from knhk.model.resource import Key
from knhk.reconcilers import restoring
from knhk.wiring import restore as wiring
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.restore import at_home, planned, restore_home
from knhk_runtime.tlog.notes import size_of
from knhk_runtime.tlog.tree import parse_bundle_of_entries
from knhk_verify.errors import Bad
from knhk_verify.note import open_note, parse_vkey
from knhk_verify.tree import leaf_hash

pytestmark = pytest.mark.xdist_group("restore")
TARGETS = {"targets": "{point: p1}, {point: p2}", "bundles": "{name: roles}"}
BAD = pack("1.1.0", constraint="sh:minCount 2", **TARGETS)
NEXT = pack("1.2.0", constraint="sh:minCount 3", **TARGETS)
MOMENTS = ("generation", "phaseSince", "pairs", "pairsAtStart")
FLAG = Key("FeatureFlag", "erp", "canary")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[House, House]:
    """The house as it was lost at two moments. First: 1.0.0 is live, the commit's 1.1.0 was rolled back, and a person has turned a flag off
    since the commit. Then: 1.2.0 is approved and at the first step of its canary at both points."""
    folder = tmp_path_factory.mktemp("story")
    house = moved_in(folder / "house")
    house.world.bad = frozenset({"1.1.0"})
    house.commit(*base(BAD, flag("on")))
    house.until("RolledBack", "1.1.0")
    house.world.apply(flag("off"))
    house.world.until(lambda: house.world.document()["flags"] == {"canary": "off"})
    house.look()
    house.world.settle()
    house.lose()
    first = house.copy(folder / "first")
    shutil.move(house.folder / "kept-keys", house.home.keys)
    house.start(house.world.store)
    house.commit(*base(reviewed(NEXT), flag("on")))
    house.world.until(lambda: house.world.ready()["reason"] == "Unapproved")
    approve(house.world)
    house.world.until(lambda: house.world.document()["weight"] == 100 and house.world.document("erp/p2")["weight"] == 100)
    house.look()
    house.world.log.cover()
    house.lose()
    return first, house


@pytest.fixture
def lost(story: tuple[House, House], tmp_path: Path) -> House:
    """Lost after the rollback."""
    return story[0].copy(tmp_path / "house")


@pytest.fixture
def later(story: tuple[House, House], tmp_path: Path) -> House:
    """Lost in the canary."""
    return story[1].copy(tmp_path / "later")


def status(house: House) -> dict[str, Any]:
    return dict(house.world.get(PACK).status)


def test_what_was_rolled_back_stays_so_and_guards_go_on(lost: House) -> None:
    before, handed = lost.before, {guard.point: guard.accepted.epoch for guard in lost.guards}
    documents = {guard.point: guard.documents[-1] for guard in lost.guards}
    done = restore_home(lost.home, lost.left(), quiet)
    assert done.plan.epoch == max(handed.values())
    assert not any(folder.exists() for folder in (lost.home.sockets, lost.home.ring_root)), "nothing outside of the home"
    world = lost.start(lost.opened())
    after = status(lost)
    live = [{k: v for k, v in each["live"].items() if k not in MOMENTS} for each in (after, before)]
    assert live[0] == live[1]
    for name in ("phase", "digest", "points", "inputs", "reason", "findings", "judged", "planDigest", "guards"):
        assert after["revision"][name] == before["revision"][name], name
    assert [row["digest"] for row in after["denyList"]] == [row["digest"] for row in before["denyList"]]
    assert [(row["version"], row["outcome"]) for row in after["history"]] == [(r["version"], r["outcome"]) for r in before["history"]]
    assert world.get(FLAG).spec["defaultVariant"] == "off"
    assert done.plan.notes == (f"{FLAG} stands as entry {done.plan.told.flags['erp/canary'][0]} of the log says, not as the commit does",)
    entries = len(world.log.entries)
    world.until(lambda: {"erp/p1", "erp/p2"} <= world.fleet.documents.keys())
    world.run(12)
    lost.look()
    for guard in lost.guards:
        assert guard.accepted.epoch > handed[guard.point]
        new, old = guard.documents[-1], documents[guard.point]
        assert replace(new, epoch=0, digest="", not_after_ns=0) == replace(old, epoch=0, digest="", not_after_ns=0)
    assert "Restored" in world.kinds()[entries:]
    needless = {"Compiled", "Built", "DataPublished", "RolloutStarted", "Promoted", "RolledBack", "Stalled"}
    assert not needless & set(world.kinds()[entries:])
    world.settle()
    (receipt,) = [each for each in world.receipts() if each.spec["event"] == "Restored"]
    assert receipt.namespace == "erp"
    # what was denied is denied under another name of the object, too, and what is new goes its way with higher epochs
    world.apply(BAD.replace("deadlineSeconds: 600", "deadlineSeconds: 601"))
    world.run(40)
    assert world.get(PACK).status["live"]["version"] == "1.0.0"
    world.store.delete(PACK)
    world.apply(BAD)
    world.until(lambda: "DenyListed" in [each["reason"] for each in world.get(PACK).status.get("conditions", ())])
    highest = max(guard.accepted.epoch for guard in lost.guards)
    world.apply(flag("on"), NEXT)
    world.until_phase("Live", "1.2.0")
    lost.look()
    assert min(guard.accepted.epoch for guard in lost.guards) > highest


def test_a_canary_goes_on_where_it_was(later: House) -> None:
    house = later
    before, salt = house.before, house.guards[0].documents[-1].salt
    restore_home(house.home, house.left(), quiet)
    world = house.start(house.opened())
    after = status(house)
    for name in ("digest", "arm", "step", "weight", "stage", "points", "inputs", "approvedBy", "pairsAtStart"):
        assert after["revision"][name] == before["revision"][name], name
    (approval,) = world.store.list("Approval").resources
    assert (approval.spec["approver"], approval.spec["revision"]) == ("local:kim", after["revision"]["digest"])
    entries = len(world.log.entries)
    world.until(lambda: {"erp/p1", "erp/p2"} <= world.fleet.documents.keys())
    house.look()
    first = house.guards[0].documents[-1]
    assert (first.mode, first.weight, first.salt) == ("Canary", 100, salt)
    house.until("Live", "1.2.0")
    assert not {"Compiled", "Built", "RolloutStarted"} & set(world.kinds()[entries:])


def test_a_second_run_changes_nothing(lost: House) -> None:
    first = restore_home(lost.home, lost.left(), quiet)
    assert (len(first.made), first.there) == (5, [])
    data = lost.home.store.read_bytes()
    again = restore_home(lost.home, lost.left(), quiet)
    assert (again.made, set(again.there)) == ([], {str(each.key) for each in again.plan.resources})
    assert lost.home.store.read_bytes() == data


def test_what_others_outside_said_comes_from_the_log_and_they_are_not_asked_again(lost: House) -> None:
    restore_home(lost.home, lost.left(), quiet)
    world = lost.start(lost.opened())
    world.notary = FakeNotary()
    world.start()
    world.until(lambda: all("sigstoreIndex" in each.status for each in world.receipts()))
    world.settle()
    world.until(lambda: all("sigstoreIndex" in each.status for each in world.receipts()))
    world.run(4)
    before = {each.name: {name: text for name, text in each.status.items() if name.startswith("sigstore")} for each in world.receipts()}
    lost.lose()
    restore_home(lost.home, lost.left(guards=()), quiet)
    store = lost.opened()
    after = {each.name: dict(each.status) for each in store.list("Receipt").resources}
    assert after == before
    world, asked = lost.start(store), FakeNotary()
    world.notary = asked
    world.start()
    world.run(8)
    assert asked.asked == len([kind for kind in world.kinds() if kind != "Notarised"]) - len(before)


def test_a_dry_run_writes_nothing_and_tells_the_plan(lost: House) -> None:
    before = sorted(path for path in lost.folder.rglob("*"))
    code, told = knhk(lost, "--dry-run")
    assert code == 0, told
    assert sorted(path for path in lost.folder.rglob("*")) == before
    (name,) = told["packs"]
    assert (name, told["packs"][name]["live"]["version"], told["packs"][name]["live"]["points"]) == ("erp/orders", "1.0.0", ["p1", "p2"])
    assert len(told["packs"][name]["denied"]) == 1
    assert told["held"] == 4
    assert told["made"] == []


def command(house: House, *words: str) -> list[str]:
    left = house.left()
    guards = [word for folder in left.guards for word in ("--guard", str(folder))]
    where = ["--home", str(house.home.root), "--git", str(left.git), "--path", "policies", "--keys", str(left.keys)]
    return [sys.executable, "-m", "knhk.cli", "restore", *where, *guards, *words, "-o", "json"]


def knhk(house: House, *words: str) -> tuple[int, Any]:
    done = subprocess.run(command(house, *words), capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or done.stderr.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.failure("operator", "act")
@pytest.mark.timeout(600)
def test_killed_in_between_it_is_run_again(lost: House) -> None:
    """By SIGKILL when it has brought a key and all, when the log's sequencer has run, and when half of the store is written and all."""
    begin = multiprocessing.get_context("fork").Process
    moments = (
        (wiring, "replace_file", 1, lost.home.keys),
        (wiring, "_take_over", 1, lost.home.keys / "keys.json"),
        (wiring, "recover", 1, lost.home.run / "sequencer.log"),
        (restoring, "status_of", 3, lost.home.root / "restore" / "store.db"),
        (wiring, "fill", 1, lost.home.root / "restore" / "store.db"),
    )
    for module, name, nth, there in moments:
        running = begin(target=killed, args=(module, name, nth, lost.home, lost.left()))
        running.start()
        running.join(120)
        assert running.exitcode == -signal.SIGKILL, name
        assert there.exists()
        assert not lost.home.store.exists()
    code, told = knhk(lost)
    assert code == 0, told
    world = lost.start(lost.opened())
    assert world.get(PACK).status["live"]["version"] == "1.0.0"
    assert not (lost.home.root / "restore").exists()
    lost.world.log.close()


# -- refused, with what and where --


def entries_tile(house: House) -> Path:
    size = size_of((house.home.log / "checkpoint").read_text())
    return house.home.log / "tile" / "entries" / "000.p" / f"{size}"


def altered_entry(house: House) -> None:
    path = entries_tile(house)
    data = path.read_bytes()
    at = data.index(b'"payload":"') + 40
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def altered_entry_with_its_tile(house: House) -> None:
    """Whoever can write the folder writes hashes that fit; the checkpoint is signed."""
    path = entries_tile(house)
    *first, one, other = (entry for _, entry in parse_bundle_of_entries(path.read_bytes(), ""))
    swapped = [*first, other, one]
    (house.home.log / "tile" / "0" / "000.p" / path.name).write_bytes(b"".join(map(leaf_hash, swapped)))
    path.write_bytes(b"".join(len(entry).to_bytes(2, "big") + entry for entry in swapped))


def altered_checkpoint(house: House) -> None:
    path = house.home.log / "checkpoint"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([lines[0], str(int(lines[1]) - 1), *lines[2:]]))


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (altered_entry, "entry 0"),
        (altered_entry_with_its_tile, "tile/entries: the entries do not give the root"),
        (altered_checkpoint, "checkpoint"),
    ],
)
def test_an_altered_log_is_refused_with_its_place(lost: House, alter: Callable[[House], None], where: str) -> None:
    alter(lost)
    with pytest.raises(Bad, match=where):
        restore_home(lost.home, lost.left(), quiet)
    assert {path.name for path in lost.home.root.iterdir()} == {"log", "registry"}


def test_a_log_that_is_behind_a_guard_is_refused(lost: House, later: House) -> None:
    """A backup of the log from before the canary: its next epochs are used."""
    guard = later.guards[0]
    with pytest.raises(Bad, match=f"epoch {guard.accepted.epoch}: the log ends at .* is behind what this guard has seen"):
        planned(lost.left(guards=(guard.folder,)), False, quiet)
    note = later.home.log / "checkpoint"
    with pytest.raises(Bad, match="older checkpoint: covers"):
        planned(lost.left(guards=(), checkpoints=(note,)), False, quiet)


def test_a_log_that_is_given_is_not_passed_over_for_an_older_one_in_the_home(lost: House, later: House) -> None:
    """A backup brought the home's log back as it was before the canary; a mirror has all of it."""
    given = lost.left(log=str(later.home.log), guards=())
    for look in (lambda: planned(at_home(given, lost.home), False, quiet), lambda: restore_home(lost.home, given, quiet)):
        with pytest.raises(Bad, match=r"later/.*log \(what .*house/.*log has is read.*: older checkpoint: covers"):
            look()
    assert {path.name for path in lost.home.root.iterdir()} == {"log", "registry"}
    with pytest.raises(Stalled, match=r"no/log: has no checkpoint"):
        restore_home(lost.home, lost.left(log=str(lost.folder / "no" / "log"), guards=()), quiet)
    behind = later.left(log=str(lost.home.log), guards=())
    assert planned(at_home(behind, later.home), False, quiet).verified.size == size_of((later.home.log / "checkpoint").read_text())


def test_a_fork_is_refused(lost: House, later: House) -> None:
    """The log went on otherwise after its control plane was brought back from a backup, and is longer than the one that guards followed."""
    restore_home(lost.home, lost.left(), quiet)
    world = lost.start(lost.opened())
    entries = size_of((later.home.log / "checkpoint").read_text())
    world.apply(flag("on"), pack("1.3.0", constraint="sh:minCount 4", **TARGETS))
    world.until(lambda: len(world.log.entries) > entries)
    world.log.cover()
    lost.lose()
    with pytest.raises(Bad, match="did not order it: this guard has followed another history"):
        planned(lost.left(guards=(later.guards[0].folder,)), False, quiet)
    with pytest.raises(Bad, match="consistency"):
        planned(lost.left(guards=(), checkpoints=(later.home.log / "checkpoint",)), False, quiet)


def test_images_that_guards_run_must_be_there(lost: House) -> None:
    digest = lost.before["live"]["digest"].removeprefix("sha256:")
    blob = lost.home.registry / "blobs" / "sha256" / digest
    data = blob.read_bytes()
    blob.unlink()
    with pytest.raises(Refused, match=f"pack sha256:{digest}.*is missing.*must be in the registry"):
        restore_home(lost.home, lost.left(), quiet)
    blob.write_bytes(data)
    restore_home(lost.home, lost.left(), quiet)


def test_what_is_live_and_in_no_commit_must_be_given(lost: House) -> None:
    lost.repo.git("rm", "-q", "policies/3.yaml")
    lost.repo.commit({})
    with pytest.raises(Refused, match=r"PolicyPack erp/orders: 1.0.0 is live at p1, p2: must be in the commit, or given by --file"):
        restore_home(lost.home, lost.left(), quiet)
    (lost.folder / "pack.yaml").write_text(pack("1.0.0", **TARGETS))
    restore_home(lost.home, lost.left(files=(lost.folder / "pack.yaml",)), quiet)
    world = lost.start(lost.opened())
    world.until_phase("Live", "1.0.0")


def test_a_home_that_holds_something_else_is_left_alone(lost: House) -> None:
    (lost.home.root / "letters.txt").write_text("private")
    with pytest.raises(Stalled, match=r"it holds letters.txt"):
        restore_home(lost.home, lost.left(), quiet)
    (lost.home.root / "letters.txt").unlink()
    shutil.rmtree(lost.folder / "kept-keys")
    with pytest.raises(Stalled, match=r"kept-keys.log.key: must be there: who has it not cannot go on"):
        restore_home(lost.home, lost.left(), quiet)


def test_whatever_else_a_home_keeps_is_left_there(lost: House) -> None:
    """All that a home is made of but its store: keys of subjects above all, without which sealed records are lost."""
    paths = [getattr(lost.home, name) for name, value in vars(Home).items() if isinstance(value, property)]
    own = {path.relative_to(lost.home.root).parts[0] for path in paths if isinstance(path, Path) and path.is_relative_to(lost.home.root)}
    assert {"subjects", "secrets", "store.db"} <= own - {"."}
    assert own - {lost.home.store.name} <= set(wiring.PARTS)
    lost.home.subjects.mkdir()
    (lost.home.subjects / "keys.db").write_bytes(b"keys")
    restore_home(lost.home, lost.left(), quiet)
    assert (lost.home.subjects / "keys.db").read_bytes() == b"keys"


def test_keys_from_before_the_log_s_own_turned_are_refused(lost: House) -> None:
    kept = lost.folder / "kept-keys" / "log.key"
    kept.unlink()
    make_key_file(kept)
    with pytest.raises(Stalled, match=r"kept-keys: have not the key that signed .*checkpoint"):
        restore_home(lost.home, lost.left(), quiet)
    assert {path.name for path in lost.home.root.iterdir()} == {"log", "registry"}


def test_a_log_that_was_lost_before_it_signed_with_its_new_key_is_brought_and_signs_with_both(lost: House, tmp_path: Path) -> None:
    kept = lost.folder / "kept-keys"
    now = datetime.now(UTC)
    old = parse_vkey(LocalSigner(kept).vkey(LOG_ORIGIN))
    signer_roles.rotate(kept, FileKeys(kept), "log", LOG_ORIGIN, now, timedelta(hours=1))
    shutil.move(lost.home.log, tmp_path / "log")
    restore_home(lost.home, lost.left(log=str(tmp_path / "log")), quiet)
    known = {old, parse_vkey(LocalSigner(kept).vkey(LOG_ORIGIN))}
    assert open_note((lost.home.log / "checkpoint").read_text(), known)[1] == known


def test_a_log_elsewhere_is_brought_and_role_keys_that_are_lost_are_made_anew(lost: House, tmp_path: Path) -> None:
    for name in ("log", "registry"):
        shutil.move(lost.home.root / name, tmp_path / name)
    for name in ("rollout.key", "build.key"):
        (lost.folder / "kept-keys" / name).unlink()
    restore_home(lost.home, lost.left(log=str(tmp_path / "log"), registry=tmp_path / "registry"), quiet)
    world = lost.start(lost.opened())
    world.until(lambda: {"erp/p1", "erp/p2"} <= world.fleet.documents.keys())
    lost.look()
    assert {guard.accepted.serial for guard in lost.guards} == {2}
