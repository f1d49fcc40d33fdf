"""Consent at a real guard: the example that docs/consent.md tells, on a home of its own with a real Envoy."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "consent"))
from play import CONSENTS, NOBODY_ASKED, PURPOSE, House, house

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


def denies(made: House, subject: str, why: str) -> Callable[[], bool]:
    """Whether this is the answer: on a machine that is full a guard may have heard nothing for its bound, and deny for that in between."""

    def holds() -> bool:
        status, violations = made.read(subject)
        return status == 403 and violations[-1] == why

    return holds


def until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_who_consents_is_let_through_and_who_was_never_asked_is_not(guarded: House) -> None:
    until("who consents is let through", lambda: guarded.read(CONSENTS) == (200, []))
    until("who was never asked is not", denies(guarded, NOBODY_ASKED, NEVER_ASKED))


def test_a_withdrawal_is_denied_and_a_new_consent_lets_through(guarded: House) -> None:
    row = guarded.consent("withdraw", CONSENTS)
    assert row["state"] == "Withdrawn"
    until("the guard denies", denies(guarded, CONSENTS, WITHDRAWN))
    again = guarded.consent("grant", CONSENTS)
    assert again["index"] > row["index"]
    until("the guard lets through", lambda: guarded.read(CONSENTS)[0] == 200)


def test_a_guard_that_hears_nothing_knows_nothing_after_its_bound(guarded: House) -> None:
    control = json.loads((guarded.home / "run" / "control.json").read_text())["pid"]
    os.kill(control, signal.SIGSTOP)
    try:
        until("consents go stale", denies(guarded, CONSENTS, STALE))
    finally:
        os.kill(control, signal.SIGCONT)
    until("consents are fresh again", lambda: guarded.read(CONSENTS)[0] == 200)


def test_a_guard_whose_agent_comes_back_denies_what_was_withdrawn_meanwhile(guarded: House) -> None:
    children = json.loads((guarded.home / "run" / "children.json").read_text())
    agent = next(row["pid"] for row in children if row["name"].startswith("agent"))
    os.kill(agent, signal.SIGKILL)
    guarded.consent("withdraw", CONSENTS)
    until("the guard denies", denies(guarded, CONSENTS, WITHDRAWN))
    guarded.consent("grant", CONSENTS)
    until("the guard lets through", lambda: guarded.read(CONSENTS)[0] == 200)


def test_neither_log_nor_guard_holds_the_name(guarded: House) -> None:
    """O does, in the outbox: that is what `spec.privacy` seals."""
    folders = [guarded.home / "points" / "ats.candidates" / "desired", *(guarded.home / "points" / "ats.candidates").glob("private")]
    files = [path for folder in folders for path in folder.iterdir() if path.suffix != ".so"]
    files += [
        path for path in (guarded.home / "log" / "tile").rglob("*") if path.is_file() and path.suffix != ".tmp"
    ]  # which the log renames
    assert files
    assert [str(path) for path in files if CONSENTS.encode() in path.read_bytes()] == []


# -- lineage and export: of what happened above --


def lineage(made: House, *words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.knhk("receipt", "lineage", *words)["rows"]
    return rows


@pytest.fixture(scope="module")
def happened(guarded: House) -> House:
    """One more denial of who withdrew, and one of who was never asked, both in the log."""
    guarded.consent("withdraw", CONSENTS)
    until("the guard denies", denies(guarded, CONSENTS, WITHDRAWN))
    until("the guard knows nothing", denies(guarded, NOBODY_ASKED, NEVER_ASKED))

    def told() -> bool:
        rows = [row for subject in (CONSENTS, NOBODY_ASKED) for row in lineage(guarded, subject, "-n", "ats") if row["what"] == "decision"]
        return {row["told"]["consent.recruiting"] for row in rows if row["record"] == "clear"} >= {"granted", "withdrawn", "unknown"}

    until("decisions are in the log", told)
    return guarded


def test_lineage_tells_what_decided_and_which_consents_held_then_and_verifies(happened: House) -> None:
    answer = happened.knhk("receipt", "lineage", CONSENTS, "-n", "ats", "--verify")
    rows = answer["rows"]
    assert answer["verified"] is True
    assert all(row["verified"] for row in rows)
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    assert rows[0]["kind"] == "ConsentGranted"
    denied = [row for row in rows if row["what"] == "decision" and row["told"]["consent.recruiting"] == "withdrawn"][-1]
    assert (denied["verdict"], denied["pack"]["name"]) == ("DENY", "ats/candidate-consent@1.0.0")
    assert denied["live"][-1]["event"] == "Promoted"
    assert [(held["purpose"], held["state"]) for held in denied["consents"]] == [(PURPOSE, "Withdrawn")]
    others = {row["receipt"] for row in lineage(happened, NOBODY_ASKED, "-n", "ats")}
    assert others
    assert not others & {row.get("receipt") for row in rows}
    assert [row["receipt"] for row in lineage(happened, denied["receipt"])] == [denied["receipt"]]


def test_lineage_under_another_root_does_not_verify(happened: House) -> None:
    argv = [
        sys.executable,
        "-m",
        "knhk.cli",
        "--home",
        str(happened.home),
        "receipt",
        "lineage",
        CONSENTS,
        "-n",
        "ats",
        "--verify",
        "-o",
        "json",
    ]
    done = subprocess.run([*argv, "--root", base64.b64encode(bytes(32)).decode()], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["verified"] is False
    assert not any(row["verified"] for row in answer["rows"])


def test_all_about_one_person_is_a_folder_that_stands_alone_and_leaves_a_receipt(happened: House, tmp_path: Path) -> None:
    out = tmp_path / "c-117"
    made = happened.knhk("receipt", "export", "--subject", CONSENTS, "-n", "ats", "--reason", "request 17", "--out", str(out))
    assert made["records"] > 0
    assert made["unreadable"] == 0
    assert out.stat().st_mode & 0o077 == 0, "nobody else on this machine reads it"
    read = [json.loads(path.read_text()) for path in (out / "records").iterdir()]
    assert {record["attributes"]["path.candidate"] for record in read} == {CONSENTS}
    index = (out / "index.html").read_text()
    assert "ConsentWithdrawn" in index
    assert "ats/candidate-consent@1.0.0" in index
    root = str(happened.home / "keys" / "root.pub")
    argv = [sys.executable, "-m", "knhk_verify", "--root", root, str(out)]
    assert subprocess.run(argv, capture_output=True, cwd=out / "verifier", check=False).returncode == 0
    until("it is in the log", lambda: any(row["kind"] == "SubjectExported" for row in lineage(happened, CONSENTS, "-n", "ats")))
    (told,) = [row for row in lineage(happened, CONSENTS, "-n", "ats") if row["kind"] == "SubjectExported"]
    assert (told["index"], told["evidence"]["reason"]) == (made["receipt"], "request 17")


def test_without_the_right_nothing_is_exported(happened: House, tmp_path: Path) -> None:
    """Somebody who can read the log, and has neither the key of tags nor that of events."""
    log, out = str(happened.home / "log"), tmp_path / "out"
    argv = [sys.executable, "-m", "knhk.cli", "--home", str(tmp_path / "mine"), "receipt", "export", "--log", log, "-n", "ats"]
    for subject in ((CONSENTS,), (lineage_tag(happened), "--tag")):
        words = ["--subject", *subject, "--reason", "curious", "--out", str(out)]
        done = subprocess.run([*argv, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stdout
        assert not out.exists()


def lineage_tag(made: House) -> str:
    tag: str = made.knhk("consent", "list", "-n", "ats")["consents"][0]["subject"]
    return tag
