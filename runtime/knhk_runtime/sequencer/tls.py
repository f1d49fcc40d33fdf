"""The sequencer beyond its socket: HTTPS for clients with a certificate of our own authority (formats/log.md)."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from knhk.model.faults import Stalled
from knhk_runtime.buckets import Buckets
from knhk_runtime.sequencer.server import CLIENT, LEAVES_ALONE, fault, tell
from knhk_runtime.sequencer.wire import SOURCE_BYTES

RELOAD_EVERY_S = 30.0
AT_ONCE, AT_ONCE_OF_OURS = 4, 16  # replicas of a component of ours are one client
BYTES_PER_S, BYTES_AT_ONCE = 16 << 20, 32 << 20
READS_BYTES = 16 << 10  # a request without a body counts as so many
_POD = re.compile(r"spiffe://knhk\.dev/ns/[a-z0-9.-]+/point/[a-z0-9.-]+/pod/[a-z0-9.-]+")
_OURS = "spiffe://knhk.dev/component/"
_OPERATOR = "spiffe://knhk.dev/component/knhk-operator"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files; all of them may be replaced while the sequencer runs. `client_ca`: who signs clients."""

    certificate: Path
    key: Path
    client_ca: Path

    def stamps(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key, self.client_ca))

    def context(self) -> ssl.SSLContext:
        """Refuses clients without a certificate. Raises Stalled."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.verify_mode = ssl.CERT_REQUIRED
        try:
            made.load_cert_chain(self.certificate, self.key)
            made.load_verify_locations(self.client_ca)
        except OSError as error:  # of ssl too
            raise Stalled("Tls", f"--tls-cert, --tls-key, --client-ca: must be readable PEM files: {error}") from error
        return made


class Renewed:
    """The context of now. To a context authorities can only be added, so what the files say anew is another one. `dismiss`: ends the
    connections of before, when an authority is in the file no more."""

    def __init__(self, files: TlsFiles, dismiss: Callable[[], None]) -> None:
        """Raises Stalled."""
        self._files, self._dismiss = files, dismiss
        self._context, self._seen = files.context(), files.stamps()

    def __call__(self) -> ssl.SSLContext:
        return self._context

    def look(self) -> None:
        """Takes what is in the files now. What is none is told, and what was before stays."""
        try:
            seen = self._files.stamps()
            if seen == self._seen:
                return
            made = self._files.context()
        except (OSError, Stalled) as error:  # files are replaced one by one: the next look has them all
            tell(f"tls: {error}; the certificate of before stays")
            return
        before, self._context, self._seen = self._context, made, seen
        if set(before.get_ca_certs(binary_form=True)) - set(made.get_ca_certs(binary_form=True)):
            self._dismiss()

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_EVERY_S)
            self.look()


def client_of(request: web.Request) -> str | None:
    """The one URI of the client's certificate; None when it is over, or names none or several."""
    found = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if not found or ssl.cert_time_to_seconds(found["notAfter"]) <= time.time():
        return None
    names = [value for kind, value in found.get("subjectAltName", ()) if kind == "URI"]
    return names[0] if len(names) == 1 else None


def may(client: str, method: str, path: str) -> bool:
    """Whoever has a certificate reads; pods append leaves and records of their own rings; the operator appends leaves and events."""
    if method != "POST":
        return True
    return client == _OPERATOR or (path in ("/append", "/sources", "/records") and _POD.fullmatch(client) is not None)


def _bytes_of(request: web.Request) -> int:
    """What a request counts as; a body that does not say how long it is may be long. Each ring that is named is kept."""
    if not request.body_exists:
        return READS_BYTES
    size = BYTES_AT_ONCE // 4 if request.content_length is None else request.content_length
    return max(READS_BYTES, READS_BYTES * (size // SOURCE_BYTES) if request.path == "/sources" else size)


class Guard:
    """`watch` is a middleware of the HTTPS application: who may do what, and how much of it."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._bytes = Buckets(now_ns, BYTES_PER_S, BYTES_AT_ONCE)
        self._now: Counter[str] = Counter()

    @web.middleware
    async def watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        client = client_of(request)
        if client is None:
            return fault(HTTPStatus.UNAUTHORIZED, "certificate", "must be valid and name one URI")
        if not may(client, request.method, request.path):
            return fault(HTTPStatus.FORBIDDEN, "certificate", f"{client}: must be one that may {request.method} {request.path}")
        at_once = AT_ONCE_OF_OURS if client.startswith(_OURS) else AT_ONCE
        if self._now[client] >= at_once or not self._bytes.take(client, float(_bytes_of(request))):
            must = f"must be at most {at_once} requests at once and {BYTES_PER_S >> 20} MiB a second"
            return fault(HTTPStatus.TOO_MANY_REQUESTS, "client", must)
        request[CLIENT] = client
        if client != _OPERATOR:
            request[LEAVES_ALONE] = True
        self._now[client] += 1
        try:
            return await handler(request)
        finally:
            self._now[client] -= 1
            if not self._now[client]:
                del self._now[client]
