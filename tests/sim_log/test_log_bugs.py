"""That the laws of the log bite: bugs kept as patches are each found within a few seeds, by a law that each patch names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_bugs import Bug

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN = ROOT / "tests" / "sim" / "run.py"
BUDGET = 150
BUGS = tuple(map(Bug.read, sorted((HERE / "bugs").glob("*.patch"))))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.path.stem)
def test_a_planted_bug_of_the_log_is_found(bug: Bug, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(["git", "apply", str(bug.path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{bug.path.name} must be renewed: make its change again, diff -u it\n{applied.stderr}"
    focus = [word for one in bug.focus for word in ("--focus", one)]
    command = [sys.executable, str(RUN), "--world", "log", "--seeds", str(BUDGET), "--processes", "1", "--tail", "1", *focus]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "runtime")}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = re.search(r"^failing seed [0-9]+, after ([0-9]+) seeds, by law (\w+)$", found.stdout, re.MULTILINE)
    assert told is not None, f"{bug.path.name} was not found within {BUDGET} seeds\n{found.stdout}{found.stderr}"
    assert told[2] in bug.laws, f"{bug.path.name} was found by {told[2]}, must be one of {sorted(bug.laws)}\n{found.stdout}"
