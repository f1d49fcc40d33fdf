"""Signatures and signed statements as referrers (formats/signed.md)."""

from __future__ import annotations

from typing import Any

from knhk.model.oci import PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.provenance import STATEMENT


def signature_statement(image: Artifact, name: str) -> dict[str, Any]:
    """What a key of role build or data signs: that `name` is this digest."""
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": image.digest.removeprefix("sha256:")}}],
        "predicateType": SIGNATURE_PREDICATE,
        "predicate": {},
    }


def attached(image: Artifact, bundle: bytes, predicate: str) -> Artifact:
    """A sigstore bundle as a referrer of the image."""
    blob = Blob(SIGNED, bundle)
    notes = {"dev.sigstore.bundle.content": "dsse-envelope", PREDICATE: predicate}
    return manifest(SIGNED, [layer(blob, "bundle.sigstore.json")], (blob,), image, notes)
