"""Images of packs (formats/pack.md) and data bundles (formats/bundle.md). No clock, no names of machines: same parts, same digest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from knhk.model.arrows import GuardPlan, SharedObject
from knhk.model.canonical import canonical
from knhk.model.oci import (
    BUNDLE,
    BUNDLE_FILE,
    EMPTY_BLOB,
    INDEX,
    MANIFEST,
    PACK,
    PACK_PLAN,
    PACK_SO,
    Artifact,
    Blob,
)

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
PACK_NAME = "dev.knhk.pack"
PLAN_DIGEST = "dev.knhk.plan"
BUNDLE_NAME = "dev.knhk.bundle"


def layer(blob: Blob, title: str) -> dict[str, Any]:
    """Descriptor of a layer that is one file named `title`."""
    return blob.descriptor(annotations={TITLE: title})


def manifest(
    artifact_type: str,
    layers: Sequence[Mapping[str, Any]],
    blobs: Iterable[Blob],
    subject: Artifact | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Artifact:
    """An OCI manifest over `layers` with the empty config; a referrer when it has a subject."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": EMPTY_BLOB.descriptor(),
        "layers": list(layers),
    }
    if subject is not None:
        document["subject"] = subject.root.descriptor()
    if annotations:
        document["annotations"] = dict(annotations)
    digest = None if subject is None else subject.digest
    return Artifact(
        Blob(MANIFEST, canonical(document)),
        artifact_type,
        (EMPTY_BLOB, *blobs),
        digest,
        annotations or {},
    )


def pack_image(plan: GuardPlan, objects: Iterable[SharedObject]) -> Artifact:
    """The image index over one manifest per architecture, in order of architecture."""
    pack = plan.document["pack"]
    plan_blob = Blob(PACK_PLAN, plan.canonical())
    blobs: list[Blob] = [EMPTY_BLOB, plan_blob]
    entries: list[dict[str, Any]] = []
    for shared in sorted(objects, key=lambda s: s.arch):
        so = Blob(PACK_SO, shared.data)
        made = manifest(PACK, [layer(so, "pack.so"), layer(plan_blob, "plan.json")], (so, plan_blob))
        blobs += [so, made.root]
        platform = {"architecture": shared.arch, "os": "linux"}
        entries.append(made.root.descriptor(artifactType=PACK, platform=platform))
    notes = {
        PACK_NAME: f"{pack['namespace']}/{pack['name']}",
        VERSION: pack["version"],
        PLAN_DIGEST: f"sha256:{plan.digest}",
    }
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "artifactType": PACK,
        "manifests": entries,
        "annotations": notes,
    }
    return Artifact(Blob(INDEX, canonical(index)), PACK, tuple(blobs), None, notes)


def bundle_image(namespace: str, name: str, data: bytes) -> Artifact:
    """A data bundle as a manifest with one layer, whose digest is what O carries."""
    blob = Blob(BUNDLE_FILE, data)
    return manifest(BUNDLE, [layer(blob, "data.bnd")], (blob,), annotations={BUNDLE_NAME: f"{namespace}/{name}"})


def tag_of(namespace: str, name: str, version: str) -> str:
    """The tag under which a version of a pack is listed: `NAMESPACE/NAME:VERSION`."""
    return f"{namespace}/{name}:{version}"
