"""The key that signs what parsers of signed documents are given: a search changes what is signed, not the signature."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk_verify.note import b64
from knhk_verify.signed import BUNDLE, IN_TOTO, Key, Keys, canonical, keyid, pae


class Signer:
    def __init__(self, seed: int) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(bytes(range(seed, seed + 32)))
        self.public = self.key.public_key().public_bytes_raw()
        self.id = keyid(self.public)

    def envelope(self, kind: str, payload: bytes) -> dict[str, Any]:
        """DSSE."""
        signature = {"keyid": self.id, "sig": b64(self.key.sign(pae(kind, payload)))}
        return {"payloadType": kind, "payload": b64(payload), "signatures": [signature]}

    def bundle(self, payload: bytes) -> bytes:
        """A sigstore bundle over an in-toto statement."""
        material = {"publicKey": {"hint": self.id}}
        return canonical({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": self.envelope(IN_TOTO, payload)})


def trusted(**roles: Signer) -> Keys:
    named = {role: {signer.id: Key(signer.public, "log.example")} for role, signer in roles.items()}
    return Keys(1, datetime(2099, 1, 1, tzinfo=UTC), named)


def spelled(data: bytes) -> bytes:
    """JSON in canonical form, so that a search gets beyond it; what is none stays as it is."""
    try:
        return canonical(json.loads(data))
    except (ValueError, RecursionError):
        return data
