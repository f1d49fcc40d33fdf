"""knhk.ports.store.Store by a Kubernetes API server."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from knhk.adapters.kube_client import APPLY, JSON, MERGE, METADATA, KubeClient
from knhk.adapters.kube_documents import (
    changed_document,
    collection,
    head_of,
    hold_document,
    leaves,
    new_document,
    place,
    resource_of,
    status_document,
)
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_mirror import Mirror
from knhk.model.faults import AlreadyExists, Conflict, Gap, KnhkError, NotFound, Stalled, Waiting
from knhk.model.resource import API_VERSION, Key, Resource
from knhk.model.times import rfc3339
from knhk.ports.clock import Clock
from knhk.ports.store import Change, Event, Listing

MANAGER = "knhk"
HOLDER = "knhk-hold"  # field manager of the finalizer alone
PAGE = 100
MANY = 1_000  # of metadata alone
KEPT_EVENTS = 1_000
REMEMBERED_EVENTS = 1_000  # of the last event of so many objects it is known whether it comes again
MAX_EVENT_TEXT = 1_024
_WRITE = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
_APPLIED = {"force": "true", "fieldValidation": "Ignore"}  # what is unknown is refused all the same; Strict has it parsed a second time


class KubeStore:
    """Promises as the port, with what a cluster makes different: `changes` tells a write when the watch brings it, and may tell again
    what a listing shows already; changes of one kind keep their order, those of several come as they are seen. Events
    live as long as the API server keeps them (an hour by default).

    Spec, labels and annotations are replaced by PUT, the status by server-side apply with field manager `knhk`; each carries the
    version that was read. Objects of the kinds that `mirror` holds are read from it, all others from the API server; those alone are
    held while they owe events, for of the others nobody sees that they leave. What a write was told is in the mirror when it returns,
    and so is what it found in its way. Any thread."""

    def __init__(self, client: KubeClient, feed: ChangeFeed, clock: Clock, mirror: Mirror | None = None) -> None:
        self._client = client
        self._feed = feed
        self._mirror = mirror or Mirror(feed, ())
        self._clock = clock
        self._closed = False
        self._said: dict[Key, tuple[Event, str]] = {}
        self._lock = threading.Lock()

    def create(self, resource: Resource) -> Resource:
        """See Store.create."""
        with self._told(resource.key):
            document = self._call("POST", collection(resource.kind, resource.namespace), _WRITE, new_document(resource))
        return self._seen(document)

    def get(self, key: Key) -> Resource:
        """See Store.get."""
        if not self._mirror.holds(key.kind):
            document = self._document(key)
            if leaves(document):
                raise NotFound(f"{key} was not found: it is deleted")
            return resource_of(document)
        self._fill()
        found = self._mirror.get(key)
        if found is None:
            raise NotFound(f"{key} was not found")
        return found

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        """See Store.list."""
        wanted = (labels or {}).items()
        if self._mirror.holds(kind):
            self._fill()
            listing = self._mirror.list(kind, namespace)
            return replace(listing, resources=tuple(r for r in listing.resources if wanted <= r.labels.items())) if wanted else listing
        revision = self._feed.position()
        selector = ",".join(f"{name}={value}" for name, value in sorted(wanted))
        resources, _ = self._resources(kind, namespace, {"labelSelector": selector} if selector else {})
        return Listing(tuple(sorted(resources, key=lambda found: (found.namespace, found.name))), revision)

    def heads(self, kind: str) -> Iterator[Resource]:
        """See Store.heads."""
        for page in self._pages(collection(kind), {}, MANY, METADATA):
            for document in page["items"] or ():  # null for none, of a nil slice in Go
                if not leaves(document):
                    yield head_of(kind, document["metadata"])

    def update(self, resource: Resource) -> Resource:
        """See Store.update."""
        while True:
            try:
                with self._told(resource.key):
                    before = self._document(resource.key)
                    if _says(resource_of(before), resource):
                        return self._seen(before)  # an API server would store its default of a status that nobody wrote
                    return self._seen(self._call("PUT", place(resource.key), _WRITE, changed_document(before, resource)))
            except Conflict:
                if resource.resource_version:
                    raise

    def update_status(self, resource: Resource) -> Resource:
        """See Store.update_status."""
        if not resource.status and not (before := self.get(resource.key)).status:
            return before  # to apply nothing for the first time would still note who applied it
        owes = bool(resource.status.get("pending"))
        path, query = f"{place(resource.key)}/status", {"fieldManager": MANAGER, **_APPLIED}
        with self._told(resource.key):
            if owes and not resource.held and resource.uid and self._mirror.holds(resource.kind):
                resource = replace(resource, resource_version=self._hold(resource, hold=True).resource_version)
            told = self._seen(self._call("PATCH", path, query, status_document(resource), APPLY, key=resource.key))
        return told if owes or not told.held else self._let_go(told)

    def apply(self, resource: Resource) -> Resource:
        """See Store.apply."""
        while True:
            try:
                return self.update(resource)
            except NotFound as error:
                if resource.resource_version:
                    raise Conflict(f"{resource.key} was deleted; read again") from error
            try:
                return self.create(resource)
            except AlreadyExists:
                continue

    def delete(self, key: Key, resource_version: str = "") -> None:
        """See Store.delete."""
        options = {"preconditions": {"resourceVersion": resource_version}} if resource_version else {}
        with self._told(key):
            answer = self._call("DELETE", place(key), {}, {"apiVersion": "v1", "kind": "DeleteOptions", **options}, key=key)
        if answer["kind"] == key.kind:  # its finalizers are to go first
            self._seen(answer)
        else:
            self._mirror.gone(key, answer.get("details", {}).get("uid", ""))

    def departed(self) -> tuple[Resource, ...]:
        """See Store.departed: what a finalizer of ours keeps at the API server."""
        self._fill()
        return self._mirror.held()

    def release(self, resource: Resource) -> None:
        """See Store.release."""
        if resource.uid not in {held.uid for held in self._mirror.held()}:
            return
        with suppress(NotFound, Conflict):  # it is gone already
            self._hold(replace(resource, resource_version=""), hold=False)
        self._mirror.released(resource.uid)

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        """See Store.changes."""
        self._check_open()
        return self._feed.after(since, kinds, timeout_s)

    def record(self, event: Event) -> None:
        """See Store.record."""
        event = replace(event, message=event.message[:MAX_EVENT_TEXT])
        with self._lock:
            said, name = self._said.pop(event.key, (None, ""))
            again = said is not None and (said.type, said.reason, said.message) == (event.type, event.reason, event.message)
            counted = replace(event, count=said.count + 1 if again and said is not None else 1)
            if not again or not self._count(name, counted):
                name = self._say(counted)
            self._said[event.key] = (counted, name)
            while len(self._said) > REMEMBERED_EVENTS:
                del self._said[next(iter(self._said))]

    def events(self, key: Key) -> tuple[Event, ...]:
        """See Store.events."""
        try:
            uid = self.get(key).uid
        except NotFound:
            return ()
        pages = self._pages(_events(key.namespace), {"fieldSelector": f"involvedObject.uid={uid}"})
        documents = (document for page in pages for document in page["items"])
        ordered = sorted(documents, key=lambda document: str(document["metadata"]["name"].rpartition(".")[2]))
        return tuple(_event(key, document) for document in ordered[-KEPT_EVENTS:])

    def close(self) -> None:
        """See Store.close."""
        self._closed = True

    # ---- requests ----------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        media: str = JSON,
        key: Key | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        self._check_open()
        try:
            return self._client.call(method, path, query, body, media, accept=accept)
        except NotFound as error:
            if key is None:
                raise
            raise NotFound(f"{key} was not found") from error

    def _document(self, key: Key) -> dict[str, Any]:
        return self._call("GET", place(key), {}, key=key)

    def _pages(self, path: str, query: Mapping[str, str], of: int = PAGE, accept: str = JSON) -> Iterator[dict[str, Any]]:
        """A list in pages, all of one moment."""
        query = {**query, "limit": str(of)}
        further = ""
        while True:
            try:
                page = self._call("GET", path, {**query, "continue": further} if further else query, accept=accept)
            except Gap as error:
                raise Waiting("ListExpired", f"{path}: the list took too long", 0.0) from error
            yield page
            further = page["metadata"].get("continue", "")
            if not further:
                return

    # ---- memory ------------------------------------------------------------------------------

    def _resources(self, kind: str, namespace: str | None, query: Mapping[str, str]) -> tuple[Collection[Resource], str]:
        found: list[Resource] = []
        version = ""
        for page in self._pages(collection(kind, namespace), query):
            for document in page["items"] or ():  # null for none, of a nil slice in Go
                resource = resource_of({**document, "kind": kind})
                if not leaves(document):
                    found.append(resource)
                elif self._mirror.holds(kind):
                    self._mirror.leaves(resource)
            version = page["metadata"]["resourceVersion"]
        return found, version

    def _fill(self) -> None:
        """Lists the kinds whose watch had to begin (again), before anything is read."""
        self._check_open()
        for kind, ticket in self._mirror.owed().items():
            self._mirror.fill(kind, ticket, *self._resources(kind, None, {}))

    def _seen(self, document: Mapping[str, Any]) -> Resource:
        """The object that a write was answered with."""
        found = resource_of(document)
        if self._mirror.holds(found.kind):
            if leaves(document):
                self._mirror.leaves(found)
            else:
                self._mirror.see("Modified", found)
        return found

    def _hold(self, resource: Resource, *, hold: bool) -> Resource:
        """The finalizer that keeps an object until its pending events are told, set or taken away."""
        query = {"fieldManager": HOLDER, **_APPLIED}
        return self._seen(self._call("PATCH", place(resource.key), query, hold_document(resource, hold=hold), APPLY, key=resource.key))

    def _let_go(self, resource: Resource) -> Resource:
        """Nothing is pending any more. Who changed the object meanwhile has written nothing that is: only this process does."""
        while not resource.status.get("pending"):
            try:
                return self._hold(resource, hold=False)
            except Conflict:
                resource = self._seen(self._document(resource.key))
        return resource

    @contextmanager
    def _told(self, key: Key) -> Iterator[None]:
        """A write of an object that is otherwise than it was read: what there is now is read before anybody decides again."""
        try:
            yield
        except (Conflict, NotFound):
            if self._mirror.holds(key.kind):
                with suppress(KnhkError):  # the watch will tell
                    self._read_anew(key)
            raise

    def _read_anew(self, key: Key) -> None:
        try:
            self._seen(self._document(key))
        except NotFound:
            self._mirror.gone(key)

    def _check_open(self) -> None:
        if self._closed:
            raise Stalled("StoreClosed", "the store was closed")

    # ---- events ------------------------------------------------------------------------------

    def _say(self, event: Event) -> str:
        """A new Event object; its name."""
        try:
            uid = self.get(event.key).uid
        except NotFound:
            uid = ""
        now_ns = self._clock.now_ns()
        name, now = f"{event.key.name}.{now_ns:016x}", rfc3339(now_ns)
        involved = {"kind": event.key.kind, "namespace": event.key.namespace, "name": event.key.name, "apiVersion": API_VERSION}
        document = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": event.key.namespace},
            "involvedObject": {**involved, "uid": uid},
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "count": event.count,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": MANAGER},
        }
        self._call("POST", _events(event.key.namespace), {"fieldManager": MANAGER}, document)
        return name

    def _count(self, name: str, event: Event) -> bool:
        """One more of the same; false when the API server has dropped it meanwhile."""
        more = {"count": event.count, "lastTimestamp": rfc3339(self._clock.now_ns())}
        try:
            self._call("PATCH", f"{_events(event.key.namespace)}/{name}", {"fieldManager": MANAGER}, more, MERGE)
        except NotFound:
            return False
        return True


def _says(before: Resource, after: Resource) -> bool:
    """Whether to write `after` over `before` changes nothing."""
    same_version = after.resource_version in ("", before.resource_version)
    return same_version and (before.spec, before.labels, before.annotations) == (after.spec, after.labels, after.annotations)


def _events(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def _event(key: Key, document: Mapping[str, Any]) -> Event:
    time = document.get("lastTimestamp") or document.get("eventTime") or ""
    return Event(key, document["type"], document["reason"], document["message"], time, int(document.get("count") or 1))
