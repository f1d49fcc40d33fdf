"""The golden packs meet their expectations, with every guard covered and the mutation score that each states; docs say what was counted."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from knhk.cli.pack_tiers import markdown

ROOT = Path(__file__).resolve().parents[2]
PACKS = ROOT / "examples" / "packs"
DOCS = ROOT / "docs" / "golden-packs.md"
TESTED = sorted(str(file.parent.relative_to(PACKS)) for file in PACKS.rglob("tests.yaml"))
BEGIN, END = "<!-- counted -->\n", "\n<!-- end -->"


def knhk(*words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, in the folder of the repository."""
    return subprocess.run([sys.executable, "-m", "knhk.cli", *words], capture_output=True, text=True, cwd=ROOT)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    """All packs, by one call."""
    done = knhk("pack", "tiers", "examples/packs", "--mutants", "-o", "json")
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", TESTED)
def test_a_pack_meets_its_expectations_and_every_guard_is_covered(counted: dict[str, Any], name: str) -> None:
    row = next(row for row in counted["packs"] if row["path"] == f"examples/packs/{name}")
    told = "" if row["ok"] else knhk("pack", "test", f"examples/packs/{name}", "-o", "table").stdout
    assert row["ok"], told
    assert row["coverage"] == 100
    assert row["mutation"] >= 85


@pytest.mark.parametrize("name", TESTED)
def test_a_pack_says_which_controls_it_serves(name: str) -> None:
    text = (PACKS / name / "README.md").read_text()
    assert "| control | what serves it |" in text
    assert f"({name}/README.md)" in (PACKS / "README.md").read_text()


def test_each_payload_of_others_is_unchanged_and_named_with_its_licence() -> None:
    with (PACKS / "payload-sources.tsv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    for name, row in rows.items():
        data = (PACKS / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()[:16]) == (int(row["bytes"]), row["sha256_16"]), name
        assert row["licence"].startswith(("Apache-2.0", "CC0-1.0"))
    ours = {str(f.relative_to(PACKS)) for f in PACKS.rglob("payloads/*/*")} - rows.keys()
    assert not {name for name in ours if "/valid/" in name} - {
        "opportunity/payloads/valid/won-with-amount.json",
        "opportunity/payloads/valid/open-without-amount.json",
    }


def test_the_share_of_the_tables(counted: dict[str, Any]) -> None:
    share = counted["total"]["share"]
    for name in ("evaluations", "payloads"):
        assert share[name]["r1"] >= 80
        assert share[name]["r1_or_w1"] >= 98


def test_docs_say_what_was_counted(counted: dict[str, Any]) -> None:
    before, _, rest = DOCS.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    text = before + BEGIN + markdown(counted) + END + after
    if os.environ.get("GOLDEN_UPDATE"):
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run again with GOLDEN_UPDATE=1 and review the difference"
