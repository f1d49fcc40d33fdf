"""What the server of receipts tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Of one process. `behind_s`: for how long the log was not read; `size`, `shapes`: of the index, asked for at each scrape; `taken`:
    bytes that the index takes, or will with all that the log has now; `bound`: how many it may take, infinity where nobody says so."""

    def __init__(
        self,
        behind_s: Callable[[], float],
        size: Callable[[], int],
        shapes: Callable[[], int],
        taken: Callable[[], int],
        bound: Callable[[], float],
    ) -> None:
        disable: Any = disable_created_metrics  # not typed
        disable()
        self._registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._requests = Counter("knhk_receipts_requests", "Requests that the API server brought", ("verb", "code"), registry=r)
        self._seconds = Histogram("knhk_receipts_request_seconds", "How long answers took", ("verb",), registry=r, buckets=SECONDS)
        for name, what, read in (
            ("behind_seconds", "For how long the log was not read", behind_s),
            ("index_entries", "Entries of the log that the index has", size),
            ("index_shapes", "Shapes of the index: what each page looks at", shapes),
            ("index_bytes", "What the index takes of its disk, or will with all that the log has now", taken),
            ("index_bound_bytes", "What it may take: beyond that its pod is evicted, and begins anew", bound),
        ):
            Gauge(f"knhk_receipts_{name}", what, registry=r).set_function(read)

    def watches(self, open_: Callable[[], int]) -> None:
        """How many there are, asked for at each scrape."""
        Gauge("knhk_receipts_watches", "Watches that are open", registry=self._registry).set_function(open_)

    def took(self, verb: str, code: int, seconds: float) -> None:
        self._requests.labels(verb, str(code)).inc()
        self._seconds.labels(verb).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)
