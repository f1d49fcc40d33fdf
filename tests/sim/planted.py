"""Bugs that are kept as patches: each is planted into a copy of what it is of, and the seeds of a simulation must find it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bug:
    """A patch. Above it are what it does wrong, `Laws:` any of which finds it, and, when it needs one, the `Focus:` of the seeds."""

    path: Path
    laws: frozenset[str]
    focus: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Bug:
        head = path.read_text().partition("\n--- ")[0]
        told = {name: text.split() for name, text in re.findall(r"^(Laws|Focus): (.+)$", head, re.MULTILINE)}
        return cls(path, frozenset(told["Laws"]), tuple(told.get("Focus", ())))


def bugs(folder: Path) -> tuple[Bug, ...]:
    return tuple(map(Bug.read, sorted(folder.glob("*.patch"))))


def must_be_found(bug: Bug, tree: str, play: Sequence[str], budget: int, scratch: Path) -> None:
    """Plants it into a copy of the folder `tree`, and plays `budget` seeds by the command `play`. AssertionError when no law, or another
    one than those that the patch names, breaks."""
    shutil.copytree(ROOT / tree, scratch / tree, ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(["git", "apply", str(bug.path)], cwd=scratch, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, f"{bug.path.name} must be renewed: make its change again, diff -u it\n{applied.stderr}"
    focus = [word for one in bug.focus for word in ("--focus", one)]
    command = [sys.executable, *play, "--seeds", str(budget), "--tail", "1", *focus]
    environment = {**os.environ, "PYTHONPATH": str(scratch / tree)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    told = re.search(r"^failing seed [0-9]+, after ([0-9]+) seeds, by law (\w+)$", found.stdout, re.MULTILINE)
    assert told is not None, f"{bug.path.name} was not found within {budget} seeds\n{found.stdout}{found.stderr}"
    assert told[2] in bug.laws, f"{bug.path.name} was found by {told[2]}, must be one of {sorted(bug.laws)}\n{found.stdout}"
