"""Logs to ask for receipts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from log_of_entries import Written


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)
