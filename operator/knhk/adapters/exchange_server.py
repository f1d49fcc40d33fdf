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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.adapters.certificates import MAX_REQUEST_BYTES, Pair
from knhk.adapters.client_context import show
from knhk.adapters.fleet_exchange import Desired, ExchangeFleet, TooManyPods
from knhk.model.faults import KnhkError, Refused, Stalled
from knhk.ports.caller import Acquaintance, Authenticator, Caller, Denied
from knhk.ports.clock import Clock
from knhk_runtime.buckets import Buckets
from knhk_runtime.doors import Bounds, Doors

PROBLEMS = "https://knhk.dev/problems/exchange/"
MAX_BODY_BYTES = 1 << 20
LONG_POLL_S, BODY_WITHIN_S, RENEW_EVERY_S, STARTS_WITHIN_S = 25.0, 10.0, 3600.0, 30.0
PER_SECOND, AT_ONCE = 20.0, 40.0
ASKING, MAX_ASKING = 8, 256  # threads for shelf and known callers, and requests that may wait for them
MEETING, MAX_MEETING, MEETING_OF_ONE = 4, 64, 8  # the same for callers that nobody knows, and of one address
NEW_PER_SECOND, NEW_AT_ONCE = 2.0, 20.0  # tokens that nobody knows, of one address
MAX_WAITING = 20_000

_log = logging.getLogger("knhk.exchange")
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Issue = Callable[[bytes, str], bytes]  # signing request and URI → certificate (PEM); raises Refused


class Problem(Exception):
    """An answer that is none (RFC 9457)."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail

    def response(self) -> web.Response:
        document = {"type": PROBLEMS + self.kind, "title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        headers = {"Retry-After": "1"} if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else {}
        return web.Response(
            status=self.status, headers=headers, body=json.dumps(document).encode(), content_type="application/problem+json"
        )


class Exchange:
    """Handlers; everything here runs on the server's loop."""

    def __init__(self, fleet: ExchangeFleet, authenticator: Authenticator, issue: Issue, clock: Clock) -> None:
        self._fleet, self._authenticator, self._issue = fleet, authenticator, issue
        self._buckets = Buckets(clock.monotonic_ns, PER_SECOND, AT_ONCE)
        self._strangers = Buckets(clock.monotonic_ns, NEW_PER_SECOND, NEW_AT_ONCE)
        self._threads, self._meeting = Lane(ASKING, MAX_ASKING), Lane(MEETING, MAX_MEETING, MEETING_OF_ONE)
        self._waiting = 0
        self._news: dict[str, asyncio.Event] = {}

    def application(self, *outer: Middleware) -> web.Application:
        made = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[*outer, problems])
        point = "/v1/points/{namespace}/{name}"
        made.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/self", self.who),
                web.get(f"{point}/desired", self.desired),
                web.get(f"{point}/consents/{{digest}}", self.base),
                web.post(f"{point}/pods/{{pod}}/statistics", self.statistics),
                web.post(f"{point}/pods/{{pod}}/certificate", self.certificate),
            ]
        )
        return made

    def close(self) -> None:
        self._threads.close()
        self._meeting.close()

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
        caller = await self._caller(request)
        return web.json_response({"namespace": caller.namespace, "point": caller.name, "pod": caller.pod, "uid": caller.uid})

    async def desired(self, request: web.Request) -> web.Response:
        caller = await self._caller(request)
        after, deadline = request.query.get("after", ""), asyncio.get_running_loop().time() + LONG_POLL_S
        while True:
            news = self._news.setdefault(caller.point, asyncio.Event())
            found = await self._threads.run(lambda: self._fleet.desired(caller.point))
            if found is not None and found.etag != after:
                return _desired(found)
            if "after" not in request.query or not await self._waits(news, deadline):
                return web.Response(status=HTTPStatus.NO_CONTENT)

    async def base(self, request: web.Request) -> web.Response:
        caller = await self._caller(request)
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
        caller = await self._caller(request)
        body = await _body(request, MAX_BODY_BYTES)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Problem(HTTPStatus.BAD_REQUEST, "malformed", f"body: must be JSON: {error}") from error
        if not isinstance(document, dict):
            raise Problem(HTTPStatus.BAD_REQUEST, "malformed", "body: must be a JSON object")
        await self._threads.run(lambda: self._fleet.tell(caller.point, caller.uid, caller.pod, document))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def certificate(self, request: web.Request) -> web.Response:
        caller = await self._caller(request)
        body = await _body(request, MAX_REQUEST_BYTES)
        made = await self._threads.run(lambda: self._issue(body, caller.uri))
        return web.json_response({"certificate": made.decode()})

    async def _caller(self, request: web.Request) -> Caller:
        """Who asks, and that it may ask this."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", "Authorization: must be Bearer and a token")
        caller = await self._met(token, request.remote or "")
        if not self._buckets.take(caller.uid):
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {PER_SECOND:g} requests a second")
        asked = request.match_info
        own = {"namespace": caller.namespace, "name": caller.name, "pod": caller.pod}
        if any(asked[name] != own[name] for name in asked if name in own):
            raise Problem(HTTPStatus.FORBIDDEN, "another-point", f"must be about {caller.point}, pod {caller.pod}")
        return caller

    async def _met(self, token: str, address: str) -> Caller:
        """Who is known is met at once or, when it is time to ask for him again, beside those who are. Strangers have a lane of their own,
        and each address its share of it: made-up tokens cost the API server little, and no pod that is known anything."""
        known = self._authenticator.remembered(token)
        if isinstance(known, Caller):
            return known
        if known is Acquaintance.MET:
            return await self._threads.run(lambda: self._authenticator.caller(token))
        if not self._strangers.take(address):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {NEW_PER_SECOND:g} new tokens a second of one address"
            )
        return await self._meeting.run(lambda: self._authenticator.caller(token), address)


class Lane:
    """Few threads for what may wait for the API server; `waiting` requests may wait for them, `of_one` of one address."""

    def __init__(self, threads: int, waiting: int, of_one: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads, "exchange")
        self._most, self._of_one = waiting, of_one or waiting
        self._now: Counter[str] = Counter()

    async def run(self, call: Callable[[], T], who: str = "") -> T:
        """Raises Problem when too many wait."""
        if self._now.total() >= self._most or self._now[who] >= self._of_one:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", f"{self._now.total()} requests wait for the API server")
        self._now[who] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._now[who] -= 1
            if not self._now[who]:
                del self._now[who]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _desired(found: Desired) -> web.Response:
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()} for name, data in found.files.items()
    }
    return web.json_response({"etag": found.etag, "files": files})


async def _body(request: web.Request, most: int) -> bytes:
    if (request.content_length or 0) > most:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"body: must have at most {most} bytes")
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            data = await request.read()
    except TimeoutError:
        raise Problem(HTTPStatus.BAD_REQUEST, "malformed", f"body: must come within {BODY_WITHIN_S:g} s") from None
    if len(data) > most:
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"body: must have at most {most} bytes")
    return data


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in one form."""
    try:
        return await handler(request)
    except Exception as error:
        return _problem(error).response()


def _problem(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case web.HTTPRequestEntityTooLarge():
            return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"body: must have at most {MAX_BODY_BYTES} bytes")
        case web.HTTPNotFound() | web.HTTPMethodNotAllowed():
            return Problem(HTTPStatus.NOT_FOUND, "not-found", "path: must be one of formats/exchange.md")
        case Denied():
            return Problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", str(error))
        case Refused():
            return Problem(HTTPStatus.BAD_REQUEST, "malformed", "; ".join(str(fault) for fault in error.faults[:20])[:4000])
        case TooManyPods():
            return Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", str(error))
        case KnhkError() | OSError():
            _log.warning("a request waits: %s", error)
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "try again")
    _log.error("a request failed", exc_info=error)  # a bug of ours: the caller learns nothing of it
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unavailable", "try again")


# ---- the thread ------------------------------------------------------------------------------------


@contextmanager
def serving(exchange: Exchange, host: str, port: int, shown: Callable[[], Pair], bounds: Bounds | None = None) -> Iterator[int]:
    """Serves while the context lasts, so many as `bounds` says; gives the port. `shown`: the certificate and key to show, asked for every
    hour. Raises Stalled when the address cannot be had, and what `shown` raises at the start."""
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
                server = await doors.open(runner, host, port, tls)
                outcome.append(server.sockets[0].getsockname()[1])
            except OSError as error:
                outcome.append(error)
                return
            finally:
                started.set()
            renewing = asyncio.create_task(_renew(tls, shown))
            await ended.wait()
            renewing.cancel()
            server.close()
        finally:
            await runner.cleanup()
            exchange.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(ended)), name="exchange", daemon=True)
    thread.start()
    started.wait(STARTS_WITHIN_S)
    try:
        if not outcome or isinstance(outcome[0], OSError):
            raise Stalled("NoAddress", f"--exchange {host}:{port}: must be free: {outcome[0] if outcome else 'it does not start'}")
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
