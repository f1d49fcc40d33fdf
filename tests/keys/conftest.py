"""The key service as a process, and agents that seal by it; tests/cluster has the API server's part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("keys", "agent", "delta", "privacy"))
from agent_world import Packs, World, make_packs
from keys_world import KeyWorld, key_world


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyWorld]:
    """A key service that runs."""
    with key_world(tmp_path / "service") as made:
        yield made


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """Signed packs and the keys that signed them."""
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def world(packs: Packs, tmp_path: Path) -> Iterator[World]:
    """Folders of one agent; whatever it starts is gone when the test ends."""
    world = World.make(tmp_path / "world", packs)
    yield world
    world.close()
