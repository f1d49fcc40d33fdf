"""Orders over HTTPS (formats/builder.md), for clients whose certificate names one that may give them; health and metrics apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from aiohttp import web

from knhk.adapters.build_workers import DONE, BuildWorkers, Job
from knhk.model.faults import KnhkError, Refused, Waiting
from knhk.model.oci import DIGEST
from knhk.packaging.builds import error_document, read_order

MAX_BODY_BYTES = 8 << 20
LONGEST_WAIT_S = 20.0
LINGERS_S = 0.2  # a step is told so late, or with the end: of what the registry has one answer tells all

Retire = Callable[[Mapping[str, Collection[str]], Callable[[], bool]], tuple[str, ...]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def orders(workers: BuildWorkers, retire: Retire, clients: Collection[str]) -> web.Application:
    """The API. `clients`: URIs in certificates of those who may use it; `retire` blocks."""
    sweeping = asyncio.Lock()

    async def submit(request: web.Request) -> web.Response:
        document = _object(await request.read())
        order, urgent = document.get("order"), document.get("urgent") is True
        try:
            read_order(order if isinstance(order, dict) else {})
            assert isinstance(order, dict)
            return web.json_response(status_of(workers.submit(order, urgent)))
        except Refused as refused:
            return web.json_response({"why": str(refused)}, status=400)
        except Waiting as waiting:
            return web.json_response({"why": str(waiting)}, status=503)

    async def look(request: web.Request) -> web.Response:
        job = workers.job(request.match_info["id"])
        if job is None:
            return web.json_response({"why": "no such build; order it again"}, status=404)
        known, wait_s = _number(request, "known"), min(_number(request, "wait"), LONGEST_WAIT_S)
        if job.state != DONE and job.number == known and wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.changed.wait(), wait_s)
                await asyncio.wait_for(job.ended.wait(), min(LINGERS_S, wait_s))
        return web.json_response(status_of(job))

    async def cancel(request: web.Request) -> web.Response:
        ident = request.match_info["id"]
        if workers.job(ident) is None:
            return web.json_response({"why": "no such build"}, status=404)
        done = workers.cancel(ident)
        return web.json_response({"why": "" if done else "it has begun"}, status=200 if done else 409)

    async def retired(request: web.Request) -> web.Response:
        needed = _needed(_object(await request.read()).get("needed"))
        if needed is None:
            return web.json_response({"why": "needed must be NAMESPACE/NAME of packs with lists of digests"}, status=400)
        try:
            async with sweeping:
                gone = await asyncio.to_thread(retire, needed, lambda: _waits(request))
        except (KnhkError, OSError) as error:
            return web.json_response({"outcome": error_document(error)}, status=503)
        workers.forget()
        return web.json_response({"gone": list(gone)})

    @web.middleware
    async def known(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not set(_uris(request)) & set(clients):
            return web.json_response({"why": "this client may not order builds"}, status=403)
        return await handler(request)

    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[known])
    app.router.add_post("/v1/builds", submit)
    app.router.add_get("/v1/builds/{id}", look)
    app.router.add_delete("/v1/builds/{id}", cancel)
    app.router.add_post("/v1/retire", retired)
    return app


def _waits(request: web.Request) -> bool:
    """Whether who asked is still there: an operator that is deposed ends, and its connections with it."""
    return request.transport is not None and not request.transport.is_closing()


def health(workers: BuildWorkers, ending: Callable[[], bool]) -> web.Application:
    """For kubelets and Prometheus: alive when the event loop turns, ready when a worker is."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why = "ending" if ending() else "" if workers.warm else "no worker is warm yet"
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text="\n".join([*metrics_text(workers.counts(), workers.warm), ""]), content_type="text/plain")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def metrics_text(orders: Mapping[str, int], warm: int) -> list[str]:
    """Lines in Prometheus' text format; `orders` by state."""
    rows = [f'knhk_builder_orders{{state="{state}"}} {count}' for state, count in sorted(orders.items())]
    text = ["# HELP knhk_builder_orders Orders by state.", "# TYPE knhk_builder_orders gauge", *rows]
    return [
        *text,
        "# HELP knhk_builder_workers Workers that are warm.",
        "# TYPE knhk_builder_workers gauge",
        f"knhk_builder_workers {warm}",
    ]


def status_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = {"id": job.id, "state": job.state, "step": job.step, "number": job.number}
    return found | ({"outcome": job.outcome} if job.outcome is not None else {})


def _uris(request: web.Request) -> list[str]:
    """Who the client is by its certificate, which TLS has verified."""
    connection = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    if not isinstance(connection, ssl.SSLObject):
        return []
    certificate: Mapping[str, Any] = connection.getpeercert() or {}
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _needed(found: object) -> dict[str, list[str]] | None:
    """What must stay; None when it is malformed."""
    if not isinstance(found, dict):
        return None
    right = all(isinstance(row, list) and all(isinstance(d, str) and DIGEST.fullmatch(d) for d in row) for row in found.values())
    return found if right else None


def _number(request: web.Request, name: str) -> float:
    text = request.query.get(name, "")
    return float(text) if text.replace(".", "", 1).isdecimal() else -1.0
