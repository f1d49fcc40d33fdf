"""That the laws bite: bugs kept as patches are each found within a few seeds, by a law that each patch names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUDGET = 200
BUGS = sorted((HERE / "bugs").glob("*.patch"))


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.stem)
def test_a_planted_bug_is_found(bug: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(["git", "apply", str(bug)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{bug.name} must be renewed: make its change again, diff -u it\n{applied.stderr}"
    command = [sys.executable, str(HERE / "run_regions.py"), "--seeds", str(BUDGET), "--tail", "1"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "runtime")}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = re.search(r"^failing seed [0-9]+, after ([0-9]+) seeds, by law (\w+)$", found.stdout, re.MULTILINE)
    assert told is not None, f"{bug.name} was not found within {BUDGET} seeds\n{found.stdout}{found.stderr}"
    laws = re.search(r"^Laws: (.+)$", bug.read_text(), re.MULTILINE)
    assert laws is not None
    assert told[2] in laws[1].split(), f"{bug.name} was found by {told[2]}\n{found.stdout}"
