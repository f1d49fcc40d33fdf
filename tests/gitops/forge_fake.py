"""A forge in memory, with the promises of knhk.ports.forge."""

from __future__ import annotations

from dataclasses import dataclass, field

from knhk.model.faults import Waiting
from knhk.ports.forge import Check, PullRequest, Reversal


@dataclass
class FakeForge:
    """`away`: does not answer. `lost`: how many answers are lost after the deed was done."""

    pulls: list[PullRequest] = field(default_factory=list)
    merges: dict[str, PullRequest] = field(default_factory=dict)
    checks: dict[tuple[str, str], list[Check]] = field(default_factory=dict)
    comments: dict[tuple[int, str], str] = field(default_factory=dict)
    reversals: dict[str, Reversal] = field(default_factory=dict)
    away: bool = False
    lost: int = 0

    def open_pulls(self, base: str) -> tuple[PullRequest, ...]:
        self._reach()
        return tuple(self.pulls)

    def merged(self, commit: str) -> PullRequest | None:
        self._reach()
        return self.merges.get(commit)

    def check(self, commit: str, context: str) -> Check | None:
        self._reach()
        return self.checks.get((commit, context), [None])[-1]

    def report(self, commit: str, check: Check) -> None:
        self._reach()
        self.checks.setdefault((commit, check.context), []).append(check)

    def comment(self, number: int, marker: str, text: str) -> None:
        self._reach()
        self.comments[number, marker] = text

    def revert(self, reversal: Reversal) -> str:
        self._reach()
        assert self.reversals.setdefault(reversal.branch, reversal) == reversal
        if self.lost:
            self.lost -= 1
            raise Waiting("ForgeUnreachable", "the answer was lost", 1.0)
        return f"https://git.example.com/erp/policies/pulls/{list(self.reversals).index(reversal.branch) + 7}"

    def _reach(self) -> None:
        if self.away:
            raise Waiting("ForgeUnreachable", "does not answer", 1.0)
