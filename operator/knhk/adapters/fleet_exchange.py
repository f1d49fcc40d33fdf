"""Fleet of pods: what they are to run lies on a shelf and is handed out by the exchange's server; what they tell is kept per pod and
given as one sum (formats/exchange.md)."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from knhk.decide.instances import NO_PACK, Gone, Instance, Pair, Silent, together, word_of
from knhk.model.consents import DOCUMENT as CONSENTS
from knhk.model.faults import Fault, KnhkError, Refused, Waiting
from knhk.model.rollout import short_digest
from knhk.ports.clock import Clock
from knhk.ports.fleet import SILENT_AFTER_S, Statistics, must_take_its_place
from knhk.ports.shelf import BOOTSTRAP, CONFIG, DOCUMENT, KEYS, Shelf

NS = 1_000_000_000
SETTLES_WITHIN_S = 15.0
MAX_PODS = 4096  # of a point; those that are gone are one sum
GONE_AFTER_S = 120.0  # longer than anybody believes a token whose pod is gone
MAX_FOLDED = 65_536  # pods that are remembered as counted


class Roster(Protocol):
    """knhk.ports.caller.Authenticator, as far as it knows pods."""

    def pods(self, point: str) -> Mapping[str, str]: ...

    def there(self, point: str) -> frozenset[str]: ...


class TooManyPods(KnhkError):
    """A point has more pods than are kept."""


@dataclass(frozen=True)
class Desired:
    """What a point is to run: whole files, and a name that changes with any of them."""

    etag: str
    files: Mapping[str, bytes]


@dataclass
class _Point:
    """`missed`: pods that the API server does not have, and since when (monotonic). `gone`: the sum of those that are folded, whose uids
    are in `folded`."""

    pods: dict[str, Instance] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    gone: Gone = field(default_factory=Gone)
    folded: OrderedDict[str, None] = field(default_factory=OrderedDict)
    pair: Pair | None = None
    written_ns: int = 0


class ExchangeFleet:
    """`knhk.ports.fleet.Fleet`, and what the exchange's server asks. Safe from any thread."""

    def __init__(self, shelf: Shelf, roster: Roster, clock: Clock) -> None:
        """`roster`: the pods of a point, by uid."""
        self._shelf, self._roster, self._clock = shelf, roster, clock
        self._began_ns = clock.monotonic_ns()
        self._points: dict[str, _Point] = {}
        self._changed = threading.Condition()
        self._consents: dict[str, bytes] = {}
        self._bases: dict[str, tuple[str, bytes]] = {}
        self._listeners: list[Callable[[str], None]] = []

    # for the control plane

    def publish_document(self, point: str, envelope: bytes) -> None:
        """See the port. A document of another pair of packs begins its counts at nothing."""
        must_take_its_place(point, envelope, self.document(point))
        self._put(point, DOCUMENT, envelope)
        with self._changed:
            self._begin(self._of(point), pair_of(envelope))

    def publish_keys(self, point: str, envelope: bytes) -> None:
        self._put(point, KEYS, envelope)

    def publish_config(self, point: str, config: bytes) -> None:
        self._put(point, CONFIG, config)

    def publish_bootstrap(self, point: str, bootstrap: bytes) -> None:
        self._put(point, BOOTSTRAP, bootstrap)

    def publish_consents(self, point: str, envelope: bytes, base: bytes | None) -> None:
        """Kept in memory only: consents are renewed all the time, and whoever leads next makes them anew."""
        with self._changed:
            if base is not None:
                self._bases[point] = hashlib.sha256(base).hexdigest(), base
            self._consents[point] = envelope
        self._news(point)

    def document(self, point: str) -> bytes | None:
        return self._shelf.files(point).get(DOCUMENT)

    def config(self, point: str) -> bytes | None:
        return self._shelf.files(point).get(CONFIG)

    def statistics(self, point: str) -> Statistics | None:
        """See the port; None before the first word of any pod."""
        roster, there = self._listed(point)
        with self._changed:
            found = self._points.get(point)
            if found is None or not (found.pods or found.folded):
                return None
            if there is not None:
                self._fold(found, there)
            live = {uid: one for uid, one in found.pods.items() if self._is_live(one)}
            silent = [Silent(name, self._heard_ns(found, uid)) for uid, name in roster.items() if uid not in live]
            silent = [one for one in silent if not self._has_ended(found, one.pod)]
            waited_for = any(uid not in found.pods for uid in roster) and not self._has_settled()
            document = together(point, found.pods.values(), live.values(), silent, settled=not waited_for, gone=found.gone)
            return Statistics(document, found.written_ns)

    def wait(self, known_ns: Mapping[str, int], timeout_s: float) -> frozenset[str]:
        def changed() -> frozenset[str]:
            return frozenset(point for point, known in known_ns.items() if point in self._points and self._points[point].written_ns > known)

        with self._changed:
            self._changed.wait_for(lambda: bool(changed()), timeout_s)
            return changed()

    # for the server

    def desired(self, point: str) -> Desired | None:
        """None while it is not whole. Errors: as Shelf."""
        files = self._shelf.files(point)
        if not {KEYS, CONFIG, DOCUMENT} <= set(files):
            return None
        consents = self._consents.get(point)
        if consents is not None:
            files = {**files, CONSENTS: consents}
        digest = hashlib.sha256()
        for name, data in sorted(files.items()):
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return Desired(digest.hexdigest(), files)

    def base(self, point: str, digest: str) -> bytes | None:
        """The base of a point's consents with this SHA-256; None when there is none, or another one by now."""
        known, data = self._bases.get(point, ("", b""))
        return data if known == digest else None

    def tell(self, point: str, uid: str, pod: str, document: Mapping[str, Any]) -> None:
        """What a pod says. Raises Refused for what is no word, and TooManyPods; errors as Shelf."""
        with self._changed:
            known = self._points.get(point)
        pair = known.pair if known else None
        if pair is None:
            envelope = self.document(point)
            pair = pair_of(envelope) if envelope is not None else None
        word, now_ns = word_of(document, point, pair), self._clock.now_ns()
        with self._changed:
            found = self._of(point)
            if found.pair is None:
                found.pair = pair
            if found.pair not in (None, pair):
                raise Waiting("Published", "another document was published meanwhile; tell it again", 0.0)
            if uid in found.folded:
                raise Refused([Fault("pod", pod, "must be there: the API server did not have it, and what it had told is counted")])
            if uid not in found.pods and len(found.pods) >= MAX_PODS:
                raise TooManyPods(f"{point} must have at most {MAX_PODS} pods at a time")
            found.pods.setdefault(uid, Instance(pod, word, now_ns, uid)).hear(word, now_ns)
            found.written_ns = max(now_ns, found.written_ns + 1)
            self._changed.notify_all()

    def listen(self, listener: Callable[[str], None]) -> None:
        """`listener` is called, from any thread, with each point whose desired files changed."""
        self._listeners.append(listener)

    def _put(self, point: str, name: str, data: bytes) -> None:
        before = self._shelf.files(point).get(name)
        self._shelf.put(point, name, data)
        if before != data:
            self._news(point)

    def _news(self, point: str) -> None:
        for listener in self._listeners:
            listener(point)

    def _of(self, point: str) -> _Point:
        return self._points.setdefault(point, _Point())

    def _begin(self, found: _Point, pair: Pair | None) -> None:
        if pair == found.pair:
            return
        found.pair, found.gone, found.folded = pair, Gone(), OrderedDict()
        found.pods = {uid: one for uid, one in found.pods.items() if self._is_live(one)}
        if pair is not None:
            for one in found.pods.values():
                one.keep(pair)

    def _fold(self, found: _Point, there: frozenset[str]) -> None:
        """Pods that are gone for good become one sum and free their places. What is not there can get no token, and the one that it had is
        believed for a minute: it never speaks again, so that no count is added twice and none is lost."""
        now = self._clock.monotonic_ns()
        found.missed = {uid: found.missed.get(uid, now) for uid in found.pods if uid not in there}
        for uid, since_ns in found.missed.items():
            one = found.pods[uid]
            if min(now - since_ns, self._clock.now_ns() - one.heard_ns) > GONE_AFTER_S * NS and found.gone.take(one):
                del found.pods[uid]
                found.folded[uid] = None
        while len(found.folded) > MAX_FOLDED:
            found.folded.popitem(last=False)

    def _is_live(self, one: Instance) -> bool:
        return not one.last.ending and self._clock.now_ns() - one.heard_ns <= SILENT_AFTER_S * NS

    def _heard_ns(self, found: _Point, uid: str) -> int:
        return found.pods[uid].heard_ns if uid in found.pods else 0

    def _has_ended(self, found: _Point, pod: str) -> bool:
        return any(one.pod == pod and one.last.ending for one in found.pods.values())

    def _has_settled(self) -> bool:
        return self._clock.monotonic_ns() - self._began_ns > SETTLES_WITHIN_S * NS

    def _listed(self, point: str) -> tuple[Mapping[str, str], frozenset[str] | None]:
        """Who runs, and who is there at all. While the API server does not answer nobody, and None: that says nothing about pods."""
        with suppress(Waiting):
            return self._roster.pods(point), self._roster.there(point)
        return {}, None


def pair_of(envelope: bytes) -> Pair | None:
    """The packs that a rollout document names, as statistics name them. None for one that nobody can read, or without a pack."""
    try:
        payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        named = [payload[arm] and short_digest(payload[arm]["digest"]) for arm in ("stable", "candidate")]
    except (ValueError, KeyError, TypeError):
        return None
    return (named[0] or NO_PACK, named[1] or NO_PACK)
