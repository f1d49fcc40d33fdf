"""The certificate that a server of ours shows: in files, as a mounted Secret (cert-manager's, or anybody's) is renewed, or from our own
authority."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from knhk.adapters.serving_certificates import ServingCertificates
from knhk.model.faults import Stalled
from knhk.ports.clock import Clock

ASKED_EVERY_NS = 300 * 10**9


@dataclass(frozen=True)
class Served:
    """Certificate chain, private key and the authorities that clients must trust, PEM."""

    chain: bytes
    key: bytes
    authority: bytes


class Certificates(Protocol):
    """May block."""

    def current(self) -> Served:
        """What is to be shown now. Raises Stalled and Waiting."""
        ...


class OwnCertificates:
    """From our own authority, which is made when there is none; asked for again every five minutes. One thread."""

    def __init__(self, source: ServingCertificates, service: str, also: tuple[str, ...], clock: Clock) -> None:
        self._source, self._service, self._also, self._clock = source, service, also, clock
        self._known: tuple[int, Served] | None = None

    def current(self) -> Served:
        """See Certificates."""
        now = self._clock.monotonic_ns()
        if self._known is None or now - self._known[0] > ASKED_EVERY_NS:
            pair = self._source.leaf(self._service, self._also)
            self._known = now, Served(pair.certificate, pair.key, self._source.authority().bundle)
        return self._known[1]


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
