"""Objects of watched kinds in memory: as the watch told them last, and never older than what this process wrote itself."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from knhk.adapters.kube_feed import ChangeFeed
from knhk.model.faults import Waiting
from knhk.model.resource import Key, Resource
from knhk.ports.store import ChangeType, Listing

REMEMBERED_DEAD = 4_096
LISTED_WITHIN_S = 0.2

_Place = tuple[str, str]  # kind and namespace


class Mirror:
    """Any thread. Whoever watches tells `see` what came, and `listed` that it had to list a kind, at the start or after a break: what was
    deleted meanwhile was not told. Then the kind is *stale* until `fill` brings a list that was taken afterwards.

    What is newer wins, by resourceVersion, which Kubernetes lets clients compare since 1.35; an object that is deleted never comes
    back, by its uid. What changes the mirror is told to the feed at once, a write of our own too: its echo from the watch then is
    no news."""

    def __init__(self, feed: ChangeFeed, kinds: Iterable[str]) -> None:
        self._feed = feed
        self._lock = threading.RLock()
        self._objects: dict[_Place, dict[str, Resource]] = {}
        self._sorted: dict[_Place, tuple[Resource, ...]] = {}
        self._listed = dict.fromkeys(kinds, 0)
        self._filled = dict.fromkeys(self._listed, 0)
        self._dead: OrderedDict[str, None] = OrderedDict()
        self._held: dict[str, Resource] = {}

    def holds(self, kind: str) -> bool:
        """Whether objects of the kind are here, and not only at the API server."""
        return kind in self._listed

    def synced(self) -> bool:
        """Whether every kind was listed, and filled since."""
        with self._lock:
            return all(self._listed.values()) and self._filled == self._listed

    # ---- what is told --------------------------------------------------------------------------

    def see(self, type: ChangeType, resource: Resource) -> None:
        """An object as the watch, or the answer to a write, tells it."""
        with self._lock:
            known = self._find(resource.key)
            if type == "Deleted":
                self._held.pop(resource.uid, None)
                self._end(known, resource)
            elif resource.uid not in self._dead and (known is None or _version(resource) > _version(known)):
                self._put(resource)
                self._feed.add("Modified" if known is not None and known.uid == resource.uid else "Added", resource)

    def gone(self, key: Key, uid: str = "") -> None:
        """The API server said that there is no such object, or, with a uid, none of that uid any more."""
        with self._lock:
            known = self._find(key)
            if known is not None and uid in ("", known.uid):
                self._end(known, known)

    def listed(self, kind: str) -> None:
        """The watch of a kind began (again) with a list, which is answered by now."""
        with self._lock:
            self._listed[kind] += 1
            if self._filled[kind]:
                self._feed.lost()

    def resync(self) -> None:
        """Every kind is to be listed, as if its watch had broken."""
        for kind in self._listed:
            if self._listed[kind]:
                self.listed(kind)

    def leaves(self, resource: Resource) -> None:
        """An object is deleted, and kept by the API server until its finalizers are gone: it is as good as gone for everybody else."""
        with self._lock:
            if resource.held:
                self._held[resource.uid] = resource
            self._end(self._find(resource.key), resource)

    def held(self) -> tuple[Resource, ...]:
        """What has left and is held by us."""
        with self._lock:
            return tuple(self._held.values())

    def released(self, uid: str) -> None:
        """It is held no longer."""
        with self._lock:
            self._held.pop(uid, None)

    # ---- filling -------------------------------------------------------------------------------

    def owed(self) -> dict[str, int]:
        """Kinds that must be listed before anything is read, with a ticket for `fill`. Raises Waiting until every kind is watched: a list
        from before would miss what is deleted in between."""
        with self._lock:
            if missing := [kind for kind, lists in self._listed.items() if not lists]:
                why = f"must be watched first: {', '.join(missing)}; their CustomResourceDefinitions must be there"
                raise Waiting("NotWatched", why, LISTED_WITHIN_S)
            return {kind: lists for kind, lists in self._listed.items() if self._filled[kind] != lists}

    def fill(self, kind: str, ticket: int, resources: Iterable[Resource], version: str) -> None:
        """A list that was asked for with `ticket`, and its resourceVersion: what it lacks is gone, unless it is newer."""
        with self._lock:
            found = {resource.key: resource for resource in resources if resource.uid not in self._dead}
            for known in [known for place, rows in self._objects.items() if place[0] == kind for known in rows.values()]:
                if known.key not in found and _version(known) <= int(version):
                    self._remove(known)
            for resource in found.values():
                old = self._find(resource.key)
                if old is None or _version(resource) > _version(old):
                    self._put(resource)
            self._filled[kind] = max(self._filled[kind], ticket)

    # ---- reading -------------------------------------------------------------------------------

    def get(self, key: Key) -> Resource | None:
        """The object, None when it is not there."""
        with self._lock:
            return self._find(key)

    def list(self, kind: str, namespace: str | None) -> Listing:
        """Objects of a kind in order. As long as none of a namespace changes, its tuple is the same."""
        with self._lock:
            places = [(kind, namespace)] if namespace is not None else sorted(place for place in self._objects if place[0] == kind)
            parts = [self._in_order(place) for place in places]
            resources = parts[0] if len(parts) == 1 else tuple(resource for part in parts for resource in part)
            return Listing(resources, self._feed.position())

    def _in_order(self, place: _Place) -> tuple[Resource, ...]:
        if place not in self._sorted:
            rows = self._objects.get(place, {})
            self._sorted[place] = tuple(rows[name] for name in sorted(rows))
        return self._sorted[place]

    # ---- one object ----------------------------------------------------------------------------

    def _find(self, key: Key) -> Resource | None:
        return self._objects.get((key.kind, key.namespace), {}).get(key.name)

    def _put(self, resource: Resource) -> None:
        place = (resource.kind, resource.namespace)
        self._objects.setdefault(place, {})[resource.name] = resource
        self._sorted.pop(place, None)

    def _remove(self, resource: Resource) -> None:
        place = (resource.kind, resource.namespace)
        del self._objects[place][resource.name]
        self._sorted.pop(place, None)

    def _end(self, known: Resource | None, resource: Resource) -> None:
        if resource.uid in self._dead:
            return
        self._dead[resource.uid] = None
        while len(self._dead) > REMEMBERED_DEAD:
            self._dead.popitem(last=False)
        if known is not None and known.uid == resource.uid:
            self._remove(known)
        self._feed.add("Deleted", resource)


def _version(resource: Resource) -> int:
    return int(resource.resource_version)
