"""A control plane made anew erases again what the log says was erased, and says which copies it could not reach."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import delta_world
import pytest
from git_repo import Repo
from privacy_world import ANNA, BOB, NOON_NS, SOURCE, Vault
from restore_house import killed, quiet

from knhk.adapters import delta_parquet
from knhk.adapters.key_stores import established
from knhk.model.faults import Stalled
from knhk.reconcilers.ledger import Kept
from knhk.wiring import privacy, reapplying
from knhk.wiring import restore as wiring
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.reapplying import REAPPLIED, UNREACHED, Places, reapplied
from knhk.wiring.restore import Done, Left, restore_home
from knhk_runtime.envelope import tag_of
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.record import parse_record, scan_frames

pytestmark = pytest.mark.xdist_group("restore")
BASIS = "GDPR 17(1)(b)"
POINT_YAML = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {name: orders, namespace: erp}
spec:
  mode: Sidecar
  upstream: {host: 127.0.0.1, port: 1}
  match: [{name: orders, method: POST, path: /orders, action: create}]
  privacy: {subjects: [{route: orders, pointer: /who}], retentionDays: 30}
"""


@dataclass
class Ruin:
    """A home that lost its store; key store, outboxes and archive came back from a backup of before Anna was erased."""

    folder: Path
    repo: Repo
    anna: bytes

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    @property
    def archive(self) -> Path:
        return self.folder / "delta"

    def left(self, *archives: Path, subjects: bool = True) -> Left:
        folder = self.folder / "backup" if subjects else None
        place, registry = str(self.home.log), self.home.registry
        known = tuple(map(str, archives))
        return Left(self.repo.folder, "main", (), (), place, registry, self.folder / "keys", subjects=folder, archives=known)

    def opened(self) -> tuple[int, int]:
        """Sealed records of Anna, in outboxes and in the archive."""
        records = 0
        for path in (self.home.log / "observations").rglob("*.seg"):
            found = (parse_record(payload, "") for _, payload in scan_frames(path.read_bytes(), int(path.stem, 16), "")[0])
            records += sum(record.observation.startswith(b"KNE1") and self.anna in record.observation for record in found)
        kept = Kept(FolderStore(self.archive), delta_parquet)
        return records, sum(row.subject == self.anna.hex() for name in kept.names() for row in kept.rows(name))

    def keys(self) -> tuple[int, list[bool], list[str]]:
        """Keys of Anna; whether each hold stands; states of erasures."""
        store = privacy.opened(self.home)
        try:
            return len(store.ids_of(self.anna)), [hold.standing for hold in store.holds()], [work.state for work in store.works()]
        finally:
            store.close()


@pytest.fixture
def ruin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ruin:
    monkeypatch.setattr(delta_world, "ORIGIN", LOG_ORIGIN)
    vault = Vault(delta_world.Yard(tmp_path))
    vault.yard.outbox(SOURCE, 4096)
    for number in range(8):
        vault.record((ANNA, BOB)[number % 2], NOON_NS)
    vault.yard.archived()
    for number in range(4):
        vault.record((ANNA, BOB)[number % 2])
    anna = tag_of(vault.keys.tags_key, ANNA)
    vault.shut()
    backup = tmp_path / "backup"
    shutil.copytree(vault.folder, backup)
    for path in (vault.yard.base / "delta", vault.yard.log_dir / "observations"):
        shutil.copytree(path, backup / path.name)
    vault.open()
    vault.eraser().hold(BOB, "case 3")
    vault.eraser().erase(ANNA, BASIS)
    vault.eraser().erase(BOB, BASIS)  # waits for the hold
    vault.close()
    for path in (vault.yard.base / "delta", vault.yard.log_dir / "observations"):
        shutil.rmtree(path)
        shutil.move(backup / path.name, path)
    shutil.rmtree(vault.folder)
    repo = Repo(tmp_path / "repo")
    repo.commit({"point.yaml": POINT_YAML})
    for name in ("keys.json", "root.pub"):
        shutil.copy(tmp_path / "keys" / name, vault.yard.log_dir / name)
    found = Ruin(tmp_path, repo, anna)
    for folder in (found.home.registry, found.home.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.move(vault.yard.log_dir, found.home.log)
    return found


def states(done: Done) -> dict[str, str]:
    return {Path(each.place).name: each.state for each in done.reached}


def counted(done: Done) -> tuple[int, int, int, int, int]:
    """(keys, records, rows, holds, queued)"""
    rows = [reapplying.told(each) for each in done.reached]
    return tuple(sum(int(row[name]) for row in rows) for name in ("keys", "records", "rows", "holds", "queued"))  # type: ignore[return-value]


@pytest.mark.server
@pytest.mark.failure("disk", "receipts")
def test_what_a_backup_brought_back_is_erased_again(ruin: Ruin) -> None:
    assert ruin.opened() == (6, 4)
    done = restore_home(ruin.home, ruin.left(ruin.archive), quiet)
    assert states(done) == {"subjects": REAPPLIED, "observations": REAPPLIED, "delta": REAPPLIED}
    assert counted(done) == (1, 6, 4, 1, 1)
    assert ruin.opened() == (0, 0)
    assert ruin.keys() == (0, [True], ["queued"])  # Bob's waits still, for the release of the hold
    again = restore_home(ruin.home, ruin.left(ruin.archive), quiet)
    assert (again.made, counted(again)) == ([], (0, 0, 0, 0, 0))


@pytest.mark.server
def test_what_cannot_be_reached_is_told_and_done_by_the_next_run(ruin: Ruin) -> None:
    """The key store is not at hand; of what was given as archives one is another log's, one none."""
    other = ruin.folder / "other"
    shutil.copytree(ruin.archive, other)
    for path in other.rglob("*.json"):
        path.write_text(path.read_text().replace(LOG_ORIGIN, "example.com/log"))
    (ruin.folder / "empty").mkdir()
    left = ruin.left(other, ruin.folder / "empty", subjects=False)
    done = restore_home(ruin.home, left, quiet)
    assert states(done) == {"subjects": UNREACHED, "observations": REAPPLIED, "other": UNREACHED, "empty": UNREACHED}
    told = " ".join(each.why for each in done.reached)
    for said in ("names 1 keys that were destroyed: must be given by --subjects", "is the archive of example.com/log", "has no commit"):
        assert said in told
    code, said = knhk(ruin, "--archive", str(ruin.archive), "--subjects", str(ruin.folder / "backup"))
    assert (code, {place["state"] for place in said["erased"]["places"]}) == (0, {REAPPLIED})
    assert (ruin.opened(), ruin.keys()[0]) == ((0, 0), 0)


def test_a_dry_run_says_what_would_be_reached_and_its_status_what_not(ruin: Ruin) -> None:
    code, told = knhk(ruin, "--archive", str(ruin.archive), "--subjects", str(ruin.folder / "backup"), "--dry-run")
    assert (code, {place["state"] for place in told["erased"]["places"]}) == (0, {"would"})
    assert (told["erased"]["events"], told["erased"]["keys"], told["erased"]["leaves"]) == (1, 1, 6)
    code, told = knhk(ruin, "--archive", str(ruin.archive), "--dry-run")
    assert (code, [place["state"] for place in told["erased"]["places"]]) == (1, [UNREACHED, "would", "would"])
    assert ruin.opened() == (6, 4)


def test_two_key_stores_are_told_apart(ruin: Ruin) -> None:
    established(ruin.home.subjects, privacy.wrapping_in(ruin.folder / "keys"))
    with pytest.raises(Stalled, match=r"is another key store than .*backup: one of them must be taken away"):
        restore_home(ruin.home, ruin.left(ruin.archive), quiet)
    assert not ruin.home.store.exists()


def test_a_key_service_s_folder_has_a_store_for_each_namespace(ruin: Ruin) -> None:
    """On a cluster: nothing but key stores and archives is reached. What waits for a hold waits where the subject has keys."""
    folder, by = ruin.folder / "service", privacy.wrapping_in(ruin.folder / "keys")
    shutil.copytree(ruin.folder / "backup", folder / "erp", ignore=shutil.ignore_patterns("delta", "observations"))
    established(folder / "ats", by)
    (folder / "lock").touch()
    seen = wiring.verified(ruin.left(), datetime.now(UTC))
    events = [event for _, _, event in seen.events]
    places = Places(folder, ruin.folder / "keys", (str(ruin.archive),))
    elsewhere = [replace(event, evidence={**event.evidence, "namespace": "ats"}) for event in events]
    of_another = reapplied(elsewhere, places, seen.log, dry=False)
    assert [(each.state, each.did.rows) for each in of_another] == [(REAPPLIED, 0)] * 3
    assert ruin.opened() == (6, 4)
    found = reapplied(events, places, seen.log, dry=False)
    assert [(Path(each.place).name, each.state, each.did.keys, each.did.rows, each.did.queued) for each in found] == [
        ("ats", REAPPLIED, 0, 0, 0),
        ("erp", REAPPLIED, 1, 0, 1),
        ("delta", REAPPLIED, 0, 4, 0),
    ]
    assert ruin.opened() == (6, 0)


@pytest.mark.parametrize("data", [b"x" * 4096, b""], ids=["altered", "empty"])
def test_a_backup_that_is_no_key_store_is_named_and_nothing_of_it_is_brought(ruin: Ruin, data: bytes) -> None:
    backup = ruin.folder / "backup"
    for path in backup.glob("keys.db*"):
        path.unlink()
    (backup / "keys.db").write_bytes(data)
    with pytest.raises(Stalled, match=r"backup/keys\.db: .*must be a key store"):
        restore_home(ruin.home, ruin.left(ruin.archive), quiet)
    assert not list(ruin.home.subjects.glob("**/keys.db*"))


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(600)
def test_killed_while_it_erases_it_is_run_again(ruin: Ruin) -> None:
    moments = ((wiring, "bring_key_store"), (reapplying, "reapply_keys"), (reapplying, "rewrite"), (reapplying, "archive_of"))
    begin = multiprocessing.get_context("fork").Process
    for module, name in moments:
        running = begin(target=killed, args=(module, name, 1, ruin.home, ruin.left(ruin.archive)))
        running.start()
        running.join(120)
        assert running.exitcode == -signal.SIGKILL, name
        assert not ruin.home.store.exists()
    restore_home(ruin.home, ruin.left(ruin.archive), quiet)
    assert (ruin.opened(), ruin.keys()) == ((0, 0), (0, [True], ["queued"]))


def knhk(ruin: Ruin, *words: str) -> tuple[int, Any]:
    where = ["--home", str(ruin.home.root), "--git", str(ruin.repo.folder), "--keys", str(ruin.folder / "keys")]
    argv = [sys.executable, "-m", "knhk.cli", "restore", *where, *words, "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    assert done.returncode >= 0, done.stderr
    return done.returncode, json.loads(done.stdout)
