"""The exchange's HTTPS server (formats/exchange.md): a thread of its own beside the controller. It judges who asks and bounds what
they may; what it hands out and takes is ExchangeFleet's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.adapters.certificates import MAX_REQUEST_BYTES, Pair
from knhk.adapters.client_context import show
from knhk.adapters.erasure_desk import ErasureDesk
from knhk.adapters.fleet_exchange import Desired, ExchangeFleet, TooManyPods
from knhk.adapters.pod_door import Door, Problem, body_of, problems
from knhk.model.faults import KnhkError, Stalled
from knhk.ports.caller import Authenticator, NotAllowed
from knhk.ports.clock import Clock
from knhk_runtime.doors import Bounds, Doors
from knhk_verify.errors import Bad

MAX_BODY_BYTES = 1 << 20
LONG_POLL_S, RENEW_EVERY_S, STARTS_WITHIN_S = 25.0, 3600.0, 30.0
PER_SECOND, AT_ONCE = 20.0, 40.0
MAX_WAITING = 20_000
TOLD: dict[type[Exception], tuple[HTTPStatus, str]] = {
    TooManyPods: (HTTPStatus.TOO_MANY_REQUESTS, "too-many"),
    Bad: (HTTPStatus.BAD_REQUEST, "malformed"),
    NotAllowed: (HTTPStatus.FORBIDDEN, "forbidden"),
}

_log = logging.getLogger("knhk.exchange")
Issue = Callable[[bytes, str], bytes]  # signing request and URI, or point → certificate (PEM); raises Refused


class Exchange:
    """Handlers; everything here runs on the server's loop."""

    def __init__(
        self,
        fleet: ExchangeFleet,
        authenticator: Authenticator,
        issue: Issue,
        serves: Issue,
        clock: Clock,
        erasures: ErasureDesk | None = None,
    ) -> None:
        """`issue`: what a pod shows as a client, by its URI; `serves`: what its Envoy shows as a server, by its point; `erasures`: what the
        exchange does for who may erase; None: nothing."""
        self._fleet, self._issue, self._serves, self._erasures = fleet, issue, serves, erasures
        self._door = Door(authenticator, clock, PER_SECOND, AT_ONCE)
        self._waiting = 0
        self._news: dict[str, asyncio.Event] = {}

    def application(self, *outer: Middleware) -> web.Application:
        made = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[*outer, problems("exchange", TOLD)])
        point = "/v1/points/{namespace}/{name}"
        made.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/self", self.who),
                web.get(f"{point}/desired", self.desired),
                web.get(f"{point}/consents/{{digest}}", self.base),
                web.post(f"{point}/pods/{{pod}}/statistics", self.statistics),
                web.post(f"{point}/pods/{{pod}}/certificate", self.certificate),
                web.post(f"{point}/pods/{{pod}}/serving", self.serving),
                *(self._erasures.routes(self._door) if self._erasures is not None else ()),
            ]
        )
        return made

    def close(self) -> None:
        self._door.close()

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wakes who waits for a point when it changes."""

        def changed(point: str) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(self._wake, point)

        self._fleet.listen(changed)

    def _wake(self, point: str) -> None:
        if point in self._news:
            self._news.pop(point).set()

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def who(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        return web.json_response({"namespace": caller.namespace, "point": caller.name, "pod": caller.pod, "uid": caller.uid})

    async def desired(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        after, deadline = request.query.get("after", ""), asyncio.get_running_loop().time() + LONG_POLL_S
        while True:
            news = self._news.setdefault(caller.point, asyncio.Event())
            found = await self._door.run(lambda: self._fleet.desired(caller.point))
            if found is not None and found.etag != after:
                return _desired(found)
            if "after" not in request.query or not await self._waits(news, deadline):
                return web.Response(status=HTTPStatus.NO_CONTENT)

    async def base(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        data = self._fleet.base(caller.point, request.match_info["digest"])
        if data is None:
            raise Problem(HTTPStatus.NOT_FOUND, "not-found", "digest: must be that of the base of the consents that are published now")
        return web.Response(body=data, content_type="application/octet-stream")

    async def _waits(self, news: asyncio.Event, deadline: float) -> bool:
        """Whether there was news before the deadline."""
        if self._waiting >= MAX_WAITING:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", f"more than {MAX_WAITING} requests wait")
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await news.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1

    async def statistics(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        body = await body_of(request, MAX_BODY_BYTES)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Problem(HTTPStatus.BAD_REQUEST, "malformed", f"body: must be JSON: {error}") from error
        if not isinstance(document, dict):
            raise Problem(HTTPStatus.BAD_REQUEST, "malformed", "body: must be a JSON object")
        await self._door.run(lambda: self._fleet.tell(caller.point, caller.uid, caller.pod, document))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def certificate(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        body = await body_of(request, MAX_REQUEST_BYTES)
        made = await self._door.run(lambda: self._issue(body, caller.uri))
        return web.json_response({"certificate": made.decode()})

    async def serving(self, request: web.Request) -> web.Response:
        caller = await self._door.caller(request)
        body = await body_of(request, MAX_REQUEST_BYTES)
        made = await self._door.run(lambda: self._serves(body, caller.point))
        return web.json_response({"certificate": made.decode()})


def _desired(found: Desired) -> web.Response:
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()} for name, data in found.files.items()
    }
    return web.json_response({"etag": found.etag, "files": files})


# ---- the thread ------------------------------------------------------------------------------------


class Surface(Protocol):
    """What is served."""

    def application(self, *outer: Middleware) -> web.Application: ...
    def follow(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def close(self) -> None: ...


@contextmanager
def serving(
    exchange: Surface, host: str, port: int, shown: Callable[[], Pair], bounds: Bounds | None = None, option: str = "--exchange"
) -> Iterator[int]:
    """Serves while the context lasts, so many as `bounds` says; gives the port. `shown`: the certificate and key to show, asked for every
    hour; `option`: that said where, in errors. Raises Stalled when the address cannot be had, and what `shown` raises at the start."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    show(tls, shown())
    loop, started = asyncio.new_event_loop(), threading.Event()
    outcome: list[int | OSError] = []

    async def serve(ended: asyncio.Event) -> None:
        exchange.follow(loop)
        doors = Doors(bounds)
        runner = web.AppRunner(exchange.application(doors.watch), access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await runner.setup()
        try:
            try:
                server = await doors.open(runner, host, port, lambda: tls)
                outcome.append(server.sockets[0].getsockname()[1])
            except OSError as error:
                outcome.append(error)
                return
            finally:
                started.set()
            renewing = asyncio.create_task(_renew(tls, shown))
            await ended.wait()
            renewing.cancel()
            doors.close()
        finally:
            await runner.cleanup()
            doors.dismiss()
            exchange.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(ended)), name="exchange", daemon=True)
    thread.start()
    started.wait(STARTS_WITHIN_S)
    try:
        if not outcome or isinstance(outcome[0], OSError):
            raise Stalled("NoAddress", f"{option} {host}:{port}: must be free: {outcome[0] if outcome else 'it does not start'}")
        yield outcome[0]
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)
        thread.join(STARTS_WITHIN_S)
        if not thread.is_alive():
            loop.close()


async def _renew(tls: ssl.SSLContext, shown: Callable[[], Pair]) -> None:
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        try:
            show(tls, await asyncio.to_thread(shown))
        except (KnhkError, OSError) as error:
            _log.warning("the certificate could not be renewed, the old one stays: %s", error)
