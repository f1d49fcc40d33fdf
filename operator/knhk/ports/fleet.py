"""Fleet: from the control plane to the enforcement points, and their statistics back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from knhk.model.faults import Conflict

SILENT_AFTER_S = 10  # an agent tells its statistics every second, a pod every three


@dataclass(frozen=True)
class Statistics:
    """What the agent of a point said last (formats/agent.md), or the agents of its pods together (formats/exchange.md): the document and
    when it was written, nanoseconds since 1970."""

    document: Mapping[str, Any]
    written_ns: int


class Fleet(Protocol):
    """Promises of every adapter.

    Publishing is atomic per point and kind, durable when it returns, and idempotent: the
    newest bytes win, equal bytes are not written again; but a document never takes the place of one of its own or a later epoch, so
    that a publisher that slept undoes nothing. Agents judge
    epochs and signatures themselves; the fleet carries bytes and vouches for nothing. Statistics are cumulative, so a lost
    or repeated reading does no harm. One publisher per point; any number of readers.
    Errors: Conflict for a document that comes too late; Corrupt for statistics that are not JSON; OSError as it comes.
    """

    def publish_document(self, point: str, envelope: bytes) -> None:
        """Hand the signed rollout document to the agent of `point` ("NAMESPACE/NAME")."""
        ...

    def publish_keys(self, point: str, envelope: bytes) -> None:
        """Hand the signed keys.json to the agent of `point`."""
        ...

    def publish_bootstrap(self, point: str, bootstrap: bytes) -> None:
        """Hand Envoy's bootstrap (envoy.json, formats/exchange.md) to the agents of `point`, which take what the document signs."""
        ...

    def publish_config(self, point: str, config: bytes) -> None:
        """Hand the point's configuration (point.json, formats/agent.md) to its agent; unchanged bytes are not written again."""
        ...

    def publish_consents(self, point: str, envelope: bytes, base: bytes | None) -> None:
        """Hand the signed consents of `point` (formats/consent.md) and the base that they name, if any, to its agents. Neither needs to
        outlast the control plane: they are made anew."""
        ...

    def document(self, point: str) -> bytes | None:
        """The rollout document published last, or None."""
        ...

    def config(self, point: str) -> bytes | None:
        """The configuration published last, or None."""
        ...

    def statistics(self, point: str) -> Statistics | None:
        """What the agent of `point` said last; None before its first word."""
        ...

    def wait(self, known_ns: Mapping[str, int], timeout_s: float) -> frozenset[str]:
        """Block until a point's statistics are newer than `known_ns` says, or `timeout_s` passed; the points that changed."""
        ...


def must_take_its_place(point: str, envelope: bytes, published: bytes | None) -> None:
    """Raises Conflict when a rollout document must not take the place of the published one: it is another one of the same epoch, or of an
    earlier one. One that nobody can read gives way."""
    if published is None or envelope == published:
        return
    before, after = epoch_of(published), epoch_of(envelope)
    if before is not None and (after is None or after <= before):
        raise Conflict(f"{point}: epoch {before} is published, so that epoch {after} comes too late; read again")


def epoch_of(envelope: bytes) -> int | None:
    """The epoch that a signed rollout document says, unverified; None of one that nobody can read."""
    try:
        payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        epoch = payload["epoch"]
    except (ValueError, KeyError, TypeError):
        return None
    return epoch if isinstance(epoch, int) else None
