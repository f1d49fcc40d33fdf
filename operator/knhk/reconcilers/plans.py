"""What published packs are made of, out of their plans; remembered by digest, for that never changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import Any

from knhk.model.faults import Corrupt, Waiting
from knhk.model.oci import PACK_PLAN
from knhk.model.resource import Resource
from knhk.ports.clock import Clock
from knhk.ports.registry import Registry
from knhk_runtime.layout import children, parse_object

_log = logging.getLogger("knhk.plans")
AGAIN_S = 15.0
_IRIS = re.compile(r"<([^<>\s]+)>")


@dataclass(frozen=True)
class PlanFacts:
    """`guards`: id → name of the source that it comes from. `iris`: all IRIs that guards, targets and mappings speak of."""

    guards: Mapping[str, str]
    iris: frozenset[str]

    @property
    def written(self) -> Mapping[str, str]:
        """Guards that come from a source; guard 0 of every pack comes from none."""
        return {name: source for name, source in self.guards.items() if source}


@dataclass
class Plans:
    """Reads plans out of the registry. One that is away may take long to say so: it is asked again after a while, so that nothing that goes
    on without it waits for it each time."""

    registry: Registry
    clock: Clock
    _known: dict[str, PlanFacts] = field(default_factory=dict)
    _away: str = ""  # why it was, when it was asked last
    _again_s: float = 0.0

    def of(self, digest: str) -> PlanFacts:
        """Facts of the pack image. Raises Corrupt for one that the registry does not have, Waiting or OSError while it is away."""
        if digest not in self._known:
            self._known[digest] = facts_of(self._asked(digest))
        return self._known[digest]

    def _asked(self, digest: str) -> Mapping[str, Any]:
        if (left_s := self._again_s - self._now_s()) > 0:
            raise Waiting("RegistryUnreachable", self._away, left_s)
        try:
            return self._document(digest)
        except (Waiting, OSError) as error:
            self._away, self._again_s = str(error), self._now_s() + AGAIN_S
            raise

    def _now_s(self) -> float:
        return self.clock.monotonic_ns() / 1e9

    def of_pack(self, pack: Resource) -> tuple[PlanFacts, ...]:
        """Facts of the images that a pack has, the newest last; those that the registry lost are left out, and logged."""
        found = []
        for digest in digests_of(pack):
            try:
                found.append(self.of(digest))
            except Corrupt as error:
                _log.warning("%s: %s", pack.key, error)
        return tuple(found)

    def _document(self, digest: str) -> Mapping[str, Any]:
        index = parse_object(self.registry.manifest(digest), digest)
        manifest = parse_object(self.registry.manifest(next(iter(children(index, digest))).digest), digest)
        plan = next(layer for layer in children(manifest, digest) if layer.media_type == PACK_PLAN)
        return parse_object(self.registry.read(plan.digest), plan.digest)


def facts_of(document: Mapping[str, Any]) -> PlanFacts:
    """Facts of a plan (formats/guardplan.md)."""
    guards = {guard["id"]: intern(str(guard["source"]).partition(":")[0]) for guard in document["guards"]}
    spoken = [text for part in ("guards", "targets", "mappings", "cold", "constructs") for text in _texts(document.get(part))]
    named = {text for text in spoken if ":" in text and " " not in text}
    iris = named | {iri for text in spoken for iri in _IRIS.findall(text)}
    return PlanFacts(guards, frozenset(map(intern, iris)))  # packs share most of them


def _texts(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        found = todo.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, Mapping):
            todo += found.values()
        elif isinstance(found, list):
            todo += found


def digests_of(pack: Resource) -> tuple[str, ...]:
    """Images that a pack has: the one that is enforced, and the one that is worked on."""
    parts = (pack.status.get("live") or {}, pack.status.get("revision") or {})
    return tuple(dict.fromkeys(part["digest"] for part in parts if "digest" in part))
