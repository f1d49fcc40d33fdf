"""A namespace's key store behind the key service, as who may open or erase has it (formats/keys.md)."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt, NotFound, Stalled, Waiting
from knhk_runtime import keys_wire
from knhk_runtime.envelope import KEY
from knhk_runtime.http1 import Answer, HttpClient, Https, Unreachable
from knhk_runtime.keys_wire import State
from knhk_runtime.subject_keys import Held, OnHold, Work
from knhk_verify.errors import Bad

WITHIN_S = 30.0
PAUSES_S = (0.0, 1.0, 2.0, 4.0)  # a connection that was idle for too long; too many requests a second; a service that starts anew
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class RemoteKeyStore:
    """`knhk_runtime.subject_keys.ErasableKeys`. One thread. `token` is read anew for each request; what waits is asked again after each of
    PAUSES_S. Raises Waiting when it may work later, Stalled for who may not, NotFound for a namespace without keys, Corrupt, and OnHold as
    KeyStore."""

    def __init__(self, url: str, namespace: str, token: Path, authority: Path) -> None:
        try:
            self._context = ssl.create_default_context(cafile=authority)
        except OSError as error:  # of ssl too
            raise Stalled("KeysAuthority", f"{authority}: must hold the authority of the key service, PEM: {error}") from error
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server = Https.of(url, lambda: self._context)
        self._client, self._runner = HttpClient(self._server), asyncio.Runner()
        self._path, self._token = f"/v1/namespaces/{namespace}", token

    @cached_property
    def tags_key(self) -> bytes:
        """Of the namespace."""
        found = self._asked("GET", "tags-key")
        if len(found) != KEY:
            raise Corrupt(str(self._server), f"tags-key: must have {KEY} bytes")
        return found

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

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

    def ids_before(self, point: str, window: int) -> list[tuple[bytes, bytes]]:
        rows = self._done("ids-before", point=point, window=window)["ids"]
        return [(bytes.fromhex(key_id), bytes.fromhex(tag)) for key_id, tag in rows]

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
        for pause_s in PAUSES_S:
            try:
                return self._asked_once(method, what, body)
            except Waiting:
                time.sleep(pause_s)
        return self._asked_once(method, what, body)

    def _asked_once(self, method: str, what: str, body: bytes) -> bytes:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}"}
        except (OSError, UnicodeDecodeError) as error:
            raise Stalled("KeysToken", f"{self._token}: must hold a token of audience keys.knhk.dev: {error}") from error
        try:
            answer = self._runner.run(self._client.request(method, f"{self._path}/{what}", body, headers, WITHIN_S))
        except Unreachable as error:
            raise Waiting("KeyService", str(error), 1.0) from error
        if answer.status == HTTPStatus.OK:
            return answer.body
        said = f"{self._server}: {what}: {_detail(answer)}"
        if answer.status == HTTPStatus.CONFLICT:
            raise OnHold(said)
        if answer.status in _AGAIN or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Waiting("KeyService", said, 1.0)
        raise NotFound(said) if answer.status == HTTPStatus.NOT_FOUND else Stalled("KeyService", said)


def _hold(row: Mapping[str, Any]) -> Held:
    return Held(row["id"], bytes.fromhex(row["tag"]), row["reference"], row["standing"])


def _detail(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(answer.status)
