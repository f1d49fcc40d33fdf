"""Rollout documents: what a point must run, in signed form (formats/signed.md). Append first, publish second."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk.decide.rollout import Enforced, Order
from knhk.lockchain.chapters import of_role
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Conflict, NotFound
from knhk.model.resource import Key, Resource
from knhk.model.times import from_rfc3339_ns, rfc3339
from knhk.reconcilers.context import Ordered, Ports
from knhk_verify.errors import Bad
from knhk_verify.signed import verify_envelope

ROLLOUT = "application/vnd.knhk.rollout.v1+json"
NS = 1_000_000_000
LIFETIME_S = 24 * 3600
_MOVING = ("epoch", "issued", "notAfter")
_READ: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("issued", "notAfter", "mode", "baseline", "pointConfig"), str),
    **dict.fromkeys(("epoch", "weight"), int),
    **dict.fromkeys(("stable", "candidate", "data"), (dict, type(None))),
    "flags": dict,
}


@dataclass(frozen=True)
class Assignment:
    """What one point must run: packs, data and flags as in formats/signed.md; `config` and `bootstrap` the SHA-256 of its point.json and
    of its envoy.json, None where there is none."""

    point: str
    baseline: str
    config: str
    bootstrap: str | None
    mode: str = "Stable"
    weight: int = 0
    stable: Mapping[str, Any] | None = None
    candidate: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    wave: int | None = None

    def digest(self, origin: str) -> str:
        """SHA-256 of what the document says, hexadecimal: the subject of the event that orders it."""
        return sha256_hex(canonical(self.document(origin)))

    def document(self, origin: str) -> dict[str, Any]:
        """The rollout document but for epoch and times. The salt follows from the candidate alone: arms stay as weight grows."""
        named = self.candidate or self.stable or {"digest": ""}
        return {
            "version": 1,
            "point": self.point,
            "origin": origin,
            "mode": self.mode,
            "weight": self.weight,
            "salt": salt_of(self.point, named["digest"]),
            "baseline": self.baseline,
            "pointConfig": self.config,
            "bootstrap": self.bootstrap,
            "stable": self.stable,
            "candidate": self.candidate,
            "data": self.data,
            "flags": dict(self.flags),
            **({} if self.wave is None else {"wave": self.wave}),
        }


def salt_of(point: str, digest: str) -> str:
    """The salt of a rollout document that names this pack: as candidate, else as stable."""
    return hashlib.sha256(f"{point} {digest}".encode()).hexdigest()[:32]


def pack_reference(namespace: str, name: str, version: str, digest: str) -> dict[str, Any]:
    """PACK of formats/signed.md."""
    return {"namespace": namespace, "name": name, "version": version, "digest": digest}


def published(ports: Ports, point: str) -> dict[str, Any] | None:
    """Payload of the document that the fleet was handed last; None when there is none, or one that nobody can read."""
    return _payload(ports.fleet.document(point))


def _payload(envelope: bytes | None) -> dict[str, Any] | None:
    if envelope is None:
        return None
    try:
        payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    except (ValueError, KeyError, TypeError):
        return None
    readable = isinstance(payload, dict) and all(isinstance(payload.get(name), kind) for name, kind in _READ.items())
    return payload if readable else None


def told(ports: Ports, point: str) -> dict[str, Any] | None:
    """The published document if it is of this point, a key of ours signed it, and it is the newest: what it says may be signed again.
    Whoever else writes where documents lie has no say in what a point was told before, nor by what it was told before that."""
    envelope = ports.fleet.document(point)
    document = _payload(envelope)
    if envelope is None or document is None or document.get("point") != point or document["epoch"] < _newest(ports, point):
        return None
    try:
        verify_envelope(json.loads(envelope), ROLLOUT, of_role(ports.signer.keys_json(), "rollout"), point)
    except Bad:
        return None
    return document


def _newest(ports: Ports, point: str) -> int:
    """The epoch that the status of the point tells, which nobody else writes."""
    namespace, _, name = point.partition("/")
    try:
        return int(ports.store.get(Key("EnforcementPoint", namespace, name)).status.get("epoch", 0))
    except NotFound:
        return 0


def standing(ports: Ports, resource: Resource) -> dict[str, Any] | None:
    """The published document of a point, unless it is older than what its status tells: somebody has laid it back."""
    document = published(ports, f"{resource.namespace}/{resource.name}")
    return None if document is None or document["epoch"] < resource.status.get("epoch", 0) else document


def says(document: Mapping[str, Any] | None, assignment: Assignment, origin: str) -> bool:
    """Whether a published document says what `assignment` wants."""
    if document is None:
        return False
    return {k: v for k, v in document.items() if k not in _MOVING} == assignment.document(origin)


def is_valid(ports: Ports, point: str, document: Mapping[str, Any]) -> bool:
    """Whether a published document is signed by the present key and more than half of its life is left."""
    envelope = json.loads(ports.fleet.document(point) or b"{}")
    keyids = [row.get("keyid") for row in envelope.get("signatures", ())]
    return keyids == [ports.signer.keyid("rollout")] and lasts(document["notAfter"], ports.clock.now_ns())


def lasts(not_after: str, now_ns: int) -> bool:
    """Whether more than half of a document's life is left."""
    return from_rfc3339_ns(not_after) - now_ns > LIFETIME_S * NS // 2


def may_carry(ports: Ports, ordered: Ordered, document: Mapping[str, Any] | None) -> bool:
    """Whether a document may take its epoch from an event: none of that epoch or a later one is out, and the event is not old."""
    newer = document is None or document["epoch"] < ordered.index
    return newer and lasts(not_after(ordered), ports.clock.now_ns())


def not_after(ordered: Ordered) -> str:
    """When the document that an event ordered ends."""
    return rfc3339(from_rfc3339_ns(ordered.time) + LIFETIME_S * NS)


def order_of(document: Mapping[str, Any] | None, point: str, digest: str) -> Order | None:
    """What a published document says about the revision with `digest`; None when there is none."""
    if document is None:
        return None
    stable = document["stable"] or {}
    place: Enforced = "candidate" if digest and stable.get("digest") == digest else "previous"
    candidate = document["candidate"] or {}
    if document["mode"] == "Stable" or candidate.get("digest") != digest:
        return Order(point, "Stable", place) if document["candidate"] is None else None
    weight = document["weight"] if document["mode"] == "Canary" else 0
    return Order(point, document["mode"], place, weight, document.get("wave"))


def publish(ports: Ports, assignment: Assignment, ordered: Ordered) -> None:
    """Signs and hands over the document that an event ordered. All of it follows from assignment and event: repeating it after a
    crash gives the same bytes, so that no epoch ever has two documents. Raises Conflict when a newer one is out by now: whoever comes
    with an older one was asleep, or was deposed."""
    before = published(ports, assignment.point)
    if before is not None and before["epoch"] > ordered.index:
        raise Conflict(f"{assignment.point}: epoch {before['epoch']} is published, {ordered.index} is older")
    payload = assignment.document(ports.origin) | {
        "epoch": ordered.index,
        "issued": ordered.time,
        "notAfter": not_after(ordered),
    }
    envelope = ports.signer.sign("rollout", ROLLOUT, canonical(payload))
    ports.fleet.publish_document(assignment.point, canonical(envelope))
