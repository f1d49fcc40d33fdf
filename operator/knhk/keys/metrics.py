"""What the key service tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Of one process. `stores`: key stores that are open; `free_bytes`: on their disk; `used`: the share of its quota that each namespace
    has; all asked for at each scrape."""

    def __init__(self, stores: Callable[[], int], free_bytes: Callable[[], int], used: Callable[[], Mapping[str, float]]) -> None:
        disable: Any = disable_created_metrics  # not typed
        disable()
        self._registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._requests = Counter("knhk_keys_requests", "Requests that were answered", ("what", "code"), registry=r)
        self._seconds = Histogram("knhk_keys_request_seconds", "How long answers took", ("what",), registry=r, buckets=SECONDS)
        self._keys = Counter(
            "knhk_keys_handed", "Keys that were handed out: to guards that seal, to readers that open", ("to",), registry=r
        )
        of_whom = ("namespace", "point")
        self._over = Counter("knhk_keys_over_quota", "Requests for keys that were refused for a quota", of_whom, registry=r)
        self._used = used
        self._share = Gauge(
            "knhk_keys_quota_used_ratio", "Keys made for this window, of its quota: the fullest point, or all", ("namespace",), registry=r
        )
        for name, what, read in (
            ("stores", "Key stores that are open: namespaces", stores),
            ("free_bytes", "Room on the disk of the key stores", free_bytes),
        ):
            Gauge(f"knhk_keys_{name}", what, registry=r).set_function(read)

    def took(self, what: str, code: int, seconds: float) -> None:
        self._requests.labels(what, str(code)).inc()
        self._seconds.labels(what).observe(seconds)

    def handed(self, to: str, count: int) -> None:
        self._keys.labels(to).inc(count)

    def over_quota(self, namespace: str, point: str) -> None:
        self._over.labels(namespace, point).inc()

    def text(self) -> bytes:
        for namespace, share in self._used().items():
            self._share.labels(namespace).set(share)
        return generate_latest(self._registry)
