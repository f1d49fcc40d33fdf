"""Port Namespaces by a label of the namespace on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound
from knhk.ports.clock import Clock

LABEL = "knhk.dev/require-merged-commit"
FRESH_S = 5.0


@dataclass
class KubeNamespaces:
    """The label `knhk.dev/require-merged-commit: "true"`. Whoever may change a namespace may change it: not who writes policies."""

    client: KubeClient
    clock: Clock
    _known: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def requires_merged_commit(self, namespace: str) -> bool:
        now_s = self.clock.monotonic_ns() / 1e9
        since_s, demands = self._known.get(namespace, (-FRESH_S, False))
        if now_s - since_s >= FRESH_S:
            demands = self._demands(namespace)
            self._known[namespace] = (now_s, demands)
        return demands

    def _demands(self, namespace: str) -> bool:
        """One that is gone enforces nothing any more."""
        try:
            found = self.client.call("GET", f"/api/v1/namespaces/{quote(namespace)}")
        except NotFound:
            return True
        return (found["metadata"].get("labels") or {}).get(LABEL) == "true"
