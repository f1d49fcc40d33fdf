"""A namespace's key store behind the key service, as who may open or erase has it (formats/keys.md)."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from knhk.adapters.token_client import TokenClient, Whom
from knhk.model.faults import Conflict, Corrupt, NotFound
from knhk.ports.caller import KEYS_AUDIENCE
from knhk_runtime import keys_wire
from knhk_runtime.envelope import KEY
from knhk_runtime.keys_wire import State
from knhk_runtime.subject_keys import Held, OnHold, Work
from knhk_verify.errors import Bad

WITHIN_S = 30.0


class RemoteKeyStore:
    """`knhk_runtime.subject_keys.ErasableKeys`. One thread. Raises as TokenClient, NotFound for a namespace without keys, Corrupt, and
    OnHold as KeyStore."""

    def __init__(self, whom: Whom, namespace: str) -> None:
        self._client = TokenClient(whom, "KeyService", KEYS_AUDIENCE, WITHIN_S)
        self._server, self._path = self._client.server, f"/v1/namespaces/{namespace}"

    @cached_property
    def tags_key(self) -> bytes:
        """Of the namespace."""
        found = self._asked("GET", "tags-key")
        if len(found) != KEY:
            raise Corrupt(str(self._server), f"tags-key: must have {KEY} bytes")
        return found

    @cached_property
    def consents_key(self) -> bytes | None:
        """By which tags of the namespace's consents are made; None where the service knows none, or is of before it told."""
        try:
            found = self._asked("GET", "consents-key")
        except NotFound:
            return None
        if len(found) not in (0, KEY):
            raise Corrupt(str(self._server), f"consents-key: must have {KEY} bytes, or none")
        return found or None

    def close(self) -> None:
        self._client.close()

    def found(self, ids: Collection[bytes]) -> dict[bytes, bytes | None]:
        rows, found = list(ids), dict[bytes, bytes | None]()
        for at in range(0, len(rows), keys_wire.MOST):
            part = rows[at : at + keys_wire.MOST]
            for key_id, (state, key) in zip(part, self._states(part), strict=True):
                if state is not State.UNKNOWN:
                    found[key_id] = key if state is State.KEPT else None
        return found

    def ids_of(self, tag: bytes) -> list[bytes]:
        return [bytes.fromhex(each) for each in self._done("ids-of", tag=tag.hex())["ids"]]

    def ids_before(self, point: str, window: int, after: bytes) -> list[bytes]:
        return [bytes.fromhex(each) for each in self._done("ids-before", point=point, window=window, after=after.hex())["ids"]]

    def destroy(self, erasure: str, ids: Iterable[bytes]) -> None:
        self._done("destroy", erasure=erasure, ids=[each.hex() for each in ids])

    def put_hold(self, hold: Held, bundle: bytes | None) -> None:
        told = {"id": hold.id, "tag": hold.tag.hex(), "reference": hold.reference, "standing": hold.standing}
        self._done("put-hold", hold=told, bundle=None if bundle is None else base64.b64encode(bundle).decode())

    def untold(self) -> list[tuple[Held, bytes]]:
        return [(_hold(row["hold"]), base64.b64decode(row["bundle"])) for row in self._done("untold")["holds"]]

    def holds(self) -> list[Held]:
        return [_hold(row) for row in self._done("holds")["holds"]]

    def put_work(self, work: Work) -> None:
        self._done("put-work", work={"id": work.id, "state": work.state, "plan": work.plan, "bundles": work.bundles})

    def works(self) -> list[Work]:
        return [Work(**row) for row in self._done("works")["works"]]

    # ---- requests --------------------------------------------------------------------------------

    def _states(self, ids: list[bytes]) -> Sequence[tuple[State, bytes]]:
        try:
            return keys_wire.parse_open(self._asked("POST", "open", b"".join(ids)), len(ids))
        except Bad as error:
            raise Corrupt(str(self._server), error.what) from error

    def _done(self, act: str, **told: object) -> Mapping[str, Any]:
        found = json.loads(self._asked("POST", f"store/{act}", json.dumps(told).encode()))
        if not isinstance(found, dict):
            raise Corrupt(str(self._server), f"{act}: must answer a JSON object")
        return found

    def _asked(self, method: str, what: str, body: bytes = b"") -> bytes:
        try:
            return self._client.asked(method, f"{self._path}/{what}", what, body)
        except Conflict as error:
            raise OnHold(str(error)) from error


def _hold(row: Mapping[str, Any]) -> Held:
    return Held(row["id"], bytes.fromhex(row["tag"]), row["reference"], row["standing"])
