"""Changes of a cluster's resources, in the order in which they were seen; filled by watches of this module or by whoever watches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, resource_of
from knhk.model.faults import Gap, KnhkError
from knhk.model.resource import Resource
from knhk.ports.store import Change, ChangeType

KEPT_CHANGES = 2_000
WATCH_S = 240
QUIET_S = 300.0  # bookmarks come every minute: a watch that is silent for so long is dead
RETRY_S = 0.5
TYPES: Mapping[str, ChangeType] = {"ADDED": "Added", "MODIFIED": "Modified", "DELETED": "Deleted"}

_log = logging.getLogger("knhk.kube")


@dataclass(frozen=True)
class _Hole:
    """Where changes were lost."""

    revision: int


class ChangeFeed:
    """The last `kept` changes, numbered here; any thread. What fell out, or was lost before it came, is a Gap; what came before it is
    read first."""

    def __init__(self, kept: int = KEPT_CHANGES) -> None:
        self._changes: deque[Change | _Hole] = deque(maxlen=kept)
        self._last = 0
        self._seen = threading.Condition()

    def add(self, type: ChangeType, resource: Resource) -> None:
        """Append a change."""
        with self._seen:
            self._last += 1
            self._changes.append(Change(self._last, type, resource))
            self._seen.notify_all()

    def lost(self) -> None:
        """Changes were missed here: every reader must list again when it has read what came before."""
        with self._seen:
            self._last += 1
            self._changes.append(_Hole(self._last))
            self._seen.notify_all()

    def position(self) -> int:
        """Number of the last change."""
        with self._seen:
            return self._last

    def after(self, since: int, kinds: Collection[str], timeout_s: float) -> tuple[tuple[Change, ...], int]:
        """As Store.changes."""
        deadline_s = time.monotonic() + timeout_s
        with self._seen:
            while True:
                found, since = self._after(since, kinds)
                left_s = deadline_s - time.monotonic()
                if found or left_s <= 0:
                    return found, since
                if since == self._last:
                    self._seen.wait(left_s)

    def _after(self, since: int, kinds: Collection[str]) -> tuple[tuple[Change, ...], int]:
        """Up to the next hole."""
        oldest = self._changes[0].revision if self._changes else self._last + 1
        if since > self._last or since < oldest - 1:
            raise Gap(f"changes from {since} on are not kept (kept: {oldest} to {self._last}); list again")
        found: list[Change] = []
        for change in self._changes:
            if change.revision <= since:
                continue
            if isinstance(change, _Hole):
                if change.revision == since + 1:
                    raise Gap(f"changes behind {since} were not seen; list again")
                return tuple(found), change.revision - 1
            if not kinds or change.resource.kind in kinds:
                found.append(change)
        return tuple(found), self._last


class Watches:
    """One watch for each kind, kept up until `stop`. After 410 the feed tells a Gap and the watch goes on from now."""

    def __init__(self, client: KubeClient, kinds: Iterable[str], feed: ChangeFeed) -> None:
        self._client = client
        self._feed = feed
        self._halt = threading.Event()
        self._versions = dict.fromkeys(kinds, "")

    def start(self) -> None:
        """Returns when every change from now on will be told. Raises as KubeClient.call."""
        for kind in self._versions:
            self._versions[kind] = self._now(kind)
        for kind in self._versions:
            threading.Thread(target=self._keep_up, args=(kind,), name=f"watch-{kind}", daemon=True).start()

    def stop(self) -> None:
        """No changes are told any more."""
        self._halt.set()
        self._client.hang_up()

    def _now(self, kind: str) -> str:
        return str(self._client.call("GET", collection(kind), {"limit": "1"})["metadata"]["resourceVersion"])

    def _keep_up(self, kind: str) -> None:
        while not self._halt.is_set():
            try:
                self._follow(kind)
            except Gap:
                self._begin_again(kind)
            except KnhkError as error:
                if not self._halt.is_set():
                    _log.info("the watch of %s broke: %s", kind, error)
                self._halt.wait(RETRY_S)

    def _follow(self, kind: str) -> None:
        query = {
            "watch": "true",
            "resourceVersion": self._versions[kind],
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        for event in self._client.lines(collection(kind), query, QUIET_S):
            if self._halt.is_set():
                return
            document = event["object"]
            if event["type"] == "ERROR":
                raise Gap(str(document.get("message", "")))  # 410, or what only a new list can heal
            if event["type"] in TYPES:
                self._feed.add(TYPES[event["type"]], resource_of(document))
            self._versions[kind] = str(document["metadata"]["resourceVersion"])

    def _begin_again(self, kind: str) -> None:
        """The new version first and the Gap second: nothing is between them that a list after the Gap would not show."""
        try:
            self._versions[kind] = self._now(kind)
            self._feed.lost()
        except KnhkError as error:
            _log.info("%s cannot be listed: %s", kind, error)
            self._halt.wait(RETRY_S)
