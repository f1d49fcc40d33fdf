"""This folder's own modules, and the store in memory of tests/store, are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "store")]
