"""The API server keeps the contract of the store; then what only a cluster can do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import place
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_mirror import Mirror
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.handlers.seeing import watched
from knhk.model.faults import Gap, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import Resource
from knhk.wiring.cluster import WATCHED, access_of

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
sys.path.insert(0, str(Path(__file__).parent))
from cluster_pki import kubeconfig
from contract import TOLD_WITHIN_S, StoreContract, edited, now, pack
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
KEPT = 60
VECTORS = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "receipt.json").read_bytes())
RECEIPT = next(json.loads(case["files"]["r.json"]) for case in VECTORS["cases"] if case["name"] == "event: spec of a Receipt")


@pytest.fixture(scope="module")
def feed() -> ChangeFeed:
    return ChangeFeed(KEPT)


@pytest.fixture(scope="module")
def mirror(client: KubeClient, cluster: Cluster, feed: ChangeFeed) -> Iterator[Mirror]:
    found, broken = Mirror(feed, WATCHED), threading.Event()
    with watched(access_of(api_client(cluster.kubeconfig)), found, broken):
        yield found
        assert not broken.is_set()


class TestKube(StoreContract):
    """The store as the operator has it: what kopf sees is in memory, and read from there."""

    kept = KEPT

    @pytest.fixture
    def store(self, clean: KubeClient, feed: ChangeFeed, mirror: Mirror) -> Iterator[KubeStore]:
        store = KubeStore(clean, feed, SystemClock(), mirror)
        until_empty(store)
        yield store
        store.close()

    def test_owners_and_finalizers_that_others_set_stay(self, store: KubeStore, client: KubeClient) -> None:
        made = store.create(pack())
        document = client.call("GET", place(made.key))
        document["metadata"]["finalizers"] = ["example.com/theirs"]
        client.call("PUT", place(made.key), body=document)
        store.update(replace(edited(made, suspend=True), resource_version=""))
        after = client.call("GET", place(made.key))
        assert (after["metadata"]["finalizers"], after["spec"]["suspend"]) == (["example.com/theirs"], True)
        client.call("PUT", place(made.key), body={**after, "metadata": {**after["metadata"], "finalizers": []}})

    def test_a_receipt_that_owes_an_event_leaves_when_it_is_deleted(self, store: KubeStore, client: KubeClient) -> None:
        """No watch tells that a Receipt leaves: a finalizer would stay, and its namespace with it."""
        made = store.create(Resource("Receipt", "erp", "promoted-5", RECEIPT))
        store.update_status(replace(made, status={"pending": [{"bundle": "{}"}]}))
        store.delete(made.key)
        with pytest.raises(NotFound):
            client.call("GET", place(made.key))

    def test_the_status_is_applied_by_our_field_manager(self, store: KubeStore, client: KubeClient) -> None:
        made = store.update_status(replace(store.create(pack()), status={"observedGeneration": 1}))
        fields = client.call("GET", place(made.key))["metadata"]["managedFields"]
        assert ("knhk", "Apply", "status") in {(row["manager"], row["operation"], row.get("subresource", "")) for row in fields}

    def test_a_status_with_unknown_members_is_refused_whole(self, store: KubeStore) -> None:
        made = store.create(pack())
        with pytest.raises(Refused, match="unknown field"):
            store.update_status(replace(made, status={"smuggled": 1}))
        assert store.get(made.key) == made

    def test_a_watch_outlives_the_death_of_the_api_server(self, store: KubeStore, cluster: Cluster) -> None:
        os.kill(cluster.pid("kube-apiserver"), signal.SIGKILL)
        made = written_at_last(store)
        assert made in store.list("PolicyPack").resources
        position = now(store)
        later = store.update(edited(made, suspend=True))
        until_told(store, position, later)


def until_told(store: KubeStore, position: int, wanted: Resource) -> None:
    """Reads on as the controller does, which lists again where a watch that began anew missed some."""
    seen: tuple[Resource, ...] = ()
    while wanted not in seen:
        try:
            changes, position = store.changes(position, timeout_s=TOLD_WITHIN_S)
            seen = tuple(change.resource for change in changes)
        except Gap:
            listing = store.list("PolicyPack")
            seen, position = listing.resources, listing.revision


def until_empty(store: KubeStore) -> None:
    """The watches have begun, and brought what the test before left behind to its end."""
    while True:
        try:
            if not store.list("PolicyPack").resources:
                return
        except Waiting:
            pass
        time.sleep(0.05)


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
