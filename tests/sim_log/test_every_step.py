"""Each step of disk and object store fails once, in both ways: failed and lost, failed but persisted. Then the process goes on, or a new
one opens the log, after a power cut too. Nothing acknowledged is lost or doubled, and no checkpoint is contradicted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from log_disk import Disk
from log_laws import Laws
from log_lines import Line, late
from machines import KEY, Clock, Machine, leaves
from memory_store import MemoryStore

from knhk.model.faults import Deposed, Waiting
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.tlog.fsck import fsck

FOLDER, SIZE = Path("/log"), 262
BATCHES = ((0, 3), (3, 258), (250, SIZE))


@dataclass
class Story:
    """A sequencer of one machine, whose step number `at` fails; `persists`: though it is done."""

    at: int
    persists: bool
    steps: int = 0
    store: MemoryStore = field(default_factory=MemoryStore)
    disk: Disk = field(default_factory=lambda: Disk(FOLDER))
    laws: Laws = field(default_factory=Laws)

    def __post_init__(self) -> None:
        self.disk.hook = lambda step, do, half: self.step(do, half, OSError(errno.ENOSPC, f"{step} was told to fail"))
        line = Line(self.store, lambda step, do, half: self.step(do, half, Waiting("Store", f"{step} was told to fail", 1.0)))
        self.machine = Machine(FOLDER, line, Clock(), self.disk)
        self.laws.sent.update(map(entry_key, leaves(0, SIZE)))

    def step(self, do: Callable[[], Any], half: Callable[[], Any], failure: Exception) -> Any:
        number, self.steps = self.steps, self.steps + 1
        if number == self.at:
            late(do if self.persists else half)()
            raise failure
        done = do()
        self.laws.look(self.store.objects.get)
        return done

    def run(self, tries: int) -> None:
        """Raises what failed when it has failed `tries` times."""
        log = _tried(lambda: self.machine.start()[0], tries)
        for start, stop in BATCHES:
            _tried(lambda start=start, stop=stop: self.machine.append(log, leaves(start, stop)), tries)  # type: ignore[misc]
            _tried(log.integrate, tries)


def _tried(do: Callable[[], Any], tries: int) -> Any:
    for left in range(tries, 0, -1):
        try:
            return do()
        except (OSError, Waiting):
            if left == 1:
                raise


def _steps() -> int:
    story = Story(-1, False)
    story.run(1)
    return story.steps


@pytest.mark.failure("disk", "receipts")
@pytest.mark.parametrize("persists", [False, True], ids=["lost", "persisted"])
@pytest.mark.parametrize("after", ["goes on", "is killed", "loses its power"])
def test_no_lie_of_any_step_of_disk_or_store_loses_doubles_or_forks(after: str, persists: bool) -> None:
    count = _steps()
    assert count > 40
    for at in range(count):
        story = Story(at, persists)
        try:
            story.run(3 if after == "goes on" else 1)
        except (OSError, Waiting, Deposed):
            assert after != "goes on", f"step {at}: a sound step must do the next time"
        if after == "loses its power":
            story.disk.power_cut(Random(at))
        else:
            story.disk.killed()
        acked = dict(story.machine.acked)
        log: Log = story.machine.start()[0]
        assert {key: log.index_of(key) for key in acked} == acked, f"step {at}"
        story.machine.append(log, leaves(0, SIZE))
        log.integrate()
        story.laws.look(story.store.objects.get)
        assert {key: story.machine.acked[key] for key in acked} == acked, f"step {at}"
        assert story.laws.published == leaves(0, SIZE), f"step {at}"
        assert fsck(story.store, KEY.verifier).bad == [], f"step {at}"
