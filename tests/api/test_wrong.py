"""Every documented wrong object, and what is said about it. expected.txt is the page that people read.

`GOLDEN_UPDATE=1 pytest tests/api` writes expected.txt again; the difference is reviewed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knhk.api import parse
from knhk.model.faults import Refused

HERE = Path(__file__).parent
WRONG = sorted((HERE / "wrong").glob("*.yaml"))
EXPECTED = HERE / "wrong" / "expected.txt"


def said(path: Path) -> str:
    with pytest.raises(Refused) as caught:
        parse(path.read_bytes(), path.name)
    return "".join(f"{fault}\n" for fault in caught.value.faults)


def expected() -> dict[str, str]:
    """File name → its lines of expected.txt."""
    found: dict[str, str] = {}
    for line in EXPECTED.read_text(encoding="utf-8").splitlines(keepends=True):
        name = line.split(":", 1)[0]
        found[name] = found.get(name, "") + line
    return found


def test_expected_is_for_the_files_that_are_there() -> None:
    if os.environ.get("GOLDEN_UPDATE"):
        EXPECTED.write_text("".join(said(path) for path in WRONG), encoding="utf-8")
    assert sorted(expected()) == [path.name for path in WRONG]


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_each_wrong_object_is_refused_with_what_it_must_be(path: Path) -> None:
    message = said(path)
    assert message == expected()[path.name]
    assert all(" must " in line for line in message.splitlines())
