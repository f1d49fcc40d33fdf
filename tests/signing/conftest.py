"""Folders of keys of all kinds: files, a token of SoftHSM, and some in either."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(params=["files", "token", "token with the root", "token with root, build and log"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder in which keys can be made."""
    folder = tmp_path / "keys"
    if request.param == "files":
        return folder
    put: Callable[..., Path] = request.getfixturevalue("softhsm").put
    some = {"roles": ["build", "log"]} if "log" in request.param else {}
    return put(folder, root="root" in request.param, **some)
