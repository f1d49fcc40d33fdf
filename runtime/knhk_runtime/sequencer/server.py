"""The sequencer's HTTP surface (formats/log.md): group commit of concurrent appends, regular integration, reading."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from array import array
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from knhk.model.faults import Deposed, Stalled, Waiting
from knhk_runtime.keys_folder import read_keys_json
from knhk_runtime.objects.port import About
from knhk_runtime.sequencer.copies import Copies, Elsewhere, Full, NoPod
from knhk_runtime.sequencer.core import Log, LogKey, Taken
from knhk_runtime.sequencer.lease import Lease
from knhk_runtime.sequencer.mirrors import MirroringRegions
from knhk_runtime.sequencer.publication import CHECKPOINT, TILES
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
from knhk_runtime.sequencer.witnesses import Witnesses
from knhk_runtime.tlog.notes import size_of
from knhk_runtime.tlog.tree import TILE, parse_tile_path
from knhk_verify.errors import Bad
from knhk_verify.leaf import LEAF_SIZE

MAX_WAITING_BYTES = 64 << 20
CHECKPOINT_INTERVAL_S, MAX_UNCOVERED_S, BODY_WITHIN_S = 0.5, 300.0, 30.0
STAGES_WITHIN_S = 2.0
ASK_AGAIN_S = 0.5
MAX_PROOFS = 64  # of one request
LEAVES_ALONE = "leaves alone"  # in a request whose client may append nothing else
CLIENT = "client"  # in a request that came over TLS: whom its certificate names
_OCTETS = "application/octet-stream"
_TEXT = "text/plain"
_NOT_YET = About(cache_control="no-store")


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
    """Runs one log: all its writing goes through `append`. `run` works until cancelled; then `finish`, or after Deposed `abandon`.
    `lease`: what is held while it runs, when it is published in a store. Leaves are refused while one has waited for a checkpoint for
    longer than `max_uncovered_s`; policy events are not, for a rollback waits for nobody."""

    def __init__(
        self,
        log: Log,
        checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
        lease: Lease | None = None,
        max_uncovered_s: float = MAX_UNCOVERED_S,
        witnesses: Witnesses | None = None,
        max_unwitnessed_s: float = math.inf,
        regions: MirroringRegions | None = None,
    ) -> None:
        self.log, self._lease, self._max_uncovered_s = log, lease, max_uncovered_s
        self.witnesses, self._max_unwitnessed_s = witnesses, max_unwitnessed_s
        self._unwitnessed_from_s: float | None = None  # when the first entry that no published checkpoint covers was acknowledged, at most
        self._signed = asyncio.Event()
        self.regions, self._moved = regions, asyncio.Event()
        if regions is not None:
            regions.on_moved = self._tell_moved
        if witnesses is not None and log.integrated > log.published:
            self._signed.set()
        self.failure: dict[str, str] = {}  # "append", "integrate" → what storage said last
        self._interval_s = checkpoint_interval_s
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._arrived, self._committed = asyncio.Event(), asyncio.Event()
        self._committer = ThreadPoolExecutor(1, "commit")
        self._integrator = ThreadPoolExecutor(1, "integrate")
        self._renewer = ThreadPoolExecutor(1, "lease")
        self._uncovered_from_s: float | None = None  # when the first of those that wait for a checkpoint was acknowledged, at most
        if log.durable > log.integrated:
            self._committed.set()

    def uncovered_s(self) -> float:
        """For how long at most an acknowledged entry has waited for a checkpoint."""
        return 0.0 if self._uncovered_from_s is None else asyncio.get_running_loop().time() - self._uncovered_from_s

    def unwitnessed_s(self) -> float:
        """For how long at most an acknowledged entry has waited for a checkpoint with a quorum of witnesses."""
        return 0.0 if self._unwitnessed_from_s is None else asyncio.get_running_loop().time() - self._unwitnessed_from_s

    def stages(self) -> dict[str, float]:
        """How many entries have come how far."""
        held = 0 if self.regions is None else self.regions.size
        return {
            "durable": self.log.durable,
            "published": self.log.published,
            "regions": held,
            "unwitnessed_s": round(self.unwitnessed_s(), 3),
        }

    async def moved(self, published: int, regions: int, within_s: float) -> None:
        """Returns when more is published, or held by enough regions, than these; after `within_s` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while (told := self.stages())["published"] <= published and told["regions"] <= regions:
                    await self._moved.wait()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def append(self, append: Append) -> list[int]:
        """Indexes of the entries, durable; raises Unavailable and Conflicting."""
        if self.unwitnessed_s() > self._max_unwitnessed_s and any(len(entry) == LEAF_SIZE for entry in append.entries):
            raise Unavailable(f"entries have waited for a quorum of witnesses for more than {self._max_unwitnessed_s:g} s")
        if self.uncovered_s() > self._max_uncovered_s and any(len(entry) == LEAF_SIZE for entry in append.entries):
            raise Unavailable(f"entries have waited for a checkpoint for more than {self._max_uncovered_s:g} s")
        if self._waiting_bytes + append.size > MAX_WAITING_BYTES:
            raise Unavailable(f"more than {MAX_WAITING_BYTES} bytes wait to be written")
        waiting = _Waiting(append, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += append.size
        self._arrived.set()
        return await waiting.answer

    async def claim(self, client: str, sources: Collection[bytes]) -> None:
        """Makes sources a client's, durably, with what else is to be written; raises Unavailable and Conflicting."""
        await self.append(Append((), (), b"", client, frozenset(sources)))

    async def turn(self, key: LogKey) -> None:
        """Signs with this key from now on. Raises OSError: then it may be called again; Bad for a key that does not know the one before."""
        await asyncio.get_running_loop().run_in_executor(self._integrator, self.log.turn, key)
        if self.regions is not None:
            self.regions.turned(key.verifier)

    async def run(self) -> None:
        """Commit and integrate until cancelled; raises Deposed when another writes this log, else only for a bug."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._commit_always())
                group.create_task(self._integrate_always())
                if self._lease is not None:
                    group.create_task(self._renew_always(self._lease))
                if self.witnesses is not None:
                    group.create_task(self._witness_always(self.witnesses))
                if self.regions is not None:
                    self.regions.published(self.log.published)
                    group.create_task(self.regions.run())
        except ExceptionGroup as errors:
            deposed, bugs = errors.split(Deposed)
            if deposed is None or bugs is not None:
                raise
            raise deposed.exceptions[0] from errors

    async def abandon(self) -> None:
        """After Deposed: nothing more is acknowledged or published. What is in the WAL is appended when this folder is opened again."""
        for each in self._waiting:
            if not each.answer.done():
                each.answer.set_exception(Unavailable("another writes this log"))
        self._close()

    async def finish(self) -> None:
        """Commit what waits, cover everything by a checkpoint, close; after `run` has ended."""
        await self._commit_waiting()
        await self._integrate()
        if self._lease is not None:
            await self._stored("lease", self._lease.give_back)
        self._close()

    def _close(self) -> None:
        for executor in (self._committer, self._integrator, self._renewer):
            executor.shutdown()
        self.log.close()

    async def _renew_always(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(lease.ttl_s / 3)
            await self._stored("lease", lease.renew)

    async def _stored(self, what: str, step: Callable[[], None]) -> None:
        """A step of the lease; what the store cannot do now is told, and tried again by the next."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._renewer, step)
            self._recovered(what)
        except (Waiting, Stalled) as error:
            self._failed(what, OSError(str(error)))

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
            if self._uncovered_from_s is None and self.log.durable > self.log.integrated:
                self._uncovered_from_s = loop.time()
            if self._unwitnessed_from_s is None and self.witnesses is not None and self.log.durable > self.log.published:
                self._unwitnessed_from_s = loop.time()
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
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await loop.run_in_executor(self._integrator, self.log.integrate)
            self._recovered("integrate")
            self._uncovered_from_s = began_s if self.log.durable > self.log.integrated else None
            if self.log.integrated > self.log.published:
                self._signed.set()
            self._tell_published()
        except OSError as error:
            self._failed("integrate", error)
            self._committed.set()

    async def _witness_always(self, witnesses: Witnesses) -> None:
        """Brings each signed checkpoint, or the newest when there are several, before the witnesses, and publishes it with the lines of a
        quorum; without one nothing is published, and they are asked again."""
        try:
            while True:
                await self._signed.wait()
                await self._bring(witnesses)
        finally:
            await witnesses.close()

    async def _bring(self, witnesses: Witnesses) -> None:
        self._signed.clear()
        note, began_s = self.log.signed, asyncio.get_running_loop().time()
        cosigned = await witnesses.cosigned(note, size_of(note), self._prove)
        if cosigned is not None and await self._publish(cosigned):
            self._unwitnessed_from_s = began_s if self.log.durable > self.log.published else None
        else:
            await asyncio.sleep(ASK_AGAIN_S)
            self._signed.set()

    async def _prove(self, old: int, new: int) -> list[bytes]:
        return await asyncio.to_thread(self.log.consistency, old, new)

    async def _publish(self, note: str) -> bool:
        try:
            await asyncio.get_running_loop().run_in_executor(self._integrator, self.log.publish, note)
        except OSError as error:
            self._failed("publish", error)
            return False
        self._recovered("publish")
        self._tell_published()
        return True

    def _tell_published(self) -> None:
        if self.regions is not None:
            self.regions.published(self.log.published)
        self._tell_moved()

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


def _cached(about: About) -> dict[str, str]:
    return {"Cache-Control": about.cache_control}


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise Bad(name, "must be a decimal number")
    return int(text)


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
        case NoPod():
            return fault(HTTPStatus.FORBIDDEN, "certificate", "must be that of a pod: others keep their outboxes beside the log")
        case Elsewhere():
            segment, offset = error.end or (None, None)
            return fault(HTTPStatus.CONFLICT, "segment, offset", "must be where the copy ends", segment=segment, offset=offset)
        case Full():
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, "storage", str(error))
        case OSError():
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, "storage", f"{error.filename or ''}: {error.strerror or error}")
        case Unavailable():
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, "storage", str(error))
    return fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", f"must have at most {MAX_BODY_BYTES} bytes")


class Surface:
    """Handlers of the routes; `reading` alone may be offered beyond the socket."""

    def __init__(self, sequencer: Sequencer, keys_json: Path | None = None) -> None:
        """`keys_json`: the file that says by which keys the log signs, if there is one."""
        self._sequencer, self._log, self._keys_json = sequencer, sequencer.log, keys_json
        self._copies = Copies(sequencer.log.folder / "observations")

    def reading(self) -> list[web.RouteDef]:
        """Routes that change nothing."""
        return [
            web.get("/checkpoint", self.checkpoint),
            web.get("/tile/{path:.+}", self.tile),
            web.get("/keys.json", self.keys),
            web.get("/index/{key}", self.index),
            web.get("/proof/{index}", self.proof),
            web.get("/proofs", self.proofs),
            web.get("/health", self.health),
            web.get("/metrics", self.metrics),
            web.get("/records", self.copied),
            web.get("/stages", self.stages),
        ]

    def writing(self) -> list[web.RouteDef]:
        """Routes that append."""
        return [
            web.post("/append", self.append),
            web.post("/event", self.event),
            web.post("/sources", self.sources),
            web.post("/records", self.records),
        ]

    async def append(self, request: web.Request) -> web.Response:
        outcome = await self._write(request, parse_leaves if LEAVES_ALONE in request else parse_append)
        if isinstance(outcome, web.Response):
            return outcome
        indexes = array("Q", outcome)
        if sys.byteorder == "little":
            indexes.byteswap()
        return web.Response(body=indexes.tobytes(), content_type=_OCTETS)

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

    async def copied(self, request: web.Request) -> web.Response:
        """Where the copy of a pod's outbox ends."""
        try:
            end = await asyncio.to_thread(self._copies.end, request.get(CLIENT, ""), request.query.get("outbox", ""))
        except (Bad, NoPod, OSError) as error:
            return _fault_of(error)
        segment, offset = end or (None, None)
        return web.json_response({"segment": segment, "offset": offset})

    async def records(self, request: web.Request) -> web.Response:
        """Frames of a pod's outbox."""
        try:
            at = _number(request, "segment"), _number(request, "offset")
            body = await _body(request)
            await asyncio.to_thread(self._copies.add, request.get(CLIENT, ""), request.query.get("outbox", ""), at, body)
        except (TimeoutError, Bad, NoPod, Elsewhere, Full, OSError, web.HTTPRequestEntityTooLarge) as error:
            return _fault_of(error)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _write(self, request: web.Request, parse: Callable[[bytes], Append]) -> web.Response | list[int]:
        try:
            append = replace(parse(await _body(request)), client=request.get(CLIENT, ""))
            return await self._sequencer.append(append)
        except (TimeoutError, Bad, Conflicting, Unavailable, web.HTTPRequestEntityTooLarge) as error:
            return _fault_of(error)

    async def checkpoint(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._log.checkpoint(), content_type=_TEXT, headers=_cached(CHECKPOINT))

    async def tile(self, request: web.Request) -> web.Response:
        path = f"tile/{request.match_info['path']}"
        try:
            level, n, width = parse_tile_path(path)
            covered = n * TILE + width <= self._log.integrated >> 8 * (level or 0)
            data = await asyncio.to_thread(self._log.tile, path)
        except (Bad, FileNotFoundError):
            return fault(HTTPStatus.NOT_FOUND, path, "there is no such tile")
        return web.Response(body=data, content_type=_OCTETS, headers=_cached(TILES if covered else _NOT_YET))

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
            what = f"no checkpoint at hand{'' if size is None else f' of size {size}'} covers it; the newest has {self._log.published}"
            return fault(HTTPStatus.NOT_FOUND, f"entry {numbers[0]}", what)
        return web.Response(text=text, content_type=_TEXT)

    async def proofs(self, request: web.Request) -> web.Response:
        """Of several entries under the newest checkpoint, null for what it does not cover."""
        numbers = request.query.get("of", "").split(",")
        if len(numbers) > MAX_PROOFS or not all(number.isascii() and number.isdecimal() and len(number) <= 19 for number in numbers):
            return fault(HTTPStatus.BAD_REQUEST, "of", f"must be 1 to {MAX_PROOFS} decimal numbers")
        texts = await asyncio.to_thread(lambda: [self._log.proof(int(number)) for number in numbers])
        return web.json_response({"proofs": texts})

    async def stages(self, request: web.Request) -> web.Response:
        """How many entries have come how far, as soon as that is further than what the client knows; at once for one that knows nothing."""
        try:
            known = (_number(request, "published"), _number(request, "regions")) if request.query else None
        except Bad as error:
            return _fault_of(error)
        if known is not None:
            await self._sequencer.moved(*known, STAGES_WITHIN_S)
        return web.json_response(self._sequencer.stages())

    async def keys(self, _request: web.Request) -> web.Response:
        """keys.json, which its root has signed, with all chapters that there are."""
        try:
            data = await asyncio.to_thread(read_keys_json, self._keys_json) if self._keys_json is not None else None
        except FileNotFoundError:
            data = None
        if data is None:
            return fault(HTTPStatus.NOT_FOUND, "keys.json", "is not beside the log's key")
        return web.Response(body=data, content_type="application/json")

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        sequencer, log = self._sequencer, self._log
        told = sequencer.witnesses.told if sequencer.witnesses else {}
        lines = [f'knhk_log_entries{{stage="{stage}"}} {getattr(log, stage)}' for stage in ("durable", "integrated", "published")]
        lines += [
            f"knhk_log_uncovered_seconds {sequencer.uncovered_s():.3f}",
            f"knhk_log_unwitnessed_seconds {sequencer.unwitnessed_s():.3f}",
        ]
        lines += [f"knhk_log_failing {int(bool(sequencer.failure))}"]
        lines += [f'knhk_log_witness_amiss{{witness="{key.name}"}} {int(bool(each.error))}' for key, each in told.items()]
        if (regions := sequencer.regions) is not None:
            lines += [f'knhk_log_entries{{stage="regions"}} {regions.size}', f"knhk_log_unmirrored_seconds {regions.unheld_s():.3f}"]
            lines += [f'knhk_log_mirror_amiss{{witness="{key.name}"}} {int(bool(each.error))}' for key, each in regions.told.items()]
        return web.Response(text="".join(f"{line}\n" for line in lines), content_type=_TEXT)

    async def health(self, _request: web.Request) -> web.Response:
        sizes = {"durable": self._log.durable, "integrated": self._log.integrated, "uncovered_s": round(self._sequencer.uncovered_s(), 3)}
        sizes |= {"published": self._log.published, "unwitnessed_s": round(self._sequencer.unwitnessed_s(), 3)}
        failure, witnesses = self._sequencer.failure, self._sequencer.witnesses
        told = {key.name: {"size": each.size, "error": each.error} for key, each in witnesses.told.items()} if witnesses else {}
        regions = self._sequencer.regions
        if regions is not None:
            sizes["regions"] = regions.size
            mirrors = {key.name: {"size": each.size, "error": each.error} for key, each in regions.told.items()}
            told = {name: {**row, "mirror": mirrors[name]} for name, row in told.items()}
        status = HTTPStatus.SERVICE_UNAVAILABLE if failure else HTTPStatus.OK
        return web.json_response({"ready": not failure, **sizes, "failure": failure, "witnesses": told}, status=status)


async def _kept_by_nobody(_request: web.Request, response: web.StreamResponse) -> None:
    """But for what says that it may be: a cache may keep a 404 by itself (RFC 9110, 15.1), also of a tile that comes a moment later."""
    response.headers.setdefault("Cache-Control", _NOT_YET.cache_control)


def application(routes: list[web.RouteDef], *middlewares: Middleware) -> web.Application:
    """An application of these routes; bodies above the bound are refused."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=middlewares)
    app.add_routes(routes)
    app.on_response_prepare.append(_kept_by_nobody)
    return app
