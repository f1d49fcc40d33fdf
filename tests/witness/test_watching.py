"""A witness takes a changed policy while it runs, as a whole or not at all, and forgets nothing that it cosigned."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import KEY
from region_logs import log_of
from witness_options import options
from witness_world import FakeLog, Running, answer, private, witness_key

from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.witness.watching import Files, Watching

OTHER = FakeLog("knhk.dev/other", private(10))


class Given:
    """A policy's file, and the witness that looks at it."""

    def __init__(self, folder: Path, log: FakeLog) -> None:
        self.policy, self.roots, self._own = folder / "policy", folder / "roots", log
        self.says(log)
        self.roots.write_text("")
        self.watching = Watching(folder / "w", witness_key(), Files(self.policy, self.roots, None), str(folder / "mirrors"))

    def says(self, *logs: FakeLog, url: str = "") -> None:
        lines = [f"log {format_vkey(log.verifier)} {url}" for log in logs]
        self.policy.write_text("\n".join([*lines, "quorum none", ""]))

    def asks(self, log: FakeLog, old: int, size: int) -> int:
        """Status."""
        return answer(self.watching.now.witness, log.asks(old, size))[0]


@pytest.fixture
def given(tmp_path: Path, log: FakeLog) -> Given:
    return Given(tmp_path, log)


def test_a_log_more_is_cosigned_and_one_less_is_not(given: Given, log: FakeLog) -> None:
    assert (given.asks(log, 0, 5), given.asks(OTHER, 0, 3), given.watching.look()) == (200, 404, False)
    given.says(log, OTHER)
    assert given.watching.look()
    assert (given.asks(log, 5, 9), given.asks(OTHER, 0, 3)) == (200, 200)
    given.says(OTHER)
    assert given.watching.look()
    assert (given.asks(log, 9, 10), given.asks(OTHER, 3, 4)) == (404, 200)


def test_a_line_that_was_taken_away_and_put_back_makes_it_forget_nothing(given: Given, log: FakeLog) -> None:
    assert given.asks(log, 0, 5) == 200
    given.says(OTHER)
    assert given.watching.look()
    given.says(log)
    assert given.watching.look()
    fork = FakeLog(fork=2)
    assert [given.asks(fork, 0, 5), given.asks(fork, 0, 9), given.asks(log, 5, 9)] == [409, 409, 200]
    assert len(given.watching.now.witness.split_views) == 1


@pytest.mark.parametrize(
    ("policy", "roots", "why"),
    [
        ("log nonsense\nquorum none\n", "", "policy line 1"),
        ("", "", "quorum"),
        (f"log {format_vkey(OTHER.verifier)}\nquorum none\n", "knhk.dev/witnessed AAAA\n", "root key of 32 bytes"),
        (f"log {format_vkey(OTHER.verifier)}\nquorum none\n", f"knhk.dev/lost {'A' * 43}=\n", "is no log of the policy"),
        (
            f"log {format_vkey(FakeLog(signer=private(11)).verifier)}\nquorum none\n",
            "",
            "keep it there until a newer checkpoint is cosigned",
        ),
    ],
    ids=("line", "empty", "root", "stranger", "last-key"),
)
def test_what_no_witness_would_start_with_changes_nothing_and_is_told(
    given: Given, log: FakeLog, policy: str, roots: str, why: str
) -> None:
    assert given.asks(log, 0, 5) == 200
    given.policy.write_text(policy)
    given.roots.write_text(roots)
    assert not given.watching.look()
    assert why in given.watching.error
    assert (given.asks(log, 5, 6), given.asks(OTHER, 0, 1)) == (200, 404)
    given.roots.write_text("")
    given.says(log, OTHER)
    assert given.watching.look()
    assert given.watching.error == ""


def test_what_was_put_back_as_it_was_is_told_no_more_and_is_told_again_when_it_comes_again(given: Given, log: FakeLog) -> None:
    """Nothing is new then, and nothing is wrong."""
    first = given.policy.read_bytes()
    for fault in (b"quorum\n", None, b"quorum\n"):
        if fault is None:
            given.policy.unlink()
        else:
            given.policy.write_bytes(fault)
        assert not given.watching.look()
        assert given.watching.error
        given.policy.write_bytes(first)
        assert not given.watching.look()
        assert given.watching.error == ""
    assert given.asks(log, 0, 5) == 200


def test_the_root_of_a_log_is_another_only_after_a_start(given: Given, log: FakeLog) -> None:
    """Whose keys.json counts is nothing that a file changes in passing."""
    for root, taken in ((f"{log.origin} {'A' * 43}=\n", True), (f"{log.origin} {'B' * 42}A=\n", False)):
        given.roots.write_text(root)
        assert given.watching.look() == taken
    assert "had another root" in given.watching.error


def test_of_each_log_one_writes_its_copy_however_often_the_policy_changes(given: Given, log: FakeLog) -> None:
    given.says(log, url="https://one.example")
    assert given.watching.look()
    first = given.watching.now.mirrors[log.origin]
    given.says(OTHER)
    assert given.watching.look()
    assert given.watching.now.mirrors == {}
    given.says(log, OTHER, url="https://two.example")
    assert given.watching.look()
    assert given.watching.now.mirrors[log.origin] is first


def _until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.server
def test_a_process_takes_a_changed_policy_without_a_restart(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    """And tells what it cannot take; kubelets change a ConfigMap's files by a rename."""
    witness = run(*options(tmp_path, log), "--follow-s", "0.05")
    first = (tmp_path / "policy").read_text()
    assert witness.post(log.asks(0, 5))[0] == 200

    def given(text: str) -> None:
        (tmp_path / "next").write_text(text)
        (tmp_path / "next").rename(tmp_path / "policy")

    given("quorum\n")
    _until(lambda: "knhk_witness_policy_amiss 1" in witness.get("/metrics")[1])
    assert "policy line 1" in json.loads(witness.get("/health")[1])["policy"]
    assert witness.post(log.asks(5, 6))[0] == 200
    given(first)
    _until(lambda: "knhk_witness_policy_amiss 0" in witness.get("/metrics")[1])
    given("quorum\n")
    _until(lambda: "knhk_witness_policy_amiss 1" in witness.get("/metrics")[1])
    given(f"log {format_vkey(log.verifier)}\nlog {format_vkey(KEY.verifier)} {log_of(tmp_path / 'a', (0, 7)).as_uri()}\nquorum none\n")
    _until(lambda: "knhk_witness_policy_amiss 0" in witness.get("/metrics")[1])
    told = json.loads(witness.get("/health")[1])
    assert (told["policy"], told["logs"][log.origin], set(told["followed"])) == ("", 6, {KEY.verifier.name})
    assert witness.post(log.asks(6, 9))[0] == 200
