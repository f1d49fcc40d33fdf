"""The key service on a cluster: its stores, whom it believes, and the certificate that it shows."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from knhk.adapters import health_http
from knhk.adapters.callers_kube import KubeAuthenticator
from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.key_stores import KeyStores
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.readers_kube import KubeReaders
from knhk.adapters.secrets_kube import KubeSecrets
from knhk.adapters.system import SystemClock
from knhk.ports.caller import KEYS_AUDIENCE, Authenticator, Readers
from knhk.ports.clock import Clock
from knhk.reconcilers.consent_book import subject_key
from knhk.wiring.privacy import wrapping_in
from knhk.wiring.renewing import Shown, halt_asked, look_until, looking
from knhk_runtime.doors import Doors
from knhk_runtime.envelope import window_of
from knhk_runtime.subject_keys import Quota

_log = logging.getLogger("knhk.keys")


@dataclass(frozen=True)
class Options:
    """Where it listens, which cluster, its certificate, the folder of its stores, that of the key-encryption key, where it says how it is,
    and how many keys may be made in a namespace."""

    address: str
    port: int
    kubeconfig: Path | None
    files: CertificateFiles
    store: Path
    keys: Path
    health: str
    quota: Quota


class Measured(Protocol):
    def text(self) -> bytes: ...


class Surface(Protocol):
    def application(self, *outer: Any) -> web.Application: ...

    def close(self) -> None: ...


Measure = Callable[[Callable[[], int], Callable[[], int], Callable[[], Mapping[str, float]]], Any]
Build = Callable[[KeyStores, Authenticator, Readers, Clock, Any], Surface]


async def serve(options: Options, measure: Measure, build: Build, told: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT. `told` gets the address when requests can come. Raises Stalled."""
    halt, clock = halt_asked(), SystemClock()
    client, shown = KubeClient(api_client(options.kubeconfig)), Shown(options.files, _log)
    secrets = KubeSecrets(client)
    stores = KeyStores(options.store, wrapping_in(options.keys), lambda namespace: subject_key(secrets, namespace), options.quota)

    def look() -> None:
        shown.renew()

    with ExitStack() as ending:
        ending.callback(stores.close)
        await asyncio.to_thread(look_until, lambda: shown.served is not None, look, _log)
        metrics = measure(lambda: len(stores.known()), lambda: _free_bytes(options.store), lambda: _used(stores, clock))
        surface = build(stores, KubeAuthenticator(client, clock, KEYS_AUDIENCE), KubeReaders(client, clock), clock, metrics)
        ending.callback(surface.close)
        ending.enter_context(health_http.served(options.health, {"healthz": lambda: "", "readyz": lambda: ""}, metrics.text))
        doors = Doors()
        runner = web.AppRunner(surface.application(doors.watch), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        async with looking(look, _log):
            server = await doors.open(runner, options.address, options.port, lambda: shown.context)
            try:
                told(f"https://{options.address}:{server.sockets[0].getsockname()[1]}")
                await halt.wait()
            finally:
                doors.close()
                await runner.cleanup()


def _used(stores: KeyStores, clock: Clock) -> dict[str, float]:
    window = window_of(clock.now_ns())
    return {namespace: store.used(window) for namespace, store in stores.known().items()}


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
