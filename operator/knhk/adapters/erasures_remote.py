"""What was recorded, and who signs that it was erased, on a cluster: as who may erase there has it (formats/erasures.md)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from knhk.adapters import erasures_wire as wire
from knhk.adapters.token_client import TokenClient, Whom
from knhk.lockchain.events import PolicyEvent
from knhk.model.faults import Corrupt
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.ports.recorded import Ranges
from knhk_verify.errors import Bad

WITHIN_S = 3600.0  # an archive is read whole


class RemoteErasures:
    """`knhk.ports.recorded.Recorded` of a namespace. One thread. Raises as TokenClient, and Corrupt for answers that are none."""

    def __init__(self, whom: Whom, namespace: str) -> None:
        self._client = TokenClient(whom, "Erasures", ERASURES_AUDIENCE, WITHIN_S)
        self._path = f"/v1/namespaces/{namespace}"

    def close(self) -> None:
        self._client.close()

    def of_subject(self, tag: bytes, subject: str) -> Ranges:
        """See the port."""
        return self._targets("subject", tag=tag.hex(), subject=subject)

    def older(self, point: str, before_ns: int, held: Collection[bytes]) -> Ranges:
        """See the port."""
        return self._targets("older", point=point, before=str(max(0, before_ns)), held=wire.tags(held))

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        """See the port."""
        return self._targets("free", targets=wire.targets(targets), held=wire.tags(held))

    def digest(self, targets: Ranges) -> str:
        """See the port."""
        return str(self._told("digest", wire.body(targets=wire.targets(targets)), "leafHashes")["leafHashes"])

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        """See the port."""
        found = self._told("rewrite", wire.body(targets=wire.targets(targets)), "records", "rows")
        return int(found["records"]), int(found["rows"])

    def user(self) -> tuple[str, Mapping[str, Any]]:
        """Who the cluster says that we are, and `privacy` of the namespace's points."""
        found = self._object("namespace", self._client.asked("GET", self._path, "namespace"), "user", "privacy")
        return str(found["user"]), dict(found["privacy"])

    def sign(self, event: PolicyEvent) -> bytes:
        """The event as the operator signs it: its actor is who asks, its time that of the operator."""
        told = wire.body(kind=event.kind, subject=list(event.subject), point=event.point, evidence=event.evidence)
        return self._client.asked("POST", f"{self._path}/sign", "sign", told)

    def append(self, bundle: bytes) -> int:
        """Its index in the log; repeated the same."""
        return int(self._told("append", bundle, "index")["index"])

    def _targets(self, what: str, **told: object) -> Ranges:
        found = self._told(what, wire.body(**told), "targets")
        try:
            return wire.parse_targets(found["targets"])
        except Bad as error:
            raise Corrupt(f"{self._client.server}: {what}", str(error)) from error

    def _told(self, what: str, body: bytes, *names: str) -> Mapping[str, Any]:
        return self._object(what, self._client.asked("POST", f"{self._path}/{what}", what, body), *names)

    def _object(self, what: str, answer: bytes, *names: str) -> Mapping[str, Any]:
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not set(names) <= set(found):
            raise Corrupt(f"{self._client.server}: {what}", f"must answer a JSON object of {', '.join(names)}")
        return found
