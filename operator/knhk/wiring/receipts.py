"""The server of receipts on a cluster: the log that it follows, the certificate that it shows, and whom it believes."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from knhk.adapters import log_reading
from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.front_proxy import FrontProxy, User, front_proxy, may
from knhk.adapters.kube_client import APPLY, KubeClient, api_client
from knhk.adapters.receipt_index import ENTRY_BYTES, ReceiptIndex
from knhk.model.faults import NotFound
from knhk.reconcilers.evidence import size_of
from knhk.wiring.renewing import Shown, halt_asked, look_until, looking
from knhk_runtime.doors import Bounds, Doors
from knhk_runtime.tlog.served import Fetch
from knhk_runtime.tlog.served import Served as ServedLog

HANDS = 4
# An API server comes from one address, by a certificate; any pod may come without, and the kubelet's probes do.
BOUNDS = Bounds(connections=1024, of_one=256, strangers=64, handshake_within_s=3.0)
# A header for each group of who asks: a directory gives a person up to 1,015. With the size of one, what a stranger can make us keep.
HEADERS, HEADER_BYTES = 1100, 4096
FOLLOW_EVERY_S = 1.0
UNREADY_AFTER_S = 600.0  # that the log was not read: then another replica, if there is one, is the better one
WARNED_AT = (0.8, 0.9, 1.0)  # of the bound; manifests/monitoring/alerts.yaml looks at the first
GONE_AFTER_S = 5.0  # how long requests still come after this process said that it is not ready
SERVICE = "v1alpha1.receipts.knhk.dev"
APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
_log = logging.getLogger("knhk.receipts")


@dataclass(frozen=True)
class LogPlace:
    """Where the log is: a folder, or a URL with its server's authority and our own certificate and key (PEM, may be renewed)."""

    place: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def fetch(self) -> Fetch:
        return log_reading.of_place(self.place, self.ca_file, self.certificate, self.key)


@dataclass(frozen=True)
class Options:
    """Where it listens, which cluster, its certificate, the log, and the file of its index, with how many bytes that may take (None: nobody
    says so)."""

    address: str
    port: int
    kubeconfig: Path | None
    files: CertificateFiles
    log: LogPlace
    index: Path
    bound: int | None = None


class Follower:
    """Keeps an index as its log is, in a thread. What fails is told once and tried again; meanwhile the index is what it was."""

    def __init__(self, index: ReceiptIndex, log: LogPlace, bound: int | None = None) -> None:
        self.index, self.origin, self._log = index, "", log
        self.bound = math.inf if bound is None else float(bound)
        self._entries, self._warned = 0, 0.0
        self._note, self._why = "", "the log was not read yet"
        self._read_s = time.monotonic()  # the newest checkpoint was read then, and all that it covers
        self._told = list[Callable[[], None]]()
        self._came, self._halt = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._always, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """A transaction under way is finished first."""
        self._halt.set()
        self._thread.join()

    @property
    def unready(self) -> str:
        """Why the index was never yet as its log is, or for long has not been; "": it was a moment ago."""
        if not self.origin:
            return self._why
        return f"the log was not read for {self.behind_s:.0f} s: {self._why}" if self.behind_s > UNREADY_AFTER_S else ""

    @property
    def behind_s(self) -> float:
        """For how long the log was not read."""
        return time.monotonic() - self._read_s

    def taken(self) -> int:
        """Bytes that the index takes of its disk, or will with all entries of the newest checkpoint that was read."""
        return max(self.index.disk_bytes(), self._entries * ENTRY_BYTES)

    def _warn(self) -> None:
        """Once for each share of the bound."""
        taken = self.taken()
        share = max((each for each in WARNED_AT if taken >= each * self.bound), default=0.0)
        if share > self._warned:
            _log.warning(
                "the index of %d entries takes %.1f GiB of the %.1f that it may have: beyond them this pod is evicted, and begins anew; "
                "give it more room (receipts.indexSize, or sizeLimit and --index-bound), or a volume",
                self._entries,
                taken / (1 << 30),
                self.bound / (1 << 30),
            )
        self._warned = share

    def look(self) -> None:
        """Takes in what is new; all of it where the index turned out to be malformed. Raises KnhkError, Bad."""
        if self.index.malformed:
            _log.warning("the index is malformed: it is made anew from the log")
            self._note, self.origin, self._why = "", "", "the index was malformed, and is made anew from the log"
            self.index.anew()
        fetch = self._log.fetch()
        if (found := fetch("checkpoint")) is None:
            raise NotFound(f"{self._log.place}: has no checkpoint yet")
        note = found.decode("utf-8", "replace")
        if note != self._note:
            log = ServedLog(self._log.place, fetch, size_of(note, f"{self._log.place}/checkpoint"))
            self._entries = log.size
            self._warn()
            self.index.follow(note.partition("\n")[0], log)
            self._note, self.origin = note, note.partition("\n")[0]
            with self._came:
                self._came.notify_all()
            for told in self._told:
                told()
        self._read_s = time.monotonic()

    def on_growth(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def reaches(self, size: int, within_s: float) -> bool:
        deadline_s = time.monotonic() + within_s
        with self._came:
            while self.index.size < size:
                if not self._came.wait(deadline_s - time.monotonic()) and time.monotonic() >= deadline_s:
                    return self.index.size >= size
        return True

    def proof(self, number: int) -> tuple[str, str]:
        """tlog-proof text and checkpoint of an entry, from the log. Raises KnhkError, Bad."""
        note = self._note
        return self._served(note).inclusion(number, note), note

    def entry(self, number: int) -> bytes:
        """An entry, from the log. Raises KnhkError, Bad."""
        return self._served(self._note).entry(number)

    def _served(self, note: str) -> ServedLog:
        return ServedLog(self._log.place, self._log.fetch(), size_of(note, "checkpoint"))

    def _always(self) -> None:
        told = ""
        while not self._halt.wait(FOLLOW_EVERY_S if told or self.origin else 0.0):
            try:
                self.look()
                if told:
                    _log.info("the log is read again")
                told = ""
            except Exception as error:  # whatever it is: were this thread to end, old pages would be given for ever, and nobody told
                self._why = f"{type(error).__name__}: {error}"
                if told != self._why:
                    _log.warning("the log is not read: %s", self._why)
                told = self._why
        self.index.close()


class Cluster:
    """What the API server is asked, and the certificate that is shown; `look` renews both. `turned` is called, in the thread of `look`,
    when the authority of front proxies is another one: what connections of before showed counts no more."""

    def __init__(self, api: KubeClient, certificates: CertificateFiles) -> None:
        self.api, self._shown = api, Shown(certificates, _log)
        self.proxy: FrontProxy | None = None
        self.turned: Callable[[], object] = _nobody

    def context(self) -> ssl.SSLContext:
        """For a new connection. Probes show no certificate; who shows none is not heard."""
        return self._shown.context

    @property
    def begun(self) -> bool:
        """Whether a certificate is shown, and it is known who is believed."""
        return self._shown.served is not None and self.proxy is not None

    def look(self) -> None:
        """Raises Stalled for what is no certificate, and as KubeClient.call."""
        found = self._shown.renew()
        proxy = front_proxy(self.api)
        if proxy != self.proxy:
            self._shown.believing(proxy.authority)
            self.proxy = proxy
            self.turned()
        if trust(self.api, found.authority):
            _log.info("APIService %s trusts the authority of this certificate", SERVICE)


def _nobody() -> None:
    """While nothing is served there is nobody to tell."""


def trust(api: KubeClient, authority: bytes) -> bool:
    """Has the API server trust an authority (PEM) when it comes here; whether that is new. An APIService that is not there stays so. Raises
    as KubeClient.call."""
    bundle = base64.b64encode(authority).decode()
    try:
        found = api.call("GET", f"{APISERVICES}/{SERVICE}")
    except NotFound:
        return False
    if found["spec"].get("caBundle") == bundle:
        return False
    document = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": SERVICE},
        "spec": {**{name: found["spec"][name] for name in ("groupPriorityMinimum", "versionPriority")}, "caBundle": bundle},
    }
    api.call("PATCH", f"{APISERVICES}/{SERVICE}", {"fieldManager": "knhk", "force": "true"}, document, APPLY)
    return True


class Asked:
    """What the HTTP surface asks of cluster and log."""

    def __init__(self, cluster: Cluster, follower: Follower, halt: asyncio.Event) -> None:
        self._cluster, self._follower, self._halt = cluster, follower, halt

    @property
    def index(self) -> ReceiptIndex:
        return self._follower.index

    @property
    def origin(self) -> str:
        return self._follower.origin

    def user(self, request: web.Request) -> User | None:
        found = request.transport.get_extra_info("peercert") if request.transport is not None else None
        over = found and ssl.cert_time_to_seconds(found["notAfter"]) <= time.time()
        if self._cluster.proxy is None or not found or over:
            return None
        return self._cluster.proxy.user_of(found, list(request.headers.items()))

    def may(self, user: User, verb: str, resource: Mapping[str, str]) -> str:
        return may(self._cluster.api, user, verb, resource)

    def proof(self, number: int) -> tuple[str, str]:
        return self._follower.proof(number)

    def entry(self, number: int) -> bytes:
        return self._follower.entry(number)

    def on_growth(self, told: Callable[[], None]) -> None:
        self._follower.on_growth(told)

    def reaches(self, size: int, within_s: float) -> bool:
        return self._follower.reaches(size, within_s)

    def behind_s(self) -> float:
        return self._follower.behind_s

    def taken(self) -> int:
        return self._follower.taken()

    def bound(self) -> float:
        return self._follower.bound

    def unready(self) -> str:
        return "ending" if self._halt.is_set() else self._follower.unready


Build = Callable[[Asked, ThreadPoolExecutor, Any], web.Application]


async def serve(options: Options, build: Build, told: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT: then it says that it is not ready, answers what still comes, and ends. `told` gets the address when
    requests can come. Raises Stalled."""
    halt = halt_asked()
    cluster = Cluster(KubeClient(api_client(options.kubeconfig)), options.files)
    follower = Follower(ReceiptIndex(options.index), options.log, options.bound)
    await asyncio.to_thread(look_until, lambda: cluster.begun, cluster.look, _log)
    doors = Doors(BOUNDS)
    with ThreadPoolExecutor(HANDS, "hands") as hands:
        loop = asyncio.get_running_loop()
        cluster.turned = lambda: loop.call_soon_threadsafe(doors.dismiss)
        async with _kept(cluster, follower):
            asked = build(Asked(cluster, follower, halt), hands, doors.watch)
            runner = web.AppRunner(asked, access_log=None, max_headers=HEADERS, max_field_size=HEADER_BYTES)
            await runner.setup()
            server = await doors.open(runner, options.address, options.port, cluster.context)
            try:
                told(f"https://{options.address}:{server.sockets[0].getsockname()[1]}")
                await halt.wait()
                await asyncio.sleep(GONE_AFTER_S)
            finally:
                doors.close()
                await runner.cleanup()


@asynccontextmanager
async def _kept(cluster: Cluster, follower: Follower) -> AsyncIterator[None]:
    follower.start()
    try:
        async with looking(cluster.look, _log):
            yield
    finally:
        await asyncio.to_thread(follower.stop)
