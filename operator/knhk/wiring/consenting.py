"""Where Consents are written and by whom, and the key that makes tags of names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from knhk.api.conditions import ready_of
from knhk.model.faults import Stalled, Waiting
from knhk.model.resource import Key, Resource
from knhk.ports.secrets import Secrets
from knhk.ports.store import Store
from knhk.reconcilers.consent_book import subject_key
from knhk.wiring.home import Home, local_user
from knhk.wiring.places import of_cluster, who
from knhk.wiring.resources import open_store
from knhk.wiring.subject_key import Made

LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Desk:
    """The store, who writes, and the secrets of namespaces."""

    store: Store
    actor: str
    secrets: Secrets

    def key(self, namespace: str) -> bytes:
        """Of the tags of a namespace. Raises Stalled."""
        return subject_key(self.secrets, namespace)

    def recorded(self, key: Key, generation: int, within_s: float) -> Resource:
        """The Consent once it is in the log. Raises Waiting when it is not in time, and Stalled when it is refused."""
        deadline = time.monotonic() + within_s
        while True:
            found = self.store.get(key)
            ready = ready_of(found.status)
            is_new = ready.get("observedGeneration", -1) >= generation
            if is_new and ready["status"] == "True":
                return found
            if is_new and ready["status"] == "False":
                raise Stalled(ready["reason"], f"{key}: {ready['message']}")
            if time.monotonic() >= deadline:
                raise Waiting(
                    "NotRecorded", f"{key} is stored and not in the log yet: the control plane must run; it counts once it is", 1.0
                )
            time.sleep(LOOK_EVERY_S)


@contextmanager
def desk(home: Home, kubeconfig: Path | None) -> Iterator[Desk]:
    """Of a home, or of the cluster that a kubeconfig names. Raises Stalled."""
    if kubeconfig is not None:
        with _of_cluster(kubeconfig) as found:
            yield found
        return

    with open_store(home, must_exist=True) as store:
        yield Desk(store, local_user(), Made(home))


@contextmanager
def _of_cluster(kubeconfig: Path) -> Iterator[Desk]:
    from knhk.adapters.secrets_kube import KubeSecrets

    with of_cluster(kubeconfig) as (store, client):
        yield Desk(store, who(client), KubeSecrets(client))
