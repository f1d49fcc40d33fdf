"""A log is verified while it is written to: what the checkpoint covers is judged, what comes meanwhile is no fault."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.signer_local import establish
from knhk_runtime.outbox.segments import Cursor, Position, Segments
from knhk_runtime.record import frame
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries

ORIGIN = "knhk.dev/live"
MakeRecord = Callable[[int], tuple[bytes, tuple[bytes, ...]]]


@dataclass
class Traffic:
    """A sequencer's log with an agent's outbox in its folder; each turn records, appends, acknowledges and mostly integrates."""

    path: Path
    vkey: str
    root_public: bytes
    log: Log
    make_record: MakeRecord
    chance: random.Random
    turns: int = 0
    written: int = 0
    agents: list[tuple[Segments, Cursor]] = field(default_factory=list)
    end: Position | None = None
    unsent: list[bytes] = field(default_factory=list)

    def turn(self) -> None:
        self.turns += 1
        if self.turns % 25 == 1:
            outbox = Segments(self.path / f"observations/erp.{self.turns}", segment_bytes=20_000)
            self.send()
            self.agents.append((outbox, Cursor(outbox.folder / "acked", outbox.start())))
        outbox = self.agents[-1][0]
        made = [self.make_record(self.written + i) for i in range(self.chance.choice((1, 2, 5, 60)))]
        self.written += len(made)
        appended = outbox.append(b"".join(frame(payload) for payload, _ in made))
        outbox.sync(appended)
        self.end = appended.end
        self.unsent += [leaf for _, leaves in made for leaf in leaves]
        if self.chance.random() < 0.9:
            self.send()
        if self.chance.random() < 0.7:
            self.log.integrate()

    def send(self) -> None:
        if self.unsent and self.end:
            self.log.commit([parse_append(encode_batch(self.unsent))])
            self.agents[-1][1].move(self.end)
            self.unsent = []

    def verify(self) -> Any:
        report = verify_log(self.path, self.vkey, self.root_public)
        assert report.bad == []
        assert report.leaves + report.events == report.size
        return report


@pytest.fixture
def traffic(tmp_path: Path, make_record: MakeRecord) -> Traffic:
    signer = establish(tmp_path / "keys", ORIGIN, datetime(2026, 11, 23, 10, tzinfo=UTC))
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    (tmp_path / "log" / "keys.json").write_bytes(signer.keys_json())
    return Traffic(tmp_path / "log", signer.vkey(ORIGIN), signer.root_public(), log, make_record, random.Random(5))


def test_a_log_that_goes_on_before_every_read_verifies(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst schedule there is: the writer takes a turn before each file and each folder that the verifier looks at."""
    read_bytes, scandir, writing = Path.read_bytes, os.scandir, threading.local()

    def between(look: Callable[..., Any]) -> Callable[..., Any]:
        def looking(*args: Any, **more: Any) -> Any:
            if not getattr(writing, "now", False) and traffic.turns < 70:
                writing.now = True
                traffic.turn()
                writing.now = False
            return look(*args, **more)

        return looking

    for _ in range(20):
        traffic.turn()
    monkeypatch.setattr(Path, "read_bytes", between(read_bytes))
    monkeypatch.setattr(os, "scandir", between(scandir))
    sizes = [traffic.verify().size for _ in range(4)]
    assert traffic.turns == 70
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    assert sizes[-1] > sizes[0]


def test_a_log_verifies_in_a_loop_while_it_is_written_to(traffic: Traffic) -> None:
    failed, sizes, counts = list[BaseException](), list[int](), list[int]()

    def write() -> None:
        try:
            while traffic.turns < 60:
                traffic.turn()
            traffic.log.integrate()
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            sizes.append(traffic.verify().size if (traffic.path / "checkpoint").exists() else 0)
            counts.append(sum(1 for _ in log_entries(traffic.path)))
    finally:
        writer.join()
    assert not failed
    assert traffic.verify().size > 256
    assert sizes == sorted(sizes)
    assert counts == sorted(counts)
    assert all(count >= size for count, size in zip(counts, sizes, strict=True))


def test_an_agent_that_has_just_begun_is_no_fault(traffic: Traffic) -> None:
    """A new segment is empty for a moment, and so is what an agent that was never acknowledged has told of it."""
    traffic.turn()
    began = traffic.path / "observations/erp.began"
    outbox = Segments(began)
    outbox.append(frame(traffic.make_record(90_000)[0]))
    Cursor(began / "acked", outbox.start())
    (began / f"{1:016x}.seg").write_bytes(b"")
    notes = {note["where"]: note["what"] for note in traffic.verify().notes}
    assert f"observations/erp.began/{1:016x}.seg" in " ".join(notes)
    assert "is not in the log yet" in notes.values()


def test_an_agent_that_has_only_made_its_first_segment_is_no_fault(traffic: Traffic) -> None:
    """Its file is empty until its head is written, and no file tells yet what was acknowledged."""
    traffic.turn()
    began = traffic.path / "observations/erp.began"
    began.mkdir()
    (began / f"{0:016x}.seg").write_bytes(b"")
    assert f"observations/erp.began/{0:016x}.seg" in " ".join(note["where"] for note in traffic.verify().notes)


def test_what_lies_beyond_the_checkpoint_must_agree_with_itself(traffic: Traffic) -> None:
    """A sequencer that dies between tiles and checkpoint leaves tiles that no checkpoint covers."""
    for _ in range(30):
        traffic.turn()
    traffic.log.integrate()
    before = (traffic.path / "checkpoint").read_bytes()
    leaves = [leaf for number in range(400) for leaf in traffic.make_record(10_000 + number)[1]]
    traffic.log.commit([parse_append(encode_batch(leaves))])
    traffic.log.integrate()
    (traffic.path / "checkpoint").write_bytes(before)
    report = traffic.verify()
    assert report.size + 600 <= sum(1 for _ in log_entries(traffic.path))
    newest = max((traffic.path / "tile/0").glob("*.p/*"), key=lambda path: path.stat().st_mtime_ns)
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    name = newest.relative_to(traffic.path).as_posix()
    assert any(name in bad["where"] for bad in verify_log(traffic.path, traffic.vkey, traffic.root_public).bad)


@pytest.mark.parametrize("name", ["tile/entries/x999/x999/x999/999", "tile/0/x999/x999/999", "tile/7/999.p/255"])
def test_a_stray_tile_far_away_is_reported_and_ends_nothing(traffic: Traffic, name: str) -> None:
    for _ in range(5):
        traffic.turn()
    stray = traffic.path / name
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"\0\1x")
    assert any(bad["where"] == name for bad in verify_log(traffic.path, traffic.vkey, traffic.root_public).bad)
