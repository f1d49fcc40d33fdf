"""Shelf in ConfigMaps of our own namespace: one for each point, named by a hash of its name."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import Conflict, NotFound

_LABELS = {"app.kubernetes.io/component": "desired", "app.kubernetes.io/part-of": "knhk", "app.kubernetes.io/managed-by": "knhk"}


class KubeShelf:
    """`knhk.ports.shelf.Shelf`. One control plane writes; what it read is remembered until a conflict says that another one did."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client, self._path = client, f"/api/v1/namespaces/{namespace}/configmaps"
        self._namespace = namespace
        self._known: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def files(self, point: str) -> Mapping[str, bytes]:
        """See the port."""
        with self._lock:
            return {name: base64.b64decode(text) for name, text in (self._document(point).get("binaryData") or {}).items()}

    def put(self, point: str, name: str, data: bytes) -> None:
        """See the port."""
        text = base64.b64encode(data).decode()
        with self._lock:
            document = self._document(point)
            if (document.get("binaryData") or {}).get(name) == text:
                return
            changed = {**document, "binaryData": {**(document.get("binaryData") or {}), name: text}}
            try:
                self._known[point] = self._write(point, changed)
            except (Conflict, NotFound) as error:
                self._known.pop(point, None)
                raise Conflict(f"what is published for {point} was changed by another; read again") from error

    def _document(self, point: str) -> dict[str, Any]:
        if point not in self._known:
            try:
                self._known[point] = self._client.call("GET", f"{self._path}/{_name(point)}")
            except NotFound:
                metadata = {"name": _name(point), "namespace": self._namespace, "labels": _LABELS, "annotations": {"knhk.dev/point": point}}
                self._known[point] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        return self._known[point]

    def _write(self, point: str, document: Mapping[str, Any]) -> dict[str, Any]:
        if "resourceVersion" in document["metadata"]:
            return self._client.call("PUT", f"{self._path}/{_name(point)}", body=document)
        return self._client.call("POST", self._path, body=document)


def _name(point: str) -> str:
    return f"knhk-desired-{hashlib.sha256(point.encode()).hexdigest()[:20]}"
