"""Who may ask: an API server that shows a certificate, where whoever runs it has given it one (--admission-control-config-file); where
that cannot be had, one that comes from where API servers are. Without either any pod may, for an API server comes from no pod and has no
name."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from knhk.adapters.front_proxy import common_name
from knhk.model.faults import Stalled

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Callers:
    """Certificates by `authority` (PEM; None: nobody is asked for one) count, of these common names; of all names where there are none.
    Questions count that come from `networks`; from everywhere where there are none. Health and metrics are for all."""

    authority: Path | None = None
    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def ask(self, context: ssl.SSLContext) -> None:
        """New connections are asked for a certificate; one by another authority ends them. Raises Stalled."""
        if self.authority is None:
            return
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise Stalled("NoAuthority", f"{self.authority}: must be a readable PEM file of authorities: {error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL

    def doubt(self, certificate: Mapping[str, Any] | None, address: str) -> str:
        """Why whoever shows this certificate, as `ssl` tells it, and comes from this IP address must not ask; empty when it may."""
        if self.networks and not _lies_in(address, self.networks):
            return f"questions must come from {', '.join(map(str, self.networks))}, not from {address}"
        if self.authority is None:
            return ""
        if not certificate:
            return "a client certificate must be shown: the API server's, by its --admission-control-config-file"
        name = common_name(certificate)
        return (
            ""
            if not self.names or name in self.names
            else f"the client certificate must be of {', '.join(sorted(self.names))}, not {name!r}"
        )


def networks(text: str) -> tuple[Network, ...]:
    """CIDRs by commas; an address stands for itself, and no text for none. ValueError for what is none, also where bits of the host are
    set."""
    return tuple(ip_network(row.strip()) for row in text.split(",")) if text.strip() else ()


def _lies_in(address: str, within: tuple[Network, ...]) -> bool:
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:  # a socket of both families
        found = found.ipv4_mapped
    return any(found in one for one in within)
