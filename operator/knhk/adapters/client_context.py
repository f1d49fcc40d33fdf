"""TLS contexts with certificates that are in memory and change: one of our components as a client of another."""

from __future__ import annotations

import ssl
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path

from knhk.adapters.certificates import Pair, is_half_over
from knhk.adapters.serving_certificates import ServingCertificates
from knhk.ports.clock import Clock


def show(context: ssl.SSLContext, pair: Pair) -> None:
    """New connections show this. The key is in a file for a moment, because ssl takes only files."""
    with tempfile.TemporaryDirectory(prefix="knhk-") as folder:
        path = Path(folder) / "pair.pem"
        path.touch(0o600)
        path.write_bytes(pair.certificate + pair.key)
        context.load_cert_chain(path)


class ClientContext:
    """Called for each connection: trusts our authority and shows `component`; made anew at half of its certificate's life. Any thread."""

    def __init__(self, certificates: ServingCertificates, component: str, clock: Clock) -> None:
        self._certificates, self._component, self._clock = certificates, component, clock
        self._lock = threading.Lock()
        self._made: tuple[Pair, ssl.SSLContext] | None = None

    def __call__(self) -> ssl.SSLContext:
        """Errors: as ServingCertificates."""
        with self._lock:
            now = datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)
            if self._made is None or is_half_over(self._made[0].read, now):
                pair = self._certificates.client(self._component)
                context = ssl.create_default_context(cadata=self._certificates.authority().bundle.decode())
                show(context, pair)
                self._made = pair, context
            return self._made[1]
