"""The witness's HTTP surface (formats/witness.md)."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from aiohttp import web

from knhk_runtime.log import log
from knhk_runtime.sequencer.server import BODY_WITHIN_S, fault
from knhk_runtime.witness.core import SIZE_TYPE, Refusal, Witness, name_of

MAX_BODY_BYTES = 1 << 20
_TEXT = "text/plain"


class Surface:
    """Requests are judged one after another: what is compared and what is kept is one step."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._judge = ThreadPoolExecutor(1, "witness")
        self._failure = ""

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/add-checkpoint", self.add_checkpoint),
                web.get("/checkpoint/{name}", self.checkpoint),
                web.get("/health", self.health),
            ]
        )
        return app

    async def add_checkpoint(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await request.read()
            known = len(self._witness.split_views)
            line = await asyncio.get_running_loop().run_in_executor(self._judge, self._witness.add_checkpoint, body)
        except TimeoutError:
            return fault(HTTPStatus.REQUEST_TIMEOUT, "body", f"must come within {BODY_WITHIN_S:g} s")
        except web.HTTPRequestEntityTooLarge:
            return fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", f"must have at most {MAX_BODY_BYTES} bytes")
        except Refusal as refusal:
            if len(self._witness.split_views) > known:
                log("split view", what=refusal.what, kept=self._witness.split_views[-1])
            if refusal.size is not None:
                return web.Response(status=refusal.status, body=b"%d\n" % refusal.size, content_type=SIZE_TYPE)
            return fault(refusal.status, refusal.where, refusal.what)
        except OSError as error:
            self._failure = f"{error.filename or 'storage'}: {error.strerror or error}"
            log("storage fails", what=self._failure)
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, "storage", self._failure)
        self._failure = ""
        return web.Response(text=line, content_type=_TEXT)

    async def checkpoint(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        origin = next((origin for origin in self._witness.sizes() if name_of(origin) == name), None)
        found = self._witness.latest(origin) if origin is not None else None
        if found is None:
            return fault(HTTPStatus.NOT_FOUND, name, "no checkpoint of a log of this name was cosigned")
        return web.Response(text=found.note, content_type=_TEXT)

    async def health(self, _request: web.Request) -> web.Response:
        told = {"ready": not self._failure, "logs": self._witness.sizes(), "splitViews": len(self._witness.split_views)}
        return web.json_response(told, status=HTTPStatus.SERVICE_UNAVAILABLE if self._failure else HTTPStatus.OK)
