"""The webhooks over HTTPS: one route for each judge, health and metrics beside them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from knhk.admission.gate import ANSWERS_WITHIN, BEGINS_WITHIN, Gates, Pulse, TurnedAway, given_s
from knhk.admission.metrics import Metrics
from knhk.api.review import read_review
from knhk.model.faults import KnhkError, Refused

MAX_BODY_BYTES = 8 << 20  # twice the largest object that an API server stores: the old one comes along
LARGE_BYTES = 1 << 20  # larger ones are read from JSON one at a time: as objects of Python they are twenty times as large

Judge = Callable[..., Awaitable[Mapping[str, Any]]]  # of a Review, and the names in the path that the judge is for
Doubt = Callable[[Mapping[str, Any] | None, str], str]  # of a client's certificate, as `ssl` tells it, and IP address: why it must not ask
_log = logging.getLogger("knhk.admission")


@dataclass(frozen=True)
class _Doors:
    """What all questions share: who may ask and who is let in, how far the loop is behind, and the one place for large ones."""

    gates: Gates
    doubt: Doubt
    pulse: Pulse = field(default_factory=Pulse)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def beating(self, _: web.Application) -> AsyncIterator[None]:
        """As aiohttp's cleanup_ctx wants it."""
        beat = asyncio.create_task(self.pulse.beat())
        yield
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat


def _of_nobody(_: Mapping[str, Any] | None, __: str) -> str:
    return ""


def application(
    judges: Mapping[str, Judge], ready: Callable[[], str], metrics: Metrics, gates: Gates | None = None, doubt: Doubt = _of_nobody
) -> web.Application:
    """`judges`: path, with {names} in it → judge; `ready`: why no requests should come, or nothing."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def told(_: web.Request) -> web.Response:
        return web.Response(text=metrics.text(), content_type="text/plain")

    app, doors = web.Application(client_max_size=MAX_BODY_BYTES), _Doors(gates or Gates(), doubt)
    app.cleanup_ctx.append(doors.beating)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", told)
    for path, judge in judges.items():
        app.router.add_post(path, _answering(path, judge, metrics, doors))
    return app


def _answering(path: str, judge: Judge, metrics: Metrics, doors: _Doors) -> Callable[[web.Request], Awaitable[web.Response]]:
    webhook = path.strip("/").partition("/")[0]

    async def answer(request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        start_s = loop.time() - doors.pulse.late_s(loop.time())
        metrics.in_flight[webhook] += 1
        code, verdict, text = 500, "malformed", ""
        try:
            code, verdict, text = await _judged(judge, request, doors, start_s)
        finally:
            metrics.in_flight[webhook] -= 1
            metrics.took(webhook, code, loop.time() - start_s, verdict)
        return web.Response(text=text, status=code, content_type="application/json" if code == 200 else "text/plain")

    return answer


async def _judged(judge: Judge, request: web.Request, doors: _Doors, start_s: float) -> tuple[int, str, str]:
    """HTTP status, verdict, body. Whatever is no answer is an error of HTTP, for which the webhook's failurePolicy decides. It never says
    when to come again: an API server that is told would ask anew within the same time."""
    if request.content_type != "application/json":
        return 415, "malformed", "content-type must be application/json\n"
    peer = request.get_extra_info("peername")
    if peer is None:  # the connection is over, and with it who asked
        return 503, "late", "the caller is gone\n"
    if why := doors.doubt(request.get_extra_info("peercert"), peer[0]):
        return 403, "stranger", f"{why}\n"
    time_s = given_s(request.query.get("timeout", ""))
    try:
        async with asyncio.timeout_at(start_s + time_s * ANSWERS_WITHIN), doors.gates.entered(request.path) as gate:
            body = await request.read()  # of a caller who sends slowly, too
            async with gate.turn(start_s + time_s * BEGINS_WITHIN), doors.large if len(body) > LARGE_BYTES else nullcontext():
                document = await judge(read_review(body), **request.match_info)
    except Refused as refused:
        return 400, "malformed", f"{refused}\n"
    except (TurnedAway, TimeoutError) as error:
        return 503, "shed" if isinstance(error, TurnedAway) else "late", f"{str(error) or 'its time is over'}\n"
    except KnhkError as error:
        _log.warning("%s: %s: %s", request.path, type(error).__name__, error)
        return 503, "failed", f"{type(error).__name__}: {error}\n"
    response = document["response"]
    return 200, _verdict(response), json.dumps(document)


def _verdict(response: Mapping[str, Any]) -> str:
    if not response["allowed"]:
        return "denied"
    return "warned" if response.get("warnings") else "allowed"
