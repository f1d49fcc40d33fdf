"""Builder by the process knhk.builder, over HTTPS with a client's certificate (formats/builder.md).

One thread with an event loop follows all builds. A builder that is away for a moment is asked again; when it stays so the build is Waiting,
and whoever ordered it orders it again: the builder knows an order by its digest.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

import aiohttp

from knhk.model.arrows import SignedPack
from knhk.model.faults import Corrupt, Stalled, Waiting
from knhk.packaging.builds import DataOrder, Order, PackOrder, PublishedData, error_document, order_document, order_id, read_result
from knhk.ports.builder import Build

LOOKS_S = 5.0  # how long the builder may keep a question for news
ANSWERS_WITHIN_S = 30.0
SWEEPS_WITHIN_S = 600.0
TRIES = 3
RETRY_AFTER_S = 2.0
IDENTITY_S = 600.0  # certificates are looked at again


class RemoteBuilder:
    """knhk.ports.builder.Builder. `identity` gives the TLS context; it is asked again now and then, as certificates are renewed."""

    def __init__(self, url: str, identity: Callable[[], ssl.SSLContext]) -> None:
        self._url, self._identity = url.rstrip("/"), identity
        self._known: tuple[float, ssl.SSLContext] | None = None
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        self._thread = threading.Thread(target=self._run, name="builder", daemon=True)
        self._thread.start()

    def pack(self, order: PackOrder) -> Build[SignedPack]:
        return self._begin(order, order.urgent)

    def data(self, order: DataOrder) -> Build[PublishedData]:
        return self._begin(order, True)

    def retire(self, needed: Mapping[str, Collection[str]]) -> Future[tuple[str, ...]]:
        stays = {name: sorted(digests) for name, digests in needed.items()}
        return asyncio.run_coroutine_threadsafe(self._retired(stays), self._loop)

    def close(self) -> None:
        """Ends the thread; builds that are not done stay so."""
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _begin(self, order: Order, urgent: bool) -> Build[Any]:
        build: Build[Any] = Build()
        document = order_document(order)
        asyncio.run_coroutine_threadsafe(self._followed(document, urgent, build), self._loop)
        return build

    async def _followed(self, document: Mapping[str, Any], urgent: bool, build: Build[Any]) -> None:
        try:
            outcome = await self._outcome(document, urgent, build)
        except Exception as error:  # whoever ordered it must hear of it
            outcome = error_document(error)
        build.settle(lambda: read_result(outcome))

    async def _outcome(self, document: Mapping[str, Any], urgent: bool, build: Build[Any]) -> Mapping[str, Any]:
        body = json.dumps({"order": document, "urgent": urgent}).encode()
        status: Mapping[str, Any] | None = None
        while True:
            if build.cancelled():
                await self._asked("DELETE", f"/v1/builds/{order_id(document)}", expect=(200, 404, 409))
                return error_document(Waiting("Cancelled", "the order was taken back", RETRY_AFTER_S))
            if status is None:
                code, status = await self._asked("POST", "/v1/builds", body, expect=(200, 503))
                if code == 503:  # its queue is full: this one waits here
                    build.step, status = str(status.get("why", "")), None
                    await asyncio.sleep(RETRY_AFTER_S)
                    continue
            else:
                target = f"/v1/builds/{status['id']}?known={status['number']}&wait={LOOKS_S:g}"
                code, status = await self._asked("GET", target, expect=(200, 404))
                if code == 404:  # another builder, or another life of it
                    status = None
                    continue
            build.step = str(status["step"])
            if status["state"] != "Queued" and not build.running() and not build.done():
                build.set_running_or_notify_cancel()
            if status["state"] == "Done":
                outcome: Mapping[str, Any] = status["outcome"]
                return outcome

    async def _retired(self, needed: Mapping[str, list[str]]) -> tuple[str, ...]:
        body = json.dumps({"needed": needed}).encode()
        _, told = await self._asked("POST", "/v1/retire", body, expect=(200, 503), within_s=SWEEPS_WITHIN_S)
        if "gone" not in told:
            read_result(told["outcome"])
        return tuple(told["gone"])

    async def _asked(
        self, method: str, target: str, body: bytes = b"", *, expect: tuple[int, ...], within_s: float = ANSWERS_WITHIN_S
    ) -> tuple[int, Mapping[str, Any]]:
        for left in reversed(range(TRIES)):
            try:
                if self._session is None:
                    self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)
                timeout = aiohttp.ClientTimeout(total=within_s, connect=5.0)
                context = await self._context()
                async with self._session.request(method, f"{self._url}{target}", data=body, ssl=context, timeout=timeout) as answer:
                    data = await answer.read()
                    if answer.status in expect:
                        return answer.status, _object(data)
                    said = f"{self._url}{target}: {answer.status} {data[:500].decode(errors='replace')}"
                    if answer.status < 500:
                        raise Stalled("BuilderRefused", f"{said}: the builder must know this process")
                    error: Exception = OSError(said)
            except aiohttp.ClientConnectorCertificateError as wrong:
                raise Stalled("BuilderTls", f"{self._url}: {wrong}: must be signed by an authority that is trusted here") from wrong
            except (aiohttp.ClientError, OSError, TimeoutError) as failed:
                error = failed
            if left:
                await asyncio.sleep(RETRY_AFTER_S / TRIES)
        raise Waiting("BuilderUnreachable", f"{self._url} does not answer: {type(error).__name__}: {error}", RETRY_AFTER_S) from error

    async def _context(self) -> ssl.SSLContext:
        if self._known is None or time.monotonic() - self._known[0] > IDENTITY_S:
            self._known = (time.monotonic(), await asyncio.to_thread(self._identity))
        return self._known[1]

    async def _closed(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Corrupt("the builder's answer", "must be JSON") from error
    if not isinstance(found, dict):
        raise Corrupt("the builder's answer", "must be a JSON object")
    return found
