"""Evidence: the committed cases, bytes altered anywhere, and a whole bundle judged where nothing else is installed."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import evidence_vectors as given
import pytest

from knhk_verify.evidence import Evidence
from knhk_verify.note import unb64
from knhk_verify.signed import parse_time

VECTORS = json.loads(given.VECTORS.read_bytes())
CASES = {case["name"]: case for case in VECTORS["cases"]}
NOW = parse_time(VECTORS["at"], "at")
ROOT = unb64(VECTORS["root_pub"], "root")


def files_of(case: dict[str, Any]) -> dict[str, bytes]:
    return {name: text.replace("SPACES", " " * (1 << 20)).encode() for name, text in case["files"].items()}


def judged(files: dict[str, bytes], keys: bytes = VECTORS["keys.json"].encode(), now: datetime | None = NOW) -> Evidence:
    evidence = Evidence(ROOT, keys, now)
    for name, data in files.items():
        evidence.add(data, name)
    evidence.together()
    return evidence


def holds(evidence: Evidence) -> bool:
    return all(step.ok for step in evidence.steps)


def test_the_vectors_are_fresh() -> None:
    assert given.made() == given.VECTORS.read_bytes(), "run python tests/verify/evidence_vectors.py and review the diff"


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_judged_as_it_says(name: str) -> None:
    case = CASES[name]
    evidence = judged(files_of(case), case.get("keys.json", VECTORS["keys.json"]).encode())
    assert holds(evidence) == (case["verdict"] == "accepted"), evidence.steps
    if case["verdict"] == "refused":
        told = [f"{step.what}: {step.detail}" for step in evidence.steps if not step.ok]
        assert any(case["where"] in line and case["says"] in line for line in told), told


def test_a_good_receipt_tells_each_step_with_its_key() -> None:
    steps = judged(files_of(CASES["event: spec of a Receipt"])).steps
    assert [(step.what, step.key.partition(" ")[0]) for step in steps] == [
        ("keys.json is signed by the pinned root", "root"),
        ("r.json: the event is signed", "rollout"),
        ("r.json proof: the checkpoint is signed", "log"),
        ("r.json: inclusion", "none"),
    ]
    assert steps[1].key.endswith("valid until 2027-01-01T00:00:00Z")
    assert steps[3].detail == "entry 5 of 13"


@pytest.mark.parametrize("name", ["event: spec of a Receipt", "decision", "consistency", "receipts under two checkpoints"])
def test_a_byte_altered_anywhere_is_refused_with_its_file(name: str) -> None:
    """All bytes of each file: those of a receipt are in members that are all held against what is signed."""
    files, chance = files_of(CASES[name]), random.Random(name)
    for file, data in files.items():
        for at in range(len(data)):
            other = bytes([data[at] ^ 1 << chance.randrange(8)])
            evidence = judged(files | {file: data[:at] + other + data[at + 1 :]})
            bad = [f"{step.what} {step.detail}" for step in evidence.steps if not step.ok]
            assert bad, (file, at, data[at : at + 1], other)


def test_bytes_cut_off_or_added_are_refused() -> None:
    for name in ("event: spec of a Receipt", "decision", "consistency", "checkpoint"):
        files = files_of(CASES[name])
        for file, data in files.items():
            for cut in (1, len(data) // 2, len(data) - 1):
                assert not holds(judged(files | {file: data[:cut]})), (name, file, cut)
            assert not holds(judged(files | {file: data + b"x"})), (name, file)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 100, b"{}", b"{" * 100_000, b'{"spec":[]}', b'{"spec":null}', b"old 1\n\n", b"old \n" * 9, b"x" * (1 << 21)]
)
def test_what_is_no_evidence_is_refused_and_never_crashes(data: bytes) -> None:
    evidence = judged({"f": data})
    assert [step.ok for step in evidence.steps] == [True, False]
    assert evidence.steps[1].what == "f"


def test_text_that_is_not_unicode_is_refused() -> None:
    receipt = json.loads(files_of(CASES["decision"])["r.json"])
    note = receipt["proof"].replace("\n13\n", "\n13\ud800\n")
    for changed in (receipt | {"proof": note}, receipt | {"leaf": "\ud800"}, {"bundle": "\ud800", "proof": ""}):
        evidence = judged({"f": json.dumps(changed).encode()})
        assert not evidence.steps[-1].ok


def test_evidence_cannot_write_to_the_terminal_nor_forge_a_step() -> None:
    """What it says is shown without control characters and line ends."""
    receipt = json.loads(files_of(CASES["event: spec of a Receipt"])["r.json"])
    bundle = json.loads(receipt["bundle"])
    bundle["verificationMaterial"]["publicKey"]["hint"] = "\x1b[2K\nok  all verifies"
    (step,) = judged({"f": json.dumps(receipt | {"bundle": json.dumps(bundle)}).encode()}).steps[1:]
    assert "keyid ?[2K?ok  all verifies is a key of no role" in step.detail


def test_a_checkpoint_of_a_replaced_key_counts_for_nothing_though_another_is_valid() -> None:
    """During a rotation the log has two keys: the one whose signature is there is taken."""
    old, new = given.named(given.LOG, name=given.ORIGIN), given.named(given.OTHER, name=given.ORIGIN)
    files = files_of(CASES["decision"])
    both = given.keys_json(log=[new, old]).encode()
    assert holds(judged(files, both))
    over = given.keys_json(log=[new, old | {"until": "2026-11-25T00:00:00Z"}]).encode()
    assert not holds(judged(files, over))
    assert holds(judged(files, over, datetime(2026, 11, 24, tzinfo=UTC)))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An audit bundle."""
    folder, case = tmp_path / "bundle", CASES["receipts under two checkpoints"]
    for name, data in files_of(case).items():
        path = folder / ("receipts" if name.endswith(".json") else "consistency") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "keys.json").write_text(VECTORS["keys.json"])
    (folder / "index.html").write_text("what is in it\n")
    return folder


def test_an_audit_bundle_verifies_where_nothing_else_is_installed(
    alone: Callable[..., subprocess.CompletedProcess[str]], bundle: Path
) -> None:
    good = alone("--root", VECTORS["root_pub"], "--at", VECTORS["at"], bundle)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.count("ok ") == len(good.stdout.splitlines()) == 9
    receipt = bundle / "receipts" / "d.json"
    receipt.write_bytes(receipt.read_bytes().replace(b'"logIndex": 7', b'"logIndex": 8'))
    bad = alone("--root", VECTORS["root_pub"], "--at", VECTORS["at"], "--json", bundle)
    assert bad.returncode == 1
    (told,) = [step for step in map(json.loads, bad.stdout.splitlines()) if not step["ok"]]
    assert told["detail"] == f"{receipt} logIndex: must be 7, as what is signed says"


def test_another_root_is_not_trusted(alone: Callable[..., subprocess.CompletedProcess[str]], bundle: Path) -> None:
    foreign = alone("--root", given.b64(given.public(given.OTHER)), "--at", VECTORS["at"], bundle)
    assert foreign.returncode == 1
    assert "BAD keys.json" in foreign.stdout
    assert all("[none]" in line for line in foreign.stdout.splitlines() if line.startswith("ok "))
