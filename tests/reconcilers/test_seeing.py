"""The operator's process on a cluster when kopf, its eyes, ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERVED = """
import asyncio, sys
import kopf
from knhk.adapters.kube_feed import ChangeFeed
from knhk.handlers import __main__ as operator
from knhk.wiring.cluster import Access

async def crashing(*, stop_flag, **_):
    asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)  # as kopf does
    raise RuntimeError("kopf is broken")

def serve(home, stop, ready_file, *, kubeconfig, watch):
    with watch(Access("http://127.0.0.1:1", None, None, None, lambda: None), ChangeFeed(), stop):
        assert stop.wait(30), "nobody noticed"

kopf.operator, operator.serve = crashing, serve
sys.exit(operator.main(["--home", sys.argv[1]]))
"""


@pytest.mark.timeout(120)
def test_the_process_fails_when_kopf_ends_by_itself(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SERVED, str(tmp_path / "home")], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "kopf is broken" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("kopf must go on"), done.stderr
