"""Keys of a cluster turn while the root is away: the root signs turns ahead, and whoever brings them into force can sign nothing."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sequencing import sequencer

from knhk.adapters import keys_ahead
from knhk.adapters.keys_ahead import OPENERS, Supply, in_force, opener, state_in
from knhk.adapters.signer_local import LocalSigner
from knhk.cli import main
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Stalled
from knhk.wiring.rotating import Telling
from knhk.wiring.signing import established
from knhk.wiring.turning import LEAD, made_ahead, turned
from knhk_runtime.keyfile import UNLOCK, load_private_key, raw_public
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_event
from knhk_verify.note import Verifier, open_checkpoint, open_note
from knhk_verify.signed import ROLES, keyid, verify_event, verify_keys

ORIGIN, HOUR = "knhk.dev/test", timedelta(hours=1)
NOW = datetime.now(UTC).replace(microsecond=0)
LOOKS = timedelta(minutes=10)
PROCESS = {role: process for process, roles in OPENERS.items() for role in roles}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Supply]:
    """A folder of keys, and three days of turns."""
    folder = tmp_path_factory.mktemp("ahead") / "keys"
    established(folder, ORIGIN, NOW - 25 * HOUR)
    return folder, made_ahead(folder, NOW, 3, "local:kim")


def mount(target: Path, folder: Path, process: str, files: Mapping[str, bytes]) -> Path:
    """What a process finds: the turn's files that are its own, and what opens them."""
    target.mkdir(exist_ok=True)
    own = (*keys_ahead.key_files(process), "keys.json", "rotated.json", "turn.json")
    for name, data in {**{name: files[name] for name in own if name in files}, UNLOCK: (folder / opener(process)).read_bytes()}.items():
        (target / f".{name}").write_bytes(data)
        (target / f".{name}").chmod(0o600)
        (target / f".{name}").replace(target / name)
    (target / "root.pub").write_bytes((folder / "root.pub").read_bytes())
    return target


def walk(supply: Supply, root: bytes, start: dict[str, bytes], until: datetime) -> list[tuple[datetime, dict[str, bytes]]]:
    """(time, what is in force) after each change, by somebody who looks every ten minutes."""
    at, there, found = NOW, start, [(NOW, start)]
    while at < until:
        at += LOOKS
        if (changed := turned(there, supply, root, at)) is not None:
            there = changed
            found.append((at, there))
    return found


def first(supply: Supply) -> dict[str, bytes]:
    return in_force(supply.steps[0], supply, supply.steps[0].at)


def signing(folder: Path, process: str, role: str, files: Mapping[str, bytes], target: Path) -> str:
    """keyid of what a process signs with."""
    return keyid(raw_public(load_private_key(mount(target, folder, process, files) / f"{role}.key")))


def test_every_key_signs_for_a_day_at_most_and_everybody_knows_it_before_and_long_enough_after(
    made: tuple[Path, Supply], tmp_path: Path
) -> None:
    folder, supply = made
    root = LocalSigner(folder).root_public()
    states = walk(supply, root, first(supply), NOW + timedelta(days=3))
    began = dict[str, datetime]()
    for number, (at, there) in enumerate(states):
        ends = states[number + 1][0] if number + 1 < len(states) else at
        before = verify_keys(states[number - 1][1]["keys.json"], root) if number else None
        named = verify_keys(there["keys.json"], root, at)
        for role in ROLES:
            id_ = signing(folder, PROCESS[role], role, there, tmp_path / f"{number}-{PROCESS[role]}")
            assert id_ in named.of(role, ends + LEAD), "counts as long as it signs, and while the next one comes about"
            assert before is None or id_ in before.of(role, at), "is known before it signs"
            assert ends - began.setdefault(id_, at) <= 24 * HOUR
    assert len(began) == len(ROLES) * len(supply.steps)


def test_whoever_brings_them_into_force_can_sign_nothing_and_a_process_has_what_is_in_force_alone(
    made: tuple[Path, Supply], tmp_path: Path
) -> None:
    folder, supply = made
    assert main(["cluster", "ahead", str(folder), "--days", "3"]) == 0
    rows: list[Any] = list(yaml.safe_load_all((folder / "secrets.yaml").read_text()))
    found = {row["metadata"]["name"]: set(row["data"]) for row in rows}
    assert {name: {file for file in files if file.endswith(".key")} for name, files in found.items()} == {
        "knhk-keys-rollout": {UNLOCK},
        "knhk-keys-build": {UNLOCK},
        "knhk-keys-log": {UNLOCK},
        "knhk-keys-ahead": set(),
    }
    assert found["knhk-keys-ahead"] == {"ahead.json.xz", "root.pub"}
    for step in supply.steps:
        assert all(data.startswith(b"-----BEGIN ENCRYPTED") for data in step.files.values())
    there = mount(tmp_path / "operator", folder, "rollout", in_force(supply.steps[1], supply, NOW))
    (there / "log.key").write_bytes(supply.steps[1].files["log.key"])
    (there / "log.key").chmod(0o600)
    with pytest.raises(Stalled, match=r"one that unlock\.key beside opens"):
        load_private_key(there / "log.key")


def test_receipts_of_all_turns_so_far_are_told_once_each_by_the_rollout_key_from_before(made: tuple[Path, Supply], tmp_path: Path) -> None:
    folder, supply = made
    entries = list[bytes]()

    class Kept:
        def append_event(self, bundle: bytes) -> int:
            if bundle not in entries:
                entries.append(bundle)
            return entries.index(bundle)

    told = Telling(tmp_path / "operator", Kept())  # type: ignore[arg-type]
    for number, step in enumerate(supply.steps[:3]):
        mount(tmp_path / "operator", folder, "rollout", in_force(step, supply, step.at))
        told.turn(number * 1000.0)
        Telling(tmp_path / "operator", Kept()).turn(0.0)  # type: ignore[arg-type]  # another leader
        assert len(entries) == number * len(ROLES)
    named = verify_keys(supply.steps[2].keys_json, LocalSigner(folder).root_public())
    rollout = [signing(folder, "rollout", "rollout", step.files, tmp_path / f"r{n}") for n, step in enumerate(supply.steps[:3])]
    signers = [verify_event(entry, named)[1] for entry in entries]
    turn_of_rollout = [verify_event(entry, named)[0]["predicate"]["evidence"]["role"] for entry in entries].index("rollout")
    assert signers[: turn_of_rollout + 1] == [rollout[0]] * (turn_of_rollout + 1)
    assert set(signers[turn_of_rollout + 1 : len(ROLES)]) == {rollout[1]}


def test_after_days_without_a_look_what_is_due_comes_at_once(made: tuple[Path, Supply], tmp_path: Path) -> None:
    folder, supply = made
    root, late = LocalSigner(folder).root_public(), supply.steps[3].at + HOUR
    there = turned(first(supply), supply, root, late)
    assert there is not None
    named = verify_keys(there["keys.json"], root, late)
    for role in ROLES:
        assert signing(folder, PROCESS[role], role, there, tmp_path / PROCESS[role]) in named.of(role, late)
    assert turned(there, supply, root, late + LOOKS) is None


def test_more_turns_are_added_to_those_to_come_and_what_is_in_force_learns_how_long_they_last(
    made: tuple[Path, Supply], tmp_path: Path
) -> None:
    folder, supply = made
    root = LocalSigner(folder).root_public()
    more = made_ahead(folder, NOW + timedelta(days=2), 4, "local:kim")
    assert more.steps[: len(supply.steps)] == supply.steps
    assert more.ends > supply.ends + timedelta(days=2)
    at, there = walk(supply, root, first(supply), NOW + timedelta(days=2))[-1]
    changed = turned(there, more, root, at + timedelta(minutes=1))
    assert changed is not None
    assert state_in(changed["turn.json"]).ends == more.ends
    assert {name: data for name, data in changed.items() if name != "turn.json"} == {
        name: data for name, data in there.items() if name != "turn.json"
    }
    serials = [verify_keys(step.keys_json, root).serial for step in more.steps]
    assert serials == sorted(set(serials))


def test_nothing_that_the_root_has_not_signed_comes_into_force(made: tuple[Path, Supply]) -> None:
    _, supply = made
    with pytest.raises(Corrupt):
        turned(first(supply), supply, bytes(32), supply.steps[1].at)


def test_a_stolen_key_is_ended_at_once_whoever_has_the_turns_that_were_made(tmp_path: Path) -> None:
    folder, later = tmp_path / "keys", NOW + timedelta(hours=30)
    established(folder, ORIGIN, NOW - 25 * HOUR)
    before = made_ahead(folder, NOW, 3, "local:kim")
    root = LocalSigner(folder).root_public()
    _, there = walk(before, root, first(before), later)[-1]
    after = made_ahead(folder, later, 3, "local:kim", at_once=True)
    changed = turned(there, after, root, later + timedelta(minutes=1))
    assert changed is not None
    named = verify_keys(changed["keys.json"], root, later)
    assert named.serial > max(verify_keys(step.keys_json, root).serial for step in before.steps), "no turn of before takes its place"
    known = verify_keys(there["keys.json"], root)
    for role in ROLES:
        id_ = signing(folder, PROCESS[role], role, changed, tmp_path / PROCESS[role])
        assert set(named.of(role, later + timedelta(seconds=1))) == {id_}
        used = signing(folder, PROCESS[role], role, there, tmp_path / f"was-{PROCESS[role]}")
        assert named.roles[role][used].until == later
        assert set(named.roles[role]) == {*known.roles[role], id_}, "what was never used is named no more"
    receipts = [verify_event(canonical(row), named) for row in json.loads(changed["rotated.json"])]
    assert {told["predicate"]["evidence"]["role"] for told, _ in receipts[-len(ROLES) :]} == set(ROLES)
    last = walk(after, root, changed, later + timedelta(days=2))[-1][1]
    assert verify_keys(last["keys.json"], root).serial > named.serial


def test_a_folder_whose_turns_are_made_signs_nothing_older(made: tuple[Path, Supply], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = made
    before = (folder / "keys.json").read_bytes()
    for command in (["cluster", "keys", str(folder), "--origin", ORIGIN], ["keys", "rotate", "build", "--folder", str(folder)]):
        assert main(command) == 1
        assert "must be no folder whose keys turn by themselves" in capsys.readouterr().err
    assert (folder / "keys.json").read_bytes() == before


def test_without_what_opens_them_no_more_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the processes of the cluster could not open what comes."""
    folder = tmp_path / "keys"
    assert main(["cluster", "keys", str(folder), "--origin", ORIGIN]) == main(["cluster", "ahead", str(folder), "--days", "2"]) == 0
    (folder / "unlock.log.key").unlink()
    capsys.readouterr()
    assert main(["cluster", "ahead", str(folder)]) == 1
    (fault,) = json.loads(capsys.readouterr().err)["faults"]
    assert "secret -n knhk-system knhk-keys-log -o jsonpath='{.data.unlock\\.key}'" in fault["must"]


def test_turns_are_made_where_the_root_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another folder, or after the root was taken away."""
    folder = tmp_path / "keys"
    assert main(["cluster", "keys", str(folder), "--origin", ORIGIN]) == 0
    (folder / "root.key").unlink()
    for wrong in (tmp_path / "none", folder):
        capsys.readouterr()
        assert main(["cluster", "ahead", str(wrong)]) == 1
        (fault,) = json.loads(capsys.readouterr().err)["faults"]
        assert (fault["where"], fault["value"]) == (str(wrong / "root.key"), "is missing")


def test_a_log_that_runs_takes_its_new_key_without_a_restart(made: tuple[Path, Supply], tmp_path: Path) -> None:
    folder, supply = made
    mounted = mount(tmp_path / "mounted", folder, "log", in_force(supply.steps[0], supply, NOW))
    named = verify_keys(supply.steps[2].keys_json, LocalSigner(folder).root_public())
    with sequencer(tmp_path / "log", tmp_path / "s.sock", ORIGIN, mounted / "log.key") as log:
        assert log.append_event(bundle_at(folder, supply, 0, tmp_path)) == 0
        for number in (1, 2):
            mount(mounted, folder, "log", in_force(supply.steps[number], supply, NOW))
            public = raw_public(load_private_key(mounted / "log.key"))
            deadline = time.monotonic() + 120
            while Verifier(ORIGIN, public) not in open_note(log.checkpoint(), [Verifier(ORIGIN, public)])[1]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert log.append_event(bundle_at(folder, supply, number, tmp_path)) == number
            signed = open_note(log.checkpoint(), [Verifier(ORIGIN, key.public) for key in named.roles["log"].values()])[1]
            assert len(signed) == 2, "by both in the overlap"
        assert json.loads((tmp_path / "log" / "meta.json").read_text())["vkey"].split("+")[0] == ORIGIN


def bundle_at(folder: Path, supply: Supply, number: int, tmp_path: Path) -> bytes:
    return supply.steps[number + 1].receipts[0]


def test_a_log_that_slept_through_turns_knows_its_checkpoints(made: tuple[Path, Supply], tmp_path: Path) -> None:
    folder, supply = made
    for number in (0, 3):
        mounted = mount(tmp_path / "mounted", folder, "log", in_force(supply.steps[number], supply, NOW))
        log = Log(tmp_path / "log", load_key(mounted / "log.key", ORIGIN), Disk())
        log.commit([parse_event(supply.steps[1].receipts[0])])
        log.integrate()
        assert open_checkpoint(log.checkpoint(), Verifier(ORIGIN, raw_public(load_private_key(mounted / "log.key")))).size == 1
        log.close()


def test_a_month_fits_into_a_secret(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    established(folder, ORIGIN, NOW)
    made_ahead(folder, NOW, 31, "local:kim")
    size = len(base64.b64encode((folder / "ahead.json.xz").read_bytes()))
    assert size < 1 << 20
    assert os.stat(folder / "ahead.json.xz").st_mode & 0o077 == 0
