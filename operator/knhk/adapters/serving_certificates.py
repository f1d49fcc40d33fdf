"""TLS inside the cluster: our own authority in Secret `knhk-ca`, one Secret `SERVICE-tls` for each server, and what clients trust in
ConfigMap `knhk-trust`.

Any number of replicas may call this: whoever writes first wins, the others take what it wrote. The authority is followed by the next
one at half of its life: the next is trusted for OVERLAP before it signs, the one before until it ends, so that no connection fails
while what is trusted spreads.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from knhk.adapters.certificates import Pair, client_pair, is_half_over, is_issued_by, new_authority, read_certificate, server_pair
from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.model.faults import Conflict, Corrupt, NotFound, Waiting
from knhk.ports.clock import Clock

AUTHORITY, TRUST = "knhk-ca", "knhk-trust"
OVERLAP = timedelta(days=7)
SERVER_LIFE, CLIENT_LIFE, KEPT_CLIENT_LIFE = timedelta(days=90), timedelta(hours=24), timedelta(days=7)
ATTEMPTS = 8
_LABELS = {"app.kubernetes.io/name": "knhk", "app.kubernetes.io/part-of": "knhk", "app.kubernetes.io/managed-by": "knhk"}
Data = Mapping[str, bytes]


@dataclass(frozen=True)
class Authority:
    """Who signs now, and the certificates (PEM) that are trusted: of this one, the next one, and the one before."""

    pair: Pair
    trusted: tuple[bytes, ...]

    @property
    def bundle(self) -> bytes:
        """ca.crt."""
        return b"".join(self.trusted)


class ServingCertificates:
    """Safe from any thread. Errors: as KubeClient, Corrupt for Secrets that hold something else."""

    def __init__(self, client: KubeClient, namespace: str, clock: Clock) -> None:
        """`namespace`: that of our own components."""
        self._client, self._namespace, self._clock = client, namespace, clock

    def authority(self) -> Authority:
        """The authority, made or followed by its next one when that is due."""
        data = self._keep(AUTHORITY, self._next_authority)
        trusted = [data[name] for name in ("ca.crt", "next.crt", "previous.crt") if name in data]
        return Authority(Pair(_of(data, "ca.crt"), _of(data, "ca.key")), tuple(trusted))

    def leaf(self, service: str, also: Sequence[str] = ()) -> Pair:
        """What the server behind `service` shows: valid for the Service's names and for `also` (names, addresses). Made anew at half of
        its life, when it lacks a name, or when its authority is trusted no more; who serves asks again now and then (hourly)."""
        authority = self.authority()
        cluster = f"{service}.{self._namespace}.svc"
        names = tuple(dict.fromkeys((cluster, service, f"{service}.{self._namespace}", f"{cluster}.cluster.local", *also)))

        def wanted(before: Data) -> Data:
            if before and not self._is_over(before, authority, names):
                return before
            made = server_pair(authority.pair, names, self._now(), SERVER_LIFE)
            return {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": authority.bundle, "names": "\n".join(names).encode()}

        data = self._keep(f"{service}-tls", wanted)
        return Pair(_of(data, "tls.crt"), _of(data, "tls.key"))

    def client(self, component: str) -> Pair:
        """A certificate for one of our own components as a client, for CLIENT_LIFE; kept nowhere."""
        return client_pair(self.authority().pair, component_uri(component), self._now(), CLIENT_LIFE)

    def kept_client(self, component: str) -> Pair:
        """A certificate for a component as a client that cannot ask: in Secret `COMPONENT-client`, made anew at half of its life."""
        authority = self.authority()

        def wanted(before: Data) -> Data:
            if before and not self._is_over(before, authority, (component,)):
                return before
            made = client_pair(authority.pair, component_uri(component), self._now(), KEPT_CLIENT_LIFE)
            return {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": authority.bundle, "names": component.encode()}

        data = self._keep(f"{component}-client", wanted)
        return Pair(_of(data, "tls.crt"), _of(data, "tls.key"))

    def publish_trust(self, root_pub: bytes, namespace: str | None = None, registry_ca: bytes = b"") -> None:
        """Writes what clients in `namespace` (by default ours) trust: ca.crt, root.pub, which agents pin, and of the registry, if it has
        authorities of its own, registry.crt."""
        where = namespace or self._namespace
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST, "namespace": where, "labels": _LABELS},
            "data": {
                "ca.crt": self.authority().bundle.decode(),
                "root.pub": root_pub.decode(),
                **({"registry.crt": registry_ca.decode()} if registry_ca else {}),
            },
        }
        query = {"fieldManager": "knhk", "force": "true"}
        self._client.call("PATCH", f"/api/v1/namespaces/{where}/configmaps/{TRUST}", query, document, APPLY)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC)

    def _is_over(self, data: Data, authority: Authority, names: Sequence[str]) -> bool:
        found = read_certificate(_of(data, "tls.crt"))
        known = any(is_issued_by(found, read_certificate(pem)) for pem in authority.trusted)
        told = data.get("ca.crt") == authority.bundle and data.get("names", b"").decode().splitlines() == list(names)
        return not known or not told or is_half_over(found, self._now())

    def _next_authority(self, before: Data) -> Data:
        now = self._now()
        if not before or read_certificate(_of(before, "ca.crt")).not_valid_after_utc <= now:
            made = new_authority(now)
            return {"ca.crt": made.certificate, "ca.key": made.key}
        data = dict(before)
        if "previous.crt" in data and read_certificate(data["previous.crt"]).not_valid_after_utc <= now:
            del data["previous.crt"]
        if "next.crt" in data:
            if now >= read_certificate(data["next.crt"]).not_valid_before_utc + OVERLAP:
                following = {"ca.crt": data.pop("next.crt"), "ca.key": _of(data, "next.key"), "previous.crt": data["ca.crt"]}
                data |= following
                del data["next.key"]
        elif is_half_over(read_certificate(data["ca.crt"]), now):
            made = new_authority(now)
            data |= {"next.crt": made.certificate, "next.key": made.key}
        return data

    def _keep(self, name: str, wanted: Callable[[Data], Data]) -> Data:
        """The data of a Secret, brought to what `wanted` makes of them ({}: there is none)."""
        path = f"/api/v1/namespaces/{self._namespace}/secrets"
        for _ in range(ATTEMPTS):
            try:
                document: dict[str, Any] = self._client.call("GET", f"{path}/{name}")
            except NotFound:
                document = {}
            before = {key: base64.b64decode(value) for key, value in (document.get("data") or {}).items()}
            data = wanted(before)
            if data == before:
                return data
            try:
                self._write(path, name, document, data)
                return data
            except Conflict:
                continue  # somebody else wrote: that counts
        raise Waiting("Contended", f"Secret {name} changed {ATTEMPTS} times while it was written", 1.0)

    def _write(self, path: str, name: str, before: Mapping[str, Any], data: Data) -> None:
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        if before:
            self._client.call("PUT", f"{path}/{name}", body={**before, "data": encoded})
            return
        metadata = {"name": name, "namespace": self._namespace, "labels": _LABELS}
        self._client.call(
            "POST", path, body={"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}
        )


def component_uri(component: str) -> str:
    """Who one of our own components is in a client's certificate."""
    return f"spiffe://knhk.dev/component/{component}"


def _of(data: Data, name: str) -> bytes:
    if name not in data:
        raise Corrupt(f"Secret: {name}", "must be there; delete the Secret to have it made anew")
    return data[name]
