"""Where resources are: in an embedded home, or in the cluster that a kubeconfig names, as its user may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from knhk.ports.store import Store
from knhk.wiring.home import Home, local_user
from knhk.wiring.resources import open_store

if TYPE_CHECKING:
    from knhk.adapters.kube_client import KubeClient
    from knhk.adapters.store_kube import KubeStore


@dataclass(frozen=True)
class Place:
    """`user`: tells who writes there."""

    store: Store
    user: Callable[[], str]


@contextmanager
def place(home: Home, kubeconfig: Path | None) -> Iterator[Place]:
    """Raises Stalled when there is no such home."""
    if kubeconfig is not None:
        with of_cluster(kubeconfig) as (store, client):
            yield Place(store, lambda: who(client))
        return
    with open_store(home, must_exist=True) as found:
        yield Place(found, local_user)


@contextmanager
def of_cluster(kubeconfig: Path) -> Iterator[tuple[KubeStore, KubeClient]]:
    """The store of a cluster, and the way to its API server."""
    from knhk.adapters.kube_client import KubeClient, api_client
    from knhk.adapters.kube_feed import ChangeFeed
    from knhk.adapters.store_kube import KubeStore
    from knhk.adapters.system import SystemClock

    client = KubeClient(api_client(kubeconfig))
    store = KubeStore(client, ChangeFeed(), SystemClock())
    try:
        yield store, client
    finally:
        store.close()


def who(client: KubeClient) -> str:
    """The user, as the API server knows it."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    return str(client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)["status"]["userInfo"]["username"])
