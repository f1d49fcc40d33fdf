"""A serving certificate in files, as a mounted Secret (cert-manager's, or anybody's) is renewed: by other content under the same names."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Stalled

_SERVING = Path("/etc/knhk/serving")  # Secret knhk-COMPONENT-tls, which the operator keeps renewed
MOUNTED = (  # option, where a component's pod has it, and what it is
    ("certificate", _SERVING / "tls.crt", "certificate chain that it shows"),
    ("key", _SERVING / "tls.key", "its private key"),
    ("authority", _SERVING / "ca.crt", "the authorities that signed it"),
)


@dataclass(frozen=True)
class Served:
    """Certificate chain, private key and the authorities that clients must trust, PEM."""

    chain: bytes
    key: bytes
    authority: bytes


@dataclass(frozen=True)
class CertificateFiles:
    """Reads them anew each time."""

    chain: Path
    key: Path
    authority: Path

    def current(self) -> Served:
        """What is there now. Raises Stalled."""
        try:
            return Served(self.chain.read_bytes(), self.key.read_bytes(), self.authority.read_bytes())
        except OSError as error:
            raise Stalled("NoCertificate", f"{error.filename}: must be a readable PEM file: {error.strerror}") from error


def load(context: ssl.SSLContext, served: Served) -> None:
    """The context shows this from now on; its authorities are not looked at. Raises Stalled. ssl reads files only: the key is in one that
    this user alone can read, for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        key.touch(mode=0o600)
        chain.write_bytes(served.chain)
        key.write_bytes(served.key)
        try:
            context.load_cert_chain(chain, key)
        except (ssl.SSLError, ValueError) as error:
            raise Stalled("NoCertificate", f"the certificate and its key must be PEM and belong together: {error}") from error
