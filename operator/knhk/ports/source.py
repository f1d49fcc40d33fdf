"""An ordered source of messages, and how far a consumer of it has come: what a connector works on (DESIGN §3, mode Connector)."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Message(NamedTuple):
    """A message of a partition at its offset."""

    partition: int
    offset: int
    body: bytes


class Source(Protocol):
    """Promises of every adapter.

    Order: the messages of a partition have offsets 0, 1, 2 …; the same offset gives the same bytes, to every consumer, for as long as the
    source keeps them. Any number of consumers, from any place; one that dies takes nothing with it.
    """

    def read(self, partition: int, offset: int) -> Message:
        """The message there."""
        ...


class Positions(Protocol):
    """Promises of every adapter.

    Durability: what `commit` returned from is there after a crash. A position is the offset of the next message: everything before it was
    dealt with. It is never further than what was, and may be behind: what a consumer meets again it must recognise.
    """

    def position(self, partition: int) -> int:
        """0 before the first commit."""
        ...

    def commit(self, partition: int, position: int) -> None:
        """Remembers how far a partition was dealt with. One consumer of a partition at a time."""
        ...
