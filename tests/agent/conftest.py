"""The folder's own modules (agent_world, agent_rings, agent_process) are importable by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from agent_world import Packs, World, make_packs


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """A registry with two signed packs and a data bundle, and the keys that signed them."""
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def world(packs: Packs, tmp_path: Path) -> Iterator[World]:
    """Folders of one agent with a copy of the registry; whatever it starts is gone when the test ends."""
    world = World.make(tmp_path, packs)
    yield world
    world.close()
