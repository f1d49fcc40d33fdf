"""What a point that judges objects shows to admission: a certificate for its Service's name, for pods that ask the exchange, and for Envoys
on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from knhk.adapters.certificates import server_certificate, server_pair
from knhk.adapters.placement_kube import service_name
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.model.faults import Fault, Refused
from knhk.ports.clock import Clock
from knhk_runtime.serving import Serving

LIFE = timedelta(days=7)  # renewed at half of it: so long an operator may be away
LOOKED_EVERY_NS = 60 * 10**9


@dataclass
class GatewayCertificates:
    """`own`: namespace of our processes, whose names no point may have. Errors: as ServingCertificates."""

    certificates: ServingCertificates
    own: str
    clock: Clock
    _looked: dict[str, int] = field(default_factory=dict)

    def issue(self, request: bytes, point: str) -> bytes:
        """For the key of a signing request of a pod of the point (NAMESPACE/NAME). Raises Refused."""
        if point.partition("/")[0] == self.own:
            raise Refused([Fault("point", point, f"must not be in {self.own}: Services there are our own")])
        return server_certificate(self.certificates.authority().pair, request, [service_name(point)], self._now(), LIFE)

    def keep(self, point: str, serving: Serving) -> None:
        """Puts it into the folder of a point on this machine, when it is due; looked at once a minute. Raises OSError."""
        now_ns = self.clock.monotonic_ns()
        if now_ns < self._looked.get(point, now_ns):
            return
        authority = self.certificates.authority()
        serving.trust(authority.bundle)
        if serving.is_due(authority.bundle, self._now()):
            made = server_pair(authority.pair, [service_name(point)], self._now(), LIFE)
            serving.show(made.certificate, made.key)
        self._looked[point] = now_ns + LOOKED_EVERY_NS

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now_ns() / 1e9, UTC)
