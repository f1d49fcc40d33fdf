"""Signatures and signed statements as referrers (formats/signed.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from knhk.model.oci import PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.provenance import STATEMENT
from knhk_verify.errors import Bad
from knhk_verify.signed import verify_bundle


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


class Told(NamedTuple):
    """A sigstore bundle among a pack's papers, unverified: the hint of its key ("": a certificate signed), what it says, base64, and
    whether others outside bear witness to it."""

    bundle: bytes
    hint: str
    payload: str
    outside: bool


def told(bundle: bytes) -> Told | None:
    """None for what is no bundle around an envelope."""
    try:
        document = json.loads(bundle)
        material = document["verificationMaterial"]
        hint = str(material.get("publicKey", {}).get("hint", ""))
        return Told(bundle, hint, str(document["dsseEnvelope"]["payload"]), bool(material.get("tlogEntries")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def to_notarise(bundles: Iterable[bytes], keys: Mapping[str, bytes]) -> list[bytes]:
    """Those that one of these keys signed, by keyid, and to whose statement nobody outside bears witness yet. Who can write a registry can
    put there what says that it is by our key: it must not be signed by us for that."""
    read = [found for bundle in bundles if (found := told(bundle)) is not None]
    done = {found.payload for found in read if found.outside}
    return [found.bundle for found in read if not found.outside and found.payload not in done and _is_by(found.bundle, keys)]


def _is_by(bundle: bytes, keys: Mapping[str, bytes]) -> bool:
    try:
        verify_bundle(bundle, keys)
    except Bad:
        return False
    return True
