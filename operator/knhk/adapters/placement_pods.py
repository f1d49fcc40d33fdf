"""Placement in pods that somebody else makes (injection, a gateway's Deployment): this hands them what they must trust, and says what their
Envoy starts with. What does not run as it should the pods tell by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knhk.model.faults import Stalled
from knhk.ports.clock import Clock
from knhk.ports.placement import Placed
from knhk_runtime.serving import Serving
from knhk_templates.envoy import render_bootstrap

ANYWHERE = "0.0.0.0"  # knhk-proxy puts the pod's own address in its place
TRUST_EVERY_NS = 600 * 10**9
# Where a guard's containers keep things.
LOCAL: Mapping[str, str | Mapping[str, str]] = {
    "ecds": "/var/lib/knhk/point/private/ecds.json",
    "agentSocket": "/run/knhk/agent.sock",
    "adminSocket": "/run/knhk/envoy-admin.sock",
    "serving": Serving(Path("/run/knhk/serving")).files,
}


@dataclass
class PodPlacement:
    """`knhk.ports.placement.Placement`. `trust`: publishes what clients trust in a namespace."""

    trust: Callable[[str], None]
    clock: Clock
    _trusted: dict[str, int] = field(default_factory=dict)
    _rendered: dict[str, tuple[Mapping[str, Any], bytes]] = field(default_factory=dict)
    _placed: set[str] = field(default_factory=set)

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        """See the port."""
        known = self._rendered.get(point)
        if known is not None and known[0] == spec:
            return known[1]
        if not spec["listen"]["port"]:
            raise Stalled("NoPort", "spec.listen.port: 0 must be a port: pods of a cluster are reached by a number that is known before")
        try:
            text = render_bootstrap({**spec, "name": point, "listen": {**spec["listen"], "address": ANYWHERE}, "local": LOCAL})
        except ValueError as error:
            raise Stalled("BadPoint", str(error)) from error
        self._rendered[point] = spec, text.encode()
        return text.encode()

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        """See the port. Errors of the API server come as they do in KubeClient."""
        self.bootstrap(point, spec)
        namespace, _, name = point.partition("/")
        port = spec["listen"]["port"]
        now = self.clock.monotonic_ns()
        if now >= self._trusted.get(namespace, now):
            self.trust(namespace)
            self._trusted[namespace] = now + TRUST_EVERY_NS
        self._placed.add(point)
        return Placed(f"{name}.{namespace}.svc:{port}" if spec["mode"] == "Gateway" else f"pods:{port}")

    def remove(self, point: str) -> None:
        """See the port: nothing here was started."""
        self._placed.discard(point)
        self._rendered.pop(point, None)

    def placed(self) -> frozenset[str]:
        """See the port."""
        return frozenset(self._placed)
