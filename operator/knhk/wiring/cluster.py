"""On a cluster: resources live in the API server. Keys, log, registry and points are as in the embedded home for now, in a folder of
this process."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from kubernetes.client import ApiClient

from knhk.adapters.builder_remote import RemoteBuilder
from knhk.adapters.client_context import ClientContext
from knhk.adapters.health_http import Check, served
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_lease import Lease
from knhk.adapters.kube_mirror import Mirror
from knhk.adapters.namespaces_kube import KubeNamespaces
from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.secrets_kube import KubeSecrets
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.adapters.telemetry_prometheus import PrometheusTelemetry
from knhk.adapters.threads import Threads
from knhk.adapters.trust_file import FileTrusts
from knhk.api import KINDS
from knhk.model.faults import Stalled, Waiting
from knhk.model.keeping import BY_DEFAULT, Keep
from knhk.ports.builder import Builder
from knhk.ports.clock import Clock
from knhk.ports.registry import Registry
from knhk.reconcilers.context import Ports
from knhk.wiring import embedded, git, turning
from knhk.wiring.embedded import Adapt
from knhk.wiring.home import Home
from knhk.wiring.leading import always, fenced
from knhk.wiring.pods import COMPONENT, PodOptions, pods
from knhk_runtime.distribution import Repository

TURNS_WITHIN_S = 90.0  # one act may wait for a server that does not answer
LATE_S = 180.0
AT_ONCE = 8  # requests that go to the API server at a time
BUILDER = "knhk-builder"


@dataclass(frozen=True)
class Access:
    """How to reach the API server; the token, if any, may be renewed between two calls."""

    server: str
    authority: str | None
    certificate: str | None
    key: str | None
    token: Callable[[], str | None]


Watch = Callable[[Access, Mirror, Event], AbstractContextManager[None]]
"""Keeps the mirror as the API server is while its context lasts; sets the event when it cannot go on."""

WATCHED = tuple(kind for kind in KINDS if kind != "Receipt")  # of Receipts there are many, and they never change


def access_of(api: ApiClient) -> Access:
    """The way to the API server that a client has."""
    found = api.configuration

    def token() -> str | None:
        header: str | None = found.get_api_key_with_prefix("BearerToken")
        return header.partition(" ")[2] if header else None  # "Bearer …" from a kubeconfig, "bearer …" in a pod

    return Access(found.host, found.ssl_ca_cert, found.cert_file, found.key_file, token)


@dataclass(frozen=True)
class Elsewhere:
    """What is not this process's own; None: as in the embedded home. `registry`: URL, with a docker config.json and authorities (PEM);
    `builder`: URL; `keys`: folder with rollout.key, keys.json and root.pub, in which nothing is made."""

    registry: str | None = None
    registry_auth: Path | None = None
    registry_ca: Path | None = None
    builder: str | None = None
    keys: Path | None = None


@dataclass(frozen=True)
class Options:
    """Which cluster (None: the one that this pod runs in), where health and metrics are served (HOST:PORT; "": nowhere), and the Lease
    (NAMESPACE/NAME) that makes one of several processes the leader ("": this one is alone).
    `pods`: where points and the log are. `trusts`: an administrator's file of repositories and forges; None: that of the home. `keep`:
    how many Receipts there may be. `regions`: those that points may be of; none: those that the home says."""

    kubeconfig: Path | None = None
    health: str = ""
    lease: str = ""
    pods: PodOptions = field(default_factory=PodOptions)
    elsewhere: Elsewhere = Elsewhere()
    trusts: Path | None = None
    keep: Keep = BY_DEFAULT
    regions: tuple[str, ...] = ()


def serve(home: Home, stop: Event, ready_file: Path, *, options: Options, watch: Watch) -> None:
    """Runs the control plane until `stop` is set; with a lease, as a warm standby until it leads. Raises Stalled when there is no cluster,
    and when the lease is lost: this process must end then, and may come back as a standby."""
    with led(options, watch, stop) as found:
        if found is None:
            return
        client, store, adapt, check = found
        elsewhere, clock = options.elsewhere, SystemClock()
        certificates = ServingCertificates(client, options.pods.namespace, clock)
        root_pub = (elsewhere.keys / "root.pub" if elsewhere.keys else home.root_pub).read_bytes
        with (
            pods(client, options.pods, clock, root_pub, check) as in_pods,
            _registry(elsewhere) as registry,
            _builder(elsewhere, certificates, clock) as builder,
        ):
            access = git.Access(KubeSecrets(client), FileTrusts(options.trusts or home.trusts), git.CLUSTER)

            def placed(ports: Ports) -> Ports:
                return adapt(in_pods(replace(ports, namespaces=KubeNamespaces(client, clock), actor=_who(client))))

            embedded.serve(
                home,
                stop,
                ready_file,
                store,
                placed,
                access,
                own_log=not options.pods.log,
                registry=registry,
                builder=builder,
                keys=elsewhere.keys,
                check=check,
                keep=options.keep,
                regions=options.regions,
            )


def _who(client: KubeClient) -> str:
    """Whom the API server knows this process as: who acts in policy events."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    return str(client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)["status"]["userInfo"]["username"])


@contextmanager
def _registry(elsewhere: Elsewhere) -> Iterator[Registry | None]:
    if elsewhere.registry is None:
        yield None
        return
    repository = Repository(elsewhere.registry, elsewhere.registry_auth, elsewhere.registry_ca)
    try:
        yield OciRegistry(repository)
    finally:
        repository.close()


@contextmanager
def _builder(elsewhere: Elsewhere, certificates: ServingCertificates, clock: Clock) -> Iterator[Builder | None]:
    """It is spoken to as `knhk-operator`; what it shows itself is in the Secret `knhk-builder-tls`, which is renewed here."""
    if elsewhere.builder is None:
        yield None
        return
    host, context = urlsplit(elsewhere.builder).hostname or BUILDER, ClientContext(certificates, COMPONENT, clock)

    def identity() -> ssl.SSLContext:
        certificates.leaf(BUILDER, (host,))
        return context()

    certificates.leaf(BUILDER, (host,))  # the builder's pod waits for it
    builder = RemoteBuilder(elsewhere.builder, identity)
    try:
        yield builder
    finally:
        builder.close()


@contextmanager
def led(options: Options, watch: Watch, stop: Event) -> Iterator[tuple[KubeClient, KubeStore, Adapt, Callable[[], None]] | None]:
    """Requests, the store, what else a cluster has in place of the home's, and the look at the lease, once this process may act; None when
    `stop` came first. Health is served and what changes is watched from the beginning."""
    api = api_client(options.kubeconfig)
    clock = SystemClock()
    telemetry = PrometheusTelemetry(clock)
    client = KubeClient(api, telemetry.requested)
    if options.elsewhere.keys is not None:
        telemetry.turns(*turning.told_in(options.elsewhere.keys))
    feed = ChangeFeed()
    mirror = Mirror(feed, WATCHED)
    store = KubeStore(client, feed, clock, mirror)
    with ExitStack() as stack:
        if options.health:
            stack.enter_context(served(options.health, health_checks(mirror, telemetry), telemetry.text))
        stack.enter_context(watch(access_of(api), mirror, stop))
        hands = Threads(AT_ONCE)
        stack.callback(hands.close)
        adapt: Adapt = partial(replace, telemetry=telemetry, together=hands)
        check = always
        if options.lease:
            lease = stack.enter_context(_held(client, options.lease, telemetry, stop))
            if not lease.wait(stop, partial(_warm, store)):
                yield None
                return
            lease.proclaim()
            check = lease.check
            adapt = partial(_led_ports, check=check, telemetry=telemetry, together=hands)
        yield client, store, adapt, check


def _warm(store: KubeStore) -> None:
    """Reads what a leader will need, so that it is in memory when this process is one."""
    with suppress(Waiting):
        store.list(WATCHED[0])


def health_checks(mirror: Mirror, telemetry: PrometheusTelemetry) -> Mapping[str, Check]:
    """`healthz`: the loop turns and its queue moves, once it has begun. `readyz`: what is in memory is what the API server has."""

    def healthz() -> str:
        silent_s, late_s = telemetry.silent_s(), telemetry.late_s()
        if silent_s is not None and silent_s > TURNS_WITHIN_S:
            return f"the loop has not turned for {silent_s:.0f} s"
        return f"the work queue is {late_s:.0f} s late" if late_s > LATE_S else ""

    def readyz() -> str:
        return healthz() or ("" if mirror.synced() else "not every kind is watched and listed yet")

    return {"healthz": healthz, "readyz": readyz}


@contextmanager
def _held(client: KubeClient, name: str, telemetry: PrometheusTelemetry, stop: Event) -> Iterator[Lease]:
    """The lease while the context lasts; given up at its end. Raises Stalled there when it was lost."""
    namespace, slash, named = name.partition("/")
    if not (namespace and slash and named):
        raise Stalled("NoLease", f"--lease {name}: must be NAMESPACE/NAME")
    lost = Event()

    def end() -> None:
        lost.set()
        stop.set()

    lease = Lease(client, namespace, named, f"{socket.gethostname()}_{secrets.token_hex(4)}", end)
    telemetry.leads(named, lease.leads)
    try:
        yield lease
    finally:
        lease.release()
    if lost.is_set():
        raise Stalled("Deposed", f"{lease} was lost: this process must end, and may start anew as a standby")


def _led_ports(ports: Ports, check: Callable[[], None], telemetry: PrometheusTelemetry, together: Threads) -> Ports:
    return replace(fenced(ports, check), telemetry=telemetry, together=together)
