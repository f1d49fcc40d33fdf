"""kopf's part: watches of our kinds, with their restarts and relists. Its handlers only pass on what they see: no diffbase, no
finalizers, no retries, no Events of kopf's own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kopf

from knhk.adapters.kube_documents import resource_of
from knhk.adapters.kube_feed import TYPES, ChangeFeed
from knhk.api import GROUP, KINDS, VERSION
from knhk.model.faults import Stalled
from knhk.wiring.cluster import Access

BATCH_WINDOW_S = 0.01  # several changes of one object within it are seen as the last one
RESYNC_S = 600.0  # a deletion between two watches is seen by nobody: now and then everything is listed again
STOPS_WITHIN_S = 10.0

_log = logging.getLogger("knhk.seeing")


@contextmanager
def watched(access: Access, feed: ChangeFeed, halt: threading.Event) -> Iterator[None]:
    """Fills the feed while the context lasts. When kopf ends by itself `halt` is set, and Stalled raised at the end: this process must
    fail, so that whoever started it starts it again."""
    stop, blind = threading.Event(), threading.Event()

    def run() -> None:
        try:
            asyncio.run(_see(access, feed, stop, blind))
        except Exception:  # whatever it is, a control plane that sees nothing must not go on as if nothing changed
            _log.exception("kopf ended")
        finally:
            halt.set()

    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOPS_WITHIN_S)
    if blind.is_set():
        raise Stalled("KopfEnded", "kopf must go on as long as this process: it ended by itself, and no change would be seen any more")


async def _see(access: Access, feed: ChangeFeed, stop: threading.Event, blind: threading.Event) -> None:
    resync = asyncio.create_task(_resync(feed))
    try:
        await kopf.operator(registry=registry(access, feed), clusterwide=True, standalone=True, stop_flag=stop)
    finally:
        resync.cancel()
        if not stop.is_set():
            blind.set()
            stop.set()  # a thread of the loop waits for it, and the loop for the thread


async def _resync(feed: ChangeFeed) -> None:
    while True:
        await asyncio.sleep(RESYNC_S)
        feed.lost()


def registry(access: Access, feed: ChangeFeed) -> kopf.OperatorRegistry:
    """One handler for each kind."""
    found = kopf.OperatorRegistry()

    @kopf.on.startup(registry=found)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.posting.enabled = False
        settings.queueing.batch_window = BATCH_WINDOW_S
        settings.networking.trust_env = False

    @kopf.on.login(registry=found)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=access.server,
            ca_path=access.authority,
            certificate_path=access.certificate,
            private_key_path=access.key,
            scheme="Bearer" if access.token() else None,
            token=access.token(),
        )

    async def see(event: Mapping[str, Any], **_: Any) -> None:
        feed.add(TYPES.get(event["type"], "Added"), resource_of(event["object"]))

    for kind in KINDS.values():
        kopf.on.event(GROUP, VERSION, kind.plural, id=kind.plural, registry=found)(see)
    return found
