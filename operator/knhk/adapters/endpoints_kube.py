"""Where a Service leads that has no selector: to the one pod that this process says, by its EndpointSlice."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.model.faults import KnhkError

APPLY_EVERY_S = 5.0
MANAGER = "knhk-leader"

_log = logging.getLogger("knhk.endpoints")


class KubeEndpoints:
    """The slice `namespace`/`name`, which must be there: this writes its endpoints and nothing else."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self._client, self._namespace, self._name = client, namespace, name

    def lead_to(self, address: str) -> None:
        """From now on the Service leads to `address` alone, whoever said something else before. Errors: as KubeClient."""
        document = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "addressType": "IPv6" if ":" in address else "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        }
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices/{self._name}"
        self._client.call("PATCH", path, {"fieldManager": MANAGER, "force": "true"}, document, APPLY)


@contextmanager
def leading_to(endpoints: KubeEndpoints, address: str) -> Iterator[None]:
    """Says it while the context lasts, again and again: the pod that led before may have said its own a moment later."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(APPLY_EVERY_S):
            _said(endpoints, address)

    _said(endpoints, address)
    thread = threading.Thread(target=keep, name="endpoints", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _said(endpoints: KubeEndpoints, address: str) -> None:
    try:
        endpoints.lead_to(address)
    except (KnhkError, OSError) as error:
        _log.warning("guards may not find this process: %s", error)
