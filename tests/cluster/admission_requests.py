"""What is sent to the API server to be admitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection

ROOT = Path(__file__).parents[2]
DRY = {"dryRun": "All", "fieldValidation": "Strict"}


def create(client: KubeClient, document: dict[str, Any], namespace: str = "erp") -> dict[str, Any]:
    kind = document["kind"]
    return client.call("POST", collection(kind, namespace), DRY, document)


def pack(name: str = "1.0.0") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "packs" / "invoice-controls" / name / "pack.yaml").read_bytes())
    return found
