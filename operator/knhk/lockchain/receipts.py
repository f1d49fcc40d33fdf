"""Receipts of policy events: what a Receipt resource holds. `knhk_verify.evidence` judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knhk.lockchain.events import parse_event
from knhk_verify.note import parse_proof


def receipt_spec(event_bundle: bytes, event: Mapping[str, Any], index: int, proof: str) -> dict[str, Any]:
    """`spec` of the Receipt of a policy event: `event` is its statement, `proof` the tlog-proof text for `index`."""
    parsed = parse_event(event)
    spec = {
        "event": parsed.kind,
        "bundle": event_bundle.decode(),
        "logIndex": index,
        "proof": proof,
        "checkpoint": parse_proof(proof).checkpoint,
    }
    names = {"pack": str((parsed.pack or {}).get("name", "")), "point": parsed.point.rpartition("/")[2]}
    return spec | {name: value for name, value in names.items() if value}
