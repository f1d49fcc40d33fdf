"""A point that judges objects, asked where its EnforcementPoint says that it is. Whoever answers there must show a certificate of our own
authority for the Service of that very point, and it takes questions of nobody but admission, by the certificate that is shown to it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp
from yarl import URL

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import place
from knhk.adapters.placement_kube import service_name
from knhk.model.faults import KnhkError, NotFound, Waiting
from knhk.model.resource import Key

FRESH_S = 5.0
ANSWERS_WITHIN_S = 4.0
CONNECTS_WITHIN_S = 2.0
MAX_ANSWER_BYTES = 1 << 20
CONNECTIONS = 64  # to one point at the same time: what waits longer than an API server does is asked for nothing
JSON = MappingProxyType({"content-type": "application/json"})
RECEIPT = "knhk-receipt"
_log = logging.getLogger("knhk.admission")


@dataclass(frozen=True)
class Told:
    """What a point said: HTTP status, receipt id ("": none), body."""

    status: int
    receipt: str
    body: bytes


def address_of(api: KubeClient, namespace: str, name: str) -> str:
    """host:port of a point that judges objects. Raises NotFound, Waiting, and as KubeClient.call."""
    found = api.call("GET", place(Key("EnforcementPoint", namespace, name)))
    if "admission" not in found["spec"]:
        raise NotFound(f"EnforcementPoint {namespace}/{name} judges no objects: it has no spec.admission")
    address = (found.get("status") or {}).get("address")
    if not address:
        raise Waiting("Starting", f"EnforcementPoint {namespace}/{name} has no address yet", 1.0)
    return str(address)


@dataclass
class _Place:
    address: str
    since_s: float
    looking: asyncio.Task[None] | None = None


@dataclass
class PointClient:
    """`look`: namespace, name → host:port; may block. `shows`: the TLS context of now; raises Waiting. An address is used on while it is
    looked at again, and while that fails: only the operator takes away the webhook of a point that is gone. One event loop."""

    look: Callable[[str, str], str]
    shows: Callable[[], ssl.SSLContext]
    _session: aiohttp.ClientSession | None = None
    _places: dict[tuple[str, str], _Place] = field(default_factory=dict)

    async def ask(self, namespace: str, name: str, path: str, body: bytes) -> Told:
        """The answer to a POST. Raises NotFound and Waiting."""
        url = URL(f"https://{await self._address(namespace, name)}{path}", encoded=True)
        server = service_name(f"{namespace}/{name}")
        try:
            try:
                return await self._post(url, body, server)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                return await self._post(url, body, server)  # it closed a connection that was kept: one more leaf at the worst
        except (aiohttp.ClientError, TimeoutError) as error:
            why = f"EnforcementPoint {namespace}/{name} does not answer: {type(error).__name__}: {error}"
            raise Waiting("PointUnreachable", why, 1.0) from error

    async def aclose(self) -> None:
        """Ends connections, and looks that go on."""
        for row in self._places.values():
            if row.looking is not None:
                row.looking.cancel()
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: URL, body: bytes, server: str) -> Told:
        if self._session is None:
            within = aiohttp.ClientTimeout(total=ANSWERS_WITHIN_S, connect=CONNECTS_WITHIN_S)
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS)
            self._session = aiohttp.ClientSession(connector=connector, timeout=within)
        asked = self._session.post(url, data=body, headers=JSON, allow_redirects=False, ssl=self.shows(), server_hostname=server)
        async with asked as response:
            text = await response.content.read(MAX_ANSWER_BYTES)
            while len(text) < MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES - len(text))):
                text += more
            return Told(response.status, response.headers.get(RECEIPT, ""), text)

    async def _address(self, namespace: str, name: str) -> str:
        key, now_s = (namespace, name), asyncio.get_running_loop().time()
        known = self._places.get(key)
        if known is None:
            known = self._places[key] = _Place(await asyncio.to_thread(self.look, namespace, name), now_s)
        elif now_s - known.since_s > FRESH_S and known.looking is None:
            known.looking = asyncio.create_task(self._again(key, known))
        return known.address

    async def _again(self, key: tuple[str, str], known: _Place) -> None:
        try:
            known.address = await asyncio.to_thread(self.look, *key)
        except NotFound:
            self._places.pop(key, None)
        except KnhkError as error:
            _log.warning("EnforcementPoint %s/%s is asked where it was: %s", *key, error)
        finally:
            known.since_s, known.looking = asyncio.get_running_loop().time(), None
