"""An audit bundle of a question, on a machine without the product: its own verifier, Python and `cryptography`."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "receipts"))
from log_of_entries import PACKS, Written, leaf

from knhk.cli import main

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[Path, Path]:
    """(bundle of what the pack denied, root key)."""
    monkeypatch.setenv("KNHK_CACHE", str(tmp_path / "cache"))
    written = Written(tmp_path / "made")
    written.add(*(written.event("Promoted", pack) for pack in PACKS), *(leaf(n, verdict=2 if n % 3 == 0 else 1) for n in range(20)))
    out, root = tmp_path / "audit", tmp_path / "made" / "keys" / "root.pub"
    words = ("log", "prove", "-n", "erp", "--field-selector", "pack=invoice-controls,verdict!=ADMIT", "--log", str(written.folder))
    assert main(["--home", str(tmp_path / "home"), *words, "--root", str(root), "--out", str(out), "-o", "json"]) == 0
    capsys.readouterr()
    return out, root


def judged(alone: Run, out: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """By the verifier that the bundle brings along."""
    verifier, arguments = str(out / "verifier"), ["knhk_verify", "--root", str(root), str(out)]
    told = f"import sys, runpy; sys.path.insert(0, {verifier!r}); sys.argv = {arguments!r}; "
    return alone(
        code=told
        + "import knhk_verify; assert knhk_verify.__file__.startswith(sys.path[0]); runpy.run_module('knhk_verify', run_name='__main__')"
    )


def test_the_bundle_of_a_question_verifies_alone_and_is_readable(bundle: tuple[Path, Path], alone: Run) -> None:
    said = judged(alone, *bundle)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("DECISION DENY") == 7
    assert "the event is signed" in said.stdout  # who promoted the pack belongs to it
    index = (bundle[0] / "index.html").read_text()
    assert index.count("<td>DECISION</td><td>DENY</td>") == 7
    assert "POLICY Promoted" in index


def test_one_altered_verdict_is_found(bundle: tuple[Path, Path], alone: Run) -> None:
    receipt = sorted((bundle[0] / "receipts").iterdir())[-1]
    document = json.loads(receipt.read_text())
    entry = bytearray(base64.b64decode(document["leaf"]))
    entry[3] = 1
    receipt.write_text(json.dumps({**document, "leaf": base64.b64encode(entry).decode()}))
    said = judged(alone, *bundle)
    assert said.returncode == 1
    assert receipt.name in next(line for line in said.stdout.splitlines() if line.startswith("BAD"))
