"""Points in pods: the exchange that they ask, and the log that they write to beyond this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from knhk.adapters.callers_kube import KubeAuthenticator
from knhk.adapters.certificates import Pair, client_certificate
from knhk.adapters.client_context import ClientContext
from knhk.adapters.endpoints_kube import KubeEndpoints, leading_to
from knhk.adapters.erasure_desk import ErasureDesk
from knhk.adapters.exchange_server import Exchange, serving
from knhk.adapters.fleet_exchange import ExchangeFleet
from knhk.adapters.gateway_certificates import GatewayCertificates
from knhk.adapters.kube_client import KubeClient
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.placement_kube import KubePlacement
from knhk.adapters.placement_objects import ObjectPlacement
from knhk.adapters.placement_pods import PodPlacement
from knhk.adapters.placement_processes import ProcessPlacement
from knhk.adapters.readers_kube import KubeReaders
from knhk.adapters.serving_certificates import CLIENT_LIFE, ServingCertificates
from knhk.adapters.shelf_kube import KubeShelf
from knhk.adapters.signer_roles import parse_root_pub
from knhk.model.faults import Stalled
from knhk.ports.caller import ERASURES_AUDIENCE
from knhk.ports.clock import Clock
from knhk.ports.placement import Placement
from knhk.reconcilers.context import Ports
from knhk.reconcilers.telling_erasures import Teller
from knhk.wiring.leading import fence
from knhk_runtime.http1 import Https
from knhk_templates.kubernetes.guard import Surroundings

SERVICE, LOG_SERVICE, ADMISSION_SERVICE, COMPONENT = "knhk-exchange", "knhk-log", "knhk-admission", "knhk-operator"
RECEIPTS, KEYS, ERASURES = "knhk-receipts", "knhk-keys", "knhk-erasures"
ADMISSION = f"https://{ADMISSION_SERVICE}.knhk-system.svc"
Adapt = Callable[[Ports], Ports]


@dataclass(frozen=True)
class PodOptions:
    """`exchange`: HOST:PORT to serve pods on; "": points are processes of this machine. `exchange_address`: where the Service of the
    exchange is to lead while this process leads; "": that is somebody else's affair. `log`: https://HOST:PORT of the sequencer; "": a
    child of this process. `namespace`: that of our components, their Secrets and ConfigMaps. `guard`: what the pods of points are made of;
    None: somebody else makes them. `registry_ca`: authorities of the registry beside the system's, which guards are told too; None, or
    not there: none. `admission`: where an API server asks about objects that points judge."""

    exchange: str = ""
    exchange_address: str = ""
    log: str = ""
    namespace: str = "knhk-system"
    guard: Surroundings | None = None
    registry_ca: Path | None = None
    admission: str = ADMISSION


@contextmanager
def pods(
    client: KubeClient, options: PodOptions, clock: Clock, root_pub: Callable[[], bytes], check: Callable[[], None]
) -> Iterator[Adapt]:
    """Serves the exchange while the context lasts, where it is wanted; gives what puts fleet, placement and log of pods in place of the
    home's. Guards are led here while `check` lets this process act. Raises Stalled for options that are none, and as
    ServingCertificates."""
    certificates = ServingCertificates(client, options.namespace, clock)
    context = ClientContext(certificates, COMPONENT, clock)

    gateways = GatewayCertificates(certificates, options.namespace, clock)

    def judging(placement: Placement) -> Placement:
        if isinstance(placement, ProcessPlacement):
            placement = replace(placement, serves=gateways.keep)
        return ObjectPlacement(placement, client, options.admission, options.namespace, lambda: certificates.authority().bundle, clock)

    log = SequencerLog(Https.of(options.log, context)) if options.log else None
    if log is not None:
        certificates.leaf(LOG_SERVICE, _addresses(Https.of(options.log, context).host))
    if not options.exchange:
        yield lambda ports: replace(ports, placement=judging(ports.placement), log=log or ports.log)
        return
    host, port = _address(options.exchange)
    authenticator = KubeAuthenticator(client, clock)
    fleet = ExchangeFleet(KubeShelf(client, options.namespace), authenticator, clock)

    def trust(namespace: str) -> None:
        of_registry = options.registry_ca
        certificates.publish_trust(root_pub(), namespace, of_registry.read_bytes() if of_registry and of_registry.exists() else b"")

    documents = PodPlacement(trust, clock)
    placement = documents if options.guard is None else KubePlacement(documents, client, options.guard, clock, options.namespace)

    def issue(request: bytes, uri: str) -> bytes:
        now = datetime.fromtimestamp(clock.now_ns() / 1e9, UTC)
        return client_certificate(certificates.authority().pair, request, uri, now, CLIENT_LIFE)

    def shown() -> Pair:
        """Asked for every hour, so what log, admission and the server of receipts show is renewed here too: they mount it, and cannot read
        who signed it."""
        certificates.kept_client(ADMISSION_SERVICE)
        certificates.leaf(ADMISSION_SERVICE, _addresses(Https.of(options.admission, context).host))
        if options.log:
            certificates.leaf(LOG_SERVICE, _addresses(Https.of(options.log, context).host))
            certificates.leaf(RECEIPTS)
            certificates.kept_client(RECEIPTS)
        if options.guard is not None and options.guard.keys:
            certificates.leaf(KEYS, _addresses(Https.of(options.guard.keys, context).host))
            certificates.leaf(ERASURES)
        return certificates.leaf(SERVICE, _addresses(host))

    address, endpoints = options.exchange_address, fence(KubeEndpoints(client, options.namespace, SERVICE), frozenset({"lead_to"}), check)
    desk = ErasureDesk(KubeReaders(client, clock, ERASURES_AUDIENCE), clock)

    def adapted(ports: Ports) -> Ports:
        made = replace(ports, fleet=fleet, placement=judging(placement), log=log or ports.log)
        desk.begin(Teller(made.store, made.signer, made.log, clock, lambda: parse_root_pub(root_pub(), "root.pub")))
        return made

    with (
        serving(Exchange(fleet, authenticator, issue, gateways.issue, clock, desk), host, port, shown),
        leading_to(endpoints, address) if address else nullcontext(),
    ):
        yield adapted


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Stalled("NoAddress", f"--exchange {text}: must be HOST:PORT")
    return host.strip("[]"), int(port)


def _addresses(host: str) -> tuple[str, ...]:
    """An address of its own belongs into a certificate; names of the Service are there anyway, and "any address" is none."""
    try:
        return () if ip_address(host).is_unspecified else (host,)
    except ValueError:
        return ()
