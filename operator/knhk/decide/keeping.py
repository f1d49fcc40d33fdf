"""Which Receipts are too many or too old. What a deny list is read from stays, and what says which versions were live and who approved, and
what a pack that was deleted had promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from types import MappingProxyType

from knhk.model.keeping import Keep
from knhk.model.phases import Event
from knhk.model.resource import Key

DAY_S = 86_400
APPROVED, DELETED = "Approved", "Deleted"
WITNESS_WITHIN_S = 3 * DAY_S  # so old a Receipt may become, and as many as are kept may wait beside, for what others outside say to it
MAX_DENIED = 32  # so many digests of a pack are remembered as rolled back,
MAX_VERSIONS = 16  # and so many as live, and as approved: a question must not find that nobody approved what is enforced
STAY: Mapping[str, int] = MappingProxyType(
    {Event.ROLLED_BACK.value: MAX_DENIED, Event.PROMOTED.value: MAX_VERSIONS, APPROVED: MAX_VERSIONS, DELETED: 1}
)


@dataclass(frozen=True, order=True)
class Held:
    """A Receipt as its metadata says it: index in the log, where it is, when it was made, and what for. `digest`: of the pack; "" in
    Receipts of before, which had none."""

    index: int
    key: Key
    created_s: int
    event: str = ""
    pack: str = ""
    digest: str = ""


@dataclass
class Holding:
    """All Receipts that there are, oldest first in each namespace. What `oldest` gave is out of it until `back` or `gone` says how it went;
    `wait`: it stays for its witnesses; neither: it stays, and counts. Not for several threads."""

    keep: Keep
    _known: dict[Key, Held] = field(default_factory=dict)
    _free: dict[str, list[Held]] = field(default_factory=dict)  # heaps of those that may go
    _waiting: dict[str, dict[Key, Held]] = field(default_factory=dict)  # those that would go; beside the bounds, oldest first
    _tired: set[Key] = field(default_factory=set)  # those that waited
    _counts: Counter[str] = field(default_factory=Counter)  # but those that wait
    _stay: dict[tuple[str, str, str], dict[str, Held]] = field(default_factory=dict)  # namespace, pack, event → digest → its newest

    def add(self, held: Held) -> None:
        if held.key in self._known:
            return
        self._known[held.key] = held
        self._counts[held.key.namespace] += 1
        if held.event in STAY and held.digest:
            self._needed(held)
        elif held.event != Event.ROLLED_BACK.value:
            self.back(held)

    def _needed(self, held: Held) -> None:
        """Of each pack and event of STAY the last digests stay, each with its newest Receipt."""
        rows = self._stay.setdefault((held.key.namespace, held.pack, held.event), {})
        newer = max(held, rows.get(held.digest, held))
        if (older := min(held, rows.get(held.digest, held))) != newer:
            self.back(older)
        rows[held.digest] = newer
        if len(rows) > STAY[held.event]:
            self.back(rows.pop(min(rows.values()).digest))

    def back(self, held: Held) -> None:
        """It may be taken."""
        heappush(self._free.setdefault(held.key.namespace, []), held)

    def gone(self, held: Held) -> None:
        """It is removed."""
        if self._known.pop(held.key, None) is not None:
            self._counts[held.key.namespace] -= 1
            self._tired.discard(held.key)

    def wait(self, held: Held, now_s: float) -> bool:
        """It stays aside for its witnesses until it is `witnessed`; false when it may not, or no longer."""
        name = held.key.namespace
        if held.key in self._tired or held.key not in self._known or held.created_s < now_s - WITNESS_WITHIN_S:
            return False
        self._waiting.setdefault(name, {})[held.key] = held
        self._counts[name] -= 1
        return True

    def witnessed(self, key: Key) -> None:
        """It waits for nobody: it may be taken, if it is to go."""
        if (held := self._waiting.get(key.namespace, {}).pop(key, None)) is not None:
            self._counts[key.namespace] += 1
            self.back(held)

    @property
    def _aside(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _end_waiting(self, now_s: float) -> None:
        """Of those that waited too long, or are too many beside, the oldest may be taken."""
        keep = self.keep
        for waiting in self._waiting.values():
            while waiting and (
                (first := next(iter(waiting.values()))).created_s < now_s - WITNESS_WITHIN_S
                or (keep.namespace and len(waiting) > keep.namespace)
                or (keep.all and self._aside > keep.all)
            ):
                self._tired.add(first.key)
                self.witnessed(first.key)

    def oldest(self, now_s: float, most: int) -> list[Held]:
        """At most so many that are to be removed."""
        self._end_waiting(now_s)
        found: list[Held] = []
        taken: Counter[str] = Counter()
        while len(found) < most and (name := self._next(now_s, taken, len(found))) is not None:
            taken[name] += 1
            found.append(heappop(self._free[name]))
        return found

    def _next(self, now_s: float, taken: Counter[str], so_many: int) -> str | None:
        """The namespace whose oldest is to go."""
        heads = {name: heap[0] for name, heap in self._free.items() if heap}
        if not heads:
            return None
        keep, first = self.keep, min(heads, key=lambda name: heads[name])
        if keep.days and (old := self._aged(heads, now_s)) is not None:
            return old
        if keep.all and len(self._known) - self._aside - so_many > keep.all:
            return first
        full = (name for name in heads if keep.namespace and self._counts[name] - taken[name] > keep.namespace)
        return next(full, None)

    def _aged(self, heads: dict[str, Held], now_s: float) -> str | None:
        return next((name for name, held in heads.items() if held.created_s < now_s - self.keep.days * DAY_S), None)

    def __len__(self) -> int:
        return len(self._known)
