"""For how long the oldest record of an outbox has waited for a published checkpoint, which has a quorum of witnesses."""

from __future__ import annotations

from collections import deque

from knhk_runtime.outbox.segments import Position
from knhk_runtime.record import SEGMENT_HEAD

FIRST = Position(0, SEGMENT_HEAD)  # of an outbox in which nothing was ever written
MOST_MARKS = 1024  # beyond that what comes is counted with what came before it


class Unwitnessed:
    """One event loop's thread. A record is as old as the look before the one that found it: never younger than it is."""

    def __init__(self, start: Position) -> None:
        """`start`: what lies before was acknowledged to an earlier run; nothing, where an outbox begins: then nothing waits yet."""
        self._end, self._looked_s = start, 0.0
        self._marks: deque[tuple[float, Position]] = deque()  # since when there is something before that place
        self._acked: deque[tuple[int, Position]] = deque()  # what the log has before that place has indexes below the number
        self._earlier = start if start > FIRST else None

    def looked(self, end: Position, now_s: float) -> None:
        """The outbox ends there."""
        if not self._looked_s and self._earlier is not None:
            self._marks.append((now_s, self._earlier))
        if end > self._end:
            since_s = self._looked_s or now_s
            if len(self._marks) >= MOST_MARKS:
                since_s, _ = self._marks.pop()
            self._marks.append((since_s, end))
            self._end = end
        self._looked_s = now_s

    def acknowledged(self, end: Position, bound: int) -> None:
        """The log has what lies before `end`, at indexes below `bound`."""
        if self._acked and (self._acked[-1][0] == bound or len(self._acked) >= MOST_MARKS):
            self._acked.pop()
        self._acked.append((bound, end))

    def published(self, size: int, durable: int) -> None:
        """A published checkpoint covers `size` entries of the log, which has `durable`."""
        if self._earlier is not None:  # its indexes are not known, but below what the log had when it was asked first
            self._acked.appendleft((durable, self._earlier))
            self._earlier = None
        while self._acked and self._acked[0][0] <= size:
            _, end = self._acked.popleft()
            while self._marks and self._marks[0][1] <= end:
                self._marks.popleft()

    def seconds(self, now_s: float) -> float:
        """0 when nothing waits."""
        return now_s - self._marks[0][0] if self._marks else 0.0
