"""The exchange and the courier, without a cluster: tests/cluster has the API server's part."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "agent"))
