"""SLSA provenance v1 (slsa.dev/spec/v1.0/provenance) of a pack image, and the way back to what it was built from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from knhk.model.arrows import PackSources, Source
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt
from knhk.model.oci import PROVENANCE_PREDICATE, Artifact
from knhk.packaging.materials import SOURCE, Material

BUILD_TYPE = "https://knhk.dev/build/pack/v1"
BUILDER = "https://knhk.dev/builder/v1"
STATEMENT = "https://in-toto.io/Statement/v1"

_META = tuple(f.name for f in fields(Source) if f.name != "text")


@dataclass(frozen=True)
class Provenance:
    """What a provenance says: the digest it is about, the pack without its texts, and the materials."""

    subject: str
    parameters: Mapping[str, Any]
    materials: tuple[Material, ...]

    def sources(self, text: Callable[[Material], str]) -> PackSources:
        """The pack again, its texts from `text`. Raises what `text` raises."""
        by_name = {m.name: m for m in self.materials}
        given = self.parameters
        sources = tuple(Source(text=text(by_name[SOURCE + meta["name"]]), **meta) for meta in given["sources"])
        return PackSources(sources=sources, routes=given["routes"], **given["pack"])


def statement(image: Artifact, pack: PackSources, materials: Iterable[Material]) -> dict[str, Any]:
    """The in-toto statement; it names no time and no machine, so equal builds state the same."""
    name = f"{pack.namespace}/{pack.name}@{pack.version}"
    return {
        "_type": STATEMENT,
        "subject": [{"name": f"pack/{name}", "digest": {"sha256": image.digest.removeprefix("sha256:")}}],
        "predicateType": PROVENANCE_PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters(pack),
                "internalParameters": {},
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


def parse(payload: bytes, where: str) -> Provenance:
    """Read a statement that this module made. Raises Corrupt, naming `where`, for anything else."""
    try:
        document = json.loads(payload)
        if canonical(document) != payload or document["predicateType"] != PROVENANCE_PREDICATE:
            raise ValueError("must be a canonical statement of SLSA provenance v1")
        (subject,) = document["subject"]
        build = document["predicate"]["buildDefinition"]
        if build["buildType"] != BUILD_TYPE:
            raise ValueError(f"buildType must be {BUILD_TYPE}")
        materials = tuple(_material(item) for item in build["resolvedDependencies"])
        return Provenance(f"sha256:{subject['digest']['sha256']}", build["externalParameters"], materials)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(where, f"provenance is not to be read: {error}") from error


def _dependency(material: Material) -> dict[str, Any]:
    made: dict[str, Any] = {"name": material.name, "uri": material.uri, "digest": {"sha256": material.sha256}}
    if material.version:
        made["annotations"] = {"version": material.version}
    return made


def _material(item: Mapping[str, Any]) -> Material:
    version = item.get("annotations", {}).get("version", "")
    return Material(str(item["name"]), str(item["digest"]["sha256"]), str(item["uri"]), str(version))
