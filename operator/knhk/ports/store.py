"""Where resources live: SQLite when embedded, the API server on a cluster. One contract for both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from knhk.model.faults import Gap
from knhk.model.resource import Key, Resource

ChangeType = Literal["Added", "Modified", "Deleted"]
EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True)
class Change:
    """One write. `resource` is the object after it (before it, for Deleted); `revision` grows by write."""

    revision: int
    type: ChangeType
    resource: Resource


@dataclass(frozen=True)
class Listing:
    """Objects as they were at `revision`, in order of namespace and name."""

    resources: tuple[Resource, ...]
    revision: int


@dataclass(frozen=True)
class Event:
    """Something that happened to an object, for people; equal ones in a row are counted, not repeated."""

    key: Key
    type: EventType
    reason: str
    message: str
    time: str = ""
    count: int = 1


class Store(Protocol):
    """Promises, the same for every adapter (tests/store/contract.py):

    - A write that returned survives the death of the process; one that raised changed nothing.
    - `resource_version` is opaque and changes with every write that changes something.
    - `generation` grows by one when the spec changes and at no other time.
    - Writes of spec and metadata never touch status, and `update_status` touches nothing else.
    - A write with a stale resource_version raises Conflict; with "" it is last-writer-wins.
    - A write that changes nothing makes no new version and no change event.
    - Of what is deleted while its status has pending events `departed` tells, across the death of every process, until it is released.
    - Several threads and processes may write at once; each write is atomic.
    - Revisions order all writes. `changes` gives every write after a revision once, in order, or raises Gap.
    - Raises Waiting when trying again may help (busy, disk full) and Stalled when a person must act
      (no permission, not a database, damaged).
    """

    def create(self, resource: Resource) -> Resource:
        """Store a new object; uid, resource_version, generation 1 and created are set. Raises AlreadyExists."""
        ...

    def get(self, key: Key) -> Resource:
        """The object. Raises NotFound."""
        ...

    def list(self, kind: str, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> Listing:
        """Objects of a kind, of one namespace or of all, that carry all of `labels`."""
        ...

    def heads(self, kind: str) -> Iterator[Resource]:
        """Objects of a kind without spec and status, in no order: for kinds of which there are many. Read as they are asked for."""
        ...

    def update(self, resource: Resource) -> Resource:
        """Replace spec, labels and annotations. Raises NotFound, Conflict, Refused (immutable)."""
        ...

    def update_status(self, resource: Resource) -> Resource:
        """Replace the status. Raises NotFound, Conflict."""
        ...

    def apply(self, resource: Resource) -> Resource:
        """Create, or update what is there. A resource_version, when given, is checked. Raises Conflict, Refused."""
        ...

    def delete(self, key: Key, resource_version: str = "") -> None:
        """Remove the object. Raises NotFound, Conflict."""
        ...

    def departed(self) -> tuple[Resource, ...]:
        """Deleted objects as they were at the end, those whose status had pending events among them; at least until they are released."""
        ...

    def release(self, resource: Resource) -> None:
        """What a deleted object owed is done. Any other, or one that was released, is no error."""
        ...

    def changes(self, since: int, kinds: Collection[str] = (), timeout_s: float = 0.0) -> tuple[tuple[Change, ...], int]:
        """Writes after revision `since` to objects of `kinds` (empty: all), and the revision to go on from.

        Waits up to `timeout_s` for a first one; sees writes of other processes within 50 ms. Raises Gap
        when they are no longer kept.
        """
        ...

    def record(self, event: Event) -> None:
        """Note an event; `time` is set by the store. Old ones are dropped (cap 1,000 for each object)."""
        ...

    def events(self, key: Key) -> tuple[Event, ...]:
        """Events of an object, oldest first."""
        ...

    def close(self) -> None:
        """Give back what the store holds open; further calls raise Stalled."""
        ...


def watch(store: Store, kind: str, timeout_s: float = 1.0) -> Iterator[Listing | Change | None]:
    """First a Listing, then each Change; a Listing again after a gap; None when `timeout_s` passed quietly.

    Level-based readers treat a Listing as the whole truth.
    """
    while True:
        listing = store.list(kind)
        yield listing
        since = listing.revision
        try:
            while True:
                found, since = store.changes(since, (kind,), timeout_s)
                yield from found
                if not found:
                    yield None
        except Gap:
            continue
