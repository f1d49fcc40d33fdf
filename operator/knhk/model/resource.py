"""A custom resource, the same whether it came from a file, from SQLite or from an API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

GROUP = "knhk.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Key(NamedTuple):
    """What names an object: one key, one object. A tuple, for stores and queues compare, order and hash more keys than anything else."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """`spec` and `status` are plain JSON data and must not be changed in place; use dataclasses.replace.

    `resource_version` is opaque, "" before the first write. `generation` counts changes of the spec.
    `created` is RFC 3339 UTC. `path` and `lines` (field path → line) say where a file spelled it; both
    are empty for what a store gives back. `held`: a cluster keeps the object after its deletion until it is released.
    """

    kind: str
    namespace: str
    name: str
    spec: Mapping[str, Any]
    status: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    created: str = ""
    held: bool = field(default=False, compare=False, repr=False)
    path: str = field(default="", compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def key(self) -> Key:
        """Kind, namespace and name."""
        return Key(self.kind, self.namespace, self.name)
