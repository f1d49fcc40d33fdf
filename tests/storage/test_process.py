"""The sequencer as a process that publishes in a store, an S3 server among them."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from machines import ORIGIN, leaves, private
from published_log import read

from knhk.adapters.log_sequencer import SequencerLog
from knhk.model.faults import Waiting
from knhk_runtime.objects.opening import open_store

pytestmark = pytest.mark.server
LEASE_S = 1.0


@dataclass
class Sequencers:
    """Processes of several machines that write one log; gone when the test ends."""

    base: Path
    address: str
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def log(self, name: str) -> SequencerLog:
        return SequencerLog(self.base / f"{name}.sock", 20.0)

    def begin(self, name: str, *more: str) -> subprocess.Popen[str]:
        """On machine `name`, whose disk is `base/name`."""
        key = self.base / "log.key"
        if not key.exists():
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            key.chmod(0o600)
        command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(self.base / name), "--origin", ORIGIN, "--key", str(key)]
        command += ["--socket", str(self.base / f"{name}.sock"), "--store", self.address, "--lease-s", str(LEASE_S)]
        self.running.append(subprocess.Popen([*command, "--checkpoint-interval-s", "0.02", *more], stderr=subprocess.PIPE, text=True))
        return self.running[-1]

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        """As `begin`; its socket answers when this returns."""
        process, deadline = self.begin(name, *more), time.monotonic() + 60
        while True:
            try:
                self.log(name).checkpoint()
                return process
            except Waiting:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def covered(self, name: str, index: int) -> None:
        """Returns when a checkpoint covers an entry."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.log(name).proof(index)
                return
            except Waiting:
                assert time.monotonic() < deadline
                time.sleep(0.02)


@pytest.fixture(params=["folder", "s3"])
def sequencers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sequencers]:
    address = f"{request.getfixturevalue('s3_address')}/log" if request.param == "s3" else str(tmp_path / "store")
    made = Sequencers(tmp_path, address)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


@pytest.mark.failure("sequencer", "receipts")
def test_the_machine_of_the_sequencer_is_lost_and_another_goes_on_from_the_store(sequencers: Sequencers) -> None:
    """What a checkpoint covered is in the store; a sequencer on another machine waits for the lease to end, and goes on."""
    first = sequencers.start("one")
    assert sequencers.log("one").append_leaves(leaves(0, 600)) == [*range(600)]
    sequencers.covered("one", 599)
    first.kill()
    first.wait()
    sequencers.start("two")
    assert sequencers.log("two").append_leaves(leaves(599, 602)) == [599, 600, 601]
    sequencers.covered("two", 601)
    assert read(open_store(sequencers.address))[2] == leaves(0, 602)


def test_of_two_that_are_started_one_serves_and_the_other_waits_until_it_ends(sequencers: Sequencers) -> None:
    first = sequencers.start("one")
    sequencers.log("one").append_leaves(leaves(0, 3))
    second = sequencers.begin("two")
    assert second.stderr is not None
    assert "another writer holds the lease; waits for it" in second.stderr.readline()
    first.terminate()
    assert "3 entries under the checkpoint" in first.communicate(timeout=60)[1]
    assert "3 entries, serving" in second.stderr.readline()


def test_a_sequencer_that_slept_ends_when_it_wakes_and_acknowledges_nothing(sequencers: Sequencers) -> None:
    first = sequencers.start("one")
    sequencers.log("one").append_leaves(leaves(0, 3))
    sequencers.covered("one", 2)
    first.send_signal(signal.SIGSTOP)
    sequencers.start("two")
    sequencers.log("two").append_leaves(leaves(3, 6))
    first.send_signal(signal.SIGCONT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 1
    assert "epoch 1 is over" in said
    sequencers.covered("two", 5)
    assert read(open_store(sequencers.address))[2] == leaves(0, 6)


def _get(path: Path, target: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", target)
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_what_never_changes_may_be_kept_and_the_checkpoint_may_not(sequencers: Sequencers) -> None:
    sequencers.start("one")
    sequencers.log("one").append_leaves(leaves(0, 300))
    sequencers.covered("one", 299)
    socket_ = sequencers.base / "one.sock"
    told = {path: _get(socket_, path).headers["Cache-Control"] for path in ("/tile/0/000", "/tile/entries/001.p/44", "/checkpoint")}
    immutable = "public, max-age=31536000, immutable"
    assert told == {"/tile/0/000": immutable, "/tile/entries/001.p/44": immutable, "/checkpoint": "public, max-age=1, must-revalidate"}
    open_store(sequencers.address).put("tile/0/009", bytes(8192))  # what no checkpoint covers may still change
    assert _get(socket_, "/tile/0/009").headers["Cache-Control"] == "no-store"
    passing = ("/tile/0/001", "/tile/0/x", "/proof/299", "/proof/300", "/index/00", "/health", "/stages", "/keys.json", "/nothing")
    assert {_get(socket_, path).headers["Cache-Control"] for path in passing} == {"no-store"}


def _refusal(log: SequencerLog) -> str:
    """What it says when it no longer takes leaves."""
    deadline = time.monotonic() + 60
    while True:
        try:
            log.append_leaves(leaves(3, 4))
        except Waiting as error:
            return str(error)
        assert time.monotonic() < deadline


def test_leaves_are_refused_while_no_checkpoint_can_be_written_and_policy_events_are_not(tmp_path: Path) -> None:
    """The bound on what is lost with a sequencer's disk is kept by refusing more."""
    sequencers = Sequencers(tmp_path, str(tmp_path / "store"))
    try:
        sequencers.start("one", "--max-uncovered-s", "0.2")
        sequencers.log("one").append_leaves(leaves(0, 3))
        sequencers.covered("one", 2)
        (tmp_path / "store" / "tile").rename(tmp_path / "away")
        (tmp_path / "store" / "tile").write_text("no folder")
        sequencers.log("one").append_leaves(leaves(3, 4))
        assert "waited for a checkpoint for more than 0.2 s" in _refusal(sequencers.log("one"))
        event = b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}'
        assert sequencers.log("one").append_event(event) == 4
        health = json.loads(_get(tmp_path / "one.sock", "/health").body)  # type: ignore[attr-defined]
        assert (health["ready"], health["uncovered_s"] > 0.2) == (False, True)
        (tmp_path / "store" / "tile").unlink()
        (tmp_path / "away").rename(tmp_path / "store" / "tile")
        sequencers.covered("one", 4)
        assert sequencers.log("one").append_leaves(leaves(3, 6)) == [3, 5, 6]
    finally:
        for process in sequencers.running:
            process.kill()
            process.communicate()


def test_what_was_acknowledged_outlives_the_loss_of_the_lease(sequencers: Sequencers) -> None:
    """A bucket that was made anew from a mirror has none: were epochs to begin again at 1, they would be those of a WAL that is there."""
    first = sequencers.start("one", "--checkpoint-interval-s", "3600")
    assert sequencers.log("one").append_leaves(leaves(0, 5)) == [*range(5)]
    first.kill()
    first.wait()
    open_store(sequencers.address).delete(["lease"])
    sequencers.start("one")
    assert sequencers.log("one").append_leaves(leaves(4, 6)) == [4, 5]
