"""Receipts are kept up to a number and an age; the oldest go first, once the log has said that it has them. They can be read there for ever
(`knhk receipt list`, `show`, `knhk log prove`), and through the API of decision receipts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Lock

from knhk.decide.keeping import Held, Holding
from knhk.lockchain import NOTARISED
from knhk.model.faults import KnhkError, NotFound
from knhk.model.keeping import Keep
from knhk.model.resource import Key, Resource
from knhk.reconcilers.context import Ports
from knhk_runtime.record import entry_key, event_key

LOOKS_EVERY_S = 1.0
AFTER_FAULT_S = 10.0
LISTS_EVERY_S = 6 * 3600.0  # whoever else made or removed some is met then
_log = logging.getLogger("knhk.keeping")


@dataclass
class Keeping:
    """At rest it reads and writes nothing. `made` and `witnessed` may be called by any thread. `awaited`: whether somebody outside is still
    to bear witness to a Receipt; such a one waits for that, within bounds (`Holding.wait`), before it leaves."""

    ports: Ports
    keep: Keep
    awaited: Callable[[Resource], bool] = lambda receipt: False
    _holding: Holding | None = None
    _next_s: float = 0.0
    _listed_s: float = 0.0
    _rests: bool = False
    _lock: Lock = field(default_factory=Lock)

    @property
    def resting(self) -> bool:
        """Whether the last look found nothing to remove."""
        return self._rests

    def made(self, receipt: Resource) -> None:
        """There is one more."""
        with self._lock:
            if self._holding is not None:
                self._holding.add(_held(receipt))

    def witnessed(self, key: Key) -> None:
        """The log has what others outside say to this Receipt."""
        with self._lock:
            if self._holding is not None:
                self._holding.witnessed(key)

    def turn(self, now_s: float, *, busy: bool) -> None:
        """Removes a few, if some are to be removed; while there is other work, once a second."""
        if not self.keep.bounded or now_s < self._next_s:
            return
        self._next_s = now_s + AFTER_FAULT_S
        if self._holding is None or now_s > self._listed_s + LISTS_EVERY_S:
            self._list(now_s)
        with self._lock:
            found = self._holding.oldest(self.ports.clock.now_ns() / 1e9, self.ports.together.most) if self._holding else []
        failed: list[Exception] = []
        self.ports.together([partial(self._remove, held, failed) for held in found])
        if failed:
            raise failed[0]
        self._rests = not found
        self._next_s = now_s if found and not busy else now_s + LOOKS_EVERY_S

    def _list(self, now_s: float) -> None:
        holding = Holding(self.keep)
        for receipt in self.ports.store.heads("Receipt"):
            holding.add(_held(receipt))
        with self._lock:
            self._holding, self._listed_s = holding, now_s

    def _remove(self, held: Held, failed: list[Exception]) -> None:
        """One that the log has. One that it does not have stays for good: it may be all that is left of the event. What goes wrong is added
        to `failed`, and it is met again."""
        try:
            receipt = self.ports.store.get(held.key)
            if wrong := self._not_in_log(receipt):
                _log.error("%s stays: %s", held.key, wrong)
                return
            alone = self.awaited(receipt)
            if alone and self._waits(held):
                return
            self.ports.store.delete(held.key, receipt.resource_version)
            if alone:
                _log.error("%s left by number or age before anybody outside bore witness to it: it may wait no longer", held.key)
                self.ports.telemetry.left_unwitnessed()
        except NotFound:
            pass
        except (KnhkError, OSError) as error:
            with self._lock:
                if self._holding is not None:
                    self._holding.back(held)
            failed.append(error)
            return
        with self._lock:
            if self._holding is not None:
                self._holding.gone(held)

    def _waits(self, held: Held) -> bool:
        with self._lock:
            return self._holding is not None and self._holding.wait(held, self.ports.clock.now_ns() / 1e9)

    def _not_in_log(self, receipt: Resource) -> str:
        """What the log does not have of it: its event, or what others outside said to it; "": it has all."""
        spec, status = receipt.spec, receipt.status
        if not self._stands(entry_key(spec["bundle"].encode()), spec["logIndex"]):
            return f"entry {spec['logIndex']} of the log is not its event"
        if "sigstoreIndex" in status and not self._stands(event_key(bytes.fromhex(status["sigstoreEvent"])), status["sigstoreIndex"]):
            return f"entry {status['sigstoreIndex']} of the log is not its event {NOTARISED}"
        return ""

    def _stands(self, key: bytes, index: int) -> bool:
        try:
            return self.ports.log.index_of(key) == int(index)
        except NotFound:
            return False


def _held(receipt: Resource) -> Held:
    labels, (_, _, index) = receipt.labels, receipt.name.rpartition("-")
    number = int(index) if index.isascii() and index.isdecimal() else 0
    created_s = int(datetime.fromisoformat(receipt.created).timestamp())
    return Held(number, receipt.key, created_s, labels.get("event", ""), labels.get("pack", ""), labels.get("packDigest", ""))
