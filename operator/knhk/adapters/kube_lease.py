"""Leader election by a coordination.k8s.io Lease, as client-go does it: its holder renews it, others look whether that is done."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_leader import proclaim
from knhk.model.faults import AlreadyExists, Conflict, Deposed, KnhkError, NotFound, Stalled

LEASE_S = 10.0  # nobody else takes a lease that was renewed so lately
ACTS_S = 7.0  # so long after a renewal was begun its holder acts: before others may
EVERY_S = 1.5
LOOKS_EVERY_S = 10.0  # so long at most another than who leads may be the Leader
ANSWERS_WITHIN_S = 2.0

_log = logging.getLogger("knhk.lease")


@dataclass
class _Seen:
    """A holder's last renewal, and when it was seen here: clocks of two machines are never compared."""

    document: dict[str, Any]
    at_s: float


class Lease:
    """`lost` is called, once, when this process may act no longer. Not for several threads but for `check`, `leads` and `release`."""

    def __init__(self, client: KubeClient, namespace: str, name: str, holder: str, lost: Callable[[], None]) -> None:
        self._client = client
        self._folder = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace, self._name, self._holder = namespace, name, holder
        self._lost = lost
        self._seen: _Seen | None = None
        self._acts_until_s = 0.0
        self._end = threading.Event()
        self._keeper: threading.Thread | None = None

    def __str__(self) -> str:
        return f"Lease {self._namespace}/{self._name}"

    def leads(self) -> bool:
        """Whether this process may act now."""
        return _clock_s() < self._acts_until_s

    def check(self) -> None:
        """Raises Deposed unless this process may act now."""
        if not self.leads():
            raise Deposed(f"{self} is no longer held by {self._holder}")

    def wait(self, stop: threading.Event, meanwhile: Callable[[], None]) -> bool:
        """Until the lease is held, and kept from then on by a thread; false when `stop` came before. A standby calls `meanwhile` at every
        look."""
        while not stop.is_set():
            if self._try():
                _log.info("%s leads: %s", self._holder, self)
                self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
                self._keeper.start()
                return True
            meanwhile()
            stop.wait(EVERY_S)
        return False

    def proclaim(self) -> None:
        """Has the API server take writes of this holder, and of no other (kube_leader.py), and says so again, from a thread, where somebody
        has altered or removed what says it. Raises Deposed and Stalled."""
        if self._say():
            threading.Thread(target=self._stand, name="leader", daemon=True).start()

    def _say(self) -> bool:
        return proclaim(self._client, self._namespace, self._name, self._holder, self.check)

    def _stand(self) -> None:
        with suppress(Deposed):
            while not self._end.wait(LOOKS_EVERY_S):
                try:
                    self._say()
                except Stalled as error:
                    _log.warning("%s: the Leader cannot be looked at: %s", self, error)

    def release(self) -> None:
        """Gives the lease up, so that another need not wait for its end; no act may follow."""
        self._end.set()
        if self._keeper is None:
            return
        self._keeper.join()
        held = self.leads()
        self._acts_until_s = 0.0
        if held and self._seen is not None:
            document = self._seen.document
            spec = {**document["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            try:
                self._put({**document, "spec": spec})
            except KnhkError as error:
                _log.info("%s ends by itself: %s", self, error)

    def _keep(self) -> None:
        """However it ends but by `release`, it says that the lease is lost."""
        try:
            while not self._end.wait(EVERY_S):
                if not self._try() and not self.leads():
                    _log.error("%s leads no longer: %s", self._holder, self)
                    break
            else:
                return
        except Exception:  # a bug of ours, or of the client: nobody would renew the lease
            _log.exception("%s cannot be kept by %s", self, self._holder)
            self._acts_until_s = 0.0
        self._lost()

    def _try(self) -> bool:
        """Takes or renews the lease; whether it is held by that."""
        begun_s = _clock_s()
        try:
            wanted = self._wanted()
            if wanted is None:
                self._acts_until_s = 0.0
                return False
            self._seen = _Seen(self._put(wanted), begun_s)
        except (Conflict, AlreadyExists):
            return False  # somebody else was faster: it is read again
        except KnhkError as error:
            level = logging.WARNING if isinstance(error, Stalled) else logging.INFO
            _log.log(level, "%s cannot be renewed: %s", self, error)
            return False
        self._acts_until_s = begun_s + ACTS_S
        return True

    def _wanted(self) -> dict[str, Any] | None:
        """The lease as this process would hold it; None while it is another's."""
        now = _now()
        own = {"holderIdentity": self._holder, "leaseDurationSeconds": int(LEASE_S), "renewTime": now}
        try:
            document = self._client.call("GET", f"{self._folder}/{self._name}", within_s=ANSWERS_WITHIN_S)
        except NotFound:
            metadata = {"name": self._name, "namespace": self._namespace}
            spec = {**own, "acquireTime": now, "leaseTransitions": 0}
            return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        spec = document.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder == self._holder and self._keeper is not None:
            return {**document, "spec": {**spec, **own}}
        if holder and not self._ended(document):
            return None
        return {**document, "spec": {**own, "acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}}

    def _ended(self, document: dict[str, Any]) -> bool:
        """Whether nobody has renewed the lease for its time, as seen from here."""
        now_s = _clock_s()
        if self._seen is None or self._seen.document["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
            self._seen = _Seen(document, now_s)
        return now_s - self._seen.at_s > float(document["spec"].get("leaseDurationSeconds") or LEASE_S)

    def _put(self, document: dict[str, Any]) -> dict[str, Any]:
        if "resourceVersion" not in document["metadata"]:
            return self._client.call("POST", self._folder, {}, document, within_s=ANSWERS_WITHIN_S)
        return self._client.call("PUT", f"{self._folder}/{self._name}", {}, document, within_s=ANSWERS_WITHIN_S)


def _clock_s() -> float:
    """Goes on while the process is stopped, and while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
