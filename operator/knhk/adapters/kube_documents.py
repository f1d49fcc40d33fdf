"""Resources as the API server spells them, and where they lie there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from knhk.api import KINDS, to_document
from knhk.api.check import completed
from knhk.api.kinds.common import UNSEEN
from knhk.model.resource import API_VERSION, Key, Resource

BASE = f"/apis/{API_VERSION}"
HOLD = "knhk.dev/receipts"  # the finalizer of what still owes receipts


def collection(kind: str, namespace: str | None = None) -> str:
    """Path of the objects of a kind, in one namespace or in all."""
    plural = KINDS[kind].plural
    return f"{BASE}/{plural}" if namespace is None else f"{BASE}/namespaces/{namespace}/{plural}"


def place(key: Key) -> str:
    """Path of an object."""
    return f"{collection(key.kind, key.namespace)}/{key.name}"


def resource_of(document: Mapping[str, Any]) -> Resource:
    """The resource in an answer. The API server has judged it and filled in its defaults, but for those in items of lists; it is not judged
    again."""
    spec = completed(KINDS[document["kind"]].spec, document.get("spec") or {})
    return replace(head_of(document["kind"], document["metadata"]), spec=spec, status=_status(document.get("status") or {}))


def _status(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was written: the definition's default says that nothing was."""
    return {name: value for name, value in document.items() if (name, value) not in UNSEEN.items()}


def head_of(kind: str, metadata: Mapping[str, Any]) -> Resource:
    """The resource with this metadata, without spec and status."""
    return Resource(
        kind=kind,
        namespace=metadata["namespace"],
        name=metadata["name"],
        spec={},
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=int(metadata.get("generation", 0)),
        created=metadata["creationTimestamp"],
        held=HOLD in metadata.get("finalizers", ()),
    )


def leaves(document: Mapping[str, Any]) -> bool:
    """Whether the object is deleted, and only waits for finalizers."""
    return "deletionTimestamp" in document["metadata"]


def hold_document(resource: Resource, *, hold: bool) -> dict[str, Any]:
    """What applies our finalizer, or no longer, to this very object; checked against its version when it has one."""
    metadata: dict[str, Any] = {"name": resource.name, "namespace": resource.namespace, "uid": resource.uid}
    if resource.resource_version:
        metadata["resourceVersion"] = resource.resource_version
    if hold:
        metadata["finalizers"] = [HOLD]
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata}


def new_document(resource: Resource) -> dict[str, Any]:
    """What creates a resource."""
    document = to_document(resource)
    kept = {name: document["metadata"][name] for name in ("name", "namespace", "labels", "annotations") if name in document["metadata"]}
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": kept, "spec": document["spec"]}


def changed_document(before: Mapping[str, Any], resource: Resource) -> dict[str, Any]:
    """What stands there, with spec, labels and annotations of `resource` in place of its own; owners and finalizers stay."""
    own = {"labels": dict(resource.labels), "annotations": dict(resource.annotations)}
    metadata = {**before["metadata"], **own}
    if resource.resource_version:
        metadata["resourceVersion"] = resource.resource_version
    return {**before, "metadata": metadata, "spec": dict(resource.spec)}


def status_document(resource: Resource) -> dict[str, Any]:
    """What applies the status of a resource, checked against its version when it has one."""
    metadata = {"name": resource.name, "namespace": resource.namespace}
    if resource.resource_version:
        metadata["resourceVersion"] = resource.resource_version
    return {"apiVersion": API_VERSION, "kind": resource.kind, "metadata": metadata, "status": dict(resource.status)}
