"""A trusted root of sigstore (trusted_root.json, protobuf-specs sigstore_trustroot.proto): logs of Rekor v2 and timestamp authorities that
are believed, each within its validity."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import Certificate, load_der_x509_certificate
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from knhk.model.canonical import canonical
from knhk_verify.errors import Bad, demand
from knhk_verify.note import Verifier, open_checkpoint, unb64
from knhk_verify.signed import member, parse_json
from knhk_verify.tree import leaf_hash, verify_inclusion

ROOT_FILE = "trusted_root.json"
KEY_DETAILS = "PKIX_ECDSA_P256_SHA_256"
MEDIA_TYPES = ("application/vnd.dev.sigstore.trustedroot+json;version=0.1", "application/vnd.dev.sigstore.trustedroot.v0.2+json")


class Validity(NamedTuple):
    """From when until when (None: open) something counts."""

    start: datetime | None
    end: datetime | None

    def holds(self, at: datetime) -> bool:
        return (self.start is None or self.start <= at) and (self.end is None or at < self.end)


class LogKey(Verifier):
    """Key of a Rekor v2 in note format: `public` is its SubjectPublicKeyInfo, DER. For ECDSA the id is of the key alone."""

    @property
    def id(self) -> bytes:
        """See Verifier."""
        key = load_der_public_key(self.public)
        if isinstance(key, ed25519.Ed25519PublicKey):
            return Verifier(self.name, key.public_bytes_raw()).id
        return sha256(self.public).digest()[:4]

    def signed(self, data: bytes, text: bytes) -> bool:
        """See Verifier."""
        key = load_der_public_key(self.public)
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(data, text)
                return True
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(data, text, ec.ECDSA(SHA256()))
                return True
        except InvalidSignature:
            return False
        return False


class Log(NamedTuple):
    """A log: its key, the id that entries name it by, and its validity."""

    key: LogKey
    id: bytes
    validity: Validity


class Authority(NamedTuple):
    """A timestamp authority: its certificates, the leaf first and the root last."""

    chain: tuple[Certificate, ...]
    validity: Validity


class TrustedRoot(NamedTuple):
    """What is believed. Another document under the same name is another root: `digest` is SHA-256 of the file, hexadecimal."""

    digest: str
    logs: tuple[Log, ...]
    authorities: tuple[Authority, ...]

    def time_of(self, timestamp: bytes, signature: bytes) -> datetime:
        """When an authority saw `signature`, by its RFC 3161 response; raises Bad."""
        try:
            response = decode_timestamp_response(timestamp)
            at = response.tst_info.gen_time
        except ValueError as error:
            raise Bad("timestamp", f"is none of RFC 3161: {error}") from error
        for authority in self.authorities:
            leaf, *between, root = authority.chain
            builder = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(root)
            for certificate in between:
                builder = builder.add_intermediate_certificate(certificate)
            try:
                builder.build().verify_message(response, signature)
            except VerificationError:
                continue
            demand(authority.validity.holds(at), "timestamp", f"is of {at}, when its authority was not to be trusted")
            return at
        raise Bad("timestamp", "is by no authority of the trusted root, or not over this signature")

    def demand_entry(self, entry: Mapping[str, Any], body: bytes, at: datetime) -> str:
        """Which log has `body` where, by `entry` (TransparencyLogEntry, JSON); raises Bad unless it is one that counts at this time."""
        where = "entry"
        id_ = unb64(member(entry, "logId.keyId", str, where), f"{where} logId")
        log = next((log for log in self.logs if log.id == id_), None)
        if log is None:
            raise Bad(f"{where} logId", f"{id_.hex()}: is no log of the trusted root")
        demand(log.validity.holds(at), where, f"is of a log whose key does not count at {at}")
        same = unb64(member(entry, "canonicalizedBody", str, where), f"{where} canonicalizedBody") == body
        demand(same, f"{where} canonicalizedBody", "is not about what was signed")
        proof = member(entry, "inclusionProof", dict, where)
        checkpoint = open_checkpoint(member(proof, "checkpoint.envelope", str, where), log.key, f"{where} checkpoint")
        told = member(proof, "hashes", list, where) if "hashes" in proof else []  # of a log of one entry there are none
        demand(all(isinstance(text, str) for text in told), f"{where} hashes", "must be base64")
        hashes = [unb64(text, f"{where} hash") for text in told]
        index = member(proof, "logIndex", str, where)
        demand(index.isdecimal() and len(index) < 20, f"{where} logIndex", f"{index!r}: must be a number")
        verify_inclusion(leaf_hash(body), int(index), checkpoint.size, checkpoint.root, hashes)
        return f"entry {index} of {checkpoint.size} of {log.key.name}"


def entry_body(digest: bytes, signature: bytes, verifier: Mapping[str, Any]) -> bytes:
    """An entry as Rekor v2 logs it (JCS); `verifier`: who signed, as Rekor spells it."""
    data = {"algorithm": "SHA2_256", "digest": base64.b64encode(digest).decode()}
    record = {"data": data, "signature": {"content": base64.b64encode(signature).decode(), "verifier": verifier}}
    return canonical({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}})


def demand_identity(bundle: bytes, root: Path, identity: str, issuer: str) -> None:
    """By sigstore-python: chain, SCT, identity and all the rest of a bundle that a certificate signed. `root`: trusted_root.json. Raises
    Bad."""
    from sigstore.errors import Error
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    try:
        trusted = TrustedRoot.from_file(str(root))
        Verifier(trusted_root=trusted).verify_dsse(Bundle.from_json(bundle), policy.Identity(identity=identity, issuer=issuer))
    except (Error, ValueError) as error:  # what is no X.509 is none of sigstore's errors
        raise Bad("certificate", f"must name {identity} by {issuer}: {error}") from error


def parse_trusted_root(data: bytes, where: str = "trusted_root.json") -> TrustedRoot:
    """Raises Bad."""
    document = parse_json(data, where)
    kind = member(document, "mediaType", str, where)
    demand(kind in MEDIA_TYPES, f"{where} mediaType", f"{kind!r}: must be {MEDIA_TYPES[0]}")
    logs = tuple(_log(row, f"{where} tlogs") for row in _rows(document, "tlogs", where))
    authorities = tuple(_authority(row, f"{where} timestampAuthorities") for row in _rows(document, "timestampAuthorities", where))
    demand(bool(logs), f"{where} tlogs", "must name a log of Rekor v2")
    demand(bool(authorities), f"{where} timestampAuthorities", "must name a timestamp authority")
    return TrustedRoot(sha256(data).hexdigest(), logs, authorities)


def _rows(document: Any, name: str, where: str) -> list[Any]:
    found: list[Any] = member(document, name, list, where) if name in document else []
    return found


def _log(row: Any, where: str) -> Log:
    public = unb64(member(row, "publicKey.rawBytes", str, where), f"{where} rawBytes")
    try:
        load_der_public_key(public)
    except ValueError as error:
        raise Bad(f"{where} rawBytes", "must be a public key in DER") from error
    origin = urlsplit(member(row, "baseUrl", str, where)).hostname or ""
    id_ = unb64(member(row, "logId.keyId", str, where), f"{where} keyId")
    return Log(LogKey(origin, public), id_, _validity(row["publicKey"], where))


def _authority(row: Any, where: str) -> Authority:
    certificates = member(row, "certChain.certificates", list, where)
    demand(len(certificates) > 1, where, "must have the authority's certificate and its root")
    try:
        chain = tuple(load_der_x509_certificate(unb64(member(one, "rawBytes", str, where), where)) for one in certificates)
    except ValueError as error:
        raise Bad(where, "must be certificates in DER") from error
    return Authority(chain, _validity(row, where))


def _validity(row: Mapping[str, Any], where: str) -> Validity:
    said = member(row, "validFor", dict, where) if "validFor" in row else {}
    return Validity(*(_time(member(said, name, str, where), where) if name in said else None for name in ("start", "end")))


def _time(text: str, where: str) -> datetime:
    """With its zone: what is none of UTC by its own words is another moment on each machine."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Bad(where, f"{text!r} must be a time of RFC 3339") from error
    demand(found.tzinfo is not None, where, f"{text!r} must be a time of RFC 3339, with its zone")
    return found.astimezone(UTC)
