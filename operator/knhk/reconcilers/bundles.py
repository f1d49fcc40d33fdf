"""DataBundle: Turtle in, a closed, signed artifact out, with its digest in the status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from knhk.lockchain import PolicyEvent
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Refused
from knhk.model.resource import Resource
from knhk.reconcilers.admission import bundle_bytes
from knhk.reconcilers.building import publish_bundle
from knhk.reconcilers.context import Journal, Ports, rfc3339, say, write_status


@dataclass(frozen=True)
class BundleReconciler:
    ports: Ports
    journal: Journal

    def converge(self, resource: Resource) -> float | None:
        """Builds, signs and publishes the data; nothing to do when this generation is built. Gives no time to come back."""
        self.journal.deliver(resource)
        if resource.status.get("observedGeneration") == resource.generation:
            return None
        try:
            data = bundle_bytes(resource)
        except Refused as refused:
            faults = [{"where": f.where, "value": f.value, "must": f.must} for f in refused.faults]
            before = {k: v for k, v in resource.status.items() if k != "conditions"}
            message = f"{len(faults)} faults; {faults[0]['where']}: {faults[0]['must']}"
            write_status(self.ports, resource, {**before, "faults": faults[:64]}, False, "Refused", message)
            return None
        self._publish(resource, data)
        return None

    def _publish(self, resource: Resource, data: bytes) -> None:
        ports = self.ports
        now = rfc3339(ports.clock.now_ns())
        image = publish_bundle(resource.namespace, resource.name, data, ports.registry, ports.signer)
        digest = sha256_hex(data)
        version = resource.spec["version"]
        name = f"data/{resource.namespace}/{resource.name}@{version}"
        event = PolicyEvent("DataPublished", (name, digest), ports.actor, now, evidence={"image": image.digest})
        status = {"digest": f"sha256:{digest}", "image": image.digest, "version": version, "built": now}
        status = self.journal.pend({**_kept(resource), **status}, event)
        resource = write_status(ports, resource, status, True, "Published", f"{version} is published")
        say(ports, resource.key, "Published", f"data bundle {version}, sha256:{digest[:12]}")
        self.journal.deliver(resource)


def _kept(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k == "pending"}
