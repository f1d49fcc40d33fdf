"""Container images (image-spec 1.1) from trees in memory: deterministic layers, one config and manifest per platform, one index."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from knhk.model.canonical import canonical
from knhk.model.oci import INDEX, MANIFEST, Artifact, Blob, digest_of

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
COMPRESSION = 6


@dataclass(frozen=True)
class File:
    """A file of a layer; it belongs to root."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Folder:
    """A folder that must be there although nothing lies in it, or must have another mode than 0755."""

    mode: int = 0o755


Tree = Mapping[str, File | Link | Folder]
"""Path without a leading slash → what is there. Folders above need not be named."""


@dataclass(frozen=True)
class Layer:
    """A compressed layer and the digest of its bytes before compression."""

    blob: Blob
    diff_id: str


@dataclass(frozen=True)
class Platform:
    """What runs on one architecture: layers, the lowest first, and how they are run (image-spec, `config` of the configuration)."""

    arch: str
    layers: Sequence[Layer]
    run: Mapping[str, Any]


@dataclass(frozen=True)
class _Entries:
    tar: tarfile.TarFile
    made: set[str] = field(default_factory=set)

    def add(self, path: str, item: File | Link | Folder) -> None:
        for above in reversed(PurePosixPath(path).parents[:-1]):
            self._folder(str(above), 0o755)
        match item:
            case Folder(mode):
                self._folder(path, mode)
            case Link(target):
                self._write(_info(path, tarfile.SYMTYPE, 0o777, linkname=target))
            case File(data, mode):
                self._write(_info(path, tarfile.REGTYPE, mode, size=len(data)), data)

    def _folder(self, path: str, mode: int) -> None:
        if path not in self.made:
            self._write(_info(path, tarfile.DIRTYPE, mode))

    def _write(self, info: tarfile.TarInfo, data: bytes = b"") -> None:
        self.made.add(info.name)
        self.tar.addfile(info, io.BytesIO(data))


def _info(path: str, kind: bytes, mode: int, **more: Any) -> tarfile.TarInfo:
    """Without time, owner and name of anybody."""
    info = tarfile.TarInfo(path)
    info.type, info.mode = kind, mode
    for name, value in more.items():
        setattr(info, name, value)
    return info


def layer(tree: Tree) -> Layer:
    """The layer of a tree: equal trees give equal bytes with the same zlib, and the same diff_id with any."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entries = _Entries(tar)
        for path in sorted(tree):
            entries.add(path, tree[path])
    plain = buffer.getvalue()
    return Layer(Blob(LAYER, gzip.compress(plain, COMPRESSION, mtime=0)), digest_of(plain))


def container_image(platforms: Iterable[Platform], annotations: Mapping[str, str]) -> Artifact:
    """The index over one manifest per platform, in order of architecture."""
    blobs: dict[str, Blob] = {}
    entries = []
    for platform in sorted(platforms, key=lambda p: p.arch):
        config = Blob(CONFIG, canonical(_config(platform)))
        layers = [item.blob for item in platform.layers]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [blob.descriptor() for blob in layers],
            "annotations": dict(annotations),
        }
        manifest = Blob(MANIFEST, canonical(document))
        blobs |= {blob.digest: blob for blob in (config, *layers, manifest)}
        entries.append(manifest.descriptor(platform={"architecture": platform.arch, "os": "linux"}))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": dict(annotations)}
    return Artifact(Blob(INDEX, canonical(index)), "", tuple(blobs.values()), None, annotations)


def _config(platform: Platform) -> dict[str, Any]:
    return {
        "architecture": platform.arch,
        "os": "linux",
        "config": dict(platform.run),
        "rootfs": {"type": "layers", "diff_ids": [item.diff_id for item in platform.layers]},
    }
