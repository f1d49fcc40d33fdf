"""Materials: everything that the bytes of a pack image follow from, each with its SHA-256."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from knhk.model.arrows import GuardPlan, PackSources
from knhk.model.canonical import sha256_hex
from knhk.model.oci import MATERIAL, MATERIALS, Artifact, Blob
from knhk.packaging.image import layer, manifest

PLAN = "plan"
SOURCE = "source/"
COMPILER = "ziglang"


@dataclass(frozen=True, order=True)
class Material:
    """`name` is unique in a pack ("source/shapes", "plan", "ziglang"); `uri` says where it comes from; `version` may be empty."""

    name: str
    sha256: str
    uri: str
    version: str = ""


def of_pack(pack: PackSources, plan: GuardPlan) -> tuple[Material, ...]:
    """The sources of a pack and its plan, in order of name."""
    sources = (Material(SOURCE + s.name, sha256_hex(s.text.encode()), f"knhk:source/{s.path}") for s in pack.sources)
    return tuple(sorted((*sources, Material(PLAN, plan.digest, "knhk:plan", str(plan.document["tool"])))))


def kept(subject: Artifact, pack: PackSources) -> Artifact:
    """The texts of the sources as a referrer of the image, so that anybody can build it again."""
    texts = [(s.name, Blob(MATERIAL, s.text.encode())) for s in sorted(pack.sources, key=lambda s: s.name)]
    return manifest(MATERIALS, [layer(blob, name) for name, blob in texts], [blob for _, blob in texts], subject)


def differences(wanted: Iterable[Material], found: Iterable[Material]) -> list[tuple[Material, str]]:
    """Each wanted material that is not found with the same digest, and the digest found ("" for none)."""
    have = {m.name: m.sha256 for m in found}
    return [(m, have.get(m.name, "")) for m in sorted(wanted) if have.get(m.name) != m.sha256]
