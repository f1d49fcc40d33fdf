"""Events about people that others than the operator bring about, signed by it for whom the cluster says that they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import pairwise
from typing import Any

from knhk.lockchain.events import PolicyEvent, parse_event, statement
from knhk.model.faults import Fault, Refused
from knhk.model.subjects import SAID
from knhk.model.times import rfc3339
from knhk.ports.clock import Clock
from knhk.ports.log import Log
from knhk.ports.signer import Signer
from knhk.ports.store import Store
from knhk.reconcilers.points import privacy_of
from knhk_verify.errors import Bad
from knhk_verify.signed import verify_event, verify_keys

Check = Callable[[object], bool]
_SUBJECT = re.compile("subject/([0-9a-f]{64})")


def _text(pattern: str) -> Check:
    form = re.compile(pattern)
    return lambda found: isinstance(found, str) and form.fullmatch(found) is not None


def _number(found: object) -> bool:
    return type(found) is int and 0 <= found < 1 << 53


def _ranges(found: object) -> bool:
    """[[first, last]…], ascending."""
    if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == 2 and all(map(_number, row)) for row in found):
        return False
    ends = [end for row in found for end in row]
    return ends == sorted(ends) and all(a[1] < b[0] for a, b in pairwise(found))


def _list_of(check: Check) -> Check:
    return lambda found: isinstance(found, list) and all(map(check, found))


_ID, _HASH, _TIME, _SAID = _text("[0-9a-f]{32}"), _text("[0-9a-f]{64}"), _text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), _text(SAID)
_HOLD: Mapping[str, Check] = {"hold": _ID, "reference": _SAID}
EVIDENCE: Mapping[str, Mapping[str, Check]] = {  # of each kind all members, as formats/envelope.md and signed.md have them
    "Erased": {
        **{"erasure": _ID, "part": _number, "parts": _number, "basis": _SAID, "leaves": _number, "targets": _ranges},
        **{"leafHashes": _HASH, "keys": _list_of(_ID), "destroyed": _TIME, "hold": _text("none")},
    },
    "ErasureQueued": {"erasure": _ID, "basis": _SAID, "holds": _list_of(_ID)},
    "Held": _HOLD,
    "HoldReleased": _HOLD,
    "SubjectExported": {"rows": _number, "entries": _HASH, "size": _number, "reason": _SAID},
}
EXPORTS = ("SubjectExported",)
KINDS: Mapping[str, tuple[str, ...]] = {"export": EXPORTS, "erase": tuple(kind for kind in EVIDENCE if kind not in EXPORTS)}
"""Which events who may do this has signed and told."""


class Teller:
    """Any thread. `root_public`: the pinned root's raw public key. Raises Refused for what is no such event, and as Signer, Log, Store."""

    def __init__(self, store: Store, signer: Signer, log: Log, clock: Clock, root_public: Callable[[], bytes]) -> None:
        self._store, self._signer, self._log, self._clock, self._root_public = store, signer, log, clock, root_public

    def privacy(self, namespace: str) -> Mapping[str, Any]:
        """`privacy` (formats/envelope.md) of the points of a namespace, by NAMESPACE/NAME."""
        points = self._store.list("EnforcementPoint", namespace).resources
        return {f"{each.namespace}/{each.name}": privacy_of(each.spec["privacy"]) for each in points if "privacy" in each.spec}

    def keys_json(self) -> bytes:
        """As it is published with the log."""
        return self._signer.keys_json()

    def sign(self, namespace: str, user: str, told: Mapping[str, Any], verb: str) -> bytes:
        """The signed event of who asks, at this time, with the namespace for which he asks: it counts for no other."""
        kind, point, subject = told["kind"], told["point"], told["subject"]
        if kind not in KINDS[verb]:
            raise Refused([Fault("kind", "another one", f"must be one of {', '.join(KINDS[verb])}")])
        if subject not in _subjects(namespace, subject, point):
            raise Refused([Fault("subject", "another one", f"must be subject/TAG, or retention/{namespace}/NAME, with its SHA-256")])
        evidence = self._evidence(kind, told["evidence"]) | {"namespace": namespace}
        time = rfc3339(self._clock.now_ns())
        event = PolicyEvent(kind, (subject[0], subject[1]), user, time, point=point, evidence=evidence)
        return self._signer.bundle("rollout", statement(event))

    def _evidence(self, kind: str, given: object) -> dict[str, Any]:
        """As whoever reads the log for ever relies on it. Raises Refused."""
        wanted = EVIDENCE[kind]
        if not isinstance(given, dict) or set(given) != set(wanted):
            raise Refused([Fault("evidence", "another one", f"must be a JSON object of {', '.join(wanted)}")])
        if wrong := [name for name, check in wanted.items() if not check(given[name])]:
            raise Refused([Fault(f"evidence.{name}", "another one", "must be as in formats/envelope.md") for name in wrong])
        if (targets := given.get("targets")) and targets[-1][1] >= int(self._log.checkpoint().split("\n")[1]):
            raise Refused([Fault("evidence.targets", "another one", "must be entries that the log has")])
        return dict(given)

    def append(self, bundle: bytes, verb: str) -> int:
        """Index of such an event in the log, which takes anybody's word: only what our rollout key signed gets there."""
        try:
            keys = verify_keys(self._signer.keys_json(), self._root_public(), where="keys.json")
            event = parse_event(verify_event(bundle, keys)[0])
        except Bad as error:
            raise Refused([Fault(error.where, "another one", error.what)]) from error
        if event.kind not in KINDS[verb]:
            raise Refused([Fault("kind", event.kind, f"must be one of {', '.join(KINDS[verb])}")])
        return self._log.append_event(bundle)


def _subjects(namespace: str, given: object, point: object) -> list[list[str]]:
    """What this subject may be; none when it is of no form."""
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(each, str) for each in given) or not isinstance(point, str):
        return []
    if (tag := _SUBJECT.fullmatch(given[0])) is not None:
        return [[given[0], tag[1]]] if not point else []
    return [[f"retention/{point}", sha256(point.encode()).hexdigest()]] if point.startswith(f"{namespace}/") else []
