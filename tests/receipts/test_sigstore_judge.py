"""Who signed a notarised bundle is judged by keys.json alone, whatever timestamps and logs say of it (tests/sigstore asks real ones)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from log_of_entries import Written, outside

import sigstore
from knhk.adapters.sigstore_judge import Pinned, is_certified, judge
from knhk.adapters.sigstore_root import TrustedRoot
from knhk.model.canonical import canonical
from knhk.wiring import evidence, witnesses
from knhk.wiring.home import Home
from knhk_verify.signed import BUNDLE, IN_TOTO, Key, keyid, pae

AT = datetime(2026, 11, 26, tzinfo=UTC)
OURS, OTHERS = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


class BelievesAll:
    digest = "ab" * 32

    def time_of(self, timestamp: bytes, signature: bytes) -> datetime:
        return AT

    def demand_entry(self, entry: Mapping[str, Any], body: bytes, at: datetime) -> str:
        return "entry 1"


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def bundle(signer: ec.EllipticCurvePrivateKey, named: ec.EllipticCurvePrivateKey, payload: bytes = b"{}") -> bytes:
    signature = signer.sign(pae(IN_TOTO, b"{}"), ec.ECDSA(SHA256()))
    told = {name: base64.b64encode(data).decode() for name, data in (("payload", payload), ("sig", signature))}
    material = {"publicKey": {"hint": keyid(spki(named))}, "tlogEntries": [{}]}
    material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": "MAA="}]}
    envelope = {"payload": told["payload"], "payloadType": IN_TOTO, "signatures": [{"keyid": "", "sig": told["sig"]}]}
    return canonical({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope})


@pytest.mark.parametrize(
    ("data", "until", "says"),
    [
        (bundle(OURS, OURS), None, ""),
        (bundle(OURS, OURS), AT + timedelta(days=1), ""),
        (bundle(OURS, OURS), AT - timedelta(seconds=1), "its key was replaced before"),
        (bundle(OTHERS, OURS), None, "payload or signature was altered"),
        (bundle(OURS, OURS, b"[]"), None, "payload or signature was altered"),
        (bundle(OTHERS, OTHERS), None, "keys.json names no such key"),
    ],
    ids=("ours", "replaced later", "replaced before", "another's signature", "another payload", "another's key"),
)
def test_who_signed_is_who_keys_json_names(data: bytes, until: datetime | None, says: str) -> None:
    by = Pinned(cast(TrustedRoot, BelievesAll()), Path("trusted_root.json"), (Key(spki(OURS), "", until),), ("", ""))
    *_, last = judge(data, by, "bundle")
    assert (last.ok, says in last.detail) == (not says, True)


def test_what_is_no_certificate_is_refused() -> None:
    """Nothing that somebody wrote into a bundle ends the command."""
    root = next(Path(sigstore.__file__).parent.rglob("trusted_root.json"))
    document = json.loads(bundle(OURS, OURS))
    proof = {"checkpoint": {"envelope": "AA"}, "hashes": [], "logIndex": "0", "rootHash": "AAAA", "treeSize": "1"}
    entry = {"canonicalizedBody": "AAAA", "inclusionProof": proof, "integratedTime": "0", "logId": {"keyId": "AAAA"}, "logIndex": "0"}
    entry["kindVersion"] = {"kind": "hashedrekord", "version": "0.0.2"}
    document["verificationMaterial"] |= {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [entry]}
    del document["verificationMaterial"]["publicKey"]
    text = json.dumps(document).encode()
    assert is_certified(text.replace(b'"certificate"', b'"\\u0063ertificate"'), "bundle")
    by = Pinned(cast(TrustedRoot, BelievesAll()), root, (), ("who", "https://issuer.example"))
    *_, last = judge(text, by, "bundle")
    assert (last.ok, "certificate: must name who" in last.detail) == (False, True)


def test_each_event_that_says_what_others_said_is_judged(tmp_path: Path) -> None:
    written = Written(tmp_path)
    entry = written.event("Promoted")
    told = [written.notarised(entry, 0, "erp/promoted-00000000", outside(entry, hint * 32)) for hint in ("ab", "cd")]
    found = [
        (name, json.dumps({"bundle": of.decode()}).encode()) for name, of in zip(("event", "first", "second"), (entry, *told), strict=True)
    ]
    trust = evidence.trust(Home(tmp_path), None, None, None, written.folder)
    said = [step.what for step in witnesses.steps(found, trust, None, ("", ""))]
    assert said == ["first: others bear witness", "second: others bear witness"]
