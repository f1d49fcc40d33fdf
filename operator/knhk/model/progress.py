"""How far long work is: who works tells, who began it decides whether anybody hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

Far = Callable[[str, int, int | None], None]
"""(what is counted, how many are done, of how many; None: nobody knows). Called often, from one thread; must be quick."""


def unheard(what: str, done: int, of: int | None) -> None:
    """Nobody hears."""


def counted(items: Iterable[T], far: Far, what: str, of: int | None = None) -> Iterator[T]:
    """The same items; before each it is told how many came before."""
    for done, item in enumerate(items):
        far(what, done, of)
        yield item
