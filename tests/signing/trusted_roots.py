"""Trusted roots that can be read, of nobody."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from knhk.adapters.sigstore_root import MEDIA_TYPES

FROM = datetime(2026, 11, 23, 10, tzinfo=UTC)


def trusted_root(path: Path, rekor: str) -> Path:
    """At `path`; its log is called `rekor`."""
    made, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, rekor)])
    public = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(made.public_key())
        .serial_number(1)
        .not_valid_before(FROM)
        .not_valid_after(FROM + timedelta(days=9))
        .sign(made, SHA256())
    )
    rows = [{"rawBytes": base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()}] * 2
    log = {"baseUrl": f"https://{rekor}", "publicKey": {"rawBytes": base64.b64encode(public).decode()}, "logId": {"keyId": "AAAA"}}
    document = {"mediaType": MEDIA_TYPES[0], "tlogs": [log], "timestampAuthorities": [{"certChain": {"certificates": rows}}]}
    path.write_text(json.dumps(document))
    return path
