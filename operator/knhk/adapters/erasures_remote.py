"""What was recorded, and who signs that it was erased, on a cluster: as who may erase there has it (formats/erasures.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from knhk.adapters import erasures_wire as wire
from knhk.adapters.token_client import TokenClient, Whom
from knhk.lockchain.events import PolicyEvent
from knhk.model.faults import Corrupt
from knhk.model.ranges import Ranges
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.ports.recorded import Copy, Found, Told
from knhk_verify.errors import Bad, demand

R = TypeVar("R", Copy, Told)
WITHIN_S = 3600.0  # an archive is read whole


class _Remote:
    """One thread. Raises as TokenClient, and Corrupt for answers that are none."""

    def __init__(self, whom: Whom, path: str) -> None:
        self._client, self._path = TokenClient(whom, "Erasures", ERASURES_AUDIENCE, WITHIN_S), path

    def close(self) -> None:
        self._client.close()

    def sign(self, event: PolicyEvent) -> bytes:
        """The event as the operator signs it: its actor is who asks, its time that of the operator."""
        told = wire.body(kind=event.kind, subject=list(event.subject), point=event.point, evidence=event.evidence)
        return self._client.asked("POST", f"{self._path}/sign", "sign", told)

    def append(self, bundle: bytes) -> int:
        """Its index in the log; repeated the same."""
        return int(self._told("append", bundle, "index")["index"])

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


class RemoteErasures(_Remote):
    """`knhk.ports.recorded.Recorded` of a namespace, as who may erase there."""

    def __init__(self, whom: Whom, namespace: str) -> None:
        super().__init__(whom, f"/v1/namespaces/{namespace}")

    def of_subject(self, tag: bytes, subject: str) -> Found:
        """See the port."""
        found = self._told("subject", wire.body(tag=tag.hex(), subject=subject), "targets", "unsearched")
        return Found(self._parsed("subject", found["targets"]), tuple(map(str, found["unsearched"])))

    def older(self, point: str, before_ns: int, held: Collection[bytes], after: int) -> Ranges:
        """See the port."""
        return self._targets("older", point=point, before=str(max(0, before_ns)), held=wire.tags(held), after=after)

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

    def _targets(self, what: str, **told: object) -> Ranges:
        return self._parsed(what, self._told(what, wire.body(**told), "targets")["targets"])

    def _parsed(self, what: str, targets: object) -> Ranges:
        try:
            return wire.parse_targets(targets)
        except Bad as error:
            raise Corrupt(f"{self._client.server}: {what}", str(error)) from error


@dataclass(frozen=True)
class Begun:
    """`user`: who the cluster says that we are; `keys_json`: as it is published with the log; `note`: the log's checkpoint."""

    user: str
    keys_json: bytes
    note: str


class RemoteExports(_Remote):
    """All about one subject of a namespace, as who may export there."""

    def __init__(self, whom: Whom, namespace: str) -> None:
        super().__init__(whom, f"/v1/namespaces/{namespace}/export")

    def begin(self) -> Begun:
        found = self._object("export", self._client.asked("GET", self._path, "export"), "user", "keys", "checkpoint")
        return Begun(str(found["user"]), str(found["keys"]).encode(), str(found["checkpoint"]))

    def records(self, tag: bytes, subject: str, pointers: tuple[str, ...], note: str) -> Iterator[Copy]:
        """See the port; all pages."""
        told = {"tag": tag.hex(), "subject": subject, "pointers": list(pointers), "checkpoint": note}
        for rows, _ in self._pages("records", told, wire.parse_copy):
            yield from rows

    def events(self, tag: bytes, digests: Collection[str], note: str) -> tuple[list[Told], bool]:
        """See the port; all pages."""
        told = {"tag": tag.hex(), "digests": sorted(digests), "checkpoint": note}
        pages = list(self._pages("events", told, wire.parse_told, "consents"))
        return [row for rows, _ in pages for row in rows], any(page["consents"] is True for _, page in pages)

    def _pages(
        self, what: str, told: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], R], *more_names: str
    ) -> Iterator[tuple[list[R], Mapping[str, Any]]]:
        """Rows of each page, and the page."""
        after, more = -1, True
        while more:
            found = self._told(what, wire.body(**told, after=after), what, "more", *more_names)
            try:
                rows = [parse(row) for row in found[what]]
                indexes = [row.index for row in rows]
                demand(indexes == sorted(set(indexes)) and min(indexes, default=after + 1) > after, what, "must be in the order of the log")
                demand(bool(indexes) or not found["more"], what, "must come to an end")
            except (Bad, TypeError) as error:
                raise Corrupt(f"{self._client.server}: {what}", str(error)) from error
            yield rows, found
            after, more = max(indexes, default=after), found["more"] is True
