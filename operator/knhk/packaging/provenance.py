"""SLSA provenance v1 (slsa.dev/spec/v1.0/provenance) of an image, and, of a pack's, the way back to what it was built from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from knhk.model.arrows import PackSources, Source
from knhk.model.faults import Corrupt, Fault, Refused
from knhk.model.oci import PROVENANCE_PREDICATE, Artifact
from knhk.packaging.materials import SOURCE, Material

BUILD_TYPE = "https://knhk.dev/build/pack/v1"
IMAGE_BUILD_TYPE = "https://knhk.dev/build/image/v1"
BUILDER = "https://knhk.dev/builder/v1"
STATEMENT = "https://in-toto.io/Statement/v1"

_META = tuple(f.name for f in fields(Source) if f.name != "text")


@dataclass(frozen=True)
class Provenance:
    """What a provenance says: the digest it is about, the pack without its texts, and the materials."""

    subject: str
    parameters: Mapping[str, Any]
    materials: tuple[Material, ...]
    proof: Mapping[str, Any] | None = None
    generator: str = ""

    def sources(self, text: Callable[[Material], str]) -> PackSources:
        """The pack again, its texts from `text`. Raises Refused when a source is not among the materials, and what `text` raises."""
        by_name = {m.name: m for m in self.materials if m.name.startswith(SOURCE)}
        given = self.parameters
        named = [(meta, by_name.get(SOURCE + meta["name"])) for meta in given["sources"]]
        if lost := [meta["name"] for meta, material in named if material is None]:
            raise Refused(Fault(f"material {SOURCE}{name}", "missing", "must be named by the provenance") for name in lost)
        sources = tuple(Source(text=text(material), **meta) for meta, material in named if material is not None)
        return PackSources(sources=sources, routes=given["routes"], **given["pack"])


def statement(
    image: Artifact, pack: PackSources, materials: Iterable[Material], proof: Mapping[str, Any] | None = None, generator: str = ""
) -> dict[str, Any]:
    """The in-toto statement; it names no time and no machine, so equal builds state the same. `proof`: what translation validation did;
    `generator`: SHA-256 of the compiler's sources."""
    internal = _given({"proof": proof, "generator": generator})
    return _statement(image, f"pack/{pack.namespace}/{pack.name}@{pack.version}", BUILD_TYPE, parameters(pack), internal, materials)


def image_statement(image: Artifact, name: str, materials: Iterable[Material]) -> dict[str, Any]:
    """The in-toto statement of a container image of the product itself: `name` is built from its materials alone."""
    return _statement(image, name, IMAGE_BUILD_TYPE, {"image": name}, {}, materials)


def _statement(
    image: Artifact,
    name: str,
    build_type: str,
    external: Mapping[str, Any],
    internal: Mapping[str, Any],
    materials: Iterable[Material],
) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": image.digest.removeprefix("sha256:")}}],
        "predicateType": PROVENANCE_PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": build_type,
                "externalParameters": dict(external),
                "internalParameters": dict(internal),
                "resolvedDependencies": [_dependency(m) for m in sorted(materials)],
            },
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {}},
        },
    }


def parameters(pack: PackSources) -> dict[str, Any]:
    """All of a pack but its texts, as JSON data."""
    return {
        "pack": {"namespace": pack.namespace, "name": pack.name, "version": pack.version},
        "routes": dict(pack.routes),
        "sources": [{key: getattr(s, key) for key in _META} for s in pack.sources],
    }


def read(document: Mapping[str, Any], where: str) -> Provenance:
    """Read a verified statement that this module made. Raises Corrupt, naming `where`, for anything else."""
    try:
        if document["predicateType"] != PROVENANCE_PREDICATE:
            raise ValueError(f"predicateType must be {PROVENANCE_PREDICATE}")
        (subject,) = document["subject"]
        build = document["predicate"]["buildDefinition"]
        if build["buildType"] != BUILD_TYPE:
            raise ValueError(f"buildType must be {BUILD_TYPE}")
        materials = tuple(_material(item) for item in build["resolvedDependencies"])
        internal = build["internalParameters"]
        digest = f"sha256:{subject['digest']['sha256']}"
        return Provenance(digest, build["externalParameters"], materials, internal.get("proof"), internal.get("generator", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(where, f"must be a provenance of a pack: {error}") from error


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _dependency(material: Material) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": material.name,
        "uri": material.uri,
        "digest": {"sha256": material.sha256},
    }
    if material.version:
        made["annotations"] = {"version": material.version}
    return made


def _material(item: Mapping[str, Any]) -> Material:
    version = item.get("annotations", {}).get("version", "")
    return Material(str(item["name"]), str(item["digest"]["sha256"]), str(item["uri"]), str(version))
