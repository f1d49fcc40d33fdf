"""Who this pod is to servers of ours: the token of its service account, and a client's certificate that the exchange gives for it."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file

MAX_TOKEN_BYTES = 8192
Stamp = tuple[int, int] | None


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


class Identity:
    """`token_file` and `ca_file` are read anew when they change; both rotate. The certificate lies in `folder`/client.pem, so that a
    restarted agent has one while the exchange is away."""

    def __init__(self, token_file: Path, ca_file: Path, folder: Path) -> None:
        self._token_file, self._ca_file, self._pem = token_file, ca_file, folder / "client.pem"
        self._made: dict[bool, tuple[tuple[Stamp, Stamp], ssl.SSLContext]] = {}

    def authorization(self) -> dict[str, str]:
        """The header that says who asks. Raises OSError and Corrupt."""
        token = self._token_file.read_bytes()[: MAX_TOKEN_BYTES + 1].strip()
        if not 0 < len(token) <= MAX_TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
            raise Corrupt(str(self._token_file), "must hold one token")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    def trusting(self) -> ssl.SSLContext:
        """For servers of ours that take a token. Raises OSError."""
        return self._context(False)

    def known(self) -> ssl.SSLContext:
        """For servers of ours that want a client's certificate. Raises OSError while there is none."""
        return self._context(True)

    def _context(self, shows: bool) -> ssl.SSLContext:
        stamps = _stamp(self._ca_file), _stamp(self._pem) if shows else None
        if shows not in self._made or self._made[shows][0] != stamps:
            context = ssl.create_default_context(cafile=self._ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if shows:
                context.load_cert_chain(self._pem)
            self._made[shows] = stamps, context
        return self._made[shows][1]

    def authorities(self) -> bytes:
        """Those that servers of ours are trusted by, PEM. Raises OSError."""
        return self._ca_file.read_bytes()

    def is_due(self, now: datetime) -> bool:
        """Whether a new certificate is to be asked for: there is none, or half of its life is over."""
        try:
            found = x509.load_pem_x509_certificate(self._pem.read_bytes())
        except (OSError, ValueError):
            return True
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        return not begins <= now < begins + (ends - begins) / 2

    def request(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """A new key, and the request (PEM) for its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        return key, made.public_bytes(Encoding.PEM)

    def take(self, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> None:
        """Keeps a certificate for the key, from the next connection on. Raises Corrupt, OSError."""
        pem = key_of(key, certificate)
        os.makedirs(self._pem.parent, mode=0o700, exist_ok=True)
        replace_file(self._pem, pem + certificate)


def key_of(key: ec.EllipticCurvePrivateKey, certificate: bytes) -> bytes:
    """The key (PEM) of a certificate that was asked for. Raises Corrupt when the certificate is none for it."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise Corrupt("certificate", f"must be X.509 in PEM: {error}") from error
    if found.public_key() != key.public_key() or found.not_valid_after_utc <= datetime.now(UTC):
        raise Corrupt("certificate", "must be for the key that was asked for, and not be over")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
