"""A serving certificate in files, as a mounted Secret (cert-manager's, or anybody's) is renewed: by other content under the same names."""

from __future__ import annotations

import logging
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from knhk.model.faults import Stalled, Waiting

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


@dataclass
class ClientFiles:
    """The TLS context of a client: what `files` hold is shown, their authorities are trusted. Others renew them: each `look` takes what is
    there now; while that is nothing, or no certificate, the one before stays."""

    files: CertificateFiles
    log: logging.Logger
    _taken: Served | None = None
    _context: ssl.SSLContext | None = None
    _why: str = field(default="not looked at yet")

    def __call__(self) -> ssl.SSLContext:
        """Another one after each renewal, so that no connection of before is used on. Raises Waiting while there never was one."""
        if self._context is None:
            raise Waiting("NoCertificate", self._why, 1.0)
        return self._context

    def look(self) -> None:
        """Says once what is wrong."""
        try:
            found = self.files.current()
            if found != self._taken:
                self._context, self._taken, self._why = _client_context(found), found, ""
        except Stalled as error:
            if self._why != str(error):
                self.log.warning("what is shown to servers is not renewed: %s", error)
            self._why = str(error)


def _client_context(served: Served) -> ssl.SSLContext:
    """Raises Stalled."""
    try:
        context = ssl.create_default_context(cadata=served.authority.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise Stalled("NoCertificate", f"the authorities must be PEM: {error}") from error
    load(context, served)
    return context


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
