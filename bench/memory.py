"""Memory: what a page costs that is not there, with prefault, mlock and neither; streams with prefetch and non-temporal loads (ADR 22)."""

from __future__ import annotations

import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.figures import Figures, Row, spread
from bench.native import compile_c
from knhk_hot.toolchain import HOST

MIB, QUICK_MIB = 64, 4
TITLE = "Memory: residency and non-temporal loads"


def run(quick: bool) -> Figures:
    if HOST != "amd64":
        return Figures("memory", TITLE, (Row("memory", "ns", None, "not run: needs x86-64 with AVX2"),))
    program, mib = compile_c("memory", "-mavx2"), QUICK_MIB if quick else MIB
    with tempfile.TemporaryDirectory(prefix="knhk-memory-", dir=Path(__file__).parents[1] / "bench") as folder:
        told = subprocess.run([str(program), f"{folder}/file", str(mib)], capture_output=True, text=True, check=True, timeout=100).stdout
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in told.splitlines():
        name, unit, value = line.split("\t")
        found[name, unit].append(float(value))
    rows = tuple(Row(name, unit, spread(values)) for (name, unit), values in found.items())
    notes = (
        f"a file of {mib} MiB beside the benches, read at random bytes, readahead off; wall time",
        f"streams pass over {4 * mib} MiB; 512 KiB were read before and are read again after",
    )
    return Figures("memory", TITLE, rows, notes)
