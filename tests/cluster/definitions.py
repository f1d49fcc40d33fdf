"""The CustomResourceDefinitions of crds/ on a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import BASE
from knhk.model.faults import AlreadyExists, Stalled, Waiting

CRDS = Path(__file__).parents[2] / "crds"
PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ESTABLISHED_WITHIN_S = 240.0


def documents() -> list[dict[str, Any]]:
    """The committed definitions."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CRDS.glob("knhk.dev_*.yaml"))]
    assert found
    return found


def install(client: KubeClient) -> None:
    """Creates them, and returns when all are served."""
    for document in documents():
        try:
            client.call("POST", PATH, {"fieldValidation": "Strict"}, document)
        except AlreadyExists:
            continue
    deadline_s = time.monotonic() + ESTABLISHED_WITHIN_S
    waiting = {document["metadata"]["name"] for document in documents()}
    while waiting:
        assert time.monotonic() < deadline_s, f"not served: {waiting}"
        waiting = {name for name in waiting if not _served(client, name)}


def _served(client: KubeClient, name: str) -> bool:
    """Established comes a moment before the storage is ready, which answers 429 until then."""
    if conditions(client, name).get("Established") != "True":
        return False
    try:
        client.call("GET", f"{BASE}/{name.partition('.')[0]}")
    except (Waiting, Stalled):
        return False
    return True


def conditions(client: KubeClient, name: str) -> Mapping[str, str]:
    """Condition → status of a definition."""
    status = client.call("GET", f"{PATH}/{name}").get("status") or {}
    return {row["type"]: row["status"] for row in status.get("conditions") or ()}
