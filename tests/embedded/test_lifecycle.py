"""`knhk up` and `down` as a user runs them: once or many times, beside each other, killed in the middle, and in wrong places."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.processes import Identity, identity
from knhk.model.resource import Key
from knhk.wiring.home import Home
from knhk.wiring.resources import open_store

pytestmark = pytest.mark.server

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
POINT = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {name: p1, namespace: erp}
spec:
  mode: Sidecar
  listen: {port: PORT}
  upstream: {host: 127.0.0.1, port: 1}
  match: [{name: create, method: POST, path: /orders, action: create}]
"""
BUNDLE = """apiVersion: knhk.dev/v1alpha1
kind: DataBundle
metadata: {name: roles, namespace: erp}
spec:
  version: 1.0.0
  source:
    inline: |
      @prefix ex: <https://example.com/ns#> .
      ex:ada ex:limit 1 .
"""


PATIENCE = {"up": ("--timeout-s", "240")}  # on a full machine processes take long to begin


@dataclass
class Cli:
    """`knhk` with a home of its own."""

    home: Home

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "knhk.cli", "--home", str(self.home.root), *words, *PATIENCE.get(words[0], ()))
        return subprocess.run(argv, capture_output=True, text=True, timeout=300)

    def ok(self, *words: str) -> Any:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def fails(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode in (1, 2, 3), done
        assert "Traceback" not in done.stderr
        return done.stderr

    def children(self) -> dict[str, Identity]:
        rows = json.loads(self.home.children_file.read_text())
        return {row["name"]: Identity(row["pid"], row["started"]) for row in rows}

    def traces(self) -> list[str]:
        """Everything outside of the home that belongs to it."""
        return [str(path) for path in (self.home.sockets, self.home.ring_root) if path.exists()]


@dataclass
class Homes:
    """Makes homes, and ends all of them with the test."""

    base: Path
    made: list[Cli] = field(default_factory=list)

    def new(self, name: str = "home") -> Cli:
        cli = Cli(Home(self.base / name))
        self.made.append(cli)
        return cli


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    found = Homes(tmp_path)
    yield found
    for cli in found.made:
        cli.run("down")


@pytest.fixture
def cli(homes: Homes) -> Cli:
    return homes.new()


def eventually(true: Callable[[], bool]) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def gone(processes: list[Identity]) -> bool:
    return all(identity(process.pid) != process for process in processes)


def ready(cli: Cli, kind: str, name: str) -> str:
    conditions = cli.ok("get", kind, name).get("status", {}).get("conditions", [])
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def test_up_and_down_may_be_repeated_and_leave_nothing(cli: Cli) -> None:
    first = cli.ok("up")
    assert first["started"]
    second = cli.ok("up")
    assert (second["pid"], second["started"]) == (first["pid"], False)
    running = [*cli.children().values(), Identity(first["pid"], 0)]
    assert cli.traces()
    assert cli.ok("down") == {"home": str(cli.home.root), "stopped": True, "kept": []}
    assert gone(running[:-1])
    assert identity(first["pid"]) is None
    assert cli.traces() == []
    assert cli.ok("down")["stopped"] is False


def test_one_that_is_told_to_end_leaves_nothing_either(cli: Cli) -> None:
    """By who ends a process, in place of `down`."""
    pid = cli.ok("up")["pid"]
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: identity(pid) is None)
    assert cli.traces() == []


def test_two_ups_at_once_start_one_control_plane(cli: Cli) -> None:
    argv = (sys.executable, "-m", "knhk.cli", "--home", str(cli.home.root), "up", *PATIENCE["up"])
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    answers = [json.loads(out) for out, _err in told]
    assert answers[0]["pid"] == answers[1]["pid"]
    assert sorted(answer["started"] for answer in answers) == [False, True]


def test_a_second_home_lives_beside_the_first(homes: Homes) -> None:
    one, two = homes.new("one"), homes.new("two")
    pids = {one.ok("up")["pid"], two.ok("up")["pid"]}
    assert len(pids) == 2
    assert one.ok("down")["stopped"]
    assert two.ok("up")["started"] is False
    assert all(identity(who.pid) == who for who in two.children().values())


@pytest.mark.failure("operator", "act")
def test_a_killed_control_plane_takes_its_children_along_and_the_next_goes_on(cli: Cli, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.yaml"
    bundle.write_text(BUNDLE)
    pid = cli.ok("up")["pid"]
    cli.ok("apply", "-f", str(bundle))
    eventually(lambda: ready(cli, "databundle", "erp/roles") == "Published")
    children = list(cli.children().values())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: gone(children))
    again = cli.ok("up")
    assert again["started"]
    assert again["pid"] != pid
    eventually(lambda: len(cli.ok("get", "receipts")["items"]) == 1)
    bundle.write_text(BUNDLE.replace("limit 1", "limit 2"))
    cli.ok("apply", "-f", str(bundle))
    eventually(lambda: len(cli.ok("get", "receipts")["items"]) == 2)
    assert cli.ok("log", "verify", str(cli.home.log))["bad"] == []


def test_down_after_a_kill_cleans_up(cli: Cli) -> None:
    os.kill(cli.ok("up")["pid"], signal.SIGKILL)
    cli.ok("down")
    assert cli.traces() == []
    assert not cli.home.children_file.exists()


def test_a_child_that_survived_its_control_plane_is_ended_by_the_next(cli: Cli) -> None:
    cli.ok("up")
    cli.ok("down")
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        who = identity(stray.pid)
        assert who is not None
        cli.home.children_file.write_text(json.dumps([{"name": "sequencer", "pid": who.pid, "started": who.started}]))
        cli.ok("up")
        assert stray.wait(timeout=120) == -signal.SIGTERM
    finally:
        stray.kill()
        stray.wait()


def test_a_process_that_only_has_the_same_id_is_left_alone(cli: Cli) -> None:
    cli.ok("up")
    cli.ok("down")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        rows = [{"name": "sequencer", "pid": bystander.pid, "started": 1}]
        cli.home.children_file.write_text(json.dumps(rows))
        cli.home.pid_file.write_text(json.dumps({"pid": bystander.pid, "started": 1}))
        assert cli.ok("down")["stopped"] is False
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.failure("sequencer", "act")
def test_a_killed_sequencer_is_started_again(cli: Cli, tmp_path: Path) -> None:
    cli.ok("up")
    before = cli.children()["sequencer"]
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: cli.children().get("sequencer") not in (None, before))
    (tmp_path / "bundle.yaml").write_text(BUNDLE)
    cli.ok("apply", "-f", str(tmp_path / "bundle.yaml"))
    eventually(lambda: len(cli.ok("get", "receipts")["items"]) == 1)


def test_rings_that_hold_records_are_kept_and_named(cli: Cli) -> None:
    cli.ok("up")
    folder = cli.home.rings("erp", "p1")
    folder.mkdir(mode=0o700)
    for name, head, tail in (("full", 128, 64), ("empty", 64, 64)):
        header = bytearray(4096)
        header[:8] = b"KNHKRNG1"
        header[128:136], header[192:200] = head.to_bytes(8, sys.byteorder), tail.to_bytes(8, sys.byteorder)
        (folder / f"{name}.ring").write_bytes(bytes(header))
    (folder / "half.ring.tmp").write_bytes(b"")
    os.mkfifo(folder / "bell")
    kept = folder / "full.ring"
    assert cli.ok("down")["kept"] == [str(kept)]
    assert list(folder.iterdir()) == [kept]
    kept.unlink()
    cli.ok("down")
    assert cli.traces() == []


def test_a_point_whose_port_is_taken_says_so(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "point.yaml").write_text(POINT.replace("PORT", str(taken.getsockname()[1])))
        cli.ok("up")
        cli.ok("apply", "-f", str(tmp_path / "point.yaml"))
        eventually(lambda: ready(cli, "enforcementpoint", "erp/p1") == "PortInUse")
    assert set(cli.children()) == {"sequencer"}


def test_a_folder_of_other_things_is_not_made_a_home(homes: Homes) -> None:
    cli = homes.new()
    cli.home.root.mkdir(mode=0o755)
    (cli.home.root / "thesis.txt").write_text("mine")
    assert "must be empty or a home; it holds thesis.txt" in cli.fails("up")
    assert sorted(p.name for p in cli.home.root.iterdir()) == ["thesis.txt"]
    assert cli.home.root.stat().st_mode & 0o777 == 0o755


def test_a_file_cannot_be_a_home(homes: Homes) -> None:
    cli = homes.new()
    cli.home.root.write_text("a file")
    assert "must be a folder" in cli.fails("up")


def test_a_home_that_cannot_be_written_is_refused(homes: Homes) -> None:
    cli = Cli(Home(Path("/proc/knhk-home")))
    assert "/proc/knhk-home: must be writable" in cli.fails("up")


@pytest.mark.parametrize("outside", ["sockets", "ring_root"])
def test_folders_outside_of_the_home_must_not_be_prepared_by_others(cli: Cli, tmp_path: Path, outside: str) -> None:
    folder: Path = getattr(cli.home, outside)
    (tmp_path / "trap").mkdir()
    folder.symlink_to(tmp_path / "trap")
    try:
        assert f"{folder}: must be a folder of the user" in cli.fails("up")
    finally:
        folder.unlink()


def test_a_damaged_store_is_named(cli: Cli) -> None:
    cli.ok("up")
    cli.ok("down")
    cli.home.store.write_bytes(b"this is no database, whatever its name says" * 100)
    for path in cli.home.root.glob("store.db-*"):
        path.unlink()
    assert "is not a SQLite database" in cli.fails("up")
    assert cli.ok("down")["stopped"] is False


def test_a_key_that_others_may_read_is_refused(cli: Cli) -> None:
    cli.ok("up")
    cli.ok("down")
    (cli.home.keys / "rollout.key").chmod(0o644)
    assert "must be 0600" in cli.fails("up")


def test_without_a_home_there_is_nothing_to_apply_to(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bundle.yaml").write_text(BUNDLE)
    assert "must be a home; run: knhk" in cli.fails("apply", "-f", str(tmp_path / "bundle.yaml"))
    row = cli.ok("apply", "--dry-run", "-f", str(tmp_path / "bundle.yaml"))["resources"][0]
    assert row["result"] == "would create"
    assert not cli.home.root.exists()


def test_faulty_files_change_nothing_and_every_fault_is_told(cli: Cli, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(BUNDLE)
    bad.write_text(POINT.replace("PORT", "70000") + "---\n" + BUNDLE.replace("roles", "more").replace("limit 1", "limit"))
    cli.ok("up")
    told = cli.fails("apply", "-f", str(good), "-f", str(bad))
    assert f"{bad}:" in told
    assert "70000" in told
    assert cli.ok("get", "databundles")["items"] == []
    assert "must be given once" in cli.fails("apply", "-f", str(good), "-f", str(good))
    assert "must be a readable YAML file" in cli.fails("apply", "-f", str(tmp_path / "missing.yaml"))


def test_apply_get_and_delete_say_what_they_did(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bundle.yaml"
    file.write_text(BUNDLE)

    def applied(*more: str) -> str:
        return str(cli.ok("apply", "-f", str(file), *more)["resources"][0]["result"])

    cli.ok("up")
    assert [applied("--dry-run"), applied(), applied(), applied("--dry-run")] == ["would create", "created", "unchanged", "unchanged"]
    file.write_text(BUNDLE.replace("limit 1", "limit 2"))
    assert [applied("--dry-run"), applied()] == ["would configure", "configured"]
    assert cli.ok("get", "db", "erp/roles")["metadata"]["generation"] == 2
    assert cli.ok("delete", "databundle", "erp/roles")["resources"][0]["result"] == "deleted"
    assert cli.ok("get", "databundles")["items"] == []
    assert "erp/roles" in cli.fails("delete", "databundle", "erp/roles")
    assert "must stay" in cli.fails("delete", "receipt", "erp/datapublished-00000000")
    assert "must be one of" in cli.fails("get", "teapots")


def stored(cli: Cli, kind: str, name: str) -> dict[str, Any]:
    """Status of an object of namespace erp; its conditions are there."""
    with open_store(cli.home, must_exist=True) as store:
        return {"conditions": [{"reason": ""}], "revision": {"phase": ""}, **store.get(Key(kind, "erp", name)).status}


def receipts(cli: Cli) -> set[str]:
    with open_store(cli.home, must_exist=True) as store:
        return {receipt.spec["event"] for receipt in store.list("Receipt").resources}


@pytest.mark.timeout(300)
def test_a_pack_waits_for_its_schema_takes_hooks_and_is_approved(cli: Cli, tmp_path: Path) -> None:
    pack = tmp_path / "pack.yaml"
    more = "  schemas: [{name: invoice-1-1}]\n  hooks: [{registry: finance-hooks, names: [total-is-not-negative]}]\n  routes:\n"
    pack.write_text((EXAMPLES / "invoice-controls.yaml").read_text().replace("  routes:\n", more))
    cli.ok("up")
    cli.ok("apply", "-f", str(pack), "-f", str(EXAMPLES / "finance-roles.yaml"))
    eventually(lambda: stored(cli, "PolicyPack", "invoice-controls")["conditions"][0]["reason"] == "SchemaNotAccepted")
    assert "must be built first" in cli.fails("approve", "erp/invoice-controls", "--stage", "production")
    cli.ok("apply", "-f", str(EXAMPLES / "invoice-schema.yaml"), "-f", str(EXAMPLES / "finance-hooks.yaml"))

    eventually(lambda: stored(cli, "PolicyPack", "invoice-controls")["revision"]["phase"] == "Signed")
    revision = stored(cli, "PolicyPack", "invoice-controls")["revision"]
    assert revision["hooks"] == ["finance-hooks/total-is-not-negative"]
    versions = cli.ok("get", "schemaversions")["items"]
    assert [row["status"]["verdict"] for row in versions] == ["First", "Compatible"]
    made = cli.ok("approve", "erp/invoice-controls", "--stage", "production", "--comment", "looked at it")
    assert (made["revision"], made["unreviewed"]) == (revision["digest"], True)
    assert "must be canary, staging or production" in cli.fails("approve", "erp/invoice-controls", "--stage", "moon")
    name = made["approval"].partition("/")[2]
    eventually(lambda: stored(cli, "Approval", name)["conditions"][0]["reason"] == "Recorded")
    told = cli.ok("describe", "approval", made["approval"])
    assert [event["reason"] for event in told["events"]] == ["Approved"]
    wanted = {"SchemaAccepted", "HooksIndexed", "Approved", "Signed"}
    eventually(lambda: wanted <= receipts(cli))
    assert cli.ok("log", "verify", str(cli.home.log))["bad"] == []
