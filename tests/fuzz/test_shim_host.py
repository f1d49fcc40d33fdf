"""Invariant: whatever the order of hooks, headers, bodies, agent answers and configurations, a request goes on only
when its ADMIT leaf with exactly its body is in a ring or the agent admitted its receipt, it is answered once, and no
memory is misused (ASan, UBSan). tests/shim/host.c stands in Envoy's place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shim"))
from shim_native import build_host, sanitizing_compiler

SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
ITERATIONS = 30_000


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_random_hosts_never_pass_what_was_not_admitted(tmp_path: Path) -> None:
    compiler = sanitizing_compiler()
    if compiler is None:
        pytest.skip("needs clang or gcc with the sanitizer runtimes (apt install clang)")
    host, a, b = build_host(compiler)
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    deadline = time.monotonic() + SECONDS
    while True:
        rings = tmp_path / str(seed)
        rings.mkdir(mode=0o700)
        done = subprocess.run(
            [str(host), str(seed), str(ITERATIONS), str(rings), str(a), str(b)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"FUZZ_SEED={seed}\n{done.stderr[-4000:]}"
        assert not list(rings.iterdir()), "closed rings are drained and gone"
        seed += 1
        if time.monotonic() > deadline:
            return
