"""Together: doing at the same time what does not depend on one another, where waiting for servers is most of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

Act = Callable[[], None]


class Together(Protocol):
    """Promises of every adapter.

    All acts are done, in any order, at most `most` at a time, when the call returns. An error of one keeps none that has begun from its
    end; then the first is raised, in the order of the acts. Whoever hands acts over sees to it that they may meet.
    Concurrency: one caller.
    """

    @property
    def most(self) -> int: ...

    def __call__(self, acts: Sequence[Act]) -> None: ...


class InTurn:
    """One after the other, in the order of the acts."""

    most = 1

    def __call__(self, acts: Sequence[Act]) -> None:
        for act in acts:
            act()
