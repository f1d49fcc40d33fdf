"""Events about people that others than the operator bring about, signed by it for whom the cluster says that they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from knhk.lockchain.events import PolicyEvent, parse_event, statement
from knhk.model.faults import Fault, Refused
from knhk.model.times import rfc3339
from knhk.ports.clock import Clock
from knhk.ports.log import Log
from knhk.ports.signer import Signer
from knhk.ports.store import Store
from knhk.reconcilers.points import privacy_of
from knhk_verify.errors import Bad
from knhk_verify.signed import verify_event, verify_keys

KINDS = ("Erased", "ErasureQueued", "Held", "HoldReleased", "SubjectExported")
_SUBJECT = re.compile("subject/([0-9a-f]{64})")


class Teller:
    """Any thread. `root_public`: the pinned root's raw public key. Raises Refused for what is no such event, and as Signer, Log, Store."""

    def __init__(self, store: Store, signer: Signer, log: Log, clock: Clock, root_public: Callable[[], bytes]) -> None:
        self._store, self._signer, self._log, self._clock, self._root_public = store, signer, log, clock, root_public

    def privacy(self, namespace: str) -> Mapping[str, Any]:
        """`privacy` (formats/envelope.md) of the points of a namespace, by NAMESPACE/NAME."""
        points = self._store.list("EnforcementPoint", namespace).resources
        return {f"{each.namespace}/{each.name}": privacy_of(each.spec["privacy"]) for each in points if "privacy" in each.spec}

    def sign(self, namespace: str, user: str, told: Mapping[str, Any]) -> bytes:
        """The signed event of who asks, at this time."""
        kind, point, subject = told["kind"], told["point"], told["subject"]
        if kind not in KINDS:
            raise Refused([Fault("kind", "another one", f"must be one of {', '.join(KINDS)}")])
        if subject not in _subjects(namespace, subject, point):
            raise Refused([Fault("subject", "another one", f"must be subject/TAG, or retention/{namespace}/NAME, with its SHA-256")])
        if not isinstance(told["evidence"], dict):
            raise Refused([Fault("evidence", "another one", "must be a JSON object")])
        time = rfc3339(self._clock.now_ns())
        event = PolicyEvent(kind, (subject[0], subject[1]), user, time, point=point, evidence=told["evidence"])
        return self._signer.bundle("rollout", statement(event))

    def append(self, bundle: bytes) -> int:
        """Index of such an event in the log, which takes anybody's word: only what our rollout key signed gets there."""
        try:
            keys = verify_keys(self._signer.keys_json(), self._root_public(), where="keys.json")
            event = parse_event(verify_event(bundle, keys)[0])
        except Bad as error:
            raise Refused([Fault(error.where, "another one", error.what)]) from error
        if event.kind not in KINDS:
            raise Refused([Fault("kind", event.kind, f"must be one of {', '.join(KINDS)}")])
        return self._log.append_event(bundle)


def _subjects(namespace: str, given: object, point: object) -> list[list[str]]:
    """What this subject may be; none when it is of no form."""
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(each, str) for each in given) or not isinstance(point, str):
        return []
    if (tag := _SUBJECT.fullmatch(given[0])) is not None:
        return [[given[0], tag[1]]] if not point else []
    return [[f"retention/{point}", sha256(point.encode()).hexdigest()]] if point.startswith(f"{namespace}/") else []
