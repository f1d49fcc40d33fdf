"""This tier needs the go command (and once the Go module proxy); without it pytest names the tier as not run."""

from __future__ import annotations

import shutil

collect_ignore = [] if shutil.which("go") else ["test_go_check.py"]
