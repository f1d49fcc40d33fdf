"""Signed documents that are no evidence of a log: rollout documents and the signatures of images (formats/signed.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knhk_verify.errors import Bad
from knhk_verify.signed import parse_canonical, parse_json, verify_bundle, verify_envelope

ROLLOUT = "application/vnd.knhk.rollout.v1+json"
COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"


def verify_document(data: bytes, payload_type: str, keys: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Object in a signed document (envelope bytes): signature and canonical form checked; raises Bad."""
    payload = verify_envelope(parse_json(data, where), payload_type, keys, where)
    document = parse_canonical(payload, f"{where} payload")
    if not isinstance(document, dict):
        raise Bad(f"{where} payload", "must be an object")
    return document


def verify_signature_of(data: bytes, digest: str, keys: Mapping[str, bytes], where: str = "signature") -> dict[str, Any]:
    """Statement of an image signature over `digest` ("sha256:…"); raises Bad."""
    statement = verify_bundle(data, keys, where)
    if statement["predicateType"] != COSIGN_SIGN:
        raise Bad(f"{where} predicateType", f"must be {COSIGN_SIGN}")
    if digest not in [f"sha256:{subject['digest']['sha256']}" for subject in statement["subject"]]:
        raise Bad(f"{where} subject", f"is not {digest}")
    return statement
