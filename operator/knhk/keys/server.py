"""The HTTP surface (formats/keys.md): guards get the keys that they seal by, readers those that open. Nothing here writes a key, a tag or a
name into a message."""

from __future__ import annotations

import json
import logging
import time
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.adapters.key_stores import KeyStores
from knhk.adapters.pod_door import Door, Handler, Problem, body_of, problems, token_of
from knhk.keys.acts import ACTS
from knhk.keys.metrics import Metrics
from knhk.ports.caller import Authenticator, Caller, NotAllowed, Readers
from knhk.ports.clock import Clock
from knhk_runtime import keys_wire
from knhk_runtime.buckets import Buckets
from knhk_runtime.envelope import window_of
from knhk_runtime.keys_wire import State
from knhk_runtime.subject_keys import KeyStore, OnHold, OverQuota
from knhk_verify.errors import Bad

PER_SECOND, AT_ONCE = 50.0, 100.0  # of a guard
READS_PER_SECOND, READS_AT_ONCE = 500.0, 5_000.0  # of a reader
KEYS_PER_SECOND, KEYS_AT_ONCE = 50_000.0, 400_000.0
QUOTA_AGAIN_S = 60  # a person raises a quota, or its window ends
MAX_ACT_BYTES = 16 << 20
LEASE_S = 300  # for how long a guard uses keys without having heard that they still are
TOLD: dict[type[Exception], tuple[HTTPStatus, str]] = {
    Bad: (HTTPStatus.BAD_REQUEST, "malformed"),
    NotAllowed: (HTTPStatus.FORBIDDEN, "forbidden"),
    OnHold: (HTTPStatus.CONFLICT, "held"),
}
OPEN, ERASE = "open", "erase"
BYTES = "application/octet-stream"

_log = logging.getLogger("knhk.keys")


class KeyService:
    """Handlers; everything here runs on the server's loop."""

    def __init__(self, stores: KeyStores, guards: Authenticator, readers: Readers, clock: Clock, metrics: Metrics) -> None:
        self._stores, self._readers, self._clock, self._metrics = stores, readers, clock, metrics
        self._door = Door(guards, clock, PER_SECOND, AT_ONCE)
        self._keys = Buckets(clock.monotonic_ns, KEYS_PER_SECOND, KEYS_AT_ONCE)
        self._reading = Buckets(clock.monotonic_ns, READS_PER_SECOND, READS_AT_ONCE)

    def application(self, *outer: Middleware) -> web.Application:
        made = web.Application(client_max_size=MAX_ACT_BYTES, middlewares=[*outer, self._count, problems("keys", TOLD)])
        point, namespace = "/v1/points/{namespace}/{name}", "/v1/namespaces/{namespace}"
        made.add_routes(
            [
                web.get("/health", self.health),
                web.get(f"{point}/generation", self.generation, name="generation"),
                web.get(f"{point}/tags-key", self.tags_key, name="tags-key"),
                web.post(f"{point}/keys", self.keys, name="keys"),
                web.get(f"{namespace}/tags-key", self.readers_tags_key, name="readers-tags-key"),
                web.get(f"{namespace}/consents-key", self.readers_consents_key, name="readers-consents-key"),
                web.post(f"{namespace}/open", self.open, name="open"),
                web.post(f"{namespace}/store/{{act}}", self.act, name="store"),
            ]
        )
        return made

    def close(self) -> None:
        self._door.close()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        start_s = time.monotonic()
        answer = await handler(request)
        self._metrics.took(request.match_info.route.name or "other", answer.status, time.monotonic() - start_s)
        return answer

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    # ---- guards ----------------------------------------------------------------------------------

    async def generation(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        found = await self._door.run(lambda: self._stores.of(caller.namespace).generation())
        return web.json_response({"generation": found, "leaseSeconds": LEASE_S})

    async def tags_key(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        found = await self._door.run(lambda: self._stores.of(caller.namespace).tags_key)
        return web.Response(body=found, content_type=BYTES)

    async def keys(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        wanted = keys_wire.parse_wanted(await body_of(request, keys_wire.MAX_BODY_BYTES))
        self._must_be_of_now(wanted)
        if not self._keys.take(caller.uid, len(wanted)):
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {KEYS_PER_SECOND:g} keys a second")
        try:
            answer = await self._door.run(lambda: self._made(caller, wanted))
        except OverQuota as over:
            self._metrics.over_quota(caller.namespace, caller.name)
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "quota", str(over), QUOTA_AGAIN_S) from over
        self._metrics.handed("guard", len(wanted))
        return web.Response(body=answer, content_type=BYTES)

    def _made(self, caller: Caller, wanted: list[keys_wire.Wanted]) -> bytes:
        """The generation is read first: of keys that were destroyed meanwhile the guard learns by the next one."""
        store = self._stores.of(caller.namespace)
        generation, found = store.generation(), store.keys_for(caller.point, wanted)
        return keys_wire.keys_answer(generation, (found[each] for each in wanted))

    def _must_be_of_now(self, wanted: list[keys_wire.Wanted]) -> None:
        now = window_of(self._clock.now_ns())
        if any(not now - 1 <= window <= now + 1 for _, window in wanted):
            raise Problem(HTTPStatus.FORBIDDEN, "another-window", f"window: must be {now}, the one before it or the next one")

    # ---- readers ---------------------------------------------------------------------------------

    async def readers_tags_key(self, request: web.Request) -> web.Response:
        store, _ = await self._reader(request, OPEN)
        return web.Response(body=store.tags_key, content_type=BYTES)

    async def readers_consents_key(self, request: web.Request) -> web.Response:
        await self._reader(request, OPEN)
        found = await self._door.run(lambda: self._stores.of_consents(request.match_info["namespace"]))
        return web.Response(body=found or b"", content_type=BYTES)

    async def open(self, request: web.Request) -> web.Response:
        store, who = await self._reader(request, OPEN)
        ids = keys_wire.parse_ids(await body_of(request, keys_wire.MAX_BODY_BYTES))
        found = await self._door.run(lambda: _states(store, ids))
        kept = sum(state is State.KEPT for state, _ in found)
        _log.info("%s", json.dumps({"event": "opened", "who": who, "namespace": request.match_info["namespace"], "keys": kept}))
        self._metrics.handed("reader", kept)
        return web.Response(body=keys_wire.open_answer(found), content_type=BYTES)

    async def act(self, request: web.Request) -> web.Response:
        store, who = await self._reader(request, ERASE)
        name = request.match_info["act"]
        if (act := ACTS.get(name)) is None:
            raise Problem(HTTPStatus.NOT_FOUND, "not-found", f"act: must be one of {', '.join(ACTS)}")
        told = _object(await body_of(request, MAX_ACT_BYTES))
        found = await self._door.run(lambda: act(store, told))
        if act.changes:
            _log.info("%s", json.dumps({"event": name, "who": who, "namespace": request.match_info["namespace"]}))
        return web.json_response(found)

    async def _reader(self, request: web.Request, verb: str) -> tuple[KeyStore, str]:
        """The store of the namespace that it may ask about, and who it is."""
        token, namespace = token_of(request), request.match_info["namespace"]
        who = self._readers.remembered(token, verb, namespace)
        if who is None:
            who = await self._door.meet(lambda: self._readers.reader(token, verb, namespace), request.remote or "")
        if not self._reading.take(who):
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {READS_PER_SECOND:g} requests a second")
        store = await self._door.run(lambda: self._stores.there(namespace))
        if store is None:
            raise Problem(HTTPStatus.NOT_FOUND, "not-found", "namespace: must be one whose guards have sealed")
        return store, who


def _states(store: KeyStore, ids: list[bytes]) -> list[tuple[State, bytes]]:
    found = store.found(ids)

    def state(key_id: bytes) -> tuple[State, bytes]:
        if (key := found.get(key_id)) is not None:
            return State.KEPT, key
        return (State.DESTROYED if key_id in found else State.UNKNOWN), b""

    return [state(key_id) for key_id in ids]


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Bad("body", f"must be JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise Bad("body", "must be a JSON object")
    return found
