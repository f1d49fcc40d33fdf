"""This folder's own modules, and the deterministic world of tests/reconcilers, are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(TESTS / "reconcilers"), str(TESTS / "store"), str(TESTS / "exchange")]
