"""Port Namespaces by a label of the namespace on a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound
from knhk.ports.clock import Clock

LABEL = "knhk.dev/require-merged-commit"
FRESH_S = 5.0


@dataclass(frozen=True)
class _Said:
    merged_only: bool
    leaving: bool


GONE = _Said(merged_only=True, leaving=True)  # it enforces nothing any more


@dataclass
class KubeNamespaces:
    """The label `knhk.dev/require-merged-commit: "true"`. Whoever may change a namespace may change it: not who writes policies."""

    client: KubeClient
    clock: Clock
    _known: dict[str, tuple[float, _Said]] = field(default_factory=dict)

    def requires_merged_commit(self, namespace: str) -> bool:
        return self._said(namespace).merged_only

    def is_leaving(self, namespace: str) -> bool:
        return self._said(namespace).leaving

    def _said(self, namespace: str) -> _Said:
        now_s = self.clock.monotonic_ns() / 1e9
        since_s, said = self._known.get(namespace, (-FRESH_S, GONE))
        if now_s - since_s >= FRESH_S:
            said = self._asked(namespace)
            self._known[namespace] = (now_s, said)
        return said

    def _asked(self, namespace: str) -> _Said:
        try:
            metadata = self.client.call("GET", f"/api/v1/namespaces/{quote(namespace)}")["metadata"]
        except NotFound:
            return GONE
        return _Said((metadata.get("labels") or {}).get(LABEL) == "true", "deletionTimestamp" in metadata)
