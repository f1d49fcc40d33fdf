"""DataBundle: Turtle in, a closed, signed artifact out, with its digest in the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk.api.conditions import ready_of
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.packaging.builds import DataOrder, PublishedData
from knhk.ports.builder import Build
from knhk.reconcilers.context import Journal, Ports, fault_rows, remembered, say, write_status

LOOK_S = 0.05
TRY_AGAIN_S = 1.0
PUBLISHED = "Published"


@dataclass
class BundleReconciler:
    ports: Ports
    journal: Journal
    _builds: dict[Key, tuple[Mapping[str, Any], Build[PublishedData]]] = field(default_factory=dict)

    def converge(self, resource: Resource) -> float | None:
        """Has the data built, signed and published; nothing to do when this generation is. Gives seconds until it is looked at again."""
        self.journal.deliver(resource)
        if _done(resource):
            return None
        if resource.spec.get("suspend"):
            self.gone(resource)
            write_status(self.ports, resource, _before(resource), None, "Suspended", "what is published stays, nothing new is")
            return None
        spec, build = self._builds.get(resource.key) or ({}, None)
        if build is None or spec != resource.spec:
            build = self.ports.builder.data(DataOrder(resource))
            self._builds[resource.key] = (resource.spec, build)
        if not build.done():
            return LOOK_S
        del self._builds[resource.key]
        return self._finished(resource, build)

    def gone(self, resource: Resource) -> None:
        """Forgets the build of a deleted bundle."""
        if resource.key in self._builds:
            self._builds.pop(resource.key)[1].cancel()

    def _finished(self, resource: Resource, build: Build[PublishedData]) -> float | None:
        try:
            self._published(resource, build.result())
        except Refused as refused:
            rows, message = fault_rows(refused)
            write_status(self.ports, resource, {**_before(resource), "faults": rows}, False, "Refused", message)
        except (Waiting, Stalled) as error:
            write_status(self.ports, resource, _before(resource), None, error.reason, f"{error}; it is tried again")
            return max(TRY_AGAIN_S, getattr(error, "retry_after_s", 0.0))
        except OSError as error:
            write_status(self.ports, resource, _before(resource), None, "PublishFailed", f"{error}; it is tried again")
            return TRY_AGAIN_S
        return None

    def _published(self, resource: Resource, made: PublishedData) -> None:
        ports = self.ports
        now = rfc3339(ports.clock.now_ns())
        version = resource.spec["version"]
        name = f"data/{resource.namespace}/{resource.name}@{version}"
        event = PolicyEvent(
            "DataPublished", (name, made.digest), ports.actor, now, evidence={"image": made.image, "inputs": made_of(resource)}
        )
        history = remembered(resource.status, f"sha256:{made.digest}", "Published", now, version)
        status: dict[str, Any] = {"digest": f"sha256:{made.digest}", "image": made.image, "version": version, "built": now}
        status["history"] = history
        status = self.journal.pend({**_kept(resource), **status}, event)
        resource = write_status(ports, resource, status, True, PUBLISHED, f"{version} is published")
        say(ports, resource.key, "Published", f"data bundle {version}, sha256:{made.digest[:12]}")
        self.journal.deliver(resource)


def made_of(bundle: Resource) -> str:
    """SHA-256 over what a published bundle is made of, as its spec says it."""
    return sha256_hex(canonical({name: bundle.spec[name] for name in ("version", "source", "callerTemplate") if name in bundle.spec}))


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
    ready = ready_of(resource.status)
    return ready if ready.get("observedGeneration") == resource.generation else {"status": "Unknown"}


def _before(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k != "conditions"}


def _kept(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k == "pending"}
