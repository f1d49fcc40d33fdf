"""The house itself: source roots, packages, locks, what tests import of each other, and that no skip looks green in CI."""

from __future__ import annotations

import ast
import importlib
import operator
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HATCH = PROJECT["tool"]["hatch"]["build"]
PACKAGES = [Path(path) for path in HATCH["targets"]["wheel"]["only-include"] if "/knhk" in path]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_each_source_root_holds_one_package_and_is_none(package: Path) -> None:
    root = ROOT / package.parent
    assert not (root / "__init__.py").exists()
    assert [path.parent.name for path in root.glob("*/__init__.py")] == [package.name]
    assert (ROOT / package / "py.typed").exists()
    module = importlib.import_module(package.name)
    assert module.__doc__
    assert Path(str(module.__file__)).parent == ROOT / package


def test_the_standard_operator_module_is_not_shadowed() -> None:
    assert operator.add(1, 1) == 2


def test_dev_mode_dirs_are_the_source_roots() -> None:
    assert HATCH["dev-mode-dirs"] == [str(package.parent) for package in PACKAGES]


def test_no_module_imports_a_module_of_tests() -> None:
    """Several are of one name: which of them an importer gets hangs on what was run before."""
    modules = [path for folder in ("tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    of_tests = {path.stem for path in modules if path.stem.startswith("test_")}
    imported = [(path, name) for path in modules for name in _imported(path) if not of_tests.isdisjoint(name.split("."))]
    assert [f"{path.relative_to(ROOT)} imports {name}" for path, name in imported] == []


def test_modules_that_tests_import_have_names_of_their_own() -> None:
    """All their folders are on one path."""
    counted = Counter(path.stem for path in (ROOT / "tests").rglob("*.py") if not path.stem.startswith("test_"))
    assert [name for name, count in counted.items() if count > 1 and name not in ("conftest", "__init__")] == []


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names += [str(node.module), *(f"{node.module}.{row.name}" for row in node.names)]
        elif isinstance(node, ast.Import):
            names += [row.name for row in node.names]
    return names


@pytest.mark.parametrize(("ci", "outcome"), [("true", 1), ("", 0)])
def test_a_skip_fails_in_ci_alone(ci: str, outcome: int, tmp_path: Path) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text("import pytest\n\ndef test_runs(): pass\n\n@pytest.mark.skip\ndef test_skips(): pass\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT / "tests")},  # its plugin is there
        capture_output=True,
        text=True,
    )
    assert ran.returncode == outcome, ran.stdout + ran.stderr
