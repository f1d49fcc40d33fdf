"""Beside the log: what was recorded about people is found and rewritten for whom the exchange says that may erase there, and what is to be
signed and told is handed on to it (formats/erasures.md). Nothing here writes a name or a tag into a message."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.adapters import erasures_wire as wire
from knhk.adapters.pod_door import Lane, Problem, body_of, problems, token_of
from knhk.model.ranges import Ranges
from knhk.ports.caller import NotAllowed
from knhk.ports.recorded import Recorded, SubjectPages
from knhk_runtime.http1 import Answer, HttpClient, Https, Unreachable
from knhk_verify.errors import Bad, demand

ERASURES, EXPORTS = "erasures", "exports"  # doors of the exchange: each asks for a right of its own
BELIEVED_S, WITHIN_S, REMEMBERED = 10.0, 30.0, 1000
AT_ONCE, MAX_WAITING, OF_ONE = 2, 16, 4
TOLD: dict[type[Exception], tuple[HTTPStatus, str]] = {
    Bad: (HTTPStatus.BAD_REQUEST, "malformed"),
    NotAllowed: (HTTPStatus.FORBIDDEN, "forbidden"),
}
KINDS = {HTTPStatus.UNAUTHORIZED: "unauthenticated", HTTPStatus.FORBIDDEN: "forbidden", HTTPStatus.TOO_MANY_REQUESTS: "too-many"}
_NAMESPACE = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_log = logging.getLogger("knhk.erasures")
T = TypeVar("T")
RecordedOf = Callable[[str, Mapping[str, Any]], Recorded]
"""Of a namespace, whose points say this of `privacy`."""
PagesOf = Callable[[str, Mapping[str, Any]], tuple[SubjectPages, str]]
"""The same, and the log's newest checkpoint."""
Turn = Callable[[Callable[[], tuple[int, int]]], tuple[int, int]]
"""Does an act where nobody else writes; blocks until it is done."""


@dataclass(frozen=True)
class _Met:
    user: str
    told: Mapping[str, Any]
    until_s: float


class ErasureServer:
    """Handlers; everything here runs on the server's loop."""

    def __init__(self, exchange: Https, recorded: RecordedOf, pages: PagesOf, turn: Turn) -> None:
        self._exchange, self._recorded, self._pages, self._turn = HttpClient(exchange), recorded, pages, turn
        self._lane = Lane(AT_ONCE, MAX_WAITING, OF_ONE)
        self._met: OrderedDict[tuple[bytes, str, str], _Met] = OrderedDict()

    def application(self, *outer: Middleware) -> web.Application:
        made = web.Application(client_max_size=wire.MAX_BODY_BYTES, middlewares=[*outer, problems("erasures", TOLD)])
        path = "/v1/namespaces/{namespace}"
        made.add_routes(
            [
                web.get("/health", self.health),
                web.get(path, self.namespace),
                web.post(f"{path}/subject", self.subject),
                web.post(f"{path}/older", self.older),
                web.post(f"{path}/free", self.free),
                web.post(f"{path}/digest", self.digest),
                web.post(f"{path}/rewrite", self.rewrite),
                web.post(f"{path}/{{what:sign|append}}", self.handed_on),
                web.get(f"{path}/export", self.export),
                web.post(f"{path}/export/records", self.records),
                web.post(f"{path}/export/events", self.events),
                web.post(f"{path}/export/{{what:sign|append}}", self.export_handed_on),
            ]
        )
        made.on_cleanup.append(self._ended)
        return made

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """There is nothing to follow."""

    def close(self) -> None:
        self._lane.close()

    async def _ended(self, _: web.Application) -> None:
        await self._exchange.close()

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def namespace(self, request: web.Request) -> web.Response:
        met = await self._caller(request, ERASURES)
        return web.json_response({"user": met.user, "privacy": dict(met.told["privacy"])})

    async def subject(self, request: web.Request) -> web.Response:
        met, told = await self._told(request, "tag", "subject")
        tag, subject = wire.parse_tag(told["tag"]), wire.parse_text(told["subject"], "subject")
        found = await self._run(request, met, lambda there: there.of_subject(tag, subject))
        return web.json_response({"targets": wire.targets(found.targets), "unsearched": list(found.unsearched)})

    async def older(self, request: web.Request) -> web.Response:
        met, told = await self._told(request, "point", "before", "held", "after")
        point, before_ns = wire.parse_text(told["point"], "point"), wire.parse_before(told["before"])
        held, after = wire.parse_tags(told["held"]), wire.parse_after(told["after"])
        return _targets(await self._run(request, met, lambda there: there.older(point, before_ns, held, after)))

    async def free(self, request: web.Request) -> web.Response:
        met, told = await self._told(request, "targets", "held")
        targets, held = wire.parse_targets(told["targets"]), wire.parse_tags(told["held"])
        return _targets(await self._run(request, met, lambda there: there.free(targets, held)))

    async def digest(self, request: web.Request) -> web.Response:
        met, told = await self._told(request, "targets")
        targets = wire.parse_targets(told["targets"])
        return web.json_response({"leafHashes": await self._run(request, met, lambda there: there.digest(targets))})

    async def rewrite(self, request: web.Request) -> web.Response:
        met, told = await self._told(request, "targets")
        targets = wire.parse_targets(told["targets"])
        records, rows = await self._run(request, met, lambda there: self._turn(lambda: there.rewrite(targets)))
        said = {"event": "rewritten", "who": met.user, "namespace": request.match_info["namespace"], "records": records, "rows": rows}
        _log.info("%s", json.dumps(said))
        return web.json_response({"records": records, "rows": rows})

    async def export(self, request: web.Request) -> web.Response:
        met = await self._caller(request, EXPORTS)
        note = await self._paged(request, met, lambda _, newest: newest)
        return web.json_response({"user": met.user, "keys": met.told["keys"], "checkpoint": note})

    async def records(self, request: web.Request) -> web.Response:
        met = await self._caller(request, EXPORTS)
        told = wire.members(await body_of(request, wire.MAX_BODY_BYTES), "tag", "subject", "pointers", "checkpoint", "after")
        tag, subject = wire.parse_tag(told["tag"]), wire.parse_text(told["subject"], "subject")
        pointers = wire.parse_texts(told["pointers"], "pointers")
        note, after = wire.parse_text(told["checkpoint"], "checkpoint"), wire.parse_after(told["after"])
        found, more = await self._paged(request, met, lambda there, _: there.records(tag, subject, pointers, note, after))
        said = {"event": "exported", "who": met.user, "namespace": request.match_info["namespace"], "records": len(found)}
        _log.info("%s", json.dumps(said))
        return web.json_response({"records": [wire.copy_row(each) for each in found], "more": more})

    async def events(self, request: web.Request) -> web.Response:
        met = await self._caller(request, EXPORTS)
        told = wire.members(await body_of(request, wire.MAX_BODY_BYTES), "tag", "digests", "checkpoint", "after")
        tag, digests = wire.parse_tag(told["tag"]), frozenset(wire.parse_texts(told["digests"], "digests"))
        note, after = wire.parse_text(told["checkpoint"], "checkpoint"), wire.parse_after(told["after"])
        found, more, consents = await self._paged(request, met, lambda there, _: there.events(tag, digests, note, after))
        return web.json_response({"events": [wire.told_row(each) for each in found], "more": more, "consents": consents})

    async def export_handed_on(self, request: web.Request) -> web.Response:
        return await self._hand_on(request, EXPORTS)

    async def handed_on(self, request: web.Request) -> web.Response:
        return await self._hand_on(request, ERASURES)

    async def _hand_on(self, request: web.Request, door: str) -> web.Response:
        token, body = token_of(request), await body_of(request, wire.MAX_BODY_BYTES)
        answer = await self._ask("POST", door, _namespace(request), f"/{request.match_info['what']}", token, body)
        return web.Response(body=answer.body, content_type="application/json")

    async def _told(self, request: web.Request, *names: str) -> tuple[_Met, Mapping[str, Any]]:
        met = await self._caller(request, ERASURES)
        return met, wire.members(await body_of(request, wire.MAX_BODY_BYTES), *names)

    async def _run(self, request: web.Request, met: _Met, act: Callable[[Recorded], T]) -> T:
        namespace = request.match_info["namespace"]
        return await self._lane.run(lambda: act(self._recorded(namespace, met.told["privacy"])), met.user)

    async def _paged(self, request: web.Request, met: _Met, act: Callable[[SubjectPages, str], T]) -> T:
        namespace = request.match_info["namespace"]
        return await self._lane.run(lambda: act(*self._pages(namespace, met.told["privacy"])), met.user)

    async def _caller(self, request: web.Request, door: str) -> _Met:
        """Who asks, as the exchange says. Raises Problem."""
        token, namespace = token_of(request), _namespace(request)
        asked, now = (hashlib.sha256(token.encode(errors="surrogateescape")).digest(), door, namespace), time.monotonic()
        if (known := self._met.get(asked)) is not None and known.until_s > now:
            return known
        found = json.loads((await self._ask("GET", door, namespace, "", token)).body)
        met = self._met[asked] = _Met(found["user"], found, now + BELIEVED_S)
        while len(self._met) > REMEMBERED:
            self._met.popitem(last=False)
        return met

    async def _ask(self, method: str, door: str, namespace: str, what: str, token: str, body: bytes = b"") -> Answer:
        if not token.isprintable() or not token.isascii():
            raise Problem(HTTPStatus.UNAUTHORIZED, "unauthenticated", "the token must be one of the API server")
        try:
            answer = await self._exchange.request(
                method, f"/v1/{door}/{namespace}{what}", body, {"Authorization": f"Bearer {token}"}, WITHIN_S
            )
        except Unreachable as error:
            _log.warning("the exchange does not answer: %s", error)
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the exchange does not answer: does an operator lead?") from error
        if answer.status == HTTPStatus.OK:
            return answer
        status = HTTPStatus(answer.status)
        again = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.NOT_FOUND) or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if again:  # of before this release, perhaps, and soon followed by another
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", f"the exchange answers {answer.status}: {_detail(answer)}")
        raise Problem(status, KINDS.get(status, "malformed"), _detail(answer))


def _namespace(request: web.Request) -> str:
    """Raises Bad for what is no name: it stands in a request line of ours."""
    found = request.match_info["namespace"]
    demand(_NAMESPACE.fullmatch(found) is not None, "namespace", "must be a name of a namespace")
    return found


def _targets(found: Ranges) -> web.Response:
    return web.json_response({"targets": wire.targets(found)})


def _detail(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["detail"])[:2000]
    except (ValueError, KeyError, TypeError):
        return "try again"
