"""A serving certificate in files, as a mounted Secret (cert-manager's, or anybody's) is renewed: by other content under the same names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Stalled


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
