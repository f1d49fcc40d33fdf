"""That the laws bite: bugs kept as patches are each found within a few seeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUGS = sorted((HERE / "bugs").glob("*.patch"))
BUDGET = 60
FOCUS = {"switches": 0.3, "waves": 1.0}  # what a seed does not draw is asked for, by the first word of the patch's name


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("bug", BUGS, ids=lambda path: path.stem)
def test_a_planted_bug_is_found(bug: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "operator", tmp_path / "operator", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(["git", "apply", str(bug)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{bug.name} must be renewed: make its change again and write it down with diff -u\n{applied.stderr}"
    focus = [word for prefix, rate in FOCUS.items() if bug.stem.startswith(f"{prefix}-") for word in ("--focus", f"{prefix}={rate}")]
    command = [sys.executable, str(HERE / "run.py"), "--seeds", str(BUDGET), "--processes", "1", "--tail", "1", *focus]
    path = {"PYTHONPATH": str(tmp_path / "operator")}
    found = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert "failing seed" in found.stdout, f"{bug.name} was not found within {BUDGET} seeds\n{found.stdout}{found.stderr}"
