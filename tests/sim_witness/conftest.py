"""This folder's modules and those of tests/sim are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("sim_witness", "sim"))
