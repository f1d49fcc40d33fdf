"""The verifier stands alone: small enough to read, and nothing but `cryptography` beside it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "verifier" / "knhk_verify"
MAX_LINES = 600
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_it_can_be_read_in_an_hour() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in SOURCE.glob("**/*.py"))
    assert lines <= MAX_LINES
    assert not [path for path in SOURCE.rglob("*") if path.is_dir() and path.name != "__pycache__"]


def test_it_names_nothing_but_cryptography_and_the_standard_library() -> None:
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "cryptography", "knhk_verify"}, f"{path.name}: {name}"


def test_it_runs_where_nothing_else_is_installed(alone: Run) -> None:
    for absent in ("knhk", "knhk_runtime", "yaml", "aiohttp"):
        assert alone(code=f"import {absent}").returncode == 1
    helped = alone("--help")
    assert helped.returncode == 0
    assert "--root" in helped.stdout


def test_its_errors_say_what_is_wrong_with_what(alone: Run, tmp_path: Path) -> None:
    missing = alone("--root", "AAAA", tmp_path / "nothing.json")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "keys.json" in missing.stderr
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert "--root: is not base64" in alone("--root", "?", tmp_path / "nothing.json").stderr
    empty = alone("--root", "AAAA", "--keys", tmp_path / "keys.json", tmp_path / "empty")
    assert empty.returncode == 2
    assert "empty: holds no evidence" in empty.stderr
