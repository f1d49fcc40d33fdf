"""The certificate that a server of ours shows: from files (knhk.adapters.certificate_files), or from our own authority."""

from __future__ import annotations

from typing import Protocol

from knhk.adapters.certificate_files import Served
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.ports.clock import Clock

ASKED_EVERY_NS = 300 * 10**9


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
