"""keys.json as a point gets it: of its chapters those that the point needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from knhk.lockchain.chapters import holding, newest
from knhk.model.faults import KnhkError
from knhk.ports.registry import Registry
from knhk.reconcilers.building import signers_of

ROOM = 600 << 10  # of keys.json in what is published for a point: of the 1 MiB that a ConfigMap has


@dataclass
class PointKeys:
    """Remembers who signed which image, by digest; and of which images the registry did not say it for the keys.json that was last
    looked at, so that one that is away holds nobody up at every look."""

    _signers: dict[str, frozenset[str]] = field(default_factory=dict)
    _unsaid: set[str] = field(default_factory=set)
    _seen: bytes = b""

    def of(self, keys_json: bytes, registry: Registry, images: Iterable[str]) -> bytes:
        """With the chapters that have a key which signed one of these images, by digest; with all where the registry does not say."""
        if holding(keys_json, frozenset()) == keys_json:
            return keys_json
        if keys_json != self._seen:
            self._seen, self._unsaid = keys_json, set()
        named = frozenset(images)
        for digest in named - self._signers.keys() - self._unsaid:
            try:
                self._signers[digest] = signers_of(digest, registry)
            except (KnhkError, OSError, ValueError):
                self._unsaid.add(digest)
        if named & self._unsaid:
            return newest(keys_json, ROOM)
        return holding(keys_json, frozenset().union(*(self._signers[digest] for digest in named)))
