"""The README's commands do what it says: each `$ …` line of a console block is run, in order, in one home."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_EXIT = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True)
class Line:
    """One command of the README and the exit code that it promises."""

    command: str
    exit: int


def lines_of(text: str) -> list[Line]:
    found = []
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                promised = _EXIT.search(line)
                found.append(Line(_EXIT.sub("", line[2:]), int(promised.group(1)) if promised else 0))
    return found


@pytest.mark.server
@pytest.mark.slow
def test_commands_of_the_readme_run_as_told(tmp_path: Path) -> None:
    """A newcomer types what the README says, and each command ends as it promises."""
    commands = lines_of((ROOT / "README.md").read_text())
    assert len(commands) >= 8
    home = tmp_path / ".knhk"
    env = {**os.environ, "KNHK_HOME": str(home)}
    try:
        for line in commands:
            command = line.command.replace(" .knhk/", f" {home}/")
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=ROOT,
                env=env,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == line.exit, f"$ {command}\n{done.stdout}{done.stderr}"
    finally:
        subprocess.run([".venv/bin/knhk", "down"], cwd=ROOT, env=env, capture_output=True, check=False)
