"""The house itself: source roots, packages, locks, and that no skip looks green in CI."""

from __future__ import annotations

import importlib
import operator
import os
import subprocess
import sys
import tomllib
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
