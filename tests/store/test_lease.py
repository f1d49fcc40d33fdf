"""A lease whose client fails in a way that nobody foresaw."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from knhk.adapters import kube_lease
from knhk.adapters.kube_lease import Lease
from knhk.model.faults import Deposed, NotFound


class Client:
    """Takes a lease once; then nothing is as it was."""

    taken = False

    def call(self, method: str, path: str, query: object = None, body: Any = None, **_: object) -> dict[str, Any]:
        if self.taken:
            raise KeyError("metadata")
        if method == "GET":
            raise NotFound(path)
        self.taken = True
        return {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}


def test_a_lease_that_can_be_kept_no_longer_is_lost_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_lease, "EVERY_S", 0.0)
    lost = threading.Event()
    lease = Lease(Client(), "erp", "operator", "first", lost.set)  # type: ignore[arg-type]
    assert lease.wait(threading.Event(), lambda: None)
    assert lost.wait(30)
    with pytest.raises(Deposed):
        lease.check()
    lease.release()
