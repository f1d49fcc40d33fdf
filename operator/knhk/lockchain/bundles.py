"""sigstore bundles v0.3 around a signature by a key that a hint names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from knhk.model.canonical import canonical
from knhk_verify.signed import BUNDLE, IN_TOTO

# (payload type, payload) → DSSE envelope with one signature
Sign = Callable[[str, bytes], Mapping[str, Any]]


def assemble(statement: Mapping[str, Any], sign: Sign) -> bytes:
    """Canonical JSON of the bundle around a signed in-toto statement; the hint alone names the key (formats/signed.md). Raises TypeError
    for what canonical JSON cannot hold."""
    envelope = sign(IN_TOTO, canonical(statement))
    (signature,) = envelope["signatures"]
    material = {"publicKey": {"hint": signature["keyid"]}, "tlogEntries": []}
    unnamed = {**envelope, "signatures": [{**signature, "keyid": ""}]}
    return canonical({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": unnamed})
