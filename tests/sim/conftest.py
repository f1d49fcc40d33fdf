"""This folder's modules, and the ports in memory of tests/reconcilers and tests/store, are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / folder) for folder in ("sim", "reconcilers", "store")]
