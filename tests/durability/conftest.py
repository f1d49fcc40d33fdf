"""The folder's own module durability_house, and the Envoy of tests/shim and the agent of tests/agent that it is made of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("durability", "shim", "agent"))
from agent_world import Packs, make_packs
from durability_house import House


@pytest.fixture(scope="session")
def packs_of_house(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """Signed packs and the keys that signed them."""
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def house(packs_of_house: Packs, tmp_path: Path) -> Iterator[House]:
    """Envoy, agent and sequencer, and nothing of them left when the test ends."""
    made = House(tmp_path, packs_of_house)
    yield made
    made.close()
