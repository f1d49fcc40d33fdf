"""Tests of the wire formats; the encoder is that of tests/hot (hot_wire.py), written from the pages."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "hot")]
