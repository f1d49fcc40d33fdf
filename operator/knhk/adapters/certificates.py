"""X.509 of our own authority: itself, what servers show, and what clients show. Makes and reads certificates; keeps nothing.

A server's certificate names DNS names and addresses; a client's names one URI, `spiffe://knhk.dev/…`: who it is. Neither can stand
for the other (extended key usage), and none can sign.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from knhk.model.faults import Corrupt, Fault, Refused

TRUST_DOMAIN = "knhk.dev"
AUTHORITY_DAYS = 730
SKEW = timedelta(minutes=5)  # clocks of machines differ
MAX_REQUEST_BYTES = 4096
_NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Reflex Enterprise"), x509.NameAttribute(NameOID.COMMON_NAME, "knhk")])


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def read(self) -> x509.Certificate:
        """Raises Corrupt."""
        return read_certificate(self.certificate)


def read_certificate(pem: bytes) -> x509.Certificate:
    """Raises Corrupt."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise Corrupt("certificate", f"must be X.509 in PEM: {error}") from error


def is_half_over(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether half of its life has passed, or it is not valid at all now."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return not begins <= now < begins + (ends - begins) / 2


def new_authority(now: datetime) -> Pair:
    """A new authority, valid from now on."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _builder(_NAME, _NAME, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(signs_certificates=True), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Pair(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), _pem(key))


def server_pair(authority: Pair, names: Sequence[str], now: datetime, life: timedelta) -> Pair:
    """A new key and its certificate for a server that is reached by these DNS names and addresses, the first in its subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(_server(authority, key.public_key(), names, now, life), _pem(key))


def client_pair(authority: Pair, uri: str, now: datetime, life: timedelta) -> Pair:
    """A new key and its certificate for a client that is `uri`."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(_client(authority, key.public_key(), uri, now, life), _pem(key))


def client_certificate(authority: Pair, request: bytes, uri: str, now: datetime, life: timedelta) -> bytes:
    """The certificate (PEM) for the key of a signing request (PEM, PKCS#10). Nothing else is taken from the request. Raises Refused."""
    return _client(authority, _requested(request), uri, now, life)


def server_certificate(authority: Pair, request: bytes, names: Sequence[str], now: datetime, life: timedelta) -> bytes:
    """The same for a server that is reached by these names. Raises Refused."""
    return _server(authority, _requested(request), names, now, life)


def _requested(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        found = x509.load_pem_x509_csr(request) if len(request) <= MAX_REQUEST_BYTES else None
    except ValueError as error:
        raise _bad_request(str(error)) from error
    if found is None:
        raise _bad_request(f"{len(request)} bytes")
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not found.is_signature_valid:
        raise _bad_request("another key, or a signature that is not by it")
    return key


def _bad_request(what: str) -> Refused:
    must = f"must be a certificate signing request (PKCS#10, PEM, at most {MAX_REQUEST_BYTES} bytes) of an ECDSA P-256 key, signed by it"
    return Refused([Fault("body", what[:200], must)])


def _client(authority: Pair, key: ec.EllipticCurvePublicKey, uri: str, now: datetime, life: timedelta) -> bytes:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    return _sign(authority, key, _common(uri.rpartition("/")[2]), name, ExtendedKeyUsageOID.CLIENT_AUTH, now, life)


def _server(authority: Pair, key: ec.EllipticCurvePublicKey, names: Sequence[str], now: datetime, life: timedelta) -> bytes:
    others = x509.SubjectAlternativeName([_name(name) for name in names])
    return _sign(authority, key, _common(names[0]), others, ExtendedKeyUsageOID.SERVER_AUTH, now, life)


def _sign(
    authority: Pair,
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    others: x509.SubjectAlternativeName,
    use: x509.ObjectIdentifier,
    now: datetime,
    life: timedelta,
) -> bytes:
    """A certificate ends with its authority at the latest."""
    issuer, signer = authority.read, load_pem_private_key(authority.key, None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise Corrupt("key of the authority", "must be an ECDSA key")
    made = _builder(subject, issuer.subject, key, now, min(now + life, issuer.not_valid_after_utc))
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(signs_certificates=False), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    made = made.add_extension(others, critical=False)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    return made.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority's key signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # cryptography says ValueError, TypeError or InvalidSignature; each of them is a no
        return False
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
    return made.not_valid_before(now.astimezone(UTC) - SKEW).not_valid_after(ends.astimezone(UTC))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
