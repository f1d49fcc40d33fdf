"""Admission on a cluster: which adapter serves which judge, and what is renewed while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from knhk.adapters.certificate_files import CertificateFiles, ClientFiles
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import collection, resource_of
from knhk.adapters.kube_webhooks import refresh
from knhk.adapters.lowering_process import BoundedLowering
from knhk.adapters.point_client import PointClient, address_of
from knhk.model.resource import Resource
from knhk.wiring.renewing import Shown, halt_asked, look_until, looking

LOWERERS = 2
LOWERED_WITHIN_S = 3.0
GONE_AFTER_S = 5.0  # how long requests still come after this process said that it is not ready

_log = logging.getLogger("knhk.admission")


@dataclass(frozen=True)
class Options:
    """Where it listens, which cluster, its certificate, and what it shows to points that judge objects, both of which others renew, and
    how clients are asked for theirs (None: they are not)."""

    address: str
    port: int
    kubeconfig: Path | None
    files: CertificateFiles
    to_points: CertificateFiles
    ask: Callable[[ssl.SSLContext], None] | None = None


def lowering() -> BoundedLowering:
    """What lowers packs apart from this process."""
    return BoundedLowering((sys.executable, "-P", "-m", "knhk.wiring.lowerer"), LOWERERS, LOWERED_WITHIN_S)


class Renewal:
    """The certificate that is served, the authority in the webhook configurations, and what points are shown: all looked at again and
    again."""

    def __init__(self, certificates: CertificateFiles, to_points: CertificateFiles, api: KubeClient) -> None:
        self.shown, self.to_points, self._api = Shown(certificates, _log), ClientFiles(to_points, _log), api

    def look(self) -> None:
        """Serves what is there now; new connections get it. Raises Stalled for what is no certificate, and as KubeClient.call."""
        self.to_points.look()
        for name in refresh(self._api, self.shown.renew().authority):
            _log.info("%s trusts the authority of this certificate", name)


@dataclass(frozen=True)
class Parts:
    """What the judges need: lowering, the points of a namespace (blocking), the way to a point that judges objects, and why requests
    should not come (nothing: they should)."""

    lowering: BoundedLowering
    points: Callable[[str], Sequence[Resource]]
    point: PointClient
    unready: Callable[[], str]


def points_of(api: KubeClient, namespace: str) -> tuple[Resource, ...]:
    """EnforcementPoints of a namespace, as they are now: a pod that comes right after its point must find it."""
    rows = api.call("GET", collection("EnforcementPoint", namespace))["items"]
    return tuple(resource_of({**row, "kind": "EnforcementPoint"}) for row in rows)


Build = Callable[[Parts], web.Application]


async def serve(options: Options, build: Build, told: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT: then it says that it is not ready, answers what still comes, and ends. `told` gets the address when
    requests can come. Raises Stalled."""
    halt = halt_asked()
    api = KubeClient(api_client(options.kubeconfig))
    renewal = Renewal(options.files, options.to_points, api)
    if options.ask is not None:
        options.ask(renewal.shown.context)
    await asyncio.to_thread(look_until, lambda: renewal.shown.served is not None, renewal.look, _log)
    lowerers, point = lowering(), PointClient(partial(address_of, api), renewal.to_points)
    async with _kept(lowerers, renewal), contextlib.aclosing(point):
        unready = partial(_unready, halt, lowerers)
        runner = web.AppRunner(build(Parts(lowerers, partial(points_of, api), point, unready)), access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, options.address, options.port, ssl_context=renewal.shown.context, shutdown_timeout=GONE_AFTER_S)
            await site.start()
            told(f"https://{options.address}:{runner.addresses[0][1]}")
            await halt.wait()
            await asyncio.sleep(GONE_AFTER_S)
        finally:
            await runner.cleanup()


def _unready(halt: asyncio.Event, lowerers: BoundedLowering) -> str:
    if halt.is_set():
        return "ending"
    return "" if lowerers.warm else "lowering is not warm yet"


@asynccontextmanager
async def _kept(lowerers: BoundedLowering, renewal: Renewal) -> AsyncIterator[None]:
    lowerers.start()
    try:
        async with looking(renewal.look, _log):
            yield
    finally:
        await lowerers.close()
