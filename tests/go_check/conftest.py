"""This tier needs the go command (and once the Go module proxy); without it each test says that it was not run."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def _go() -> None:
    if shutil.which("go") is None:
        pytest.skip("not run: the go command is absent")
