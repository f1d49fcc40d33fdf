"""knhk.ports.store.Store by a Kubernetes API server."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from knhk.adapters.kube_client import APPLY, MERGE, KubeClient
from knhk.adapters.kube_documents import changed_document, collection, new_document, place, resource_of, status_document
from knhk.adapters.kube_feed import ChangeFeed
from knhk.model.faults import AlreadyExists, Conflict, Gap, NotFound, Stalled, Waiting
from knhk.model.resource import API_VERSION, Key, Resource
from knhk.ports.clock import Clock
from knhk.ports.store import Change, Event, Listing

MANAGER = "knhk"
PAGE = 500
KEPT_EVENTS = 1_000
REMEMBERED_EVENTS = 1_000  # of the last event of so many objects it is known whether it comes again
MAX_EVENT_TEXT = 1_024
_WRITE = {"fieldManager": MANAGER, "fieldValidation": "Strict"}


class KubeStore:
    """Promises as the port, with what a cluster makes different: `changes` tells a write when the watch brings it, and may tell again
    what a listing shows already; changes of one kind keep their order, those of several come as they are seen. Events
    live as long as the API server keeps them (an hour by default).

    Spec, labels and annotations are replaced by PUT, the status by server-side apply with field manager `knhk`; each carries the
    version that was read. Any thread."""

    def __init__(self, client: KubeClient, feed: ChangeFeed, clock: Clock) -> None:
        self._client = client
        self._feed = feed
        self._clock = clock
        self._closed = False
        self._said: dict[Key, tuple[Event, str]] = {}
        self._lock = threading.Lock()

    def create(self, resource: Resource) -> Resource:
        """See Store.create."""
        document = self._call("POST", collection(resource.kind, resource.namespace), _WRITE, new_document(resource))
        return resource_of(document)

    def get(self, key: Key) -> Resource:
        """See Store.get."""
        return resource_of(self._document(key))

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        """See Store.list."""
        revision = self._feed.position()
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        documents = self._pages(collection(kind, namespace), query)
        kinded = (resource_of({**document, "kind": kind}) for document in documents)
        return Listing(tuple(sorted(kinded, key=lambda found: (found.namespace, found.name))), revision)

    def update(self, resource: Resource) -> Resource:
        """See Store.update."""
        while True:
            before = self._document(resource.key)
            try:
                return resource_of(self._call("PUT", place(resource.key), _WRITE, changed_document(before, resource)))
            except Conflict:
                if resource.resource_version:
                    raise

    def update_status(self, resource: Resource) -> Resource:
        """See Store.update_status."""
        if not resource.status and not (before := self.get(resource.key)).status:
            return before  # to apply nothing for the first time would still note who applied it
        path, query = f"{place(resource.key)}/status", {**_WRITE, "force": "true"}
        return resource_of(self._call("PATCH", path, query, status_document(resource), APPLY, key=resource.key))

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
        self._call("DELETE", place(key), {}, {"apiVersion": "v1", "kind": "DeleteOptions", **options}, key=key)

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
        documents = self._pages(_events(key.namespace), {"limit": str(PAGE), "fieldSelector": f"involvedObject.uid={uid}"})
        ordered = sorted(documents, key=lambda document: str(document["metadata"]["name"].rpartition(".")[2]))
        return tuple(_event(key, document) for document in ordered[-KEPT_EVENTS:])

    def close(self) -> None:
        """See Store.close."""
        self._closed = True

    # ---- requests ----------------------------------------------------------------------------

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, media: str = "application/json", key: Key | None = None
    ) -> dict[str, Any]:
        self._check_open()
        try:
            return self._client.call(method, path, query, body, media)
        except NotFound as error:
            if key is None:
                raise
            raise NotFound(f"{key} was not found") from error

    def _document(self, key: Key) -> dict[str, Any]:
        return self._call("GET", place(key), {}, key=key)

    def _pages(self, path: str, query: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
        found: tuple[dict[str, Any], ...] = ()
        further = ""
        while True:
            try:
                page = self._call("GET", path, {**query, "continue": further} if further else query)
            except Gap as error:  # the pages are of one moment, which is no longer kept
                raise Waiting("ListExpired", f"{path}: the list took too long", 0.0) from error
            found = (*found, *page["items"])
            further = page["metadata"].get("continue", "")
            if not further:
                return found

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
        name, now = f"{event.key.name}.{now_ns:016x}", _rfc3339(now_ns)
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
        more = {"count": event.count, "lastTimestamp": _rfc3339(self._clock.now_ns())}
        try:
            self._call("PATCH", f"{_events(event.key.namespace)}/{name}", {"fieldManager": MANAGER}, more, MERGE)
        except NotFound:
            return False
        return True


def _events(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def _event(key: Key, document: Mapping[str, Any]) -> Event:
    time = document.get("lastTimestamp") or document.get("eventTime") or ""
    return Event(key, document["type"], document["reason"], document["message"], time, int(document.get("count") or 1))


def _rfc3339(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
