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
from knhk.adapters.receipt_index import Page, ReceiptIndex
from knhk.lockchain.entries import Row
from knhk.model.faults import KnhkError, NotFound, Refused
from knhk.model.selection import Selection, equal, field_selector, label_selector
from knhk.receipts import objects
from knhk.receipts.kinds import API_VERSION, GROUP, HOMELESS, KINDS, VERSION, Kind
from knhk.receipts.metrics import Metrics
from knhk.receipts.objects import BASE
from knhk.receipts.watching import LASTS_AT_MOST_S, LASTS_S, TOO_OLD, Watch, Watches, too_old
from knhk_verify.errors import Bad

MAX_PAGE = 500  # rows of an answer, whatever is asked for: memory has a bound, and `continue` says that there is more
TOKEN_CHARACTERS = 128  # of `continue`, at most
COMES_WITHIN_S = 3.0  # that this replica learns what another one has answered from
WAIT_AT_ONCE = 2  # requests that wait for that; fewer than there are hands, or versions that are made up would keep everybody out
_log = logging.getLogger("knhk.receipts")
TOLD_BEHIND_S = 30.0  # then who asks is told that what he gets may be old
Answer = tuple[int, Mapping[str, Any]]
Handle = Callable[[web.Request, User], Awaitable[tuple[int, bytes]]]
Answering = Callable[[web.Request], Awaitable[web.Response]]
_NOT_HEARD = (
    401,
    json.dumps(
        objects.status(401, "Unauthorized", "must come from an API server: a front proxy's certificate, and who asks in its headers")
    ).encode(),
)


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

    def entry(self, number: int) -> bytes:
        """An entry as the log has it."""

    def on_growth(self, told: Callable[[], None]) -> None:
        """From now on `told` is called, by any thread, when the index has more."""

    def reaches(self, size: int, within_s: float) -> bool:
        """Whether the index has so many entries, now or within that time."""

    def behind_s(self) -> float:
        """For how long the log was not read."""

    def taken(self) -> int:
        """Bytes that the index takes of its disk, or will with all that the log has now."""

    def bound(self) -> float:
        """How many it may take; infinity where nobody says so."""

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
            if len(text) > TOKEN_CHARACTERS:  # what is nested deeply is no error of JSON
                raise ValueError
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
    metrics = Metrics(asked.behind_s, lambda: index.size, index.shapes, asked.taken, asked.bound)

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
    watches, waiting = Watches(index, hands), threading.BoundedSemaphore(WAIT_AT_ONCE)
    metrics.watches(lambda: len(watches))

    async def begun(_: web.Application) -> None:
        loop = asyncio.get_running_loop()

        def grown() -> None:
            loop.call_soon_threadsafe(watches.wake)

        asked.on_growth(grown)

    async def ending(_: web.Application) -> None:
        watches.end()

    app.on_startup.append(begun)
    app.on_shutdown.append(ending)
    for kind in KINDS:
        surface = Surface(asked, kind, waiting)
        listed = _listed_or_watched(asked, metrics, heard("list", _by(hands, surface.list)), surface, watches, hands)
        app.router.add_get(f"{BASE}/{kind.plural}", listed)
        app.router.add_get(f"{BASE}/namespaces/{{namespace}}/{kind.plural}", listed)
        app.router.add_get(f"{BASE}/namespaces/{{namespace}}/{kind.plural}/{{name}}", heard("get", _by(hands, surface.get)))
    app.router.add_route("*", "/{path:.*}", heard("other", _at_once(_nothing)))
    return app


def _heard(asked: Asked, metrics: Metrics, verb: str, handle: Handle) -> Answering:
    async def answer(request: web.Request) -> web.Response:
        start_s, user = time.monotonic(), asked.user(request)
        code, body = _NOT_HEARD if user is None else await handle(request, user)
        metrics.took(verb, code, time.monotonic() - start_s)
        return web.Response(body=body, status=code, content_type="application/json", headers=_beside(verb, code, asked.behind_s()))

    return answer


def _listed_or_watched(
    asked: Asked, metrics: Metrics, listed: Answering, surface: Surface, watches: Watches, hands: Executor
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What took time of a watch is its beginning."""
    refused = _heard(asked, metrics, "watch", _at_once(_too_many))

    async def answer(request: web.Request) -> web.StreamResponse:
        if not _true(request.query.get("watch", "")):
            return await listed(request)
        user, found = asked.user(request), list[Watch]()
        if user is not None and watches.full(user):
            return await refused(request)

        def begin(request: web.Request, user: User) -> Answer:
            found.append(surface.watch(request, user))
            return 200, {}

        response = await _heard(asked, metrics, "watch", _by(hands, begin))(request)
        if user is None or not found:
            return response
        if watches.full(user):  # by others that began meanwhile
            return await refused(request)
        return await watches.serve(request, user, found[0])

    return answer


def _too_many(_: web.Request, __: User) -> Answer:
    raise Said(429, "TooManyRequests", "too many watches are open: try again, or list")


def _true(word: str) -> bool:
    return word not in ("", "false", "0")


def _beside(verb: str, code: int, behind_s: float) -> Mapping[str, str]:
    """Headers that kubectl heeds: when to come again, and a warning for its user."""
    if code in (429, 503):
        return {"Retry-After": "1"}
    if verb in ("list", "get", "watch") and behind_s > TOLD_BEHIND_S:
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
    return 405, objects.status(405, "MethodNotAllowed", f"what is in {GROUP} is read only: the log alone makes it")


class Surface:
    """One kind, of one index. Any thread. `waiting`: who waits for another replica's version, of all kinds."""

    def __init__(self, asked: Asked, kind: Kind, waiting: threading.Semaphore) -> None:
        self._asked, self._kind, self._waiting = asked, kind, waiting
        self._name = f"{kind.plural}.{GROUP}"

    def list(self, request: web.Request, user: User) -> Answer:
        namespace, query = request.match_info.get("namespace", ""), request.query
        self._demand(user, "list", namespace, "")
        page, size = self._page(self._selection(namespace, query), query)
        token = Token(page.more, size).text() if page.more is not None else ""
        around = {"resourceVersion": str(size), **({"continue": token} if token else {})}
        return 200, self._shown(request, page.rows, around, partial(objects.listed, self._kind))

    def get(self, request: web.Request, user: User) -> Answer:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        self._demand(user, "get", namespace, name)
        rows = self._asked.index.page((self._kind.what, *self._of(namespace), equal("name", name)), 1).rows
        if not rows:
            details = {"name": name, "group": GROUP, "kind": self._kind.plural}
            return 404, objects.status(404, "NotFound", f'{self._name} "{name}" not found', **details)

        def proven(_: Any, origin: str, __: Any) -> dict[str, Any]:
            document = self._kind.document(rows[0], origin)
            document["spec"] |= self._kind.evidence(self._asked.entry, rows[0].number)
            if told := self._asked.index.witnesses(rows[0].number):
                document["status"] |= self._kind.outside(self._asked.entry(rows[0].number), told)
            proof, checkpoint = self._asked.proof(rows[0].number)
            document["spec"] |= {"proof": proof, "checkpoint": checkpoint}
            return document

        return 200, self._shown(request, rows, {"resourceVersion": str(rows[0].number + 1)}, proven)

    def watch(self, request: web.Request, user: User) -> Watch:
        """One that may begin. Raises Said, Refused."""
        namespace, query = request.match_info.get("namespace", ""), request.query
        self._demand(user, "watch", namespace, "")
        if "sendInitialEvents" in query:
            raise Said(422, "Invalid", "sendInitialEvents: must be left out: list, then watch from the list's resourceVersion")
        selection, version = self._selection(namespace, query), _number(query, "resourceVersion")
        born = self._asked.index.born
        rows, start = self._begin(selection, version)

        def shown(rows: tuple[Row, ...], version: int) -> Mapping[str, Any]:
            return self._shown(request, rows, {"resourceVersion": str(version)}, self._one)

        return Watch(
            self._kind,
            selection,
            rows,
            start,
            born,
            shown,
            lambda: self._why_not(user, "watch", namespace, ""),
            _true(query.get("allowWatchBookmarks", "")),
            min(_number(query, "timeoutSeconds") or LASTS_S, LASTS_AT_MOST_S),
        )

    def _begin(self, selection: Selection, version: int) -> tuple[tuple[Row, ...], int]:
        """What is told at once, and from where on. Without a version that is all that there is, if it is no more than a page."""
        index = self._asked.index
        if version:
            self._come(version)
            if index.beyond(selection, version) > TOO_OLD:
                raise Said(*too_old(version, index.size))
            return (), version
        page = index.page(selection, MAX_PAGE)
        if page.more is not None:
            raise Said(410, "Expired", "more may fit than are told at once: list them, then watch from the list's resourceVersion")
        return tuple(reversed(page.rows)), page.size

    def _one(self, rows: tuple[Row, ...], origin: str, around: Mapping[str, Any]) -> dict[str, Any]:
        """The only row as it is; of none a bookmark."""
        bookmark = {"apiVersion": API_VERSION, "kind": self._kind.kind, "metadata": around}
        return self._kind.document(rows[0], origin) if rows else bookmark

    def _selection(self, namespace: str, query: Mapping[str, str]) -> Selection:
        return (
            self._kind.what,
            *self._of(namespace),
            *_homed(field_selector(query.get("fieldSelector", ""), known=self._kind.fields)),
            *label_selector(query.get("labelSelector", ""), known=self._kind.labels),
        )

    def _demand(self, user: User, verb: str, namespace: str, name: str) -> None:
        """Raises Said for who may not."""
        if why := self._why_not(user, verb, namespace, name):
            raise Said(403, "Forbidden", why)

    def _why_not(self, user: User, verb: str, namespace: str, name: str) -> str:
        """In the words of an API server; "": he may."""
        plural = self._kind.plural
        resource = {"group": GROUP, "version": VERSION, "resource": plural, "namespace": namespace, "name": name}
        if not (why := self._asked.may(user, verb, resource)):
            return ""
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        return f'{self._name} is forbidden: User "{user.name}" cannot {verb} resource "{plural}" in API group "{GROUP}" {where}: {why}'

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
                return objects.table(self._kind, rows, self._asked.origin, request.query.get("includeObject", "Metadata"), around)
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
