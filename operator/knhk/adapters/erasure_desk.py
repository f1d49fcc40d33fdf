"""What the exchange does for who may erase, or export, in a namespace (formats/erasures.md): says who asks, signs and tells the log."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

from knhk.adapters import erasures_wire as wire
from knhk.adapters.pod_door import Door, Problem, body_of, token_of
from knhk.ports.caller import Readers
from knhk.ports.clock import Clock
from knhk_runtime.buckets import Buckets

PER_SECOND, AT_ONCE = 20.0, 200.0  # of a user
MAX_EVENT_BYTES = 65_535
ERASE, EXPORT = "erase", "export"


class Teller(Protocol):
    """Signs and appends, once the operator may. Raises Refused for what is no such event, and as Signer, Log and Store."""

    def privacy(self, namespace: str) -> Mapping[str, Any]:
        """`privacy` of the points of a namespace, by NAMESPACE/NAME."""
        ...

    def keys_json(self) -> bytes:
        """What the log's signatures are held against."""
        ...

    def sign(self, namespace: str, user: str, told: Mapping[str, Any], verb: str) -> bytes: ...
    def append(self, bundle: bytes, verb: str) -> int: ...


class ErasureDesk:
    """Handlers, on the loop of the exchange."""

    def __init__(self, readers: Readers, clock: Clock) -> None:
        self._readers = readers
        self._buckets = Buckets(clock.monotonic_ns, PER_SECOND, AT_ONCE)
        self._teller: Teller | None = None

    def begin(self, teller: Teller) -> None:
        """From now on there is who signs."""
        self._teller = teller

    def routes(self, door: Door) -> list[web.RouteDef]:
        async def erases(request: web.Request) -> web.Response:
            who, teller, namespace = await self._met(request, door, ERASE)
            found = await door.run(lambda: teller.privacy(namespace))
            return web.json_response({"user": who, "privacy": dict(found)})

        async def exports(request: web.Request) -> web.Response:
            who, teller, namespace = await self._met(request, door, EXPORT)
            privacy, keys = await door.run(lambda: (teller.privacy(namespace), teller.keys_json()))
            return web.json_response({"user": who, "privacy": dict(privacy), "keys": keys.decode()})

        return [
            *(web.get("/v1/erasures/{namespace}", erases), *self._telling(door, "/v1/erasures/{namespace}", ERASE)),
            *(web.get("/v1/exports/{namespace}", exports), *self._telling(door, "/v1/exports/{namespace}", EXPORT)),
        ]

    def _telling(self, door: Door, path: str, verb: str) -> list[web.RouteDef]:
        """Who may `verb` has its events signed, and no others."""

        async def sign(request: web.Request) -> web.Response:
            who, teller, namespace = await self._met(request, door, verb)
            told = wire.members(await body_of(request, MAX_EVENT_BYTES), "kind", "subject", "point", "evidence")
            return web.Response(body=await door.run(lambda: teller.sign(namespace, who, told, verb)), content_type="application/json")

        async def append(request: web.Request) -> web.Response:
            _, teller, _ = await self._met(request, door, verb)
            bundle = await body_of(request, MAX_EVENT_BYTES)
            return web.json_response({"index": await door.run(lambda: teller.append(bundle, verb))})

        return [web.post(f"{path}/sign", sign), web.post(f"{path}/append", append)]

    async def _met(self, request: web.Request, door: Door, verb: str) -> tuple[str, Teller, str]:
        token, namespace = token_of(request), request.match_info["namespace"]
        who = self._readers.remembered(token, verb, namespace)
        if who is None:
            who = await door.meet(lambda: self._readers.reader(token, verb, namespace), request.remote or "")
        if not self._buckets.take(who):
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {PER_SECOND:g} requests a second")
        if self._teller is None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "this operator does not lead yet: try again")
        return who, self._teller, namespace
