"""From a registry into a local OCI layout: one image by digest, with what a verifier of this architecture needs, whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt, Fault, Refused
from knhk.model.oci import INDEX, MANIFEST, PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob, Descriptor
from knhk_runtime.distribution import Repository, described
from knhk_runtime.layout import SUBJECT, children, parse_object
from knhk_runtime.layout_writer import LayoutWriter
from knhk_runtime.packstore import architecture

MAX_IMAGE_BYTES = 512 << 20


def pull(registry_url: str, digest: str, layout: Path, *, auth: Path | None, tls: Path | None) -> None:
    """Puts the image or bundle `digest` of a registry (`https://HOST[:PORT][/REPOSITORY]`) into the layout (made when missing), where
    knhk_runtime.packstore reads it: index, the manifest of this architecture with its blobs, and signatures.

    `auth`: docker config.json; `tls`: authorities (PEM) beside the system's; both may be None. Every byte is checked against its digest,
    and the list of the layout changes last, in one rename. Repeating it changes nothing, but that new signatures are added; what lies there
    already whole is not fetched again. Verifying signatures is PackStore's part. Blocking: call it from a thread. Raises Waiting (try
    again), Stalled (address, credentials), Corrupt and Refused (what the registry has is not as it must be), OSError (the disk).
    """
    repository = Repository(registry_url, auth, tls)
    try:
        _Pull(repository, LayoutWriter(layout), architecture()).run(digest)
    finally:
        repository.close()


def prune(layout: Path, keep: Collection[str]) -> None:
    """Takes every image that is not in `keep` out of a layout that `pull` filled, with its signatures and blobs."""
    writer = LayoutWriter(layout)
    entries = writer.layout.entries()
    for entry in entries:
        if entry.digest not in keep and entry.annotations.get(SUBJECT) not in keep:
            writer.remove(entry.digest)
    if entries:
        writer.collect_garbage()


class _Pull:
    def __init__(self, repository: Repository, writer: LayoutWriter, arch: str) -> None:
        self._repository, self._writer, self._arch = repository, writer, arch
        self._left = MAX_IMAGE_BYTES

    def run(self, digest: str) -> None:
        root = self._artifact(self._repository.manifest(digest))
        signatures = tuple(self._signatures(digest))
        self._writer.publish((root, *signatures))

    def _artifact(self, data: bytes, subject: str | None = None) -> Artifact:
        """A manifest or index with everything below it that this architecture needs."""
        where = self._repository.url
        document = parse_object(data, where)
        told = described(document, data, where)
        if told.media_type not in (INDEX, MANIFEST):
            raise Corrupt(f"{where} {told.digest}", f"mediaType is {told.media_type!r}, must be that of an OCI index or manifest")
        blobs = tuple(self._below(document, told))
        return Artifact(Blob(told.media_type, data), told.artifact_type, blobs, subject, told.annotations)

    def _below(self, document: dict[str, Any], told: Descriptor) -> Iterator[Blob]:
        where = f"{self._repository.url} {told.digest}"
        if told.media_type == INDEX:
            entry = self._of_this_architecture(document, where)
            manifest = self._blob(entry)
            yield manifest
            document, where = parse_object(manifest.data, where), f"{self._repository.url} {entry.digest}"
        for child in children({name: value for name, value in document.items() if name != "manifests"}, where):
            yield self._blob(child)

    def _of_this_architecture(self, index: dict[str, Any], where: str) -> Descriptor:
        platforms = {"architecture": self._arch, "os": "linux"}
        entries = index.get("manifests")
        found = [e for e in entries if isinstance(e, dict) and e.get("platform") == platforms] if isinstance(entries, list) else []
        if len(found) != 1:
            must = "must hold one manifest for each architecture"
            raise Refused([Fault(where, f"{len(found)} manifests for linux/{self._arch}", must)])
        (entry,) = children({"manifests": found}, where)
        return entry

    def _blob(self, wanted: Descriptor) -> Blob:
        self._left -= wanted.size
        if self._left < 0:
            raise Corrupt(f"{self._repository.url} {wanted.digest}", f"an image must have at most {MAX_IMAGE_BYTES} bytes")
        try:
            data = self._writer.layout.read(wanted.digest)
        except Corrupt:  # not here yet, or damaged
            data = self._repository.sized(wanted)
        return Blob(wanted.media_type, data)

    def _signatures(self, digest: str) -> Iterator[Artifact]:
        for told, data in self._repository.referrers(digest):
            if told.artifact_type == SIGNED and told.annotations.get(PREDICATE) == SIGNATURE_PREDICATE:
                yield self._artifact(data, digest)
