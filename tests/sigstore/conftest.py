"""cosign, as users run it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "registry")]

from cosign_binary import cosign  # noqa: E402

from go_binaries import CannotBuild  # noqa: E402


@pytest.fixture(scope="session")
def cosign_program() -> Path:
    try:
        return cosign(build=False)
    except CannotBuild as error:
        pytest.skip(f"no cosign: {error}")
