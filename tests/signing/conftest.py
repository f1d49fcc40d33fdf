"""Folders of keys of both kinds: files, and a token of SoftHSM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(params=["files", "token", "token with the root"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder in which keys can be made."""
    folder = tmp_path / "keys"
    if request.param == "files":
        return folder
    put: Callable[..., Path] = request.getfixturevalue("softhsm").put
    return put(folder, root=request.param == "token with the root")
