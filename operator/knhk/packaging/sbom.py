"""Software bill of materials of an image: CycloneDX 1.6 (ECMA-424), JSON."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Protocol

from knhk.model.canonical import canonical
from knhk.model.oci import SBOM, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk.packaging.materials import COMPILER, PLAN, SOURCE, Material

NAMESPACE = uuid.UUID("5d6f2ad0-9f54-5b0a-9a44-6b6e686b0001")


class Named(Protocol):
    """What an image is called."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


def document(image: Artifact, named: Named, materials: Iterable[Material]) -> bytes:
    """The BOM as canonical JSON; its serial number follows from the image digest, so equal images have equal BOMs."""
    main = {
        "type": "application",
        "bom-ref": "image",
        "group": named.namespace,
        "name": named.name,
        "version": named.version,
        "hashes": _hashes(image.digest.removeprefix("sha256:")),
    }
    components = [_component(m) for m in sorted(materials)]
    return canonical(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": uuid.uuid5(NAMESPACE, image.digest).urn,
            "version": 1,
            "metadata": {"component": main},
            "components": components,
            "dependencies": [{"ref": "image", "dependsOn": [c["bom-ref"] for c in components]}],
        }
    )


def attached(image: Artifact, named: Named, materials: Iterable[Material]) -> Artifact:
    """The BOM as a referrer of the image."""
    blob = Blob(SBOM, document(image, named, materials))
    return manifest(SBOM, [layer(blob, "sbom.cdx.json")], (blob,), image)


def _component(material: Material) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": _kind(material),
        "bom-ref": material.name,
        "name": material.name,
        "hashes": _hashes(material.sha256),
    }
    if material.version:
        made["version"] = material.version
    made |= {"purl": material.uri} if material.uri.startswith("pkg:") else {"description": material.uri}
    return made


def _kind(material: Material) -> str:
    if material.name.startswith(SOURCE) or material.name == PLAN:
        return "data"
    return "application" if material.name == COMPILER else "library"


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
