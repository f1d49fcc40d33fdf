"""DataBundle: Turtle in, a closed, signed artifact out, with its digest in the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.lockchain import PolicyEvent
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Refused
from knhk.model.resource import Resource
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.building import Data, publish_data
from knhk.reconcilers.context import Journal, Ports, fault_rows, remembered, rfc3339, say, write_status

TRY_AGAIN_S = 1.0


@dataclass(frozen=True)
class BundleReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Builds, signs and publishes the data; nothing to do when this generation is built. Gives seconds until it is tried again."""
        self.journal.deliver(resource)
        if _done(resource):
            return None
        if resource.spec.get("suspend"):
            write_status(self.ports, resource, _before(resource), None, "Suspended", "what is published stays, nothing new is")
            return None
        try:
            data = bundle_bytes(resource)
        except Refused as refused:
            rows, message = fault_rows(refused)
            write_status(self.ports, resource, {**_before(resource), "faults": rows}, False, "Refused", message)
            return None
        try:
            self._publish(resource, data)
        except OSError as error:
            write_status(self.ports, resource, _before(resource), None, "PublishFailed", f"{error}; it is tried again")
            return TRY_AGAIN_S
        return None

    def _publish(self, resource: Resource, data: bytes) -> None:
        ports = self.ports
        now = rfc3339(ports.clock.now_ns())
        image = publish_data(Data(resource.namespace, resource.name, data), ports.registry, ports.signer)
        digest = sha256_hex(data)
        version = resource.spec["version"]
        name = f"data/{resource.namespace}/{resource.name}@{version}"
        event = PolicyEvent("DataPublished", (name, digest), ports.actor, now, evidence={"image": image.digest})
        history = remembered(resource.status, f"sha256:{digest}", "Published", now, version)
        status: dict[str, Any] = {"digest": f"sha256:{digest}", "image": image.digest, "version": version, "built": now, "history": history}
        status = self.journal.pend({**_kept(resource), **status}, event)
        resource = write_status(ports, resource, status, True, "Published", f"{version} is published")
        say(ports, resource.key, "Published", f"data bundle {version}, sha256:{digest[:12]}")
        self.journal.deliver(resource)


def _done(resource: Resource) -> bool:
    """Whether this generation is published, or refused."""
    return _ready(resource)["status"] != "Unknown"


def is_published(resource: Resource) -> bool:
    """Whether what a bundle says now is published."""
    return _ready(resource)["status"] == "True"


def refusal(resource: Resource) -> str:
    """Why what a bundle says now is refused; empty when it is not."""
    ready = _ready(resource)
    return ready["message"] if ready["status"] == "False" else ""


def _ready(resource: Resource) -> Mapping[str, str]:
    """The condition Ready of this generation."""
    found = (c for c in resource.status.get("conditions", ()) if c["type"] == "Ready")
    return next((c for c in found if c["observedGeneration"] == resource.generation), {"status": "Unknown"})


def _before(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k != "conditions"}


def _kept(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k == "pending"}
