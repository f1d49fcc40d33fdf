"""Admission on a cluster: which adapter serves which judge, and what is renewed while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from knhk.adapters.certificate_files import CertificateFiles, Served
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_webhooks import refresh
from knhk.adapters.lowering_process import BoundedLowering
from knhk.model.faults import KnhkError, Stalled

LOWERERS = 2
LOWERED_WITHIN_S = 3.0
LOOK_EVERY_S = 5.0
GONE_AFTER_S = 5.0  # how long requests still come after this process said that it is not ready

_log = logging.getLogger("knhk.admission")


@dataclass(frozen=True)
class Options:
    """Where it listens, which cluster, and its certificate."""

    address: str
    port: int
    kubeconfig: Path | None
    certificates: CertificateFiles


def lowering() -> BoundedLowering:
    """What lowers packs apart from this process."""
    return BoundedLowering((sys.executable, "-P", "-m", "knhk.wiring.lowerer"), LOWERERS, LOWERED_WITHIN_S)


class Renewal:
    """The certificate that is served and the authority in the webhook configurations, both looked at again and again."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._served: Served | None = None
        self._api = KubeClient(api_client(options.kubeconfig))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def look(self) -> None:
        """Serves what is there now; new connections get it. Raises Stalled for what is no certificate, and as KubeClient.call."""
        found = self._options.certificates.current()
        if found != self._served:
            _load(self.context, found)
            self._served = found
            _log.info("a certificate is served")
        for name in refresh(self._api, found.authority):
            _log.info("%s trusts the authority of this certificate", name)

    async def keep(self) -> None:
        """Until it is cancelled. What fails is tried again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await asyncio.to_thread(self.look)
            except KnhkError as error:
                _log.warning("%s", error)


def _load(context: ssl.SSLContext, served: Served) -> None:
    """ssl reads files only; the key is in one that this user alone can read, for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        key.touch(mode=0o600)
        chain.write_bytes(served.chain)
        key.write_bytes(served.key)
        try:
            context.load_cert_chain(chain, key)
        except (ssl.SSLError, ValueError) as error:
            raise Stalled("NoCertificate", f"the certificate and its key must be PEM and belong together: {error}") from error


Build = Callable[[BoundedLowering, Callable[[], str]], web.Application]


async def serve(options: Options, build: Build, told: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT: then it says that it is not ready, answers what still comes, and ends. `told` gets the address when
    requests can come. Raises Stalled."""
    halt, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, halt.set)
    renewal = Renewal(options)
    await asyncio.to_thread(_first, renewal)
    lowerers = lowering()
    async with _kept(lowerers, renewal):
        app = build(lowerers, lambda: "ending" if halt.is_set() else "" if lowerers.warm else "lowering is not warm yet")
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, options.address, options.port, ssl_context=renewal.context, shutdown_timeout=GONE_AFTER_S)
            await site.start()
            told(f"https://{options.address}:{runner.addresses[0][1]}")
            await halt.wait()
            await asyncio.sleep(GONE_AFTER_S)
        finally:
            await runner.cleanup()


def _first(renewal: Renewal) -> None:
    """A certificate must be there; an API server may be away."""
    try:
        renewal.look()
    except Stalled:
        raise
    except KnhkError as error:
        _log.warning("%s", error)


@asynccontextmanager
async def _kept(lowerers: BoundedLowering, renewal: Renewal) -> AsyncIterator[None]:
    lowerers.start()
    task = asyncio.create_task(renewal.keep())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await lowerers.close()
