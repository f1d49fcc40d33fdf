"""One named type per arrow: Source → Shapes → GuardPlan → CText → SharedObject → PackImage → SignedPack → Revision → RolloutDocument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from knhk.model.canonical import canonical, sha256_hex

SourceKind = Literal["shapes", "ask", "abac", "mapping", "construct"]
Severity = Literal["Violation", "Warning", "Info"]


@dataclass(frozen=True)
class Source:
    """A text that an author wrote. `path` is what faults name (file, or field of the resource); `media` is text/turtle,
    application/sparql-query, application/yaml (short mapping), application/ld+json (context) or application/json."""

    name: str
    kind: SourceKind
    text: str
    path: str
    media: str = "text/turtle"
    target: str | None = None  # class IRI that $this ranges over, for `ask`
    message: str = ""
    severity: Severity = "Violation"
    first_line: int = 1  # line of `path` at which `text` begins
    base: str = ""  # what relative IRIs are resolved against; empty: the compiler's own


@dataclass(frozen=True)
class PackSources:
    """All that the compiler reads of a PolicyPack. `routes`: route name → id of a mapping source, or None for no body. `classes`: Turtle
    whose rdfs:subClassOf alone count as the class hierarchy (None: those of the shapes). `open_vocabulary`: names of SHACL's namespace that
    mean nothing here are passed over, as the Recommendation has it; in a policy they are faults."""

    namespace: str
    name: str
    version: str
    sources: tuple[Source, ...]
    routes: Mapping[str, str | None]
    classes: str | None = None
    open_vocabulary: bool = False


@dataclass(frozen=True)
class GuardPlan:
    """formats/guardplan.md; `document` is plain JSON data and must not be changed."""

    document: Mapping[str, Any]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256_hex(self.canonical()))

    def canonical(self) -> bytes:
        """The bytes that the digest covers."""
        return canonical(self.document)


@dataclass(frozen=True)
class CText:
    """Generated C: constant tables only; the engine is prebuilt. Same plan, same text."""

    text: str
    plan_digest: str


@dataclass(frozen=True)
class SharedObject:
    """A compiled pack for one architecture ("amd64", "arm64")."""

    arch: str
    data: bytes


@dataclass(frozen=True)
class PackImage:
    """A pack image in a registry; `digest` ("sha256:…") is that of the image index."""

    name: str
    namespace: str
    version: str
    digest: str
    plan_digest: str


@dataclass(frozen=True)
class SignedPack:
    """An image whose signature by a key of role build lies beside it as a referrer; `proof`: what translation validation did."""

    image: PackImage
    keyid: str
    proof: Mapping[str, Any]
