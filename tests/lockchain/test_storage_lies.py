"""Every step of storage fails once, in both ways: failed and lost, failed but persisted. After it the same process goes on, or a new
one opens the folder; in both no acknowledged entry is lost, none is there twice, and no checkpoint is contradicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lying_disk import Lying, Quick

from knhk.adapters.signer_local import LocalSigner
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, Taken
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.tree import Tiles, consistency_proof
from knhk_verify.note import Checkpoint, open_checkpoint, parse_vkey
from knhk_verify.tree import verify_consistency

ORIGIN = "knhk.dev/test"


class Story:
    """Appends and integrations by one client that repeats what was not acknowledged, as agents do."""

    def __init__(self, folder: Path, signer: LocalSigner) -> None:
        self.folder, self.key = folder, load_key(signer.key_file("log"), ORIGIN)
        self.vkey = signer.vkey(ORIGIN)
        self.acked = dict[bytes, int]()
        self.seen = list[Checkpoint]()

    def append(self, log: Log, leaves: list[bytes]) -> None:
        (indexes,) = log.commit([parse_append(encode_batch(leaves))])
        assert not isinstance(indexes, Taken)
        for leaf, index in zip(leaves, indexes, strict=True):
            assert self.acked.setdefault(entry_key(leaf), index) == index

    def look(self) -> None:
        if (self.folder / "checkpoint").exists():
            self.seen.append(open_checkpoint((self.folder / "checkpoint").read_bytes(), parse_vkey(self.vkey)))

    def reopen(self) -> None:
        """A new process knows every acknowledged entry before any client repeats it."""
        if self.acked:
            log = Log(self.folder, self.key, Quick())
            assert {key: log.index_of(key) for key in self.acked} == self.acked
            log.close()

    def check(self) -> None:
        report = verify_log(self.folder, self.vkey)
        assert report.bad == []
        entries = [entry_key(entry) for entry in log_entries(self.folder)]
        assert len(entries) == len(set(entries)) == report.size
        assert {key: entries[index] for key, index in self.acked.items()} == {key: key for key in self.acked}
        newest = open_checkpoint((self.folder / "checkpoint").read_bytes(), parse_vkey(self.vkey))
        tiles = Tiles(lambda path: (self.folder / path).read_bytes(), newest.size)
        for old in self.seen:
            assert old.size <= newest.size
            verify_consistency(old.size, old.root, newest.size, newest.root, consistency_proof(tiles, old.size, newest.size))


BATCHES = ((0, 3), (3, 258), (250, 262))


def _run(story: Story, files: Disk, leaves: Callable[[int, int], list[bytes]], after: str) -> bool:
    """Whether all went through at the first try. What the process does `after` an error: "stops", "retries" that step and then
    stops, or "goes on"."""
    smooth, log = True, None
    while log is None:
        try:
            log = Log(story.folder, story.key, files)
        except OSError:
            smooth = False
            if after == "stops":
                return False
    story.look()
    for start, stop in BATCHES:
        for step in (lambda start=start, stop=stop: story.append(log, leaves(start, stop)), log.integrate):
            if not _do(step, after):
                smooth = False
                if after != "goes on":
                    log.close()
                    return False
            story.look()
    log.close()
    return smooth


def _do(step: Callable[[], object], after: str) -> bool:
    """Whether the step went through at the first try; unless the process stops after an error, it must within three."""
    try:
        step()
    except OSError:
        if after != "stops":
            try:
                step()
            except OSError:
                step()
        return False
    return True


def _steps(tmp_path: Path, signer: LocalSigner, leaves: Callable[[int, int], list[bytes]]) -> int:
    files = Lying(-1, False)
    assert _run(Story(tmp_path / "count", signer), files, leaves, "goes on")
    return files.steps


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.failure("disk", "receipts")
@pytest.mark.parametrize("persists", [False, True], ids=["lost", "persisted"])
@pytest.mark.parametrize("after", ["stops", "retries", "goes on"])
def test_no_lie_of_any_step_loses_doubles_or_forks(
    tmp_path: Path, signer: LocalSigner, leaves: Callable[[int, int], list[bytes]], persists: bool, after: str
) -> None:
    steps = _steps(tmp_path, signer, leaves)
    assert steps > 70
    for at in range(steps):
        story = Story(tmp_path / f"log{at}", signer)
        _run(story, Lying(at, persists), leaves, after)
        if (story.folder / "checkpoint").exists():
            assert verify_log(story.folder, story.vkey).bad == [], f"step {at}: what a reader sees after the error must verify"
        story.reopen()
        assert _run(story, Quick(), leaves, "goes on"), f"step {at}: a sound disk must do"
        story.check()
        assert len(story.acked) == 262
