"""Which namespaces enforce only what was merged, as the API server says it."""

from __future__ import annotations

from typing import Any

from knhk.adapters.namespaces_kube import FRESH_S, LABEL, KubeNamespaces
from knhk.adapters.system import SystemClock
from knhk.model.faults import NotFound


class Client:
    """Namespaces by name, with their labels."""

    def __init__(self, **labels: dict[str, str]) -> None:
        self.labels = labels
        self.leaving: frozenset[str] = frozenset()

    def call(self, method: str, path: str) -> dict[str, Any]:
        name = path.rpartition("/")[2]
        if name not in self.labels:
            raise NotFound(path)
        leaves = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if name in self.leaving else {}
        return {"metadata": {"name": name, "labels": self.labels[name], **leaves}}


class Later(SystemClock):
    """Goes on when it is told to."""

    now_s = 1000.0

    def monotonic_ns(self) -> int:
        return int(self.now_s * 1e9)


def test_a_namespace_that_is_gone_takes_nothing_forward_and_is_looked_up_again_later() -> None:
    client, clock = Client(erp={LABEL: "true"}, free={}), Later()
    found = KubeNamespaces(client, clock)  # type: ignore[arg-type]
    assert found.requires_merged_commit("erp")
    assert not found.requires_merged_commit("free")
    assert found.requires_merged_commit("gone")
    client.labels["gone"] = {}
    assert found.requires_merged_commit("gone")
    clock.now_s += FRESH_S
    assert not found.requires_merged_commit("gone")


def test_a_namespace_that_goes_takes_along_what_is_in_it() -> None:
    client, clock = Client(erp={LABEL: "true"}, crm={LABEL: "true"}), Later()
    client.leaving = frozenset({"crm"})
    found = KubeNamespaces(client, clock)  # type: ignore[arg-type]
    assert [found.is_leaving(name) for name in ("erp", "crm", "gone")] == [False, True, True]
