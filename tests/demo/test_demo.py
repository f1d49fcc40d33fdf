"""The demo, as a newcomer runs it: it tells the whole story, leaves nothing running, and its summary holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from knhk_runtime.tlog.audit import verify_log

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "decisions", "receipts", "leaves", "denied", "admitted", "app_rows", "rolled_back", "promoted", "apply_to_first_decision_s",
    "bad_pack_pairs", "rollback_s", "wrong_enforced", "replayed", "different", "log_dir", "vkey",
}  # fmt: skip


def running_below(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_plays_the_whole_story(tmp_path: Path) -> None:
    """A bad pack is rolled back by itself before it denies anyone wrongly; everything verifies and replays offline."""
    home, out = tmp_path / "demo", tmp_path / "demo.json"
    argv = [sys.executable, "examples/order_to_cash/demo.py", "--home", str(home), "--out", str(out)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert set(told) >= KEYS
    assert (told["rolled_back"], told["promoted"]) == (["1.1.0"], ["1.0.0", "1.2.0"])
    assert (told["different"], told["wrong_enforced"]) == (0, 0)
    assert told["receipts"] == told["decisions"] > 500
    assert told["leaves"] > told["receipts"]
    assert 0 < told["app_rows"] <= told["admitted"]
    assert told["denied"] > 0
    assert told["bad_pack_pairs"] > 0
    report = verify_log(Path(told["log_dir"]), told["vkey"])
    assert (report.bad, report.receipts) == ([], told["receipts"])
    assert running_below(home) == []
