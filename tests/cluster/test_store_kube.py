"""The API server keeps the contract of the store; then what only a cluster can do."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import place
from knhk.adapters.kube_feed import ChangeFeed, Watches
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.api import KINDS
from knhk.model.faults import Gap, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import Resource

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
sys.path.insert(0, str(Path(__file__).parent))
from cluster_pki import kubeconfig
from contract import TOLD_WITHIN_S, StoreContract, edited, now, pack
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
KEPT = 60


class TestKube(StoreContract):
    kept = KEPT

    @pytest.fixture
    def store(self, clean: KubeClient, cluster: Cluster) -> Iterator[KubeStore]:
        feed = ChangeFeed(KEPT)
        watches = Watches(KubeClient(api_client(cluster.kubeconfig)), KINDS, feed)
        watches.start()
        store = KubeStore(clean, feed, SystemClock())
        yield store
        store.close()
        watches.stop()

    def test_owners_and_finalizers_that_others_set_stay(self, store: KubeStore, client: KubeClient) -> None:
        made = store.create(pack())
        document = client.call("GET", place(made.key))
        document["metadata"]["finalizers"] = ["example.com/theirs"]
        client.call("PUT", place(made.key), body=document)
        store.update(replace(edited(made, suspend=True), resource_version=""))
        after = client.call("GET", place(made.key))
        assert (after["metadata"]["finalizers"], after["spec"]["suspend"]) == (["example.com/theirs"], True)
        client.call("PUT", place(made.key), body={**after, "metadata": {**after["metadata"], "finalizers": []}})

    def test_the_status_is_applied_by_our_field_manager(self, store: KubeStore, client: KubeClient) -> None:
        made = store.update_status(replace(store.create(pack()), status={"observedGeneration": 1}))
        fields = client.call("GET", place(made.key))["metadata"]["managedFields"]
        assert ("knhk", "Apply", "status") in {(row["manager"], row["operation"], row.get("subresource", "")) for row in fields}

    def test_a_status_with_unknown_members_is_refused_whole(self, store: KubeStore) -> None:
        made = store.create(pack())
        with pytest.raises(Refused, match="unknown field"):
            store.update_status(replace(made, status={"smuggled": 1}))
        assert store.get(made.key) == made

    def test_a_watch_that_the_server_has_outrun_begins_again_with_a_gap(self, clean: KubeClient, cluster: Cluster) -> None:
        feed = ChangeFeed(KEPT)
        watches = Watches(Stale(api_client(cluster.kubeconfig)), ("PolicyPack",), feed)
        watches.start()
        store = KubeStore(clean, feed, SystemClock())
        with pytest.raises(Gap):
            store.changes(0, timeout_s=TOLD_WITHIN_S)
        made = store.create(pack())
        assert made in store.list("PolicyPack").resources or now(store)
        watches.stop()

    def test_a_watch_outlives_the_death_of_the_api_server(self, store: KubeStore, cluster: Cluster) -> None:
        os.kill(cluster.pid("kube-apiserver"), signal.SIGKILL)
        made = written_at_last(store)
        assert made in store.list("PolicyPack").resources
        position = now(store)
        later = store.update(edited(made, suspend=True))
        changes, _ = store.changes(position, timeout_s=TOLD_WITHIN_S)
        assert [change.resource for change in changes] == [later]


class Stale(KubeClient):
    """Begins its watches at a version that the API server no longer has."""

    _asked = False

    def call(self, method: str, path: str, query: Any = None, body: Any = None, media: str = "application/json") -> dict[str, Any]:
        found = super().call(method, path, query, body, media)
        if not self._asked:
            found["metadata"]["resourceVersion"] = "1"
        self._asked = True
        return found


def written_at_last(store: KubeStore) -> Resource:
    """A pack, written as soon as the API server answers again."""
    while True:
        try:
            return store.apply(pack("after"))
        except Waiting as waiting:
            time.sleep(waiting.retry_after_s)


def test_who_may_not_write_is_told_that_a_person_must_act(cluster: Cluster, clean: KubeClient) -> None:
    nobody = KubeStore(KubeClient(api_client(cluster.user("nobody"))), ChangeFeed(), SystemClock())
    with pytest.raises(Stalled, match="must be allowed") as caught:
        nobody.create(pack())
    assert caught.value.reason == "Forbidden"


def test_a_server_that_is_not_there_is_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    lost = kubeconfig(tmp_path / "lost.kubeconfig", cluster.folder / "pki", "admin", "https://127.0.0.1:1")
    with pytest.raises(Waiting, match="does not answer"):
        KubeStore(KubeClient(api_client(lost)), ChangeFeed(), SystemClock()).list("PolicyPack")


def test_a_namespace_that_is_not_there_is_named(clean: KubeClient) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        KubeStore(clean, ChangeFeed(), SystemClock()).create(pack(namespace="nowhere"))
