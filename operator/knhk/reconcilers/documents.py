"""Rollout documents: what a point must run, in signed form (formats/signed.md). Append first, publish second."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.decide.rollout import Order
from knhk.model.canonical import canonical
from knhk.reconcilers.context import Ports, from_rfc3339_ns, rfc3339

ROLLOUT = "application/vnd.knhk.rollout.v1+json"
NS = 1_000_000_000
LIFETIME_S = 24 * 3600
_MOVING = ("epoch", "issued", "notAfter")


@dataclass(frozen=True)
class Assignment:
    """What one point must run: packs and data as in formats/signed.md, `config` the SHA-256 of its point.json."""

    point: str
    baseline: str
    config: str
    mode: str = "Stable"
    weight: int = 0
    stable: Mapping[str, Any] | None = None
    candidate: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None

    def document(self, origin: str) -> dict[str, Any]:
        """The rollout document but for epoch and times. The salt follows from the candidate alone: arms stay as weight grows."""
        named = self.candidate or self.stable or {"digest": ""}
        salt = hashlib.sha256(f"{self.point} {named['digest']}".encode()).hexdigest()[:32]
        return {
            "version": 1,
            "point": self.point,
            "origin": origin,
            "mode": self.mode,
            "weight": self.weight,
            "salt": salt,
            "baseline": self.baseline,
            "pointConfig": self.config,
            "stable": self.stable,
            "candidate": self.candidate,
            "data": self.data,
            "flags": {},
        }


def pack_reference(namespace: str, name: str, version: str, digest: str) -> dict[str, Any]:
    """PACK of formats/signed.md."""
    return {"namespace": namespace, "name": name, "version": version, "digest": digest}


def published(ports: Ports, point: str) -> dict[str, Any] | None:
    """Payload of the document that the fleet was handed last, or None."""
    envelope = ports.fleet.document(point)
    if envelope is None:
        return None
    payload: dict[str, Any] = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return payload


def says(document: Mapping[str, Any] | None, assignment: Assignment, origin: str) -> bool:
    """Whether a published document says what `assignment` wants."""
    if document is None:
        return False
    return {k: v for k, v in document.items() if k not in _MOVING} == assignment.document(origin)


def is_fresh(document: Mapping[str, Any], now_ns: int) -> bool:
    """Whether more than half of the document's life is left."""
    return from_rfc3339_ns(document["notAfter"]) - now_ns > LIFETIME_S * NS // 2


def order_of(document: Mapping[str, Any] | None, point: str, digest: str) -> Order | None:
    """What a published document says about the revision with `digest`; None when there is none."""
    if document is None:
        return None
    stable = document["stable"] or {}
    place = "candidate" if digest and stable.get("digest") == digest else "previous"
    candidate = document["candidate"] or {}
    if document["mode"] == "Stable" or candidate.get("digest") != digest:
        return Order(point, "Stable", place) if document["candidate"] is None else None
    weight = document["weight"] if document["mode"] == "Canary" else 0
    return Order(point, document["mode"], place, weight)


def publish(ports: Ports, assignment: Assignment, epoch: int) -> None:
    """Signs and hands over the document; `epoch` is the log index of the event that ordered it."""
    now_ns = ports.clock.now_ns()
    payload = assignment.document(ports.origin) | {
        "epoch": epoch,
        "issued": rfc3339(now_ns),
        "notAfter": rfc3339(now_ns + LIFETIME_S * NS),
    }
    envelope = ports.signer.sign("rollout", ROLLOUT, canonical(payload))
    ports.fleet.publish_document(assignment.point, canonical(envelope))
