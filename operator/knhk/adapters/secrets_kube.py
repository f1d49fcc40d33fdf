"""Port Secrets on a cluster: Secrets of the resource's own namespace."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound, Stalled


@dataclass(frozen=True)
class KubeSecrets:
    client: KubeClient

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        try:
            document = self.client.call("GET", f"/api/v1/namespaces/{quote(namespace)}/secrets/{quote(name)}")
        except NotFound as error:
            raise Stalled("NoSecret", f"{namespace}/{name}: must be a Secret of this namespace") from error
        return {key: base64.b64decode(value) for key, value in (document.get("data") or {}).items()}
