"""Receipts to which others outside bear witness (ports/notary.py): what they say is put into a Receipt's status when it comes.

Nothing waits for it: a Receipt is there without, and so is everything that it tells of, rollbacks above all.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from knhk.api import condition, with_condition
from knhk.model.faults import KnhkError, NotFound, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Ports

AT_ONCE = 4
STALLED_S = 30.0  # what a person must mend is looked at again after so long
NOTARISED = "Notarised"
_log = logging.getLogger("knhk.notarising")


@dataclass
class Notarising:
    """All Receipts that lack it: those that are there at the start, and those that are made since (`made` may be called by any thread).
    After one that could not be had no other is asked for until it may be tried again."""

    ports: Ports
    _new: deque[Key] = field(default_factory=deque)
    _left: dict[Key, None] | None = None
    _asked: dict[Key, Future[bytes]] = field(default_factory=dict)
    _until_s: float = 0.0

    def made(self, receipt: Resource) -> None:
        """There is one more."""
        if self.ports.notary is not None:
            self._new.append(receipt.key)

    def turn(self, now_s: float) -> None:
        """Asks for some, and writes what came."""
        if self.ports.notary is None:
            return
        left = self._known()
        for key in [key for key, asked in self._asked.items() if asked.done()]:
            self._take(key, now_s)
        if now_s < self._until_s:
            return
        for key in list(left)[: AT_ONCE - len(self._asked)]:
            del left[key]
            self._ask(key)

    def _known(self) -> dict[Key, None]:
        if self._left is None:
            found = self.ports.store.list("Receipt").resources
            self._left = {receipt.key: None for receipt in found if "sigstore" not in receipt.status}
        while self._new:
            self._left.setdefault(self._new.popleft())
        return self._left

    def _ask(self, key: Key) -> None:
        assert self.ports.notary is not None
        receipt = self._read(key)
        if receipt is not None and "sigstore" not in receipt.status:
            self._asked[key] = self.ports.notary.ask("rollout", str(receipt.spec["bundle"]).encode())

    def _take(self, key: Key, now_s: float) -> None:
        """What came is kept until it is written."""
        receipt = self._read(key)
        if receipt is None:
            del self._asked[key]
            return
        try:
            bundle = self._asked[key].result()
        except KnhkError as error:
            self._until_s = now_s + (error.retry_after_s if isinstance(error, Waiting) else STALLED_S)
            reason = error.reason if isinstance(error, Waiting | Stalled) else type(error).__name__
            self._write(receipt, False, reason, str(error))
            self._known().setdefault(key)
        else:
            status = {**receipt.status, "sigstore": bundle.decode()}
            self._write(replace(receipt, status=status), True, NOTARISED, "an entry of a transparency log and a timestamp bear witness")
        del self._asked[key]

    def _read(self, key: Key) -> Resource | None:
        try:
            return self.ports.store.get(key)
        except NotFound:
            return None

    def _write(self, receipt: Resource, done: bool, reason: str, message: str) -> None:
        """Raises Conflict when somebody else wrote meanwhile: the next turn writes it."""
        made = condition(NOTARISED, done, reason, message, receipt.generation, rfc3339(self.ports.clock.now_ns()))
        before = list(receipt.status.get("conditions", ()))
        after = with_condition(before, made)
        if after == before:
            return
        if not done:
            _log.warning("%s: %s", receipt.key, message)
        status = {**receipt.status, "conditions": after, "observedGeneration": receipt.generation}
        self.ports.store.update_status(replace(receipt, status=status))
