"""On a cluster: resources live in the API server. Keys, log, registry and points are as in the embedded home for now, in a folder of
this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.wiring import embedded
from knhk.wiring.home import Home


@dataclass(frozen=True)
class Access:
    """How to reach the API server; the token, if any, may be renewed between two calls."""

    server: str
    authority: str | None
    certificate: str | None
    key: str | None
    token: Callable[[], str | None]


Watch = Callable[[Access, ChangeFeed, Event], AbstractContextManager[None]]
"""Fills the feed with the changes of all kinds while its context lasts; sets the event when it cannot go on."""


def serve(home: Home, stop: Event, ready_file: Path, *, kubeconfig: Path | None, watch: Watch) -> None:
    """Runs the control plane until `stop` is set. Raises Stalled when there is no cluster."""
    api = api_client(kubeconfig)
    found = api.configuration

    def token() -> str | None:
        header: str | None = found.get_api_key_with_prefix("BearerToken")
        return header.removeprefix("Bearer ") if header else None

    access = Access(found.host, found.ssl_ca_cert, found.cert_file, found.key_file, token)
    feed = ChangeFeed()
    store = KubeStore(KubeClient(api), feed, SystemClock())
    with watch(access, feed, stop):
        embedded.serve(home, stop, ready_file, store)
