"""Conformance tests: `knhk` run in this process, what it prints as a graph."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
