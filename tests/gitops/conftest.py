"""This folder's own modules, and the world of tests/reconcilers, are importable by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("gitops", "reconcilers", "store", "."))
from gitea_binaries import gitea as build
from gitea_server import Gitea, fresh

from go_binaries import CannotBuild


@pytest.fixture(scope="session")
def gitea() -> Iterator[Gitea]:
    """A real Gitea; without its program each test says that it was not run."""
    try:
        program, static = build(build=False)
    except CannotBuild as error:
        pytest.skip(f"not run: {error}")
    with fresh(program, static) as found:
        yield found
