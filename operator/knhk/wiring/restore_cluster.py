"""`knhk restore` on a cluster: into an API server whose operator does not run, or as manifests for kubectl."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_documents import new_document, status_document
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_lease import LEASE_S
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.model.faults import Fault, NotFound, Refused, Stalled
from knhk.model.resource import Resource
from knhk.wiring.home import local_user
from knhk.wiring.restore import Done, Left, Say, erased_again, fill, planned
from knhk.wiring.signing import signer_in

LEASE = "/apis/coordination.k8s.io/v1/namespaces/knhk-system/leases/knhk-operator"


def applied(kubeconfig: Path, left: Left, say: Say) -> Done:
    """Makes in a cluster what is not there. Raises as `planned`, and Stalled while an operator leads."""
    plan = planned(left, True, say)
    client = KubeClient(api_client(kubeconfig))
    _demand_idle(client, say)
    store = KubeStore(client, ChangeFeed(), SystemClock())
    try:
        done = fill(store, plan, signer_in(left.keys), local_user(), time.time_ns())
        done.reached = erased_again(left, plan, None)
    finally:
        store.close()
    return done


def _demand_idle(client: KubeClient, say: Say) -> None:
    """An operator would take objects without a status for new ones, and begin."""
    before = _lease(client)
    if before.get("holderIdentity"):
        say(f"looking for {LEASE_S:g} s whether {before['holderIdentity']} leads")
        time.sleep(LEASE_S)
        if _lease(client).get("renewTime") != before.get("renewTime"):
            must = "must not run meanwhile: kubectl -n knhk-system scale deployment/knhk-operator --replicas=0"
            raise Stalled("OperatorRuns", f"{before['holderIdentity']}: {must}")


def _lease(client: KubeClient) -> dict[str, Any]:
    try:
        return dict(client.call("GET", LEASE)["spec"])
    except NotFound:
        return {}


def written(folder: Path, left: Left, say: Say) -> Done:
    """Writes files that kubectl takes in their order; statuses speak of generation 1, that of objects that are made anew."""
    if folder.exists():
        raise Refused([Fault("--out", str(folder), "must be a new folder")])
    plan = planned(left, True, say)
    with tempfile.TemporaryDirectory(prefix="knhk-restore-") as made:
        store = SqliteStore(Path(made) / "store.db", SystemClock(), SystemRandom())
        try:
            done = fill(store, plan, signer_in(left.keys), local_user(), time.time_ns())
            stored = [store.get(each.key) for each in plan.resources]
            receipts = store.list("Receipt").resources
        finally:
            store.close()
    files = {
        "1-resources.yaml": [new_document(each) for each in stored],
        "2-statuses.yaml": [_status(each) for each in stored if each.status],
        "3-receipts.yaml": [new_document(each) for each in receipts],
    }
    folder.mkdir(parents=True)
    for name, documents in files.items():
        (folder / name).write_text(HEADS[name] + yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
    done.reached = erased_again(left, plan, None)
    return done


HEADS = {
    "1-resources.yaml": "# while no operator runs: kubectl create -f 1-resources.yaml\n",
    "2-statuses.yaml": "# then: kubectl apply --server-side --subresource=status --field-manager=knhk -f 2-statuses.yaml\n",
    "3-receipts.yaml": "# then: kubectl create -f 3-receipts.yaml\n",
}


def _status(resource: Resource) -> dict[str, Any]:
    document = status_document(resource)
    document["metadata"] = {name: value for name, value in document["metadata"].items() if name in ("name", "namespace")}
    return document
