"""Writing an OCI image layout (image-spec 1.1) that skopeo and oras read too: whole or not at all, by any number of processes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt
from knhk.model.oci import INDEX, MANIFEST, Artifact, Descriptor
from knhk_runtime.layout import REF_NAME, SUBJECT, Layout, children

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

Entries = dict[tuple[str, str], Descriptor]


class LayoutWriter:
    """The commit point is the rename of `index.json`, made under a lock on the folder. Promises: knhk.ports.registry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self.layout = Layout(folder)

    def ingest(self, digest: str, fill: Callable[[BinaryIO], None]) -> None:
        """Stores a blob that `fill` writes, whole and as its digest says or not at all: what `fill` writes it has checked. Nothing lists
        it yet."""
        with self._locked():
            self.layout.blob_path(digest).parent.mkdir(parents=True, exist_ok=True)
        self._write(self.layout.blob_path(digest), fill)

    def publish(self, artifacts: Sequence[Artifact], tag: str | None = None, ingested: Collection[str] = ()) -> None:
        """Stores artifacts, the first one under `tag` if given. `ingested`: blobs that lie here since before; raises Corrupt when somebody
        took one away."""
        with self._locked():
            for digest in ingested:
                if not self.layout.blob_path(digest).exists():
                    raise Corrupt(str(self.layout.blob_path(digest)), "was collected meanwhile")
            for artifact in artifacts:
                for blob in (*artifact.blobs, artifact.root):
                    self._store(blob.digest, blob.data)
            entries = _by_key(_without_tag(e, tag) for e in self.layout.entries())
            entries |= _by_key(_entry(artifact, tag if i == 0 else None) for i, artifact in enumerate(artifacts))
            named = {digest for digest, name in entries if name}
            self._commit({key: entry for key, entry in entries.items() if key[1] or key[0] not in named})

    def remove(self, digest: str) -> None:
        """Takes an artifact, its tags and its referrers off the list; absent is no error."""
        with self._locked():
            self._commit(_by_key(e for e in self.layout.entries() if digest not in (e.digest, e.annotations.get(SUBJECT))))

    def collect_garbage(self) -> tuple[str, ...]:
        """Deletes blobs that no listed artifact reaches; returns their digests. Raises Corrupt, and deletes nothing, when a listed
        manifest cannot be read; one that an index names and that is not here (another architecture's) is none to be read."""
        with self._locked():
            reached: set[str] = set()
            for entry in self.layout.entries():
                self._reach(entry, reached)
            lost = sorted(path.name for path in self._blobs.iterdir() if f"sha256:{path.name}" not in reached)
            for name in lost:
                (self._blobs / name).unlink()
            for path in self._ingest.iterdir():
                path.unlink()
        return tuple(f"sha256:{name}" for name in lost)

    @property
    def _ingest(self) -> Path:
        return self._folder / ".ingest"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        for folder in (self._blobs, self._ingest):
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _reach(self, entry: Descriptor, reached: set[str]) -> None:
        if entry.digest in reached:
            return
        reached.add(entry.digest)
        if entry.media_type in (INDEX, MANIFEST):
            path = str(self.layout.blob_path(entry.digest))
            for child in children(self.layout.read_json(entry.digest), path):
                if entry.media_type != INDEX or self.layout.blob_path(child.digest).exists():
                    self._reach(child, reached)

    def _store(self, digest: str, data: bytes) -> None:
        path = self.layout.blob_path(digest)
        if path.exists() and sha256_hex(path.read_bytes()) == path.name:
            return
        self._write(path, _of(data))

    def _commit(self, entries: Entries) -> None:
        marker = self._folder / "oci-layout"
        if not marker.exists():
            self._write(marker, _of(LAYOUT))
        manifests = [_descriptor_json(entries[key]) for key in sorted(entries)]
        self._write(
            self._folder / "index.json",
            _of(canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})),
        )

    def _write(self, path: Path, fill: Callable[[BinaryIO], object]) -> None:
        """Write under another name, fsync, rename, fsync the folder: the file is there whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=self._ingest)
        try:
            with os.fdopen(handle, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _of(data: bytes) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(data)


def _by_key(entries: Iterator[Descriptor]) -> Entries:
    return {(e.digest, e.annotations.get(REF_NAME, "")): e for e in entries}


def _without_tag(entry: Descriptor, tag: str | None) -> Descriptor:
    """`entry`, its tag taken off when it is `tag`: what a tag named stays listed when the tag moves."""
    if tag is None or entry.annotations.get(REF_NAME) != tag:
        return entry
    return replace(entry, annotations={k: v for k, v in entry.annotations.items() if k != REF_NAME})


def _entry(artifact: Artifact, tag: str | None) -> Descriptor:
    notes = dict(artifact.annotations)
    if artifact.subject is not None:
        notes[SUBJECT] = artifact.subject
    if tag is not None:
        notes[REF_NAME] = tag
    return Descriptor(
        artifact.root.media_type,
        artifact.digest,
        len(artifact.root.data),
        artifact.artifact_type,
        notes,
    )


def _descriptor_json(entry: Descriptor) -> dict[str, Any]:
    made: dict[str, Any] = {
        "mediaType": entry.media_type,
        "digest": entry.digest,
        "size": entry.size,
    }
    if entry.artifact_type:
        made["artifactType"] = entry.artifact_type
    if entry.annotations:
        made["annotations"] = dict(entry.annotations)
    return made
