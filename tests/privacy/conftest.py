"""Sealing, erasure and legal hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "delta"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from delta_world import Yard
from privacy_world import Vault


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = Vault(Yard(tmp_path))
    yield made
    made.close()
