"""From a registry into a local OCI layout: one image by digest, with what a verifier of this architecture needs, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt, Fault, Refused
from knhk.model.oci import INDEX, MANIFEST, PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob, Descriptor
from knhk_runtime.distribution import Repository, described
from knhk_runtime.layout import MAX_MANIFEST_BYTES, SUBJECT, children, parse_object
from knhk_runtime.layout_writer import LayoutWriter
from knhk_runtime.packstore import architecture

MAX_IMAGE_BYTES, MAX_SIGNATURE_BYTES = 512 << 20, 1 << 20
PULL_WITHIN_S = 600.0  # of one image; what came until then need not come again
SUPERSEDED = "nobody wants it any more"


class Stop:
    """Tells what works in another thread that nobody wants it any more."""

    def __init__(self) -> None:
        self._set, self._acts, self._lock = False, list[Callable[[], None]](), threading.Lock()

    @property
    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Once and for all."""
        with self._lock:
            self._set, acts = True, list(self._acts)
        for act in acts:
            act()

    def bind(self, act: Callable[[], None]) -> None:
        """`act` is called by `set`, or now when that was called before; from any thread."""
        with self._lock:
            self._acts.append(act)
            late = self._set
        if late:
            act()


def pull(
    registry_url: str,
    digest: str,
    layout: Path,
    *,
    auth: Path | None,
    tls: Path | None,
    stop: Stop | None = None,
    within_s: float = PULL_WITHIN_S,
) -> None:
    """Puts the image or bundle `digest` of a registry (`https://HOST[:PORT][/REPOSITORY]`) into the layout (made when missing), where
    knhk_runtime.packstore reads it: index, the manifest of this architecture with its blobs, and signatures.

    `auth`: docker config.json; `tls`: authorities (PEM) beside the system's; both may be None. Every byte is checked against its digest,
    and the list of the layout changes last, in one rename. Repeating it changes nothing, but that new signatures are added; what lies there
    already whole is not fetched again, that of a pull that was ended before the end neither; no blob is in memory as a whole. Verifying
    signatures is PackStore's part. Blocking: call it from a thread; it ends soon after `stop`, and after `within_s` however the registry
    dribbles. Raises Waiting (try again), Stalled (address, credentials), Corrupt and Refused (what the registry has is not as it must be),
    OSError (the disk).
    """
    repository = Repository(registry_url, auth, tls)
    if stop is not None:
        stop.bind(lambda: repository.abort(SUPERSEDED))
    limit = threading.Timer(within_s, repository.abort, (f"must be done within {within_s:g} s",))
    limit.daemon = True
    limit.start()
    try:
        _Pull(repository, LayoutWriter(layout), architecture()).run(digest)
    finally:
        limit.cancel()
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
        self._ingested: set[str] = set()

    def run(self, digest: str) -> None:
        root = self._artifact(self._repository.manifest(digest))
        signatures = tuple(self._signatures(digest))
        self._writer.publish((root, *signatures), ingested=self._ingested)

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
            manifest = self._manifest(entry)
            yield manifest
            document, where = parse_object(manifest.data, where), f"{self._repository.url} {entry.digest}"
        for child in children({name: value for name, value in document.items() if name != "manifests"}, where):
            self._ingest(child)

    def _of_this_architecture(self, index: dict[str, Any], where: str) -> Descriptor:
        platforms = {"architecture": self._arch, "os": "linux"}
        entries = index.get("manifests")
        found = [e for e in entries if isinstance(e, dict) and e.get("platform") == platforms] if isinstance(entries, list) else []
        if len(found) != 1:
            must = "must hold one manifest for each architecture"
            raise Refused([Fault(where, f"{len(found)} manifests for linux/{self._arch}", must)])
        (entry,) = children({"manifests": found}, where)
        return entry

    def _manifest(self, wanted: Descriptor) -> Blob:
        self._count(wanted)
        try:
            data = self._writer.layout.read(wanted.digest, MAX_MANIFEST_BYTES)
        except Corrupt:  # not here yet, or damaged
            data = self._repository.sized(wanted)
        return Blob(wanted.media_type, data)

    def _ingest(self, wanted: Descriptor) -> None:
        self._count(wanted)
        if not self._writer.layout.holds(wanted):
            self._writer.ingest(wanted.digest, partial(self._repository.fetch, wanted))
        self._ingested.add(wanted.digest)

    def _count(self, wanted: Descriptor) -> None:
        self._left -= wanted.size
        if self._left < 0:
            raise Corrupt(
                f"{self._repository.url} {wanted.digest}",
                f"an image must have at most {MAX_IMAGE_BYTES} bytes, a signature {MAX_SIGNATURE_BYTES}",
            )

    def _signatures(self, digest: str) -> Iterator[Artifact]:
        """Whole ones; those that are not keep none of them away. Raises Corrupt when there are only such."""
        found, broken = 0, list[Corrupt]()
        for told, data in self._repository.referrers(digest):
            if told.artifact_type == SIGNED and told.annotations.get(PREDICATE) == SIGNATURE_PREDICATE:
                self._left = MAX_SIGNATURE_BYTES
                try:
                    signature = self._artifact(data, digest)
                except Corrupt as error:
                    broken.append(error)
                    continue
                found += 1
                yield signature
        if broken and not found:
            raise broken[0]
