"""This folder's own modules, and the world of tests/reconcilers, are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("gitops", "reconcilers", "store")]
