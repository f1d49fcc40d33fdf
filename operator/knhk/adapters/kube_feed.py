"""Changes of a cluster's resources, in the order in which they were seen; filled by whoever watches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from knhk.model.faults import Gap
from knhk.model.resource import Resource
from knhk.ports.store import Change, ChangeType

KEPT_CHANGES = 2_000


@dataclass(frozen=True)
class _Hole:
    """Where changes were lost."""

    revision: int


class ChangeFeed:
    """The last `kept` changes, numbered here; any thread. What fell out, or was lost before it came, is a Gap; what came before it is
    read first."""

    def __init__(self, kept: int = KEPT_CHANGES) -> None:
        self._changes: deque[Change | _Hole] = deque(maxlen=kept)
        self._last = 0
        self._seen = threading.Condition()

    def add(self, type: ChangeType, resource: Resource) -> None:
        """Append a change."""
        with self._seen:
            self._last += 1
            self._changes.append(Change(self._last, type, resource))
            self._seen.notify_all()

    def lost(self) -> None:
        """Changes were missed here: every reader must list again when it has read what came before."""
        with self._seen:
            self._last += 1
            self._changes.append(_Hole(self._last))
            self._seen.notify_all()

    def position(self) -> int:
        """Number of the last change."""
        with self._seen:
            return self._last

    def after(self, since: int, kinds: Collection[str], timeout_s: float) -> tuple[tuple[Change, ...], int]:
        """As Store.changes."""
        deadline_s = time.monotonic() + timeout_s
        with self._seen:
            while True:
                found, since = self._after(since, kinds)
                left_s = deadline_s - time.monotonic()
                if found or left_s <= 0:
                    return found, since
                if since == self._last:
                    self._seen.wait(left_s)

    def _after(self, since: int, kinds: Collection[str]) -> tuple[tuple[Change, ...], int]:
        """Up to the next hole."""
        oldest = self._changes[0].revision if self._changes else self._last + 1
        if since > self._last or since < oldest - 1:
            raise Gap(f"changes from {since} on are not kept (kept: {oldest} to {self._last}); list again")
        found: list[Change] = []
        for change in self._changes:
            if change.revision <= since:
                continue
            if isinstance(change, _Hole):
                if change.revision == since + 1:
                    raise Gap(f"changes behind {since} were not seen; list again")
                return tuple(found), change.revision - 1
            if not kinds or change.resource.kind in kinds:
                found.append(change)
        return tuple(found), self._last
