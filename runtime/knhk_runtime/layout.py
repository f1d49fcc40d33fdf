"""Reading an OCI image layout (image-spec 1.1) with every byte checked against its digest. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt
from knhk.model.oci import DIGEST, Descriptor

SUBJECT = "dev.knhk.subject"
REF_NAME = "org.opencontainers.image.ref.name"
MAX_BLOB_BYTES = 256 << 20
MAX_INDEX_BYTES = 64 << 20
MAX_MANIFEST_BYTES = 4 << 20  # what the distribution specification expects registries to take


class Layout:
    """A folder with `oci-layout`, `index.json` and `blobs/sha256`. Readers need no lock: writers rename."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob_path(self, digest: str) -> Path:
        """Where the blob of a well-formed digest lies. Raises Corrupt for any other text."""
        if not DIGEST.fullmatch(digest):
            raise Corrupt(
                str(self.folder),
                f"digest {digest[:100]!r} must be sha256: and 64 hexadecimal digits",
            )
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def read(self, digest: str, most: int = MAX_BLOB_BYTES) -> bytes:
        """The blob's bytes, `most` at most. Raises Corrupt, naming the file and both digests, when they differ, or when it is missing."""
        path = self.blob_path(digest)
        try:
            if path.stat().st_size > most:
                raise Corrupt(str(path), f"must be at most {most} bytes")
            data = path.read_bytes()
        except FileNotFoundError:
            raise Corrupt(str(path), f"blob {digest} is missing") from None
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise Corrupt(str(path), f"digest is {found}, must be {digest}")
        return data

    def holds(self, wanted: Descriptor) -> bool:
        """Whether the blob of a descriptor lies here whole; read piece by piece."""
        path = self.blob_path(wanted.digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                return file.tell() == wanted.size and found == path.name
        except FileNotFoundError:
            return False

    def read_json(self, digest: str) -> dict[str, Any]:
        """A manifest or index. Raises Corrupt."""
        return parse_object(self.read(digest, MAX_MANIFEST_BYTES), str(self.blob_path(digest)))

    def entries(self) -> tuple[Descriptor, ...]:
        """What `index.json` lists, tags as annotations. A folder without `index.json` lists nothing. Raises Corrupt."""
        path = self.folder / "index.json"
        try:
            if path.stat().st_size > MAX_INDEX_BYTES:
                raise Corrupt(str(path), f"must be at most {MAX_INDEX_BYTES} bytes")
            data = path.read_bytes()
        except FileNotFoundError:
            return ()
        index = parse_object(data, str(path))
        manifests = index.get("manifests")
        if index.get("schemaVersion") != 2 or not isinstance(manifests, list):
            raise Corrupt(str(path), "must be an OCI image index: schemaVersion 2 and a list of manifests")
        return tuple(descriptor(item, f"{path}: manifests[{i}]") for i, item in enumerate(manifests))

    def referrers(self, digest: str, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Entries whose subject is `digest`, each once, in order of digest."""
        found = {e.digest: e for e in self.entries() if e.annotations.get(SUBJECT) == digest}
        return tuple(found[d] for d in sorted(found) if artifact_type in (None, found[d].artifact_type))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises Corrupt with the place."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(where, f"must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise Corrupt(where, "must be a JSON object")
    return value


def descriptor(item: object, where: str) -> Descriptor:
    """An OCI descriptor. Raises Corrupt with the place."""
    if not isinstance(item, dict):
        raise Corrupt(where, "must be an OCI descriptor")
    digest, size, media = item.get("digest"), item.get("size"), item.get("mediaType")
    notes = item.get("annotations", {})
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Corrupt(where, "digest must be sha256: and 64 hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not isinstance(media, str) or not _texts(notes):
        raise Corrupt(where, "must have mediaType, size and annotations of text")
    return Descriptor(media, digest, size, str(item.get("artifactType", "")), notes, _embedded(item.get("data"), digest))


def _embedded(data: object, digest: str) -> bytes:
    """What a descriptor carries of what it names, when it is that; else nothing, and it must be fetched."""
    try:
        found = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
    except ValueError:
        return b""
    return found if found and f"sha256:{hashlib.sha256(found).hexdigest()}" == digest else b""


def children(manifest: Mapping[str, Any], where: str) -> Iterable[Descriptor]:
    """What a manifest or index refers to, its subject left out."""
    for key in ("manifests", "layers"):
        items = manifest.get(key, [])
        if not isinstance(items, list):
            raise Corrupt(where, f"{key} must be a list")
        yield from (descriptor(item, f"{where}: {key}[{i}]") for i, item in enumerate(items))
    if "config" in manifest:
        yield descriptor(manifest["config"], f"{where}: config")


def _texts(notes: object) -> bool:
    return isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())
