"""A key service as an agent has it (formats/keys.md): the promises of a key store, from a server that may be slow, away, or wrong."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from knhk.model.faults import Corrupt, KnhkError, NotFound, Stalled, Waiting
from knhk_runtime import keys_wire
from knhk_runtime.envelope import KEY, window_of
from knhk_runtime.http1 import Answer, HttpClient, Https, Unreachable
from knhk_runtime.log import log
from knhk_runtime.subject_keys import SubjectKey
from knhk_verify.errors import Bad

WITHIN_S, LOOK_EVERY_S, MOST_LEASE_S, ENDS_WITHIN_S = 5.0, 1.0, 300.0, 10.0
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
T = TypeVar("T")
Authorization = Callable[[], Mapping[str, str]]


class _AnotherWindow(Stalled):
    """Of the window that was asked for the service gives no keys."""


class RemoteKeys:
    """`knhk_runtime.subject_keys.SealingKeys` for one point. A thread of its own asks whether keys still are; what must be asked for is
    waited for WITHIN_S."""

    def __init__(self, server: Https, authorization: Authorization, point: str) -> None:
        self._server, self._authorization, self._path = server, authorization, f"/v1/points/{point}"
        self._asking, self._looking = HttpClient(server), HttpClient(server)
        self._tags_key: bytes | None = None
        self._generation, self._until_s = -1, 0.0
        self._fault = "has not answered yet"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._thread.start()

    @property
    def tags_key(self) -> bytes:
        """Asked for once. Raises as `keys_for`."""
        if self._tags_key is None:
            body = self._wait(self._asked(self._asking, "GET", "tags-key"))
            if len(body) != KEY:
                raise Corrupt(str(self._server), f"tags-key: must have {KEY} bytes")
            self._tags_key = body
        return self._tags_key

    def generation(self) -> int:
        """See the promises: the last word, as long as it counts."""
        if time.monotonic() >= self._until_s:
            raise Waiting("KeyService", f"{self._server}: {self._fault}", LOOK_EVERY_S)
        return self._generation

    def keys_for(self, point: str, wanted: Collection[tuple[bytes, int]]) -> dict[tuple[bytes, int], SubjectKey]:
        """See the promises. Raises Waiting, Stalled, Corrupt, and NotFound for windows that are over: a guard gets their keys no more."""
        rows, found = list(wanted), dict[tuple[bytes, int], SubjectKey]()
        for at in range(0, len(rows), keys_wire.MOST):
            part = rows[at : at + keys_wire.MOST]
            try:
                body = self._wait(self._asked(self._asking, "POST", "keys", keys_wire.wanted_body(part)))
            except _AnotherWindow as error:
                if all(window < window_of(time.time_ns()) - 1 for _, window in part):
                    raise NotFound(str(error)) from error
                raise  # clocks differ: what is of now waits for who mends them
            try:
                _, keys = keys_wire.parse_keys(body, len(part))
            except Bad as error:
                raise Corrupt(str(self._server), error.what) from error
            found.update(zip(part, keys, strict=True))
        return found

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ENDS_WITHIN_S)

    # ---- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        looking = self._loop.create_task(self._look())
        try:
            self._loop.run_forever()
        finally:
            looking.cancel()
            for client in (self._asking, self._looking):
                self._loop.run_until_complete(client.close())
            self._loop.run_until_complete(asyncio.gather(looking, return_exceptions=True))
            self._loop.close()

    def _wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    async def _look(self) -> None:
        """What is known of the generation, anew every LOOK_EVERY_S."""
        while True:
            asked_s, fault = time.monotonic(), ""
            try:
                told = json.loads(await self._asked(self._looking, "GET", "generation"))
                lease_s = min(max(float(told["leaseSeconds"]), 0.0), MOST_LEASE_S)
                self._generation, self._until_s = int(told["generation"]), asked_s + lease_s
            except (KnhkError, ValueError, KeyError, TypeError) as error:
                fault = f"{type(error).__name__}: {error}"
            if fault and fault != self._fault:
                log("keys", fault=fault)
            self._fault = fault
            await asyncio.sleep(LOOK_EVERY_S)

    async def _asked(self, client: HttpClient, method: str, what: str, body: bytes = b"") -> bytes:
        """The body of what answers 200. Raises Waiting when it may come later, Stalled for what a person must mend."""
        try:
            headers = {**self._authorization(), "Content-Type": "application/octet-stream"}
            answer = await client.request(method, f"{self._path}/{what}", body, headers, WITHIN_S)
        except (Unreachable, OSError) as error:
            raise Waiting("KeyService", f"{self._server}: {error}", LOOK_EVERY_S) from error
        if answer.status == HTTPStatus.OK:
            return answer.body
        said = f"{self._server}: {what}: {answer.status} {_detail(answer)}"
        if answer.status in _AGAIN or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Waiting("KeyService", said, LOOK_EVERY_S)
        raise (_AnotherWindow if _kind(answer) == "another-window" else Stalled)("KeyService", said)


def _detail(answer: Answer) -> str:
    return _member(answer, "detail")[:500]


def _kind(answer: Answer) -> str:
    return _member(answer, "type").rpartition("/")[2]


def _member(answer: Answer, name: str) -> str:
    try:
        return str(json.loads(answer.body)[name])
    except (ValueError, KeyError, TypeError):
        return ""
