"""A witness never cosigns two histories of a log, whatever it is asked, wherever its storage fails, whenever it is killed."""

from __future__ import annotations

import errno
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from witness_options import options
from witness_world import FakeLog, Running, answer, private, witness_key

from knhk.model.faults import Corrupt
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.witness import core
from knhk_runtime.witness.core import Witness, name_of
from knhk_runtime.witness.server import AT_ONCE_OF_ONE
from knhk_verify.note import open_note

Opened = Callable[[], Witness]
OTHER = FakeLog("knhk.dev/other")
FORGED = FakeLog(signer=private(8))


def cosigned(log: FakeLog, size: int, line: int | str | None) -> bool:
    """Whether the line is this witness's, under the log's checkpoint of this size."""
    return witness_key().verifier in open_note(f"{log.checkpoint(size)}{line}", [log.verifier, witness_key().verifier])[1]


def test_it_cosigns_what_grows(opened: Opened, log: FakeLog) -> None:
    for old, size in ((0, 3), (3, 3), (3, 8), (8, 300)):
        status, line = answer(opened(), log.asks(old, size))
        assert (status, cosigned(log, size, line)) == (200, True)


REFUSED = {
    "old above the size": (lambda log: log.asks(5, 5).replace(b"old 5", b"old 6"), 400, None),
    "no old line": (lambda log: log.checkpoint(5).encode(), 400, None),
    "64 hashes": (lambda log: log.asks(5, 9, [bytes(32)] * 64), 400, None),
    "an extension line": (lambda log: b"old 5\n\n" + log.checkpoint(5, "more").encode(), 400, None),
    "bytes that are not UTF-8": (lambda log: log.asks(5, 9) + b"\xff", 400, None),
    "a log that it does not know": (lambda log: OTHER.asks(0, 3), 404, None),
    "a key that it does not know": (lambda log: FORGED.asks(5, 9), 403, None),
    "a signature that was altered": (lambda log: log.asks(5, 9).replace(b"\n9\n", b"\n8\n"), 403, None),
    "an older size": (lambda log: log.asks(3, 9), 409, 5),
    "a size that it never saw": (lambda log: log.asks(6, 9), 409, 5),
    "a rollback": (lambda log: log.asks(3, 4), 409, 5),
    "nothing known, as if new": (lambda log: log.asks(0, 9), 409, 5),
    "another root of the same size": (lambda log: FakeLog(fork=2).asks(5, 5), 409, 5),
    "another history": (lambda log: FakeLog(fork=2).asks(5, 9), 422, None),
    "a proof that lacks a hash": (lambda log: log.asks(5, 9, []), 422, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses_as_the_protocol_says(opened: Opened, log: FakeLog, name: str) -> None:
    body, status, size = REFUSED[name]
    assert answer(opened(), log.asks(0, 5))[0] == 200
    assert answer(opened(), body(log)) == (status, size)
    assert answer(opened(), log.asks(5, 9))[0] == 200, "what was refused changed nothing"


def test_an_empty_tree_has_one_root(opened: Opened, log: FakeLog) -> None:
    assert answer(opened(), log.asks(0, 0))[0] == 200
    assert answer(opened(), log.asks(0, 4))[0] == 200


def test_two_roots_of_one_size_are_kept_as_proof(opened: Opened, log: FakeLog, tmp_path: Path) -> None:
    witness, fork = opened(), FakeLog(fork=2)
    assert answer(witness, log.asks(0, 5))[0] == 200
    for _ in range(2):
        assert answer(witness, fork.asks(0, 5)) == (409, 5)
    (name,) = witness.split_views
    assert opened().split_views == (name,)
    for file, told in (("kept", log), ("offered", fork)):
        note = (tmp_path / "w" / "splitviews" / name / "checkpoints" / file).read_text()
        assert open_note(note, [log.verifier])[0] == open_note(told.checkpoint(5), [log.verifier])[0]


def test_who_signs_forks_without_end_fills_no_disk(opened: Opened, log: FakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few prove it; other logs' checkpoints are kept on the same disk. Of each log by itself, and after a start too."""
    monkeypatch.setattr(core, "MOST_SPLIT_VIEWS", 3)
    assert answer(opened(), log.asks(0, 9))[0] == 200
    for start in range(2):
        witness = opened()
        for fork in range(4 * start, 4 * start + 4):
            assert answer(witness, FakeLog(fork=fork).asks(0, 9)) == (409, 9)
    assert len(list((tmp_path / "w" / "splitviews").iterdir())) == len(witness.split_views) == 3
    assert answer(witness, log.asks(9, 12))[0] == 200


def test_its_time_never_goes_back(tmp_path: Path, log: FakeLog) -> None:
    times = iter((500, 100))
    witness = Witness(tmp_path / "w", witness_key(), {log.origin: [log.verifier]}, Disk(), lambda: next(times))
    _, first = answer(witness, log.asks(0, 3))
    _, second = answer(witness, log.asks(3, 3))
    assert first == second


class Lying(Disk):
    """A disk whose step number `at` raises; `persists` says whether it was done nevertheless."""

    def __init__(self, at: int, persists: bool) -> None:
        self.at, self.persists, self.steps = at, persists, 0

    def __getattribute__(self, name: str) -> Any:
        step = super().__getattribute__(name)
        if name not in ("create", "write", "sync", "rename", "sync_dir"):
            return step

        def run(*arguments: Any) -> Any:
            number, self.steps = self.steps, self.steps + 1
            if number != self.at:
                return step(*arguments)
            made = step(*arguments) if self.persists else None
            if made is not None and name == "create":
                self.close(made)
            raise OSError(errno.ENOSPC, "told to fail")

        return run


@pytest.mark.parametrize("persists", [False, True])
@pytest.mark.parametrize("at", range(10))
def test_whatever_storage_does_it_signs_one_history(opened: Opened, tmp_path: Path, log: FakeLog, at: int, persists: bool) -> None:
    """Both lies at each step of two checkpoints; then the other history is tried by the same process, and by a new one."""
    disk, fork, signed = Lying(at, persists), FakeLog(fork=2), list[tuple[FakeLog, int]]()

    def ask(witness: Witness, which: FakeLog, old: int, size: int) -> None:
        try:
            if answer(witness, which.asks(old, size))[0] == 200:
                signed.append((which, size))
        except OSError:
            pass

    witness = Witness(tmp_path / "w", witness_key(), {log.origin: [log.verifier]}, disk, lambda: 1)
    ask(witness, log, 0, 3)
    ask(witness, log, 3, 7)
    assert disk.steps > at, "the step was reached"
    for again in (lambda: witness, opened):
        now = again()
        for old, size in ((0, 3), (3, 7), (3, 3), (7, 7), (0, 7)):
            ask(now, fork, old, size)
            ask(now, log, old, size)
    honest = {which.fork for which, _ in signed}
    assert len(honest) == 1, signed


def test_a_damaged_state_is_no_new_beginning(opened: Opened, log: FakeLog, tmp_path: Path) -> None:
    assert answer(opened(), log.asks(0, 5))[0] == 200
    state = tmp_path / "w" / "latest" / name_of(log.origin)
    whole = state.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(b"\n5\n", b"\n4\n"), log.checkpoint(3).encode()):
        state.write_bytes(damaged)
        with pytest.raises(Corrupt):
            opened()


@pytest.mark.server
def test_a_process_that_is_killed_at_any_time_has_kept_what_it_signed(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    size = 0
    for round_ in range(3):
        witness = run(*options(tmp_path, log))
        assert json.loads(witness.get("/health")[1])["logs"] == {log.origin: size}
        assert witness.post(log.asks(0, 1 + size))[:2] in ((409, "text/x.tlog.size"), (200, "text/plain; charset=utf-8"))
        _, _, told = witness.post(log.asks(0, 50))
        old = int(told) if told.strip().isdecimal() else size + 1
        status, _, line = witness.post(log.asks(old, old + 2))
        assert (status, cosigned(log, old + 2, line)) == (200, True)
        size = old + 2
        assert f"\n{size}\n" in witness.get(f"/checkpoint/{name_of(log.origin)}")[1]
        assert witness.end(signal.SIGKILL if round_ < 2 else signal.SIGTERM) == (-signal.SIGKILL if round_ < 2 else 0)


@pytest.mark.server
def test_who_floods_it_finds_no_place_and_others_do(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    """Requests that never end hold the places of their address; nothing more of it is read, and another address is answered."""
    witness, body = run(*options(tmp_path, log)), log.asks(0, 3)
    with ExitStack() as floods:
        for _ in range(AT_ONCE_OF_ONE):
            flood = floods.enter_context(socket.create_connection(("127.0.0.1", witness.port)))
            flood.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: 99\r\n\r\nold")
        until(lambda: witness.post(b"")[0] == 429)  # till then 400: nothing is cosigned
        other = http.client.HTTPConnection("127.0.0.1", witness.port, timeout=60, source_address=("127.0.0.2", 0))
        other.request("POST", "/add-checkpoint", body)
        assert other.getresponse().status == 200
        other.close()
    until(lambda: witness.post(log.asks(3, 5))[0] == 200)


def until(holds: Callable[[], bool]) -> None:
    """The test's own time-out ends what never comes."""
    while not holds():
        time.sleep(0.01)


@pytest.mark.server
def test_one_folder_has_one_process(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    first = run(*options(tmp_path, log))
    assert first.port
    second = run(*options(tmp_path, log))
    assert second.process.wait(60) == 3
    assert second.process.stderr is not None
    assert "another witness runs" in second.process.stderr.read()
