"""What an Envoy of a point shows to who asks it, and whose certificates it takes, in files that it follows (SDS): a rename brings what is
new to its next connections, and nothing is started anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from knhk_runtime.durable import replace_file

IDENTITY, AUTHORITIES = "identity.json", "authorities.json"
_SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True)
class Serving:
    """A folder with both files; whoever reads it has the key."""

    folder: Path

    @property
    def files(self) -> Mapping[str, str]:
        """As Envoy's bootstrap names them."""
        return {"identity": str(self.folder / IDENTITY), "authorities": str(self.folder / AUTHORITIES)}

    def is_due(self, authorities: bytes, now: datetime) -> bool:
        """Whether a new certificate is to be had: there is none, half of its life is over, or none of the authorities (PEM) signed it."""
        try:
            secret = json.loads((self.folder / IDENTITY).read_bytes())["resources"][0]["tls_certificate"]
            found = x509.load_pem_x509_certificate(secret["certificate_chain"]["inline_string"].encode())
            trusted = x509.load_pem_x509_certificates(authorities)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return True
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        return not begins <= now < begins + (ends - begins) / 2 or not any(_issued(found, by) for by in trusted)

    def show(self, certificate: bytes, key: bytes) -> None:
        """From the next connection on. Raises OSError."""
        chain, private = {"inline_string": certificate.decode("ascii")}, {"inline_string": key.decode("ascii")}
        self._put(IDENTITY, {"tls_certificate": {"certificate_chain": chain, "private_key": private}})

    def trust(self, authorities: bytes) -> None:
        """Who signs for those that may ask. Raises OSError."""
        self._put(AUTHORITIES, {"validation_context": {"trusted_ca": {"inline_string": authorities.decode("ascii", "replace")}}})

    def _put(self, name: str, secret: Mapping[str, Any]) -> None:
        path = self.folder / name
        text = json.dumps({"resources": [{"@type": _SECRET, "name": path.stem, **secret}]}).encode()
        if not path.exists() or path.read_bytes() != text:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, text)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
