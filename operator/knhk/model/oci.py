"""OCI values (image-spec 1.1): blobs, descriptors, artifacts. Media types of formats/pack.md and formats/bundle.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk.model.canonical import sha256_hex

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
PACK = "application/vnd.knhk.pack.v1"
PACK_SO = "application/vnd.knhk.pack.so.v1"
PACK_PLAN = "application/vnd.knhk.pack.plan.v1+json"
BUNDLE = "application/vnd.knhk.bundle.v1"
BUNDLE_FILE = "application/vnd.knhk.bundle.file.v1"
MATERIALS = "application/vnd.knhk.materials.v1"
MATERIAL = "application/vnd.knhk.material.v1"
SBOM = "application/vnd.cyclonedx+json"
SIGNED = "application/vnd.dev.sigstore.bundle.v0.3+json"

PREDICATE = "dev.sigstore.bundle.predicateType"
SIGNATURE_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
PROVENANCE_PREDICATE = "https://slsa.dev/provenance/v1"

ARCHES = ("amd64", "arm64")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """`sha256:` and the SHA-256 of `data`."""
    return f"sha256:{sha256_hex(data)}"


@dataclass(frozen=True)
class Blob:
    """Bytes with a media type, named by their digest."""

    media_type: str
    data: bytes
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.data))

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """The OCI descriptor; `more` adds members, for example annotations."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


EMPTY_BLOB = Blob(EMPTY, b"{}")


@dataclass(frozen=True)
class Artifact:
    """A manifest or index and every blob below it; `subject` is the digest that it refers to, for a referrer."""

    root: Blob
    artifact_type: str
    blobs: tuple[Blob, ...]
    subject: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return self.root.digest


@dataclass(frozen=True)
class Descriptor:
    """An entry of a registry's list. `data`: what it names, where whoever tells of it has read that already."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    data: bytes = field(default=b"", compare=False, repr=False)
