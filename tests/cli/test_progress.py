"""How far a long command is: what people see on a terminal, what programs read beside the answer, and that the answer is alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from knhk.cli import progress
from knhk.cli.framework import OK
from knhk.cli.progress import EVERY_S, SOON_S, Meter


class Terminal(io.StringIO):
    """Lines as a terminal shows them: what comes after a carriage return is written over what is there."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        shown = []
        for line in self.getvalue().split("\n"):
            cells = ""
            for part in line.split("\r"):
                cells = part + cells[len(part) :]
            shown.append(cells.rstrip())
        return shown


class Watch:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def test_a_terminal_has_one_line_which_goes_when_something_else_is_said() -> None:
    terminal, watch = Terminal(), Watch()
    meter = Meter(terminal, watch)
    meter("entries", 1, 2_000_000)
    assert terminal.getvalue() == "", "what is done in a moment shows nothing"
    watch.s += 10
    meter("entries", 1_500_000, 2_000_000)
    assert terminal.screen() == ["entries: 1,500,000 of 2,000,000 (75 %), 150,000/s"]
    watch.s += SOON_S
    meter("tiles", 3)
    assert terminal.screen() == ["tiles: 3"]
    meter.say("pack sha256:00")
    assert terminal.screen() == ["pack sha256:00", ""]
    meter.clear()
    assert terminal.screen() == ["pack sha256:00", ""]


def test_elsewhere_a_line_of_json_comes_every_some_seconds() -> None:
    told, watch = io.StringIO(), Watch()
    meter = Meter(told, watch)
    for second in range(31):
        watch.s = 100.0 + second
        meter("entries", second * 1000, None if second > 20 else 50_000)
    meter.say("for people")
    meter.clear()
    assert [json.loads(line) for line in told.getvalue().splitlines()] == [
        {"progress": "entries", "done": second * 1000, "of": 50_000 if second < 30 else None, "seconds": float(second)}
        for second in (EVERY_S, 2 * EVERY_S, 3 * EVERY_S)
    ]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is counted is told, as if it took long."""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(progress, "SOON_S", 0.0)
    monkeypatch.setattr(progress, "AGAIN_S", 0.0)


COMMANDS = {
    "verify": (("log", "verify"), {"entries", "tiles", "policy events", "segments of records"}),
    "fsck": (("log", "fsck"), {"entries"}),
    "replay": (("log", "replay"), {"entries", "decisions"}),
    "replay of an archive": (("log", "replay", "DELTA"), {"decisions", "bundles of entries"}),
    "audit": (("log", "audit", "--pack", "PACK"), {"entries", "leaves"}),
    "audit of an archive": (("log", "audit", "DELTA", "--pack", "PACK"), {"entries", "entries without a record"}),
    "state": (("log", "state"), {"entries"}),
    "archive": (("log", "archive", "--to", "NEW"), {"bytes of records"}),
    "follow": (("log", "follow", "LOG", "MIRROR", "--once"), {"entries"}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_long_command_tells_how_far_it_is_and_its_answer_is_the_same(
    name: str, knhk: Any, log: Any, pack: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    words, counts = COMMANDS[name]
    places = {"LOG": log.dir, "PACK": pack, "DELTA": tmp_path / "delta"}
    assert knhk("log", "archive", "--to", places["DELTA"]).exit == 0

    def asked(new: str) -> Any:
        return knhk(*(places.get(word, tmp_path / new / word if word in ("NEW", "MIRROR") else word) for word in words), "-o", "json")

    quiet = asked("first")
    assert (quiet.exit, quiet.error_text) == (OK, ""), quiet.error_text
    request.getfixturevalue("at_once")
    told = asked("second")
    assert told.exit == OK
    own = {"to": "", "at": ""}  # the place that was named, the time that it was asked
    assert told.out | own == quiet.out | own
    lines = [json.loads(line) for line in told.error_text.splitlines()]
    assert {line["progress"] for line in lines} >= counts
    assert all(set(line) == {"progress", "done", "of", "seconds"} for line in lines)
    assert all(0 <= line["done"] <= line["of"] for line in lines if line["of"] is not None), lines


@pytest.mark.usefixtures("at_once")
def test_a_terminal_is_left_as_it_was(knhk: Any, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the command ends well or ill."""
    for end, damage in ((0, False), (3, True)):
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        if damage:
            (log.dir / "observations" / "erp.gate" / f"{1:016x}.seg").mkdir()
        assert knhk("log", "replay").exit == end
        assert "entries: 0 of 5" in terminal.getvalue()
        assert "of 5" not in "\n".join(terminal.screen())
    assert terminal.screen()[0].startswith("knhk: ")
