"""One writer of a log: an object that its holder renews, and whose epoch fences those who held it before (formats/log.md).

No clock is compared with another's: who wants the lease watches by its own that the object has not changed for as long as it says; who
holds it stops by its own so long after it began its last renewal. What makes a fork impossible is not time but the conditions under which
tiles and checkpoint are written (publication.py); the lease keeps two writers from undoing each other's work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from knhk.model.faults import Conflict, Corrupt, Deposed, NotFound, Waiting
from knhk_runtime.objects.port import About, ObjectStore, Stored
from knhk_verify.errors import Bad
from knhk_verify.signed import member, parse_json

KEY = "lease"
TTL_S = 10.0
_BOUND = 1 << 62
_MUST = "must be a lease; remove it once no sequencer writes this log"
_ABOUT = About("application/json", "no-store")


@dataclass(frozen=True)
class Held:
    """The object. `holder`: a log folder, of which one process at a time holds the lock; empty when the lease was given back. `process`: of
    it one process. `beat` grows with each renewal."""

    epoch: int
    holder: str
    process: str
    beat: int
    ttl_ms: int

    def encode(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, where: str) -> Held:
        """Raises Corrupt."""
        try:
            row = parse_json(data, where)
            numbers = [member(row, name, int, where) for name in ("epoch", "beat", "ttl_ms")]
            held = cls(numbers[0], member(row, "holder", str, where), member(row, "process", str, where), *numbers[1:])
        except Bad as error:
            raise Corrupt(error.where, f"{error.what}: {_MUST}") from error
        if not all(0 <= number < _BOUND for number in numbers):
            raise Corrupt(where, f"has a number beyond 0 to 2^62: {_MUST}")
        return held


class Lease:
    """A claim on the lease of one store by one process, for any thread. `after`: its epoch is a later one, also when the object is gone or
    an older one was brought back. Errors of the store come as its port says."""

    def __init__(
        self, store: ObjectStore, holder: str, process: str, now_s: Callable[[], float], ttl_s: float = TTL_S, after: int = 0
    ) -> None:
        self._store, self._holder, self._process, self._now_s, self._after = store, holder, process, now_s, after
        self._ttl_ms = round(ttl_s * 1000)
        self._mine: Held | None = None
        self._etag = ""
        self._until_s = 0.0
        self._one = threading.Lock()
        self._seen: tuple[str, float] = ("", 0.0)  # etag of another's, and since when it has not changed

    @property
    def epoch(self) -> int:
        """Of the lease that was taken."""
        if self._mine is None:
            raise Deposed(f"{self._store.name}: the lease is not held")
        return self._mine.epoch

    @property
    def ttl_s(self) -> float:
        return self._ttl_ms / 1000

    def take(self) -> float:
        """One try: 0 when it is held now, else seconds after which to try again."""
        began_s = self._now_s()
        try:
            found = self._store.get(KEY)
        except NotFound:
            return self._won(Held(self._after + 1, self._holder, self._process, 0, self._ttl_ms), None, began_s)
        held = Held.parse(found.data, f"{self._store.name}/{KEY}")
        left_s = self._left_s(held, found, self._now_s())
        if left_s > 0:
            return left_s
        return self._won(Held(max(held.epoch, self._after) + 1, self._holder, self._process, 0, self._ttl_ms), found, began_s)

    def _left_s(self, held: Held, found: Stored, now_s: float) -> float:
        """How long its holder may still believe that it holds it. A holder of our own name is dead: we have the lock of its folder. `now_s`
        is after the look: we may have slept in it."""
        if held.holder in ("", self._holder):
            return 0.0
        if self._seen[0] != found.etag:
            self._seen = (found.etag, now_s)
        return self._seen[1] + held.ttl_ms / 1000 - now_s

    def _won(self, wanted: Held, before: Stored | None, began_s: float) -> float:
        try:
            data = wanted.encode()
            etag = self._store.create(KEY, data, _ABOUT) if before is None else self._store.swap(KEY, data, before.etag, _ABOUT)
        except Conflict:
            found = self._store.get(KEY)
            if found.data != wanted.encode():
                return self.ttl_s / 3
            etag = found.etag
        self._mine, self._etag, self._until_s = wanted, etag, began_s + self.ttl_s
        return 0.0

    def renew(self) -> None:
        """Holds it for another `ttl_s` from now. Raises Deposed when another has taken it."""
        with self._one:
            self._renew()

    def _renew(self) -> None:
        began_s = self._now_s()
        try:
            self._beat(self._held(), began_s)
        except Conflict:  # a renewal whose answer was lost: others count from when it came true, not from now
            found = self._ours()
            self._mine, self._etag = Held.parse(found.data, KEY), found.etag
            try:
                self._beat(self._mine, began_s)
            except Conflict as error:
                raise Waiting("Lease", f"{self._store.name}/{KEY} changes while it is renewed", self.ttl_s / 3) from error

    def _beat(self, mine: Held, began_s: float) -> None:
        wanted = replace(mine, beat=mine.beat + 1)
        etag = self._store.swap(KEY, wanted.encode(), self._etag, _ABOUT)
        self._mine, self._etag, self._until_s = wanted, etag, began_s + self.ttl_s

    def confirm(self) -> None:
        """Raises Deposed unless the store says, later than this call began, that it is held by us."""
        with self._one:
            self._ours()

    def in_force(self) -> bool:
        """Whether nobody else can have taken it, by our clock."""
        return self._mine is not None and self._now_s() < self._until_s

    def give_back(self) -> None:
        """The next writer need not wait. Another's is left alone."""
        with self._one:
            mine, self._mine = self._held(), None
            with suppress(Conflict):
                self._store.swap(KEY, Held(mine.epoch, "", "", mine.beat + 1, mine.ttl_ms).encode(), self._etag, _ABOUT)

    def _held(self) -> Held:
        if self._mine is None:
            raise Deposed(f"{self._store.name}: the lease is not held")
        return self._mine

    def _ours(self) -> Stored:
        mine = self._held()
        try:
            found = self._store.get(KEY)
        except NotFound as error:
            self._mine = None
            raise Deposed(f"{self._store.name}: epoch {mine.epoch} is over: the lease is gone from the store") from error
        try:
            there = Held.parse(found.data, f"{self._store.name}/{KEY}")
        except Corrupt as error:
            self._mine = None
            raise Deposed(f"{self._store.name}: epoch {mine.epoch} is over: {error}") from error
        if (there.epoch, there.process) != (mine.epoch, mine.process):
            self._mine = None
            raise Deposed(f"{self._store.name}: epoch {mine.epoch} is over: {there.holder or 'nobody'} writes in epoch {there.epoch}")
        return found
