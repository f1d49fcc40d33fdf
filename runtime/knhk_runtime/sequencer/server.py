"""The sequencer's HTTP surface (formats/log.md): group commit of concurrent appends, regular integration, reading."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk_runtime.sequencer.core import Log, Taken
from knhk_runtime.sequencer.wire import (
    KEY_BYTES,
    MAX_BODY_BYTES,
    Append,
    NotALeaf,
    TooMany,
    parse_append,
    parse_event,
    parse_leaves,
    parse_sources,
)
from knhk_runtime.tlog.tree import parse_tile_path
from knhk_verify.errors import Bad

MAX_WAITING_BYTES = 64 << 20
CHECKPOINT_INTERVAL_S, BODY_WITHIN_S = 0.5, 30.0
LEAVES_ALONE = "leaves alone"  # in a request whose client may append nothing else
CLIENT = "client"  # in a request that came over TLS: whom its certificate names
_OCTETS = "application/octet-stream"
_TEXT = "text/plain"


def tell(text: str) -> None:
    """One line for the operator."""
    print(f"sequencer: {text}", file=sys.stderr, flush=True)


class Conflicting(Exception):
    """Entries are another client's, or no repetition of what their keys have; nothing of the append counts."""

    def __init__(self, taken: Taken) -> None:
        super().__init__(taken.what)
        self.taken = taken


class Unavailable(Exception):
    """Storage failed; nothing of the append was acknowledged."""


@dataclass(frozen=True)
class _Waiting:
    append: Append
    answer: asyncio.Future[list[int]]


class Sequencer:
    """Runs one log: all its writing goes through `append`. `run` works until cancelled; then `finish`."""

    def __init__(self, log: Log, checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S) -> None:
        self.log = log
        self.failure: dict[str, str] = {}  # "append", "integrate" → what storage said last
        self._interval_s = checkpoint_interval_s
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._arrived, self._committed = asyncio.Event(), asyncio.Event()
        self._committer = ThreadPoolExecutor(1, "commit")
        self._integrator = ThreadPoolExecutor(1, "integrate")
        if log.durable > log.integrated:
            self._committed.set()

    async def append(self, append: Append) -> list[int]:
        """Indexes of the entries, durable; raises Unavailable and Conflicting."""
        if self._waiting_bytes + len(append.items) > MAX_WAITING_BYTES:
            raise Unavailable(f"more than {MAX_WAITING_BYTES} bytes wait to be written")
        waiting = _Waiting(append, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += len(append.items)
        self._arrived.set()
        return await waiting.answer

    async def claim(self, client: str, sources: Collection[bytes]) -> None:
        """Makes sources a client's; raises Unavailable and Conflicting."""
        try:
            taken = await asyncio.get_running_loop().run_in_executor(self._committer, self.log.claim, client, sources)
        except OSError as error:
            raise Unavailable(f"storage: {error.strerror or error}") from error
        if taken is not None:
            raise Conflicting(taken)

    async def run(self) -> None:
        """Commit and integrate until cancelled; raises only for a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._commit_always())
            group.create_task(self._integrate_always())

    async def finish(self) -> None:
        """Commit what waits, cover everything by a checkpoint, close; after `run` has ended."""
        await self._commit_waiting()
        await self._integrate()
        self._committer.shutdown()
        self._integrator.shutdown()
        self.log.close()

    async def _commit_always(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.shield(self._commit_waiting())

    async def _commit_waiting(self) -> None:
        self._arrived.clear()
        group, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not group:
            return
        loop = asyncio.get_running_loop()
        outcome: list[list[int] | Taken] | Exception
        try:
            outcome = await loop.run_in_executor(self._committer, self.log.commit, [each.append for each in group])
            self._recovered("append")
        except OSError as error:
            self._failed("append", error)
            outcome = Unavailable(f"storage: {error.strerror or error}")
        for number, each in enumerate(group):
            if each.answer.done():
                continue
            if isinstance(outcome, Exception):
                each.answer.set_exception(outcome)
            elif isinstance(found := outcome[number], Taken):
                each.answer.set_exception(Conflicting(found))
            else:
                each.answer.set_result(found)
        self._committed.set()

    async def _integrate_always(self) -> None:
        while True:
            await self._committed.wait()
            await asyncio.sleep(self._interval_s / 2)
            self._committed.clear()
            await asyncio.shield(self._integrate())

    async def _integrate(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._integrator, self.log.integrate)
            self._recovered("integrate")
        except OSError as error:
            self._failed("integrate", error)
            self._committed.set()

    def _failed(self, what: str, error: OSError) -> None:
        text = f"{error.filename or self.log.folder}: {error.strerror or error}"
        if self.failure.get(what) != text:
            tell(f"{what} fails: {text}; nothing of it is acknowledged, it goes on when storage works again")
        self.failure[what] = text

    def _recovered(self, what: str) -> None:
        if self.failure.pop(what, None):
            tell(f"{what} works again")


def fault(status: HTTPStatus, where: str, what: str, **more: object) -> web.Response:
    """An error of formats/log.md."""
    return web.json_response({"error": f"{where}: {what}", "where": where, "what": what, **more}, status=status)


async def _body(request: web.Request) -> bytes:
    async with asyncio.timeout(BODY_WITHIN_S):
        return await request.read()


def _fault_of(error: Exception) -> web.Response:
    match error:
        case TimeoutError():
            return fault(HTTPStatus.REQUEST_TIMEOUT, "body", f"must come within {BODY_WITHIN_S:g} s")
        case TooMany():
            return fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error.where, error.what)
        case NotALeaf():
            return fault(HTTPStatus.FORBIDDEN, error.where, error.what)
        case Bad():
            return fault(HTTPStatus.BAD_REQUEST, error.where, error.what)
        case Conflicting():
            where = f"item {error.taken.items[0]}" if error.taken.items else "sources"
            return fault(HTTPStatus.CONFLICT, where, error.taken.what, items=list(error.taken.items))
        case Unavailable():
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, "storage", str(error))
    return fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", f"must have at most {MAX_BODY_BYTES} bytes")


class Surface:
    """Handlers of the routes; `reading` alone may be offered beyond the socket."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer, self._log = sequencer, sequencer.log

    def reading(self) -> list[web.RouteDef]:
        """Routes that change nothing."""
        return [
            web.get("/checkpoint", self.checkpoint),
            web.get("/tile/{path:.+}", self.tile),
            web.get("/index/{key}", self.index),
            web.get("/proof/{index}", self.proof),
            web.get("/health", self.health),
        ]

    def writing(self) -> list[web.RouteDef]:
        """Routes that append."""
        return [web.post("/append", self.append), web.post("/event", self.event), web.post("/sources", self.sources)]

    async def append(self, request: web.Request) -> web.Response:
        outcome = await self._write(request, parse_leaves if LEAVES_ALONE in request else parse_append)
        if isinstance(outcome, web.Response):
            return outcome
        return web.Response(body=struct.pack(f">{len(outcome)}Q", *outcome), content_type=_OCTETS)

    async def event(self, request: web.Request) -> web.Response:
        outcome = await self._write(request, parse_event)
        return outcome if isinstance(outcome, web.Response) else web.json_response({"index": outcome[0]})

    async def sources(self, request: web.Request) -> web.Response:
        """By the socket nothing belongs to anybody."""
        try:
            claimed = parse_sources(await _body(request))
            if client := request.get(CLIENT):
                await self._sequencer.claim(client, claimed)
        except (TimeoutError, Bad, Conflicting, Unavailable, web.HTTPRequestEntityTooLarge) as error:
            return _fault_of(error)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _write(self, request: web.Request, parse: Callable[[bytes], Append]) -> web.Response | list[int]:
        try:
            append = replace(parse(await _body(request)), client=request.get(CLIENT, ""))
            return await self._sequencer.append(append)
        except (TimeoutError, Bad, Conflicting, Unavailable, web.HTTPRequestEntityTooLarge) as error:
            return _fault_of(error)

    async def checkpoint(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._log.checkpoint(), content_type=_TEXT)

    async def tile(self, request: web.Request) -> web.Response:
        path = f"tile/{request.match_info['path']}"
        try:
            parse_tile_path(path)
            data = await asyncio.to_thread(self._log.tile, path)
        except (Bad, FileNotFoundError):
            return fault(HTTPStatus.NOT_FOUND, path, "there is no such tile")
        return web.Response(body=data, content_type=_OCTETS)

    async def index(self, request: web.Request) -> web.Response:
        text = request.match_info["key"]
        if len(text) != 2 * KEY_BYTES or not set(text) <= set("0123456789abcdef"):
            return fault(HTTPStatus.BAD_REQUEST, "key", f"must be {2 * KEY_BYTES} lower-case hexadecimal digits")
        index = self._log.index_of(bytes.fromhex(text))
        if index is None:
            return fault(HTTPStatus.NOT_FOUND, "key", f"{text}: no entry has this key")
        return web.json_response({"index": index})

    async def proof(self, request: web.Request) -> web.Response:
        numbers = (request.match_info["index"], request.query.get("size", "0"))
        if not all(number.isascii() and number.isdecimal() and len(number) <= 19 for number in numbers):
            return fault(HTTPStatus.BAD_REQUEST, "index, size", "must be decimal numbers")
        size = int(numbers[1]) if "size" in request.query else None
        text = await asyncio.to_thread(self._log.proof, int(numbers[0]), size)
        if text is None:
            what = f"no checkpoint at hand{'' if size is None else f' of size {size}'} covers it; the newest has {self._log.integrated}"
            return fault(HTTPStatus.NOT_FOUND, f"entry {numbers[0]}", what)
        return web.Response(text=text, content_type=_TEXT)

    async def health(self, _request: web.Request) -> web.Response:
        sizes = {"durable": self._log.durable, "integrated": self._log.integrated}
        failure = self._sequencer.failure
        status = HTTPStatus.SERVICE_UNAVAILABLE if failure else HTTPStatus.OK
        return web.json_response({"ready": not failure, **sizes, "failure": failure}, status=status)


def application(routes: list[web.RouteDef], *middlewares: Middleware) -> web.Application:
    """An application of these routes; bodies above the bound are refused."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=middlewares)
    app.add_routes(routes)
    return app
