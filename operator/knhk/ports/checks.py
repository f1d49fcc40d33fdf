"""Checks of what a pull request changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from knhk.ports.forge import CheckState
from knhk.ports.repository import Remote


@dataclass(frozen=True)
class Verdict:
    """What a check of a pull request found: one line, and the whole as Markdown."""

    state: CheckState
    line: str
    text: str


class Checks(Protocol):
    """Checks what a range of commits changes, in a process of its own, bounded in time and memory: commits of strangers are compiled."""

    def check(self, remote: Remote, base: str, head: str, paths: Sequence[str]) -> Verdict: ...
