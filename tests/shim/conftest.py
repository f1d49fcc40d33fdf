"""The folder's own modules (shim_native, shim_rig, shim_ring) are importable by their names."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
