"""Receipts of policy events: what a Receipt resource holds. `knhk_verify.evidence` judges it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from knhk.lockchain.events import parse_event
from knhk_verify.note import parse_proof

LABELLED = ("event", "pack", "point", "stage", "actor", "verdict")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


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
    return spec | named(event["predicate"])


def named(predicate: Mapping[str, Any]) -> dict[str, str]:
    """What `spec` says of whom an event speaks, and of who acted."""
    names = {
        "pack": str((predicate.get("pack") or {}).get("name", "")),
        "point": str(predicate.get("point", "")).rpartition("/")[2],
        "stage": str(predicate.get("stage", "")),
        "actor": str(predicate.get("actor", "")),
        "verdict": str((predicate.get("evidence") or {}).get("verdict", "")),
    }
    return {name: value for name, value in names.items() if value}


def receipt_name(event: str, index: int) -> str:
    """Name of the Receipt of an event of this kind."""
    return f"{event.lower()}-{index:08d}"


def receipt_labels(spec: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, str]:
    """Labels of the Receipt with this spec. `packDigest` is that of decision receipts: the first 20 bytes, hexadecimal."""
    told = {name: label_value(spec[name]) for name in LABELLED if name in spec}
    digest = pack_digest(event["predicate"])
    return told | ({"packDigest": digest} if digest else {})


def pack_digest(predicate: Mapping[str, Any]) -> str:
    """First 20 bytes of the digest of the pack that an event speaks of, hexadecimal; "": of none."""
    return str((predicate.get("pack") or {}).get("digest", "")).removeprefix("sha256:")[:40]


def label_value(text: str) -> str:
    """The text, where a label may have it as its value; else as much as may stand there, and 12 digits of its SHA-256:
    `system:serviceaccount:erp:ci` is `system-serviceaccount-erp-ci-` and so on."""
    if _LABEL.fullmatch(text):
        return text
    return f"{_UNFIT.sub('-', text)[:50].lstrip('-_.') or 'x'}-{sha256(text.encode()).hexdigest()[:12]}"
