"""Which commit a resource in the store comes from, by what the control plane itself wrote down: annotations prove nothing, for whoever
writes a resource writes them too."""

from __future__ import annotations

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.commits import Source, source_of_document
from knhk.model.resource import Resource
from knhk.ports.store import Store

SYSTEM = "knhk-system"  # a PolicyRepository of this namespace may write to all


def spec_digest(resource: Resource) -> str:
    """SHA-256 of what a resource says, hexadecimal."""
    return sha256_hex(canonical(resource.spec))


def may_write(repository: Resource, namespace: str) -> bool:
    """Whether a PolicyRepository may write to a namespace: to its own, as whoever made it may; one of the system to all."""
    return repository.namespace in (namespace, SYSTEM)


def source_of(store: Store, resource: Resource) -> Source | None:
    """The commit whose merge brought the resource exactly as it is; None for what was applied by hand, or changed since."""
    digest = spec_digest(resource)
    name = {"kind": resource.kind, "namespace": resource.namespace, "name": resource.name}
    for repository in store.list("PolicyRepository").resources:
        if not may_write(repository, resource.namespace):
            continue
        for row in repository.status.get("applied", ()):
            if row.get("digest") == digest and name.items() <= row.items():
                return _behind(repository, row["commit"])
    return None


def _behind(repository: Resource, commit: str) -> Source:
    rows = repository.status.get("commits", ())
    known = next((row for row in rows if row["commit"] == commit), None)
    return Source(f"{repository.namespace}/{repository.name}", commit) if known is None else source_of_document(known)
