"""Pushes that a Git server tells by a signed request: POST /hooks/NAMESPACE/NAME. It asks for a look at the repository, and nothing else:
what is applied is what the next fetch finds, so that an old request, or one sent twice, does no harm."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from knhk.model.faults import Conflict, KnhkError, NotFound, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.ports.secrets import Secrets

MAX_BODY = 8 << 20
IDLE_S = 10.0
MAX_AT_ONCE = 16
ATTEMPTS = 5
REQUESTED = "knhk.dev/requestedAt"
_PATH = re.compile(r"/hooks/([a-z0-9-]{1,63})/([a-z0-9-]{1,63})")
_log = logging.getLogger("knhk.webhooks")


class Objects(Protocol):
    """What of a Store it takes to ask for a look."""

    def get(self, key: Key) -> Resource: ...

    def update(self, resource: Resource) -> Resource: ...


@dataclass(frozen=True)
class Hooks:
    """What a request means. `now` gives the time that a request for a look carries."""

    store: Objects
    secrets: Secrets
    now: Callable[[], str]

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> HTTPStatus:
        """202 when the look is asked for; 401 for everything that is not signed as it must be, unknown repositories included."""
        named = _PATH.fullmatch(path)
        if named is None:
            return HTTPStatus.NOT_FOUND
        key = Key("PolicyRepository", named[1], named[2])
        try:
            if not signed(self._token(key), headers, body):
                return HTTPStatus.UNAUTHORIZED
            self._ask(key)
        except (NotFound, Stalled):
            return HTTPStatus.UNAUTHORIZED
        except (Waiting, Conflict):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.ACCEPTED

    def _token(self, key: Key) -> bytes:
        spec = self.store.get(key).spec
        if "webhook" not in spec:
            raise NotFound(f"{key} has no webhook")
        token = self.secrets.read(key.namespace, spec["webhook"]["secretRef"]["name"]).get("token", b"").strip()
        if not token:
            raise Stalled("NoSecret", f"{key}: the secret of its webhook must have the key token")
        return token

    def _ask(self, key: Key) -> None:
        for attempt in range(ATTEMPTS):
            found = self.store.get(key)
            try:
                self.store.update(replace(found, annotations={**found.annotations, REQUESTED: self.now()}))
                return
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise


def signed(token: bytes, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether Gitea (X-Gitea-Signature) or GitHub (X-Hub-Signature-256) signed the body with the token: HMAC-SHA256, hexadecimal."""
    wanted = hmac.new(token, body, hashlib.sha256).hexdigest()
    sent = {name.lower(): text for name, text in headers.items()}
    given = sent.get("x-gitea-signature") or sent.get("x-hub-signature-256", "").removeprefix("sha256=")
    return hmac.compare_digest(wanted.encode(), given.encode())


@contextmanager
def serving(hooks: Hooks, host: str, port: int) -> Iterator[int]:
    """Serves in threads while the context lasts; gives the port."""
    slots = threading.BoundedSemaphore(MAX_AT_ONCE)

    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_S
        server_version, sys_version = "knhk", ""

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            if not slots.acquire(blocking=False):
                self._say(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            try:
                self._say(hooks.answer(self.path, dict(self.headers.items()), self.rfile.read(int(length))))
            except (KnhkError, OSError) as error:
                _log.warning("a webhook was not taken: %s", error)
                self._say(HTTPStatus.SERVICE_UNAVAILABLE)
            finally:
                slots.release()

        def _say(self, status: HTTPStatus) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            _log.info("webhook: " + format, *args)

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="webhooks", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(IDLE_S)
