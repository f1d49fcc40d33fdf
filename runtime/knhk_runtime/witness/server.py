"""The witness's HTTP surface (formats/witness.md)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus

from aiohttp import web

from knhk_runtime.log import log
from knhk_runtime.sequencer.server import BODY_WITHIN_S, fault
from knhk_runtime.witness.core import SIZE_TYPE, Refusal, Witness, name_of
from knhk_runtime.witness.follow import Followed
from knhk_runtime.witness.mirror import Mirrors
from knhk_runtime.witness.watching import Watching

MAX_BODY_BYTES = 1 << 20
MIRRORED_WITHIN_S = 2.0
RENEW_EVERY_S = 5.0
AT_ONCE, AT_ONCE_OF_ONE = 64, 8  # requests that want a signature: of all, and of one address
_TEXT = "text/plain"


class Places:
    """Bounds how many wait for a signature: who floods finds none, before anything of his is read or verified."""

    def __init__(self, most: int = AT_ONCE, of_one: int = AT_ONCE_OF_ONE) -> None:
        self._most, self._of_one, self._of = most, of_one, Counter[str]()

    @contextmanager
    def one(self, address: str) -> Iterator[bool]:
        """Whether there is a place, which is held within the context."""
        free = self._of.total() < self._most and self._of[address] < self._of_one
        self._of[address] += free
        try:
            yield free
        finally:
            self._of[address] -= free
            if not self._of[address]:
                del self._of[address]


class Surface:
    """Requests are judged one after another: what is compared and what is kept is one step."""

    def __init__(self, watching: Watching, follow_s: float | None = None) -> None:
        self._watching, self._follows = watching, follow_s is not None
        self._judge = ThreadPoolExecutor(1, "witness")
        self._places = Places()
        self._failure = ""
        self._take()

    def _take(self) -> None:
        """What the files of the policy say now. Looks under way go on, and what they find is judged as all is."""
        now = self._watching.now
        self.followed = Followed(now.sources, now.witness.latest, self._add, now.keys.learn)
        for origin, why in now.keys.unread(now.sources if self._follows else {}).items():
            log("keys.json is not read", origin=origin, what=why)

    @property
    def _witness(self) -> Witness:
        return self._watching.now.witness

    @property
    def _mirrors(self) -> Mirrors:
        return self._watching.now.mirrors

    async def renew(self, every_s: float = RENEW_EVERY_S) -> None:
        """Takes a changed policy, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            before = self._watching.error
            if await asyncio.get_running_loop().run_in_executor(self._judge, self._watching.look):
                self._take()
                log("policy taken", logs=self._witness.sizes())
            elif self._watching.error not in ("", before):
                log("policy not taken: what was before stays", what=self._watching.error)

    def _add(self, body: bytes) -> str:
        """For other threads."""
        return self._judge.submit(self._judged, body).result()

    def _judged(self, body: bytes) -> str:
        known = len(self._witness.split_views)
        try:
            return self._witness.add_checkpoint(body)
        finally:
            if len(self._witness.split_views) > known:
                log("split view", kept=self._witness.split_views[-1])

    async def follow(self, every_s: float) -> None:
        """Looks at the logs until cancelled."""
        while True:
            followed, before = self.followed, dict(self.followed.errors)
            await asyncio.to_thread(followed.look)
            for origin, error in followed.errors.items():
                if error and error != before[origin]:
                    log("a log that is followed", origin=origin, what=error)
            await asyncio.sleep(every_s)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/add-checkpoint", self.add_checkpoint),
                web.get("/checkpoint/{name}", self.checkpoint),
                web.get("/mirror/{name}", self.mirror),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
            ]
        )
        return app

    async def add_checkpoint(self, request: web.Request) -> web.Response:
        with self._places.one(request.remote or "") as free:
            return await self._add_checkpoint(request) if free else _busy()

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await request.read()
            line = await asyncio.get_running_loop().run_in_executor(self._judge, self._judged, body)
        except TimeoutError:
            return fault(HTTPStatus.REQUEST_TIMEOUT, "body", f"must come within {BODY_WITHIN_S:g} s")
        except web.HTTPRequestEntityTooLarge:
            return fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", f"must have at most {MAX_BODY_BYTES} bytes")
        except Refusal as refusal:
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

    async def mirror(self, request: web.Request) -> web.Response:
        with self._places.one(request.remote or "") as free:
            return await self._mirror(request) if free else _busy()

    async def _mirror(self, request: web.Request) -> web.Response:
        """The checkpoint of our mirror, with our signature, as soon as it covers `size` entries, at the latest after MIRRORED_WITHIN_S."""
        name, asked = request.match_info["name"], request.query.get("size", "0")
        mirror = next((mirror for origin, mirror in self._mirrors.items() if name_of(origin) == name), None)
        if mirror is None or not (asked.isascii() and asked.isdecimal() and len(asked) < 19):
            return fault(HTTPStatus.NOT_FOUND, name, "no log of this name is mirrored here, or size is no decimal number")
        await mirror.reach(int(asked), MIRRORED_WITHIN_S)
        try:
            note = (await asyncio.to_thread(mirror.checkpoint)).decode()
        except (OSError, UnicodeError) as error:
            return fault(HTTPStatus.SERVICE_UNAVAILABLE, name, str(error))
        return web.Response(text=note + self._witness.held(note), content_type=_TEXT)

    async def health(self, _request: web.Request) -> web.Response:
        told = {"ready": not self._failure, "logs": self._witness.sizes(), "splitViews": len(self._witness.split_views)}
        told |= {"followed": self.followed.errors, "policy": self._watching.error}
        told["mirrors"] = {origin: {"size": mirror.size, "error": mirror.error} for origin, mirror in self._mirrors.items()}
        return web.json_response(told, status=HTTPStatus.SERVICE_UNAVAILABLE if self._failure else HTTPStatus.OK)

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        lines = [f"knhk_witness_split_views {len(self._witness.split_views)}", f"knhk_witness_failing {int(bool(self._failure))}"]
        lines.append(f"knhk_witness_policy_amiss {int(bool(self._watching.error))}")
        lines += [f'knhk_witness_log_size{{log="{origin}"}} {size}' for origin, size in self._witness.sizes().items()]
        lines += [f'knhk_witness_log_amiss{{log="{origin}"}} {int(bool(error))}' for origin, error in self.followed.errors.items()]
        lines += [f'knhk_witness_mirror_size{{log="{origin}"}} {mirror.size}' for origin, mirror in self._mirrors.items()]
        lines += [f'knhk_witness_mirror_amiss{{log="{origin}"}} {int(bool(mirror.error))}' for origin, mirror in self._mirrors.items()]
        return web.Response(text="".join(f"{line}\n" for line in lines), content_type=_TEXT)


def _busy() -> web.Response:
    answer = fault(HTTPStatus.TOO_MANY_REQUESTS, "witness", f"answers {AT_ONCE} at once, {AT_ONCE_OF_ONE} of one address: ask again")
    answer.headers["Retry-After"] = "1"
    return answer
