"""Who consents to what, in memory, and the documents that tell points (formats/consent.md). All of it can be made anew from Consents."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.consents import MAX_CHANGES, PAYLOAD_TYPE, SECRET, SECRET_KEY, Masks, base_bytes, masks_of
from knhk.model.faults import KnhkError, Stalled
from knhk.model.resource import Resource
from knhk.model.subjects import KEY_BYTES, SHORT_BYTES
from knhk.model.times import rfc3339
from knhk.ports.secrets import Secrets
from knhk.reconcilers.context import Ports

NS = 1_000_000_000
COMPACT_AT = MAX_CHANGES // 2
REMEMBERED = 2 * MAX_CHANGES
RENEWALS = 3  # within the time that a point goes on without news
_log = logging.getLogger("knhk.consents")


def subject_key(source: Secrets, namespace: str) -> bytes:
    """The key of a namespace's tags. Raises Stalled."""
    key = source.read(namespace, SECRET).get(SECRET_KEY, b"")
    if len(key) != KEY_BYTES:
        raise Stalled("NoSecret", f"{namespace}/{SECRET}: must have {SECRET_KEY}, {KEY_BYTES} random bytes")
    return key


@dataclass
class _Known:
    """Of a namespace: short tag → name of a Consent → (purpose, state). `changed`: tags in the order of their changes, of which `dropped`
    are not remembered any more."""

    epoch: int
    standing: dict[bytes, dict[str, tuple[str, str]]] = field(default_factory=dict)
    changed: list[bytes] = field(default_factory=list)
    dropped: int = 0

    @property
    def end(self) -> int:
        return self.dropped + len(self.changed)

    def take(self, consent: Resource, state: str | None) -> None:
        """`state` None: nothing is known of it any more."""
        tag = bytes.fromhex(consent.spec["subject"])[:SHORT_BYTES]
        rows = self.standing.setdefault(tag, {})
        rows.pop(consent.name, None)
        if state is not None:
            rows[consent.name] = consent.spec["purpose"], state
        if not rows:
            del self.standing[tag]
        self.changed.append(tag)
        if len(self.changed) > REMEMBERED:
            self.dropped += MAX_CHANGES
            del self.changed[:MAX_CHANGES]

    def masks(self, tag: bytes, bits: Mapping[str, int]) -> Masks:
        return masks_of(self.standing.get(tag, {}).values(), bits)


@dataclass
class _Told:
    """What a point was told last. `at`: how many changes of the namespace it takes in; `due_s`: when it is to be renewed (monotonic).
    `last`: SHA-256 of the document; `after`: of the last one before the base."""

    purposes: tuple[str, ...]
    staleness_s: int
    key: bytes
    base: tuple[str, int] | None
    changes: dict[bytes, Masks]
    at: int
    due_s: float = 0.0
    unhanded: bytes | None = None
    last: str | None = None
    after: str | None = None

    @property
    def bits(self) -> Mapping[str, int]:
        return {purpose: 1 << bit for bit, purpose in enumerate(self.purposes)}


@dataclass
class ConsentBook:
    """One thread."""

    ports: Ports
    _known: dict[str, _Known] = field(default_factory=dict)
    _told: dict[str, _Told] = field(default_factory=dict)

    def took(self, consent: Resource, state: str, index: int) -> None:
        """What the log has of a Consent, event `index`: the points of its namespace are told before this returns, those that cannot be told
        when they are looked at next."""
        known = self._of(consent.namespace)
        known.epoch = max(known.epoch, index)
        known.take(consent, state)
        self._spread(consent.namespace)

    def gone(self, consent: Resource) -> None:
        """A Consent was deleted: guards know nothing of it any more."""
        if consent.namespace in self._known:
            self._known[consent.namespace].take(consent, None)
            self._spread(consent.namespace)

    def tell(self, point: Resource) -> None:
        """Publishes what the point does not know yet, or for long. Raises Stalled without a key of the namespace, Waiting and OSError."""
        where, asked = f"{point.namespace}/{point.name}", point.spec.get("consent")
        if asked is None:
            self._told.pop(where, None)
            return
        known, told = self._of(point.namespace), self._told.get(where)
        wanted = tuple(row["purpose"] for row in asked["purposes"]), asked["maxStalenessSeconds"]
        now_s = self.ports.clock.monotonic_ns() / NS
        if told is None or (told.purposes, told.staleness_s) != wanted or told.at < known.dropped:
            told = self._begin(known, *wanted, subject_key(self.ports.secrets, point.namespace))
        elif now_s >= told.due_s and (key := subject_key(self.ports.secrets, point.namespace)) != told.key:
            told = self._begin(known, *wanted, key)
        elif told.at == known.end and now_s < told.due_s:
            return
        self._told[where] = told
        told.due_s = 0.0  # what is not handed over is tried again
        self._take_in(known, told)
        told.last = None  # unless this one is handed over, no reader has all that comes before the next base
        self._publish(where, known, told)
        told.due_s = now_s + told.staleness_s / RENEWALS

    def _spread(self, namespace: str) -> None:
        for point in self.ports.store.list("EnforcementPoint", namespace).resources:
            try:
                self.tell(point)
            except (KnhkError, OSError) as error:
                _log.warning("%s: consents wait: %s", point.key, error)

    def _of(self, namespace: str) -> _Known:
        """All that was recorded by now. The log's size bounds every event that a process before told of."""
        if namespace not in self._known:
            found = _Known(int(self.ports.log.checkpoint().split("\n")[1]) - 1)
            for consent in self.ports.store.list("Consent", namespace).resources:
                if "state" in consent.status:
                    found.take(consent, consent.status["state"])
                    found.epoch = max(found.epoch, consent.status["index"])
            self._known[namespace] = found
        return self._known[namespace]

    def _begin(self, known: _Known, purposes: tuple[str, ...], staleness_s: int, key: bytes) -> _Told:
        told = _Told(purposes, staleness_s, key, None, {}, known.end)
        if len(known.standing) > COMPACT_AT:
            self._compact(known, told)
        else:
            bits = told.bits
            told.changes = {tag: known.masks(tag, bits) for tag in known.standing}
        return told

    def _take_in(self, known: _Known, told: _Told) -> None:
        """What is new goes into the changes, after a new base too: who took the document before needs no base."""
        fresh, bits = known.changed[told.at - known.dropped :], told.bits
        if len(told.changes) + len(fresh) > COMPACT_AT:
            self._compact(known, told)
        for tag in fresh:
            told.changes.pop(tag, None)
            told.changes[tag] = known.masks(tag, bits)
        told.at = known.end
        if len(told.changes) > MAX_CHANGES:  # as many at once: everybody takes the base
            told.changes, told.after = {}, None

    def _compact(self, known: _Known, told: _Told) -> None:
        bits = told.bits
        data = base_bytes((tag, masks_of(rows.values(), bits)) for tag, rows in known.standing.items())
        told.base, told.unhanded, told.changes, told.after = (sha256_hex(data), len(known.standing)), data, {}, told.last

    def _publish(self, where: str, known: _Known, told: _Told) -> None:
        now_ns = self.ports.clock.now_ns()
        base: Mapping[str, object] | None = None
        if told.base is not None:
            base = {"sha256": told.base[0], "subjects": told.base[1], "after": told.after}
        document = {
            "version": 1,
            "point": where,
            "origin": self.ports.origin,
            "epoch": known.epoch,
            "issued": rfc3339(now_ns),
            "notAfter": rfc3339(now_ns + told.staleness_s * NS),
            "key": base64.b64encode(told.key).decode(),
            "purposes": list(told.purposes),
            "base": base,
            "changes": [[tag.hex(), *masks] for tag, masks in told.changes.items()],
        }
        payload = canonical(document)
        envelope = self.ports.signer.sign("rollout", PAYLOAD_TYPE, payload)
        self.ports.fleet.publish_consents(where, canonical(envelope), told.unhanded)
        told.unhanded, told.last = None, sha256_hex(payload)
