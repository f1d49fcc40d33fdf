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
from knhk.adapters.kube_mirror import Mirror
from knhk.handlers import __main__ as operator
from knhk.wiring.cluster import Access

def expired():
    raise RuntimeError("the token cannot be read")

async def crashing(*, stop_flag, **_):
    asyncio.get_running_loop().run_in_executor(None, stop_flag.wait)  # as kopf does
    raise RuntimeError("kopf is broken")

def serve(home, stop, ready_file, *, options, watch):
    with watch(Access("http://127.0.0.1:1", None, None, None, expired), Mirror(ChangeFeed(), ()), stop):
        assert stop.wait(30), "nobody noticed"

operator.serve = serve
if sys.argv[2] == "crash":
    kopf.operator = crashing
sys.exit(operator.main(["--home", sys.argv[1]]))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("how", "why"), [("crash", "kopf is broken"), ("login", "the token cannot be read")])
def test_the_process_fails_when_kopf_ends_by_itself_or_cannot_log_in(tmp_path: Path, how: str, why: str) -> None:
    done = subprocess.run([sys.executable, "-c", SERVED, str(tmp_path / "home"), how], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert why in done.stderr
    assert done.stderr.splitlines()[-1].startswith("kopf must go on"), done.stderr
