"""Packs and data bundles out of a registry, verified before anything else sees them (formats/pack.md, bundle.md)."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt, Fault, Refused, Stalled
from knhk.model.oci import (
    BUNDLE,
    BUNDLE_FILE,
    INDEX,
    MANIFEST,
    PACK,
    PACK_PLAN,
    PACK_SO,
    PREDICATE,
    SIGNATURE_PREDICATE,
    SIGNED,
    Descriptor,
)
from knhk_runtime.elf import stated
from knhk_runtime.layout import Layout, children, parse_object
from knhk_runtime.signatures import verify_signature_of
from knhk_verify.errors import Bad
from knhk_verify.signed import Keys

ABI = 2
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """Architecture of this machine as images name it. Raises Stalled for one that packs are not built for."""
    machine = platform.machine()
    if machine not in _ARCHES:
        raise Stalled("Architecture", f"{machine}: must be one of {', '.join(_ARCHES)}")
    return _ARCHES[machine]


@dataclass(frozen=True)
class FetchedPack:
    """A verified pack for one architecture; `index_digest` ("sha256:…") names μ, `so_sha256` the file (hexadecimal)."""

    so: bytes
    plan: Mapping[str, Any]
    index_digest: str
    so_sha256: str
    plan_digest: str


class PackStore:
    """Reads a registry folder (OCI layout). Methods may be called from any thread; they write nothing."""

    def __init__(self, registry_dir: Path) -> None:
        self.layout = Layout(registry_dir)

    def fetch_pack(self, digest: str, arch: str, keys: Keys | None) -> FetchedPack:
        """The pack whose image index has `digest`, for `arch` ("amd64", "arm64").

        Checked in this order: the index's digest; a signature over it by a key of role build; the digests of manifest and layers;
        the ABI, architecture and plan digest that the shared object states. `keys`: from knhk_verify.signed.verify_keys; None
        leaves the signature out, for a registry that the caller wrote itself. Raises Corrupt (altered, missing or malformed bytes)
        and Refused (not signed by a key of role build, no such architecture); both say where.
        """
        where = str(self.layout.blob_path(digest))
        index = self._document(digest, INDEX, PACK, where)
        self._check_signature(digest, "build", keys, where)
        manifest = self._document(self._manifest_for(index, arch, where), MANIFEST, PACK, where)
        so, plan_bytes = self._layers(manifest, (PACK_SO, PACK_PLAN), where)
        plan = parse_object(plan_bytes, f"{where}: plan")
        so_name = f"{where}: {arch} shared object"
        found, plan_digest = stated(so, so_name), hashlib.sha256(plan_bytes).hexdigest()
        for what, value, must in (
            ("architecture", found.arch, arch),
            ("ABI version", found.abi, ABI),
            ("plan digest", found.plan_digest, plan_digest),
            ("number of guards", found.guards, len(plan.get("guards", ()))),
        ):
            if value != must:
                raise Corrupt(so_name, f"{what} is {value}, must be {must}")
        return FetchedPack(so, plan, digest, hashlib.sha256(so).hexdigest(), plan_digest)

    def fetch_bundle(self, digest: str, keys: Keys | None) -> bytes:
        """The data bundle file of the artifact whose manifest has `digest`, signed by a key of role data. Raises as `fetch_pack`."""
        where = str(self.layout.blob_path(digest))
        manifest = self._document(digest, MANIFEST, BUNDLE, where)
        self._check_signature(digest, "data", keys, where)
        (data,) = self._layers(manifest, (BUNDLE_FILE,), where)
        return data

    def find_pack(self, prefix: bytes) -> str | None:
        """Digest of the listed image index that begins with these 20 bytes, as leaves name packs; None when none does."""
        wanted = f"sha256:{prefix.hex()}"
        return next(
            (e.digest for e in self.layout.entries() if e.media_type == INDEX and e.digest.startswith(wanted)),
            None,
        )

    def find_bundle(self, file_digest: bytes) -> str | None:
        """Digest of the listed artifact whose bundle file has this SHA-256, as O names bundles; None when none has."""
        wanted = f"sha256:{file_digest.hex()}"
        for entry in self.layout.entries():
            if entry.artifact_type == BUNDLE:
                manifest = self.layout.read_json(entry.digest)
                if any(child.digest == wanted for child in children(manifest, entry.digest)):
                    return entry.digest
        return None

    def signed_statements(self, digest: str, predicate: str) -> Sequence[tuple[str, bytes]]:
        """(where, sigstore bundle) of each referrer of `digest` with this predicate; nothing about them is verified yet."""
        found = [e for e in self.layout.referrers(digest, SIGNED) if e.annotations.get(PREDICATE) == predicate]
        made = []
        for entry in found:
            where = str(self.layout.blob_path(entry.digest))
            manifest = self._document(entry.digest, MANIFEST, SIGNED, where)
            made.append((where, self._layers(manifest, (SIGNED,), where)[0]))
        return made

    def _check_signature(self, digest: str, role: str, keys: Keys | None, where: str) -> None:
        if keys is None:
            return
        faults = []
        for place, bundle in self.signed_statements(digest, SIGNATURE_PREDICATE):
            try:
                verify_signature_of(bundle, digest, keys.of(role), place)
                return
            except Bad as error:
                faults.append(
                    Fault(
                        error.where,
                        error.what,
                        f"must be a signature over {digest} by a key of role {role}",
                    )
                )
        raise Refused(faults or [Fault(where, "no signature", f"must be signed by a key of role {role}")])

    def _document(self, digest: str, media_type: str, artifact_type: str, where: str) -> dict[str, Any]:
        document = self.layout.read_json(digest)
        for name, must in (
            ("schemaVersion", 2),
            ("mediaType", media_type),
            ("artifactType", artifact_type),
        ):
            if document.get(name) != must:
                raise Corrupt(f"{where} {name}", f"is {document.get(name)!r}, must be {must!r}")
        return document

    def _manifest_for(self, index: Mapping[str, Any], arch: str, where: str) -> str:
        entries = index.get("manifests")
        if not isinstance(entries, list):
            raise Corrupt(where, "manifests must be a list")
        found = [e for e in entries if isinstance(e, dict) and e.get("platform") == {"architecture": arch, "os": "linux"}]
        if len(found) != 1:
            raise Refused(
                [
                    Fault(
                        where,
                        f"{len(found)} manifests for linux/{arch}",
                        "must hold one manifest for each architecture",
                    )
                ]
            )
        (entry,) = children({"manifests": found}, where)
        return entry.digest

    def _layers(self, manifest: Mapping[str, Any], types: tuple[str, ...], where: str) -> tuple[bytes, ...]:
        layers = tuple(children({"layers": manifest.get("layers", [])}, where))
        if tuple(layer.media_type for layer in layers) != types:
            raise Corrupt(where, f"layers must be {', '.join(types)}")
        return tuple(self._sized(layer) for layer in layers)

    def _sized(self, layer: Descriptor) -> bytes:
        data = self.layout.read(layer.digest)
        if len(data) != layer.size:
            raise Corrupt(
                str(self.layout.blob_path(layer.digest)),
                f"has {len(data)} bytes, must have {layer.size}",
            )
        return data
