"""What others outside said of a receipt (formats/signed.md, notarised bundle), judged offline: by a trusted root, and by whom keys.json or
the reader names."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from knhk.adapters.sigstore_root import KEY_DETAILS, TrustedRoot, demand_identity, entry_body, parse_trusted_root
from knhk_verify.errors import Bad, demand
from knhk_verify.evidence import Step
from knhk_verify.note import unb64
from knhk_verify.signed import TIME, Key, keyid, member, pae, parse_json

Whom = tuple[str, str]  # identity and issuer that a certificate must name; "": the reader does not say


class Pinned(NamedTuple):
    """What a bundle is held against: trusted_root.json, parsed and as the file, the P-256 keys that keys.json names, and whom."""

    root: TrustedRoot
    file: Path
    keys: Sequence[Key]
    whom: Whom


def pinned(file: Path, digest: str, keys: Sequence[Key], whom: Whom) -> Pinned:
    """Raises Bad for a trusted root that keys.json does not name, and OSError."""
    root = parse_trusted_root(file.read_bytes(), str(file))
    demand(root.digest == digest, str(file), f"SHA-256 {root.digest}: must be {digest}, as keys.json says")
    return Pinned(root, file, keys, whom)


def is_certified(bundle: bytes, where: str) -> bool:
    """Whether a certificate's key is said to have signed it: then nothing is judged but for whom. Raises Bad."""
    return "certificate" in member(parse_json(bundle, where), "verificationMaterial", dict, where)


def judge(bundle: bytes, by: Pinned, where: str) -> list[Step]:
    """Each step; the last one says what is wrong, if something is. That the bundle is around the right statement is not judged here."""
    steps = list[Step]()
    try:
        steps += _steps(bundle, by, where)
    except Bad as bad:
        steps.append(Step(where, "", False, str(bad)))
    return steps


def _steps(bundle: bytes, by: Pinned, where: str) -> Iterator[Step]:
    document = parse_json(bundle, where)
    envelope, material = (member(document, name, dict, where) for name in ("dsseEnvelope", "verificationMaterial"))
    payload = unb64(member(envelope, "payload", str, where), f"{where} payload")
    signed = pae(member(envelope, "payloadType", str, where), payload)
    signature = unb64(member(_only(envelope, "signatures", where), "sig", str, where), f"{where} sig")
    stamp = _only(member(material, "timestampVerificationData", dict, where), "rfc3161Timestamps", where)
    at = by.root.time_of(unb64(member(stamp, "signedTimestamp", str, where), f"{where} timestamp"), signature)
    root = f"trusted root {by.root.digest[:16]}"
    if "certificate" in material:
        certificate = {"rawBytes": member(material, "certificate.rawBytes", str, where)}
        verifier: Mapping[str, Any] = {"keyDetails": KEY_DETAILS, "x509Certificate": certificate}
        demand_identity(bundle, by.file, *by.whom)
        yield Step(f"{where}: a certificate's key signed it", root, True, " by ".join(by.whom))
    else:
        key = _named(by, member(material, "publicKey.hint", str, where), where)
        verifier = {"keyDetails": KEY_DETAILS, "publicKey": {"rawBytes": base64.b64encode(key.public).decode()}}
        demand(_signed(key.public, signature, signed), f"{where} sig", "is wrong: payload or signature was altered")
        demand(key.until is None or at <= key.until, f"{where} timestamp", f"{at:{TIME}}: its key was replaced before")
        yield Step(f"{where}: it is signed", f"rollout (sigstore) {keyid(key.public)[:16]}", True, "by a key that keys.json names")
    yield Step(f"{where}: a timestamp authority saw the signature", root, True, f"at {at:{TIME}}")
    found = by.root.demand_entry(_only(material, "tlogEntries", where), entry_body(sha256(signed).digest(), signature, verifier), at)
    yield Step(f"{where}: a transparency log has it", root, True, found)


def _only(of: Mapping[str, Any], name: str, where: str) -> Any:
    rows = member(of, name, list, where)
    demand(len(rows) == 1, f"{where} {name}", f"are {len(rows)}: must be one")
    return rows[0]


def _named(by: Pinned, hint: str, where: str) -> Key:
    key = next((key for key in by.keys if keyid(key.public) == hint), None)
    if key is None:
        raise Bad(f"{where} hint", f"{hint}: keys.json names no such key of role rollout for sigstore")
    return key


def _signed(public: bytes, signature: bytes, data: bytes) -> bool:
    key = load_der_public_key(public)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(SHA256()))
            return True
    except InvalidSignature:
        pass
    return False
