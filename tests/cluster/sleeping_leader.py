"""A leader that is stopped after it looked at the lease, before its request: `sleeping_leader.py KUBECONFIG HOLDER`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.kube_lease import Lease
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.system import SystemClock
from knhk.model.faults import KnhkError, Waiting
from knhk.model.resource import Key
from knhk.wiring.leading import ACTS, fence


def main(kubeconfig: str, holder: str) -> None:
    """Says `looked` before it stops itself, and when it goes on what came of its write."""
    logging.basicConfig(level=logging.INFO)
    client = KubeClient(api_client(Path(kubeconfig)))
    lease = Lease(client, "knhk-system", "knhk-operator", holder, lambda: None)
    store = KubeStore(client, ChangeFeed(), SystemClock())
    lease.wait(threading.Event(), lambda: None)
    lease.proclaim()
    found = store.get(Key("PolicyPack", "erp", "orders"))

    def look() -> None:
        lease.check()
        print("looked", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

    try:
        fence(store, ACTS["store"], look).update_status(replace(found, status={"observedGeneration": 9}))
    except Waiting as waiting:
        print(f"{waiting.reason}: {waiting}", flush=True)
    except KnhkError as error:
        print(repr(error), flush=True)
    else:
        print("written", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
