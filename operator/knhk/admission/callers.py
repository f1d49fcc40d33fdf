"""Who may ask: an API server that shows a certificate, where whoever runs it has given it one (--admission-control-config-file). Without
that any pod may, for an API server comes from no pod and has no name."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.adapters.front_proxy import common_name
from knhk.model.faults import Stalled


@dataclass(frozen=True)
class Callers:
    """Certificates by `authority` (PEM) count, of these common names; of all names where there are none. Health and metrics are for all."""

    authority: Path
    names: frozenset[str] = frozenset()

    def ask(self, context: ssl.SSLContext) -> None:
        """New connections are asked for a certificate; one by another authority ends them. Raises Stalled."""
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise Stalled("NoAuthority", f"{self.authority}: must be a readable PEM file of authorities: {error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL

    def doubt(self, certificate: Mapping[str, Any] | None) -> str:
        """Why whoever shows this certificate, as `ssl` tells it, must not ask; empty when it may."""
        if not certificate:
            return "a client certificate must be shown: the API server's, by its --admission-control-config-file"
        name = common_name(certificate)
        return (
            ""
            if not self.names or name in self.names
            else f"the client certificate must be of {', '.join(sorted(self.names))}, not {name!r}"
        )
