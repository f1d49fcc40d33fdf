"""The HTTP surface: who asks, whether they may, and the page that they get. An API server stands before it, and nobody else is heard."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from aiohttp import web

from knhk.adapters.front_proxy import User
from knhk.adapters.receipt_index import Page, ReceiptIndex, decisions
from knhk.lockchain.entries import Row
from knhk.model.faults import KnhkError, NotFound, Refused
from knhk.model.selection import Selection, equal, field_selector, label_selector
from knhk.receipts import objects
from knhk.receipts.metrics import Metrics
from knhk.receipts.objects import BASE, GROUP, HOMELESS, PLURAL, VERSION
from knhk_verify.errors import Bad

MAX_PAGE = 500  # rows of an answer, whatever is asked for: memory has a bound, and `continue` says that there is more
COMES_WITHIN_S = 3.0  # that this replica learns what another one has answered from
WAIT_AT_ONCE = 2  # requests that wait for that; fewer than there are hands, or versions that are made up would keep everybody out
_log = logging.getLogger("knhk.receipts")
TOLD_BEHIND_S = 30.0  # then who asks is told that what he gets may be old
Answer = tuple[int, Mapping[str, Any]]
Handle = Callable[[web.Request, User], Awaitable[tuple[int, bytes]]]


class Asked(Protocol):
    """What the surface needs of the cluster and of the log; all but `user` may block."""

    @property
    def origin(self) -> str: ...

    @property
    def index(self) -> ReceiptIndex: ...

    def user(self, request: web.Request) -> User | None: ...

    def may(self, user: User, verb: str, resource: Mapping[str, str]) -> str: ...

    def proof(self, number: int) -> tuple[str, str]:
        """(tlog-proof text, checkpoint) of an entry."""

    def reaches(self, size: int, within_s: float) -> bool:
        """Whether the index has so many entries, now or within that time."""

    def behind_s(self) -> float:
        """For how long the log was not read."""

    def unready(self) -> str:
        """Why no requests should come; "": they may."""


class Said(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.answer: Answer = (code, objects.status(code, reason, message))
        super().__init__(message)


@dataclass(frozen=True)
class Token:
    """Where a list goes on: below index `before`, of the log as it was with `size` entries."""

    before: int
    size: int

    def text(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([1, self.before, self.size]).encode()).decode()

    @classmethod
    def read(cls, text: str) -> Token:
        try:
            version, before, size = json.loads(base64.urlsafe_b64decode(text.encode()))
            if version == 1 and type(before) is int and type(size) is int and 0 <= before <= size < 1 << 62:
                return cls(before, size)
        except (ValueError, TypeError, binascii.Error):
            pass
        raise Said(400, "BadRequest", "continue: must be a token of an earlier page")


def application(asked: Asked, hands: Executor, *middlewares: Any) -> web.Application:
    """`hands`: threads for what blocks, more than WAIT_AT_ONCE; as many lists are made at a time. Discovery waits for none of them: the API
    server asks for it to see whether this group is there, and deletion of namespaces hangs on that."""
    app, index = web.Application(middlewares=middlewares), asked.index
    metrics = Metrics(asked.behind_s, lambda: index.size, index.shapes)

    async def scraped(_: web.Request) -> web.Response:
        text = await asyncio.get_running_loop().run_in_executor(hands, metrics.text)
        return web.Response(body=text, content_type="text/plain")

    async def told(request: web.Request) -> web.Response:
        why = "" if request.path != "/readyz" else asked.unready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    for path in ("/healthz", "/livez", "/readyz"):
        app.router.add_get(path, told)
    app.router.add_get("/metrics", scraped)
    heard = partial(_heard, asked, metrics)
    fixed = {
        "/apis": objects.API_GROUPS,
        f"/apis/{GROUP}": objects.API_GROUP,
        BASE: objects.API_RESOURCES,
        "/openapi/v3": objects.OPENAPI_V3_PATHS,
        f"/openapi/v3{BASE}": objects.OPENAPI_V3,
        "/openapi/v2": objects.OPENAPI_V2,
    }
    for path, document in fixed.items():
        app.router.add_get(path, heard("discover", _at_once(lambda request, user, document=document: (200, document))))
    surface = Surface(asked)
    app.router.add_get(f"{BASE}/{PLURAL}", heard("list", _by(hands, surface.list)))
    app.router.add_get(f"{BASE}/namespaces/{{namespace}}/{PLURAL}", heard("list", _by(hands, surface.list)))
    app.router.add_get(f"{BASE}/namespaces/{{namespace}}/{PLURAL}/{{name}}", heard("get", _by(hands, surface.get)))
    app.router.add_route("*", "/{path:.*}", heard("other", _at_once(_nothing)))
    return app


def _heard(asked: Asked, metrics: Metrics, verb: str, handle: Handle) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        start_s, user = time.monotonic(), asked.user(request)
        if user is None:
            why = "must come from an API server: a front proxy's certificate, and who asks in its headers"
            code, body = 401, json.dumps(objects.status(401, "Unauthorized", why)).encode()
        else:
            code, body = await handle(request, user)
        metrics.took(verb, code, time.monotonic() - start_s)
        return web.Response(body=body, status=code, content_type="application/json", headers=_beside(verb, code, asked.behind_s()))

    return answer


def _beside(verb: str, code: int, behind_s: float) -> Mapping[str, str]:
    """Headers that kubectl heeds: when to come again, and a warning for its user."""
    if code == 503:
        return {"Retry-After": "1"}
    if verb in ("list", "get") and behind_s > TOLD_BEHIND_S:
        return {"Warning": f'299 - "the log was not read for {behind_s:.0f} s: newer receipts are not here"'}
    return {}


def _by(hands: Executor, handle: Callable[..., Answer]) -> Handle:
    async def answer(request: web.Request, user: User) -> tuple[int, bytes]:
        return await asyncio.get_running_loop().run_in_executor(hands, _written, handle, request, user)

    return answer


def _at_once(handle: Callable[..., Answer]) -> Handle:
    """Of what does not block."""

    async def answer(request: web.Request, user: User) -> tuple[int, bytes]:
        return _written(handle, request, user)

    return answer


def _written(handle: Callable[..., Answer], request: web.Request, user: User) -> tuple[int, bytes]:
    code, document = _safely(handle, request, user)
    return code, json.dumps(document, separators=(",", ":")).encode()


def _safely(handle: Callable[..., Answer], request: web.Request, user: User) -> Answer:
    try:
        return handle(request, user)
    except Said as said:
        return said.answer
    except Refused as refused:
        return 400, objects.status(400, "BadRequest", str(refused))
    except NotFound as error:
        return 404, objects.status(404, "NotFound", str(error))
    except (KnhkError, Bad, OSError, sqlite3.Error) as error:
        _log.warning("%s: %s: %s", request.path, type(error).__name__, error)
        return 503, objects.status(503, "ServiceUnavailable", f"{type(error).__name__}: {error}", retryAfterSeconds=1)


def _nothing(request: web.Request, _: User) -> Answer:
    if request.method in ("GET", "HEAD"):
        return 404, objects.status(404, "NotFound", "the server could not find the requested resource")
    return 405, objects.status(405, "MethodNotAllowed", f"{PLURAL}.{GROUP} are read only: the log alone makes them")


class Surface:
    """Of one index. Any thread."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._waiting = asked, threading.BoundedSemaphore(WAIT_AT_ONCE)

    def list(self, request: web.Request, user: User) -> Answer:
        namespace, query = request.match_info.get("namespace", ""), request.query
        self._demand(user, "list", namespace, "")
        if query.get("watch", "false") not in ("false", "0"):
            raise Said(405, "MethodNotAllowed", f"{PLURAL}.{GROUP} cannot be watched: list them again")
        selection = (
            decisions(),
            *self._of(namespace),
            *_homed(field_selector(query.get("fieldSelector", ""))),
            *label_selector(query.get("labelSelector", "")),
        )
        page, size = self._page(selection, query)
        token = Token(page.more, size).text() if page.more is not None else ""
        around = {"resourceVersion": str(size), **({"continue": token} if token else {})}
        return 200, self._shown(request, page.rows, around, objects.listed)

    def get(self, request: web.Request, user: User) -> Answer:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        self._demand(user, "get", namespace, name)
        rows = self._asked.index.page((decisions(), *self._of(namespace), equal("name", name)), 1).rows
        if not rows:
            details = {"name": name, "group": GROUP, "kind": PLURAL}
            return 404, objects.status(404, "NotFound", f'{PLURAL}.{GROUP} "{name}" not found', **details)

        def proven(_: Any, origin: str, __: Any) -> dict[str, Any]:
            document = objects.document(rows[0], origin)
            proof, checkpoint = self._asked.proof(rows[0].number)
            document["spec"] |= {"proof": proof, "checkpoint": checkpoint}
            return document

        return 200, self._shown(request, rows, {"resourceVersion": str(rows[0].number + 1)}, proven)

    def _demand(self, user: User, verb: str, namespace: str, name: str) -> None:
        """Raises Said for who may not, in the words of an API server."""
        resource = {"group": GROUP, "version": VERSION, "resource": PLURAL, "namespace": namespace, "name": name}
        if why := self._asked.may(user, verb, resource):
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            said = f'User "{user.name}" cannot {verb} resource "{PLURAL}" in API group "{GROUP}" {where}: {why}'
            raise Said(403, "Forbidden", f"{PLURAL}.{GROUP} is forbidden: {said}")

    @staticmethod
    def _of(namespace: str) -> Selection:
        if not namespace:
            return ()
        return _homed((equal("namespace", namespace),))

    def _page(self, selection: Selection, query: Mapping[str, str]) -> tuple[Page, int]:
        """The page, and the size of the log that the list is of."""
        limit, index = min(_number(query, "limit") or MAX_PAGE, MAX_PAGE), self._asked.index
        version, match = _number(query, "resourceVersion"), query.get("resourceVersionMatch", "")
        if match not in ("", "Exact", "NotOlderThan") or (match and "resourceVersion" not in query):
            raise Said(400, "BadRequest", "resourceVersionMatch: must be Exact or NotOlderThan, with a resourceVersion")
        if query.get("continue"):
            token = Token.read(query["continue"])
            self._come(token.size)
            return index.page(selection, limit, token.before), token.size
        self._come(version)
        if match == "Exact" and version:
            return index.page(selection, limit, version), version
        page = index.page(selection, limit)
        return page, page.size

    def _come(self, size: int) -> None:
        """Waits until the index has so many entries: another replica may be ahead."""
        if not self._asked.reaches(size, 0.0) and not self._waited(size):
            raise Said(504, "Timeout", f"Too large resource version: {size}, current: {self._asked.index.size}")

    def _waited(self, size: int) -> bool:
        if not self._waiting.acquire(blocking=False):
            return False
        try:
            return self._asked.reaches(size, COMES_WITHIN_S)
        finally:
            self._waiting.release()

    def _shown(
        self, request: web.Request, rows: tuple[Row, ...], around: Mapping[str, Any], plain: Callable[..., dict[str, Any]]
    ) -> Mapping[str, Any]:
        """As a Table for who asks for one, else as it is."""
        for wanted in request.headers.get("Accept", "").split(","):
            media, *rest = (part.strip() for part in wanted.split(";"))
            if media == "application/json" and "as=Table" in rest and "v=v1" in rest and "g=meta.k8s.io" in rest:
                return objects.table(rows, self._asked.origin, request.query.get("includeObject", "Metadata"), around)
            if media in ("application/json", "*/*", "application/*") and not any(part.startswith("as=") for part in rest):
                break
        return plain(rows, self._asked.origin, around)


def _homed(selection: Selection) -> Selection:
    """What has no namespace is shown in HOMELESS, and so it is found there."""
    return tuple(
        replace(r, values=r.values | {""}) if r.trait == "namespace" and HOMELESS in r.values and not r.present else r for r in selection
    )


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Said(400, "BadRequest", f"{name}: {text[:64]!r} must be a decimal number")
    return int(text)
