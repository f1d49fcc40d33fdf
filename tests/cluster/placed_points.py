"""A point of the real API server, as its placement sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.api import from_document
from knhk.ports.placement import Placed

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "placement"))
sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
from pods import point_spec

NS, POINT = "erp", "erp/orders"
GATEWAY = {"mode": "Gateway", "upstream": {"host": "orders-app.erp.svc", "port": 9000}, "gateway": {"minReplicas": 3}}


@dataclass
class Documents:
    """Hands pods their documents: here it notes for which points."""

    points: set[str] = field(default_factory=set)

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        return b""

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        self.points.add(point)
        return Placed("")

    def remove(self, point: str) -> None:
        self.points.discard(point)

    def placed(self) -> frozenset[str]:
        return frozenset(self.points)


def stored(client: KubeClient, **changes: Any) -> Mapping[str, Any]:
    """The point on the cluster; its spec with defaults."""
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": "EnforcementPoint", "metadata": {"name": "orders", "namespace": NS}}
    document["spec"] = {**point_spec(), **changes}
    client.call("POST", collection("EnforcementPoint", NS), body=document)
    return from_document(document).spec
