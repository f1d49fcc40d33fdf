"""import-linter sees modules in packages only: a folder without __init__.py is passed over in silence, and its contracts with it."""

import tomllib
from pathlib import Path

import pytest

from knhk.model import faults

ROOT = Path(faults.__file__).resolve().parents[3]
LINTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]


@pytest.mark.parametrize("package", LINTED)
def test_the_contracts_see_every_module(package: str) -> None:
    (folder,) = (path.parent for path in ROOT.glob(f"*/{package}/__init__.py"))
    unseen = {file.parent for file in folder.rglob("*.py")} - {file.parent for file in folder.rglob("__init__.py")}
    assert not unseen
