"""The kernel tells of wishes: nobody has to look twenty times a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_world import until

from knhk_runtime.durable import replace_file
from knhk_runtime.exchange.notice import notices


@pytest.fixture
def told() -> Iterator[list[int]]:
    seen = list[int]()
    before = signal.signal(signal.SIGIO, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGIO, before)


def moved_in(folder: Path) -> None:
    other = folder.with_name("other")
    other.write_bytes(b"{}")
    other.rename(folder / "point.json")


CHANGES: dict[str, Callable[[Path], None]] = {
    "replaced": lambda folder: replace_file(folder / "rollout.json", b"{}"),
    "moved in": moved_in,
    "taken away": lambda folder: (folder / "old.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_a_name_is_told_until_nobody_asks(tmp_path: Path, told: list[int], change: str) -> None:
    folder = tmp_path / "desired"
    folder.mkdir()
    (folder / "old.json").write_bytes(b"{}")
    handle = notices(folder)
    assert handle is not None, "this system tells of changes (CONFIG_DNOTIFY)"
    CHANGES[change](folder)
    until(lambda: told, "it is told")
    os.close(handle)
    told.clear()
    replace_file(folder / "keys.json", b"{}")
    assert told == []
