"""This folder's own modules, those of tests/sim, and the machines of tests/storage are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("sim_log", "storage", "sim"))
