"""Receipts to which others outside bear witness (ports/notary.py): what they say comes into a Receipt's status, and into the log.

Nothing waits for it: a Receipt is there without, and so is everything that it tells of, rollbacks above all. What came is written into the
status together with an event Notarised (lockchain/witnesses.py), signed: that write is the commit point, and the first wins. Then the event
goes into the log, as it stands in the status and by whoever finds it there: appending it again gives its first index. The event has no
Receipt, so that nobody bears witness to witnesses.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import islice
from typing import Any

from knhk.api import condition, with_condition
from knhk.lockchain import NOTARISED, fits, notarised, statement
from knhk.model.faults import Conflict, KnhkError, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Ports, say
from knhk_verify.errors import Bad

AT_ONCE = 4
STALLED_S = 30.0  # what a person must mend is looked at again after so long
_log = logging.getLogger("knhk.notarising")


@dataclass
class Notarising:
    """All Receipts that lack it: those that are there at the start, and those that are made since (`made` may be called by any thread).
    While whom we ask is away nobody is asked for, and one Event says so, whichever Receipts are tried meanwhile; one that a person must
    mend is set aside, and others go on, until as many in a row are refused as are asked for at once. After what could not be written, or
    brought into the log, nothing is done until that may be tried again. `ended` is told of each that has it."""

    ports: Ports
    ended: Callable[[Key], None] = lambda key: None
    _new: deque[Key] = field(default_factory=deque)
    _left: dict[Key, None] | None = None
    _asked: dict[Key, Future[bytes]] = field(default_factory=dict)
    _written: dict[Key, str] = field(default_factory=dict)  # events that stand in a status, and maybe not in the log
    _aside: dict[Key, float] = field(default_factory=dict)  # until when
    _refused: int = 0  # in a row
    _away: bool = False  # an Event has said so
    _until_s: float = 0.0
    _rests_until_s: float = 0.0  # our own store or log is away

    def made(self, receipt: Resource) -> None:
        """There is one more."""
        if self.ports.notary is not None:
            self._new.append(receipt.key)

    def awaited(self, receipt: Resource) -> bool:
        """Whether the log is still to get what others outside say to this Receipt; such a one is looked after. Any thread."""
        found = self._lacks(receipt)
        if found:
            self._new.append(receipt.key)
        return found

    def _lacks(self, receipt: Resource) -> bool:
        """What stands in a status goes into the log, even when nobody is asked any more."""
        return "sigstoreIndex" not in receipt.status and (self.ports.notary is not None or _event_in(receipt) != "")

    def turn(self, now_s: float) -> None:
        """Asks for some, and writes what came. Raises as Store and Log do; then it rests, but for a Conflict."""
        if now_s < self._rests_until_s:
            return
        try:
            self._turned(now_s)
        except Conflict:
            raise
        except (KnhkError, OSError) as error:
            self._rests_until_s = now_s + _pause_s(error)
            raise

    def _turned(self, now_s: float) -> None:
        if self.ports.notary is None and not self._new and not self._left and not self._written:
            return
        left = self._known()
        for key in [key for key, asked in self._asked.items() if asked.done()]:
            self._take(key, now_s)
        for key in list(islice(self._written, AT_ONCE)):
            self._deliver(key)
        self.ports.telemetry.unwitnessed(len(left) + len(self._asked) + len(self._written) + len(self._aside))
        if now_s < self._until_s:
            return
        for key in [key for key, until_s in self._aside.items() if until_s <= now_s]:
            del self._aside[key]
            left.setdefault(key)
        for key in list(islice(left, AT_ONCE - len(self._asked))):
            self._ask(key)
            del left[key]

    def _known(self) -> dict[Key, None]:
        if self._left is None:
            found = () if self.ports.notary is None else self.ports.store.list("Receipt").resources
            lacking = sorted((receipt for receipt in found if self._lacks(receipt)), key=lambda receipt: int(receipt.spec["logIndex"]))
            self._written |= {receipt.key: event for receipt in lacking if (event := _event_in(receipt))}
            self._left = {receipt.key: None for receipt in lacking if receipt.key not in self._written}
        while self._new:
            key = self._new.popleft()
            if key not in self._asked and key not in self._written and key not in self._aside:
                self._left.setdefault(key)
        return self._left

    def _ask(self, key: Key) -> None:
        receipt = self._read(key)
        if receipt is None or not self._lacks(receipt):
            return
        if event := _event_in(receipt):
            self._written[key] = event
        elif self.ports.notary is not None:
            self._asked[key] = self.ports.notary.ask("rollout", str(receipt.spec["bundle"]).encode())

    def _take(self, key: Key, now_s: float) -> None:
        """What came is kept until it is written, and forgotten when somebody else was faster."""
        receipt = self._read(key)
        if receipt is None or not self._lacks(receipt) or _event_in(receipt):
            self._known().setdefault(key)
            del self._asked[key]
            return
        try:
            bundle = self._asked[key].result()
            event = self._event(receipt, bundle)
        except KnhkError as error:
            reason = error.reason if isinstance(error, Waiting | Stalled) else type(error).__name__
            self._write(receipt, receipt.status, False, reason, str(error), quiet=self._away and isinstance(error, Waiting))
            self._later(key, error, now_s)
        else:
            status = {**receipt.status, "sigstore": bundle.decode(), "pending": [{"bundle": event}]}
            self.ports.store.update_status(replace(receipt, status=status))
            self._written[key] = event
            self._refused, self._away = 0, False
        del self._asked[key]

    def _later(self, key: Key, error: KnhkError, now_s: float) -> None:
        """It could not be had."""
        if isinstance(error, Waiting):
            self._away = True
            self._until_s = now_s + error.retry_after_s
            self._known().setdefault(key)
            return
        self._aside[key] = now_s + STALLED_S
        self._refused += 1
        if self._refused == AT_ONCE:  # it does not lie in them
            self._refused, self._until_s = 0, now_s + STALLED_S

    def _event(self, receipt: Resource, bundle: bytes) -> str:
        """The signed event that brings the bundle into the log. Raises Stalled for what cannot be brought there."""
        spec, key = receipt.spec, receipt.key
        name, now = f"{key.namespace}/{key.name}", rfc3339(self.ports.clock.now_ns())
        try:
            told = notarised(name, str(spec["bundle"]).encode(), int(spec["logIndex"]), bundle, self.ports.actor, now)
        except Bad as error:
            raise Stalled("Sigstore", f"what came is refused: {error}") from error
        event = self.ports.signer.bundle("rollout", statement(told))
        if not fits(event):
            raise Stalled("Sigstore", f"what came has {len(bundle)} bytes: the log takes no event as large as that")
        return event.decode()

    def _deliver(self, key: Key) -> None:
        """The event goes into the log; the status says where it is."""
        event = self._written[key]
        try:
            (index,) = self.ports.log.append_events([event.encode()])
        except Refused as error:  # nobody of us wrote it
            _log.error("%s: the event in its status is refused: %s", key, error)
            del self._written[key]
            return
        receipt = self._read(key)
        if receipt is not None and _event_in(receipt) == event:
            status = {name: value for name, value in receipt.status.items() if name != "pending"}
            status |= {"sigstoreIndex": index, "sigstoreEvent": sha256(event.encode()).hexdigest()}
            said = f"an entry of a transparency log and a timestamp bear witness: entry {index} of ours says so"
            self._write(receipt, status, True, NOTARISED, said)
            self.ports.telemetry.moved(NOTARISED)
        del self._written[key]
        self.ended(key)

    def _read(self, key: Key) -> Resource | None:
        try:
            return self.ports.store.get(key)
        except NotFound:
            return None

    def _write(self, receipt: Resource, status: Mapping[str, Any], done: bool, reason: str, message: str, quiet: bool = False) -> None:
        """With an Event where it is not done, unless `quiet`. Raises Conflict when somebody else was faster: the next turn writes it."""
        made = condition(NOTARISED, done, reason, message, receipt.generation, rfc3339(self.ports.clock.now_ns()))
        after = with_condition(list(status.get("conditions", ())), made)
        wanted = {**status, "conditions": after, "observedGeneration": receipt.generation}
        if wanted == receipt.status:
            return
        if not done and not quiet:
            _log.warning("%s: %s", receipt.key, message)
        self.ports.store.update_status(replace(receipt, status=wanted))
        if not done and not quiet:
            say(self.ports, receipt.key, reason, message, warning=True)


def _pause_s(error: Exception) -> float:
    return error.retry_after_s if isinstance(error, Waiting) else STALLED_S


def _event_in(receipt: Resource) -> str:
    return next((str(row["bundle"]) for row in receipt.status.get("pending", ())), "")
