"""Consent at a real guard: the example that docs/consent.md tells, on a home of its own with a real Envoy."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "consent"))
from play import CONSENTS, NOBODY_ASKED, House, house

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
STALENESS_S = 10
WITHIN_S = 120.0
NEVER_ASKED = "no consent of the candidate to recruiting is known"
WITHDRAWN = "the candidate has withdrawn the consent to recruiting"
STALE = "whether the candidate consents is not known now: what this guard knows of consents is too old"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("consent") / "home", STALENESS_S) as made:
        yield made


def until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_who_consents_is_let_through_and_who_was_never_asked_is_not(guarded: House) -> None:
    assert guarded.read(CONSENTS) == (200, [])
    status, why = guarded.read(NOBODY_ASKED)
    assert (status, why[-1]) == (403, NEVER_ASKED)


def test_a_withdrawal_is_denied_and_a_new_consent_lets_through(guarded: House) -> None:
    row = guarded.consent("withdraw", CONSENTS)
    assert row["state"] == "Withdrawn"
    until("the guard denies", lambda: guarded.read(CONSENTS)[0] == 403)
    assert guarded.read(CONSENTS)[1][-1] == WITHDRAWN
    again = guarded.consent("grant", CONSENTS)
    assert again["index"] > row["index"]
    until("the guard lets through", lambda: guarded.read(CONSENTS)[0] == 200)


def test_a_guard_that_hears_nothing_knows_nothing_after_its_bound(guarded: House) -> None:
    control = json.loads((guarded.home / "run" / "control.json").read_text())["pid"]
    os.kill(control, signal.SIGSTOP)
    try:
        until("consents go stale", lambda: guarded.read(CONSENTS)[0] == 403)
        assert guarded.read(CONSENTS)[1][-1] == STALE
    finally:
        os.kill(control, signal.SIGCONT)
    until("consents are fresh again", lambda: guarded.read(CONSENTS)[0] == 200)


def test_a_guard_whose_agent_comes_back_denies_what_was_withdrawn_meanwhile(guarded: House) -> None:
    children = json.loads((guarded.home / "run" / "children.json").read_text())
    agent = next(row["pid"] for row in children if row["name"].startswith("agent"))
    os.kill(agent, signal.SIGKILL)
    guarded.consent("withdraw", CONSENTS)
    until("the guard denies", lambda: guarded.read(CONSENTS)[0] == 403)
    assert guarded.read(CONSENTS)[1][-1] == WITHDRAWN
    guarded.consent("grant", CONSENTS)
    until("the guard lets through", lambda: guarded.read(CONSENTS)[0] == 200)


def test_neither_log_nor_guard_holds_the_name(guarded: House) -> None:
    """O does, in the outbox: that is what `spec.privacy` seals."""
    folders = [guarded.home / "points" / "ats.candidates" / "desired", *(guarded.home / "points" / "ats.candidates").glob("private")]
    files = [path for folder in folders for path in folder.iterdir() if path.suffix != ".so"]
    files += [path for path in (guarded.home / "log" / "tile").rglob("*") if path.is_file()]
    assert files
    assert [str(path) for path in files if CONSENTS.encode() in path.read_bytes()] == []
