"""The door of a server that pods ask over HTTPS: who asks, and how often; too much and what went wrong in one form (RFC 9457)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.model.faults import KnhkError, Refused
from knhk.ports.caller import Acquaintance, Authenticator, Caller, Denied
from knhk.ports.clock import Clock
from knhk_runtime.buckets import Buckets

PROBLEMS = "https://knhk.dev/problems/"
BODY_WITHIN_S = 10.0
ASKING, MAX_ASKING = 8, 256  # threads for what may block, and requests that may wait for them
MEETING, MAX_MEETING, MEETING_OF_ONE = 4, 64, 8  # the same for callers that nobody knows, and of one address
NEW_PER_SECOND, NEW_AT_ONCE = 2.0, 20.0  # tokens that nobody knows, of one address

_log = logging.getLogger("knhk.door")
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Problem(Exception):
    """An answer that is none (RFC 9457). `again_s`: when to ask again, of one that may be answered then."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str, again_s: int = 1) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.again_s = status, kind, detail, again_s

    def response(self, server: str) -> web.Response:
        kind = f"{PROBLEMS}{server}/{self.kind}"
        document = {"type": kind, "title": self.status.phrase, "status": int(self.status), "detail": self.detail}
        headers = (
            {"Retry-After": str(self.again_s)} if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else {}
        )
        return web.Response(
            status=self.status, headers=headers, body=json.dumps(document).encode(), content_type="application/problem+json"
        )


class Door:
    """Of one server and its loop. `per_s`, `at_once`: requests of one pod."""

    def __init__(self, authenticator: Authenticator, clock: Clock, per_s: float, at_once: float) -> None:
        self._authenticator, self._per_s = authenticator, per_s
        self._buckets = Buckets(clock.monotonic_ns, per_s, at_once)
        self._strangers = Buckets(clock.monotonic_ns, NEW_PER_SECOND, NEW_AT_ONCE)
        self._threads, self._meeting = Lane(ASKING, MAX_ASKING), Lane(MEETING, MAX_MEETING, MEETING_OF_ONE)

    def close(self) -> None:
        self._threads.close()
        self._meeting.close()

    async def run(self, call: Callable[[], T]) -> T:
        """In a thread, for callers that are known. Raises Problem when too many wait."""
        return await self._threads.run(call)

    async def meet(self, call: Callable[[], T], address: str) -> T:
        """The same for who is not known yet: beside the others, and bounded for each address."""
        if not self._strangers.take(address):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {NEW_PER_SECOND:g} new tokens a second of one address"
            )
        return await self._meeting.run(call, address)

    async def caller(self, request: web.Request) -> Caller:
        """The pod that asks, and that it may ask this. Raises Problem, and as Authenticator."""
        caller = await self._met(token_of(request), request.remote or "")
        if not self._buckets.take(caller.uid):
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many", f"must be at most {self._per_s:g} requests a second")
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
        return await self.meet(lambda: self._authenticator.caller(token), address)


class Lane:
    """Few threads for what may wait for the API server; `waiting` requests may wait for them, `of_one` of one address."""

    def __init__(self, threads: int, waiting: int, of_one: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads, "lane")
        self._most, self._of_one = waiting, of_one or waiting
        self._now: Counter[str] = Counter()

    async def run(self, call: Callable[[], T], who: str = "") -> T:
        """Raises Problem when too many wait."""
        if self._now.total() >= self._most or self._now[who] >= self._of_one:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", f"{self._now.total()} requests wait")
        self._now[who] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._now[who] -= 1
            if not self._now[who]:
                del self._now[who]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def token_of(request: web.Request) -> str:
    """Raises Problem."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        raise Problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", "Authorization: must be Bearer and a token")
    return token


async def body_of(request: web.Request, most: int) -> bytes:
    """Raises Problem for one that is too long, or does not come."""
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


def problems(server: str, told: Mapping[type[Exception], tuple[HTTPStatus, str]]) -> Middleware:
    """Every error in one form. `server`: name of its page in formats/; `told`: errors of its own, and what they are to a caller."""

    def problem(error: Exception) -> Problem:
        own = next((row for kind, row in told.items() if isinstance(error, kind)), None)
        if own is not None:
            return Problem(*own, str(error))
        match error:
            case Problem():
                return error
            case web.HTTPRequestEntityTooLarge():
                return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "body: is too long")
            case web.HTTPNotFound() | web.HTTPMethodNotAllowed():
                return Problem(HTTPStatus.NOT_FOUND, "not-found", f"path: must be one of formats/{server}.md")
            case Denied():
                return Problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", str(error))
            case Refused():
                return Problem(HTTPStatus.BAD_REQUEST, "malformed", "; ".join(str(fault) for fault in error.faults[:20])[:4000])
            case KnhkError() | OSError():
                _log.warning("a request waits: %s", error)
                return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "try again")
        _log.error("a request failed", exc_info=error)  # a bug of ours: the caller learns nothing of it
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "unavailable", "try again")

    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:
            return problem(error).response(server)

    return answered
