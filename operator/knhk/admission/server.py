"""The webhooks over HTTPS: one route for each judge, health and metrics beside them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Any

from aiohttp import web

from knhk.admission.metrics import Metrics
from knhk.api.review import read_review
from knhk.model.faults import KnhkError, Refused

MAX_BODY_BYTES = 8 << 20  # twice the largest object that an API server stores: the old one comes along
LARGE_BYTES = 1 << 20  # larger ones are read from JSON one at a time: as objects of Python they are twenty times as large
ANSWERS_WITHIN_S = 4.5  # below the time-out of the webhook configurations, so that the answer is ours

Judge = Callable[..., Awaitable[Mapping[str, Any]]]  # of a Review, and the names in the path that the judge is for
_log = logging.getLogger("knhk.admission")


def application(judges: Mapping[str, Judge], ready: Callable[[], str], metrics: Metrics) -> web.Application:
    """`judges`: path, with {names} in it → judge; `ready`: why no requests should come, or nothing."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = ready()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def told(_: web.Request) -> web.Response:
        return web.Response(text=metrics.text(), content_type="text/plain")

    app, large = web.Application(client_max_size=MAX_BODY_BYTES), asyncio.Semaphore(1)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", told)
    for path, judge in judges.items():
        app.router.add_post(path, _answering(path, judge, metrics, large))
    return app


def _answering(path: str, judge: Judge, metrics: Metrics, large: asyncio.Semaphore) -> Callable[[web.Request], Awaitable[web.Response]]:
    webhook = path.strip("/").partition("/")[0]

    async def answer(request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        metrics.in_flight[webhook] += 1
        code, verdict, text = 500, "malformed", ""
        try:
            code, verdict, text = await _judged(judge, request, large)
        finally:
            metrics.in_flight[webhook] -= 1
            metrics.took(webhook, code, loop.time() - start_s, verdict)
        return web.Response(text=text, status=code, content_type="application/json" if code == 200 else "text/plain")

    return answer


async def _judged(judge: Judge, request: web.Request, large: asyncio.Semaphore) -> tuple[int, str, str]:
    """HTTP status, verdict, body. Whatever is no answer is an error of HTTP, for which the webhook's failurePolicy decides."""
    if request.content_type != "application/json":
        return 415, "malformed", "content-type must be application/json\n"
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            body = await request.read()  # of a caller who sends slowly, too
            async with large if len(body) > LARGE_BYTES else nullcontext():
                document = await judge(read_review(body), **request.match_info)
    except Refused as refused:
        return 400, "malformed", f"{refused}\n"
    except (KnhkError, TimeoutError) as error:
        _log.warning("%s: %s: %s", request.path, type(error).__name__, error)
        return 503, "failed", f"{type(error).__name__}: {error}\n"
    response = document["response"]
    return 200, _verdict(response), json.dumps(document)


def _verdict(response: Mapping[str, Any]) -> str:
    if not response["allowed"]:
        return "denied"
    return "warned" if response.get("warnings") else "allowed"
