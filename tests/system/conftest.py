"""The folder's own module (system_world) and the example's (identity, traffic) are importable by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "order_to_cash"))

from system_world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A home with the example application behind an enforcement point, no pack yet; nothing of it is left running."""
    with World.start(tmp_path) as started:
        yield started
