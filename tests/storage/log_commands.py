"""The commands of a log as tests ask them, and one byte turned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from knhk.cli import main


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Exit code and output."""
    code = main(["log", *words, "-o", "json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None
