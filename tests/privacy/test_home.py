"""A home with a point that has privacy, as its user has it: a request comes in, its subject is forgotten, the leaf stays provable."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from knhk.wiring.home import Home

pytestmark = pytest.mark.server
NAME, OTHER = "anna.planted@example.com", "bob.planted@example.com"
POINT = """apiVersion: knhk.dev/v1alpha1
kind: EnforcementPoint
metadata: {name: orders, namespace: erp}
spec:
  mode: Sidecar
  upstream: {host: 127.0.0.1, port: 1}
  match: [{name: create, method: POST, path: /orders, action: create}]
  baseline: Admit
  privacy:
    subjects: [{route: create, pointer: /customer/email}]
    retentionDays: 30
"""


@dataclass
class Running:
    """A home that is up."""

    home: Home

    def run(self, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "knhk.cli", "--home", str(self.home.root), *words)
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, input=said)

    def ok(self, *words: str, said: str = "") -> Any:
        done = self.run(*words, said=said)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def address(self) -> tuple[str, int] | None:
        found = json.loads(self.run("get", "enforcementpoints", "-n", "erp", "-o", "json").stdout)["items"]
        status = found[0].get("status", {}) if found else {}
        ready = any((row["type"], row["status"]) == ("Ready", "True") for row in status.get("conditions", ()))
        host, _, port = str(status.get("address", "")).rpartition(":")
        return (host, int(port)) if ready and port else None

    def send(self, at: tuple[str, int], who: str) -> str:
        """Receipt id of a request about somebody."""
        connection = http.client.HTTPConnection(*at, timeout=60)
        body = json.dumps({"customer": {"email": who}, "total": 7})
        connection.request("POST", "/orders", body, {"content-type": "application/json"})
        receipt = connection.getresponse().headers["knhk-receipt"]
        connection.close()
        assert receipt
        return receipt

    def replayed(self) -> dict[str, int]:
        done = self.run("log", "replay")
        found = json.loads(done.stdout)
        return {name: found[name] for name in ("replayed", "erased", "sealed", "different", "unrecorded")}

    def files_with(self, text: str) -> list[str]:
        return [str(path) for path in self.home.root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def until(holds: Callable[[], Any], what: str, limit_s: float = 120.0) -> Any:
    end = time.monotonic() + limit_s
    while not (found := holds()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.1)
    return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Running]:
    running = Running(Home(tmp_path / "home"))
    try:
        running.ok("up")
        (tmp_path / "point.yaml").write_text(POINT)
        running.ok("apply", "-f", str(tmp_path / "point.yaml"))
        yield running
    finally:
        running.run("down")


def test_a_subject_is_forgotten_while_the_point_runs(up: Running) -> None:
    at = until(up.address, "the point is ready")
    receipts = [up.send(at, who) for who in (NAME, OTHER, NAME)]
    until(lambda: up.replayed()["replayed"] == 3, f"all are recorded and replayed: {up.replayed()}")
    assert up.files_with(NAME) == up.files_with(OTHER) == []
    up.ok("receipt", "verify", receipts[0])

    told = up.run("receipt", "lineage", NAME, "-n", "erp").stdout  # found by its tag, and opened
    assert [receipt in told for receipt in receipts] == [True, False, True]

    dry = up.ok("receipt", "erase", NAME, "--basis", "GDPR 17(1)(b)", "--dry-run")["erasures"][0]
    assert (dry["state"], dry["leaves"], dry["keys"]) == ("dry", 2, 1)
    told = up.ok("receipt", "erase", "-", "--basis", "GDPR 17(1)(b)", said=NAME + "\n")["erasures"][0]
    assert (told["state"], told["leaves"], told["keys"], told["records"]) == ("done", 2, 1, 2)
    assert up.replayed() == {"replayed": 1, "erased": 2, "sealed": 0, "different": 0, "unrecorded": 0}
    until(lambda: up.run("receipt", "verify", receipts[0], str(told["entries"][0])).returncode == 0, "leaf and erasure are provable")
    assert up.run("log", "verify").returncode == 0

    up.send(at, NAME)  # the agent goes on, with a new key
    until(lambda: up.replayed()["replayed"] == 2, "the next request is recorded")
    hold = up.ok("receipt", "hold", NAME, "--reference", "case 2026/117")
    queued = up.run("receipt", "erase", NAME, "--basis", "GDPR 17(1)(b)")
    assert (queued.returncode, json.loads(queued.stdout)["erasures"][0]["state"]) == (1, "queued")
    released = up.ok("receipt", "release", hold["hold"])
    assert [each["state"] for each in released["erasures"]] == ["done"]
    assert up.replayed() == {"replayed": 1, "erased": 3, "sealed": 0, "different": 0, "unrecorded": 0}
    assert up.ok("receipt", "retain", "--dry-run") == {"erasures": []}
    assert up.ok("receipt", "reapply") == {"events": 2, "keys": 0, "records": 0, "rows": 0, "holds": 0, "queued": 0}
    for words in (("erase", NAME), ("erase", "", "--basis", "x"), ("erase", NAME, "--basis", "Müller"), ("hold", NAME, "--reference", "")):
        assert up.run("receipt", *words).returncode == 2

    nobody = up.run("receipt", "erase", "nobody@example.com", "--basis", "GDPR 17(1)(b)")
    assert (nobody.returncode, "nothing is recorded of this subject" in nobody.stderr) == (0, True), nobody

    for verb in (["erase", NAME, "--basis", "x"], ["retain"], ["reapply"]):
        refused = up.run("receipt", *verb, "--archive", str(up.home.root / "nowhere"))
        assert (refused.returncode, "must be the archive of a log" in refused.stderr) == (3, True), refused

    (up.home.keys / "subjects.key").rename(up.home.root / "away.key")  # a reader who may not use the key store
    assert up.replayed() == {"replayed": 0, "erased": 3, "sealed": 1, "different": 0, "unrecorded": 0}
