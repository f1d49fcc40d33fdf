"""SIGKILL at a random step of each named stage: append, flush, tile, checkpoint, upload, rotation, merge. Nothing acknowledged is lost,
nothing is there twice, and the log does not fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from machines import Clock, Machine, Quick, leaves
from memory_store import MemoryStore

from knhk_runtime.record import entry_key
from knhk_runtime.sequencer import wal
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch

SCRIPT = Path(__file__).with_name("staged.py")
KILLS = int(os.environ.get("KNHK_STAGED_KILLS", "4"))  # of each stage; `make kills` makes 75
STAGES = {"append", "flush", "tile", "checkpoint", "upload", "rotation", "merge"}


class Died(BaseException):
    """The process has died."""


class Dying(Quick):
    """Dies before it removes the second segment of a WAL."""

    removed = 0

    def unlink(self, path: Path) -> None:
        self.removed += path.suffix == ".seg"
        if self.removed == 2:
            raise Died
        super().unlink(path)


def test_a_death_while_a_wal_of_several_segments_goes_moves_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by these kills: the end of it stayed, and its entries got the indexes of those that had gone."""
    monkeypatch.setattr(wal, "SEGMENT_BYTES", 2_000)
    machine = Machine(tmp_path / "machine", MemoryStore(), Clock())
    log, _ = machine.start()
    for number in range(0, 100, 10):
        machine.append(log, leaves(number, number + 10))
    assert len(list((tmp_path / "machine" / "wal").glob("*/*.seg"))) > 3
    again = replace(machine, files=Dying())
    with pytest.raises(Died):
        again.start()
    log, _ = machine.start()
    assert log.moved == 0
    (found,) = log.commit([parse_append(encode_batch(leaves(0, 100)))])
    assert found == [machine.acked[entry_key(leaf)] for leaf in leaves(0, 100)] == list(range(100))


@pytest.mark.timeout(1800)
@pytest.mark.failure("sequencer", "receipts")
def test_a_kill_in_the_middle_of_any_stage_loses_doubles_and_forks_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), str(KILLS), "20261126"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    log, archive = told["log"], told["archive"]
    assert (log["lost"], log["twice"], log["bad"], archive["bad"]) == ([], 0, [], []), told
    assert log["acked"] > KILLS
    assert archive["rows"] > 3
    hit = Counter[str]()
    for name, count in {**log["stages"], **archive["stages"]}.items():
        hit[name.split()[0]] += count
    assert hit == dict.fromkeys(STAGES, KILLS)
    print(json.dumps(told))  # pytest -rP shows how often each was hit before, in the middle of, and after a step
