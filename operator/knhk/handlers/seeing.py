"""kopf's part: watches of our kinds, with their restarts and relists. Its handlers only pass on what they see: no diffbase, no
finalizers, no retries, no Events of kopf's own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import kopf

from knhk.adapters.kube_documents import collection, leaves, resource_of
from knhk.adapters.kube_mirror import Mirror
from knhk.api import GROUP, KINDS, VERSION
from knhk.model.faults import Stalled
from knhk.ports.store import ChangeType
from knhk.wiring.cluster import WATCHED, Access

BATCH_WINDOW_S = 0.03  # several changes of one object within it are seen as the last one
RESYNC_S = 600.0  # whatever was missed is met now and then
STOPS_WITHIN_S = 10.0
WATCH_S = 240  # then the API server ends a watch, and the next goes on where it was
CHUNK = 100
LOGINS = 5  # so often the same credentials may be refused in a row
LOGIN_EVERY_S = 1.0
TYPES: Mapping[str | None, ChangeType] = {None: "Added", "ADDED": "Added", "MODIFIED": "Modified", "DELETED": "Deleted"}  # None: listed

_log = logging.getLogger("knhk.seeing")


@contextmanager
def watched(access: Access, mirror: Mirror, halt: threading.Event) -> Iterator[None]:
    """Keeps the mirror while the context lasts. When kopf ends by itself, or cannot log in, `halt` is set, and Stalled raised at the end:
    this process must fail, so that whoever started it starts it again."""
    eyes = Eyes(access, mirror)

    def run() -> None:
        try:
            asyncio.run(eyes.see())
        except Exception:  # whatever it is, a control plane that sees nothing must not go on as if nothing changed
            _log.exception("kopf ended")
        finally:
            halt.set()

    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # it has a line for each object that it saw
    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    try:
        yield
    finally:
        eyes.stop.set()
        thread.join(STOPS_WITHIN_S)
    if eyes.blind:
        raise Stalled("KopfEnded", f"kopf must go on as long as this process: {eyes.blind}, and no change would be seen any more")


class _NoDiffs(kopf.DiffBaseStorage):
    """Nothing of an object is compared with what it was: kopf would copy each whole, several times, at every change."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("no handler of ours has kopf keep anything")


class _NoProgress(kopf.ProgressStorage):
    """Handlers that only pass on have no progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("no handler of ours has kopf keep anything")

    def purge(self, **_: Any) -> None:
        pass

    def touch(self, **_: Any) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


class Eyes:
    """kopf's operator. `blind`: why it ended before it was told to."""

    def __init__(self, access: Access, mirror: Mirror) -> None:
        self.stop = threading.Event()
        self.blind = ""
        self._access = access
        self._mirror = mirror
        self._kinds = {collection(kind): kind for kind in WATCHED}
        self._refused = 0

    async def see(self) -> None:
        """Until `stop`."""
        resync = asyncio.create_task(self._resync())
        try:
            await kopf.operator(registry=self.registry(), clusterwide=True, standalone=True, stop_flag=self.stop)
        finally:
            resync.cancel()
            if not self.stop.is_set():
                self._end("it ended by itself")  # a thread of the loop waits for `stop`, and the loop for the thread

    def _end(self, why: str) -> None:
        self.blind = self.blind or why
        self.stop.set()

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_S)
            self._mirror.resync()

    def registry(self) -> kopf.OperatorRegistry:
        """One handler for each kind."""
        found = kopf.OperatorRegistry()

        @kopf.on.startup(registry=found)
        def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
            settings.posting.enabled = False
            settings.persistence.diffbase_storage = _NoDiffs()
            settings.persistence.progress_storage = _NoProgress()
            settings.queueing.batch_window = BATCH_WINDOW_S
            settings.watching.server_timeout = WATCH_S
            settings.watching.chunk_size = CHUNK

        @kopf.on.login(registry=found)
        async def login(**_: Any) -> kopf.AiohttpSession:
            try:
                return await self._session()
            except Exception as error:
                self._end(f"it could not log in: {error}")
                raise kopf.PermanentError(str(error)) from error

        for kind in WATCHED:
            kopf.on.event(GROUP, VERSION, KINDS[kind].plural, id=KINDS[kind].plural, registry=found)(self._event)
        return found

    async def _event(self, event: Mapping[str, Any], **_: Any) -> None:
        resource, type = resource_of(event["object"]), TYPES[event["type"]]
        if leaves(event["object"]) and type != "Deleted":
            self._mirror.leaves(resource)
        else:
            self._mirror.see(type, resource)

    async def _session(self) -> kopf.AiohttpSession:
        """Requests as our own credentials, which are asked for anew after each 401."""
        if self._refused:
            await asyncio.sleep(LOGIN_EVERY_S)
        self._refused += 1
        if self._refused > LOGINS:
            raise Stalled("Unauthorized", f"the API server refused the credentials of this process {LOGINS} times in a row")
        access, token = self._access, self._access.token()
        info = kopf.ConnectionInfo(
            server=access.server,
            ca_path=access.authority,
            certificate_path=access.certificate,
            private_key_path=access.key,
            scheme="Bearer" if token else None,
            token=token,
        )
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
        session = aiohttp.ClientSession(connector=connector, headers=info.as_http_headers(), trace_configs=[trace], trust_env=False)
        return kopf.AiohttpSession(server=access.server, aiohttp_session=session)

    async def _answered(self, _session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        """kopf does not say that it lists: a list that it was answered is seen here."""
        if params.response.status >= 300:
            return
        self._refused = 0
        kind, query = self._kinds.get(params.url.path), params.url.query
        if kind is not None and "watch" not in query and "continue" not in query:
            self._mirror.listed(kind)
