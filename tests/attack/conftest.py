"""The folder's own modules and those of the system tests and the example are importable by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "system", HERE.parents[1] / "examples" / "order_to_cash"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from attack_world import House  # noqa: E402 - its folder must be on the path first


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The pack 1.2.0 enforced in front of an application that stores whatever reaches it, on a Unix socket."""
    with House.open(tmp_path_factory.mktemp("attack")) as opened:
        yield opened
