"""This folder's own modules, the worlds of tests/reconcilers and tests/privacy, and the Git repository of tests/gitops are importable."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("reconcilers", "store", "gitops", "privacy", "delta"))]
