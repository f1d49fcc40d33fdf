"""The store contract in memory, for unit tests of what stands on it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from knhk.api import check_update
from knhk.model.faults import AlreadyExists, Conflict, Gap, NotFound, Refused, Stalled
from knhk.model.resource import Key, Resource
from knhk.ports.store import Change, ChangeType, Event, Listing

KEPT_CHANGES = 2_000
KEPT_EVENTS = 1_000
TIME = "2026-11-23T10:00:00Z"


class MemoryStore:
    """knhk.ports.store.Store for one thread; it never waits."""

    def __init__(self) -> None:
        self._objects: dict[Key, Resource] = {}
        self._changes: list[Change] = []
        self._events: dict[Key, list[Event]] = {}
        self._revision = 0
        self._closed = False

    def time(self) -> str:
        """When objects are created, RFC 3339."""
        return TIME

    def create(self, resource: Resource) -> Resource:
        self._check_open()
        if resource.key in self._objects:
            raise AlreadyExists(f"{resource.key} exists already")
        uid = f"uid-{self._revision + 1}"
        made = replace(resource, uid=uid, generation=1, created=self.time(), status={}, path="", lines={})
        return self._store("Added", made)

    def get(self, key: Key) -> Resource:
        self._check_open()
        if key not in self._objects:
            raise NotFound(f"{key} was not found")
        return self._objects[key]

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        self._check_open()
        wanted = (labels or {}).items()
        found = [
            resource
            for key, resource in self._objects.items()
            if key.kind == kind and namespace in (None, key.namespace) and wanted <= resource.labels.items()
        ]
        return Listing(tuple(sorted(found, key=lambda resource: resource.key)), self._revision)

    def heads(self, kind: str) -> Iterator[Resource]:
        self._check_open()
        yield from [replace(resource, spec={}, status={}) for resource in self._objects.values() if resource.kind == kind]

    def update(self, resource: Resource) -> Resource:
        return self._replace(self._current(resource), resource)

    def update_status(self, resource: Resource) -> Resource:
        old = self._current(resource)
        return self._put(old, replace(old, status=resource.status))

    def apply(self, resource: Resource) -> Resource:
        self._check_open()
        if resource.key not in self._objects:
            if resource.resource_version:
                raise Conflict(f"{resource.key} was deleted; read again")
            return self.create(resource)
        return self.update(resource)

    def delete(self, key: Key, resource_version: str = "") -> None:
        old = self.get(key)
        if resource_version not in ("", old.resource_version):
            raise Conflict(f"{key} changed; read again")
        del self._objects[key]
        self._events.pop(key, None)
        self._note("Deleted", old)

    def departed(self) -> tuple[Resource, ...]:
        self._check_open()
        return tuple(c.resource for c in self._changes if c.type == "Deleted" and c.resource.status.get("pending"))

    def release(self, resource: Resource) -> None:
        self._check_open()

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        self._check_open()
        oldest = self._changes[0].revision if self._changes else self._revision + 1
        if since > self._revision or (since < self._revision and since < oldest - 1):
            raise Gap("list again")
        found = (c for c in self._changes if c.revision > since)
        return tuple(c for c in found if not kinds or c.resource.kind in kinds), self._revision

    def record(self, event: Event) -> None:
        self._check_open()
        rows = self._events.setdefault(event.key, [])
        if rows and replace(rows[-1], time="", count=1) == replace(event, time="", count=1):
            rows[-1] = replace(rows[-1], count=rows[-1].count + 1)
            return
        rows.append(replace(event, time=TIME, count=1))
        del rows[:-KEPT_EVENTS]

    def events(self, key: Key) -> tuple[Event, ...]:
        self._check_open()
        return tuple(self._events.get(key, ()))

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Stalled("StoreClosed", "the store was closed")

    def _current(self, resource: Resource) -> Resource:
        old = self.get(resource.key)
        if resource.resource_version not in ("", old.resource_version):
            raise Conflict(f"{resource.key} changed; read again")
        return old

    def _replace(self, old: Resource, new: Resource) -> Resource:
        faults = check_update(old, new)
        if faults:
            raise Refused(faults)
        moved = int(old.spec != new.spec)
        kept = replace(old, spec=new.spec, labels=new.labels, annotations=new.annotations)
        return self._put(old, replace(kept, generation=old.generation + moved))

    def _put(self, old: Resource, new: Resource) -> Resource:
        return old if old == new else self._store("Modified", new)

    def _store(self, type: ChangeType, resource: Resource) -> Resource:
        stored = self._note(type, resource)
        self._objects[stored.key] = stored
        return stored

    def _note(self, type: ChangeType, resource: Resource) -> Resource:
        self._revision += 1
        stored = replace(resource, resource_version=str(self._revision))
        self._changes.append(Change(self._revision, type, stored))
        del self._changes[:-KEPT_CHANGES]
        return stored
