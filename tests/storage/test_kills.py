"""SIGKILL at random moments of append, flush, tile, checkpoint and upload: nothing acknowledged is lost, doubled or forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed.py")
KILLS = int(os.environ.get("KNHK_KILLS", "15"))
SEED = 20_261_126


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(1800)
@pytest.mark.failure("sequencer", "receipts")
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_sequencers_killed_at_random_moments_lose_double_and_fork_nothing(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """KNHK_KILLS of them, in every phase: each acknowledged entry is in the log once, at the index that was told."""
    address = f"{request.getfixturevalue('s3_address')}/log" if where == "s3" else str(tmp_path / "store")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "machine"), address, str(KILLS), str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["kills"], told["lost"], told["twice"], told["bad"]) == (KILLS, [], 0, []), told
    assert told["acked"] > KILLS
    assert KILLS < 500 or set(told["phases"]) >= {"opening", "append", "flush", "tile", "checkpoint"}, told
    print(told)  # pytest -rP shows in which phases they were killed
