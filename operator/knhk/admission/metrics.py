"""Metrics in Prometheus' text format, by controller-runtime's names for webhooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Of one event loop."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._verdicts: Counter[tuple[str, str]] = Counter()
        self._buckets: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self.in_flight: Counter[str] = Counter()

    def took(self, webhook: str, code: int, seconds: float, verdict: str) -> None:
        """A request was answered. `verdict`: allowed, warned, denied, malformed, failed, shed (not judged), late (given up) or stranger."""
        self._requests[webhook, code] += 1
        self._verdicts[webhook, verdict] += 1
        counts = self._buckets.setdefault(webhook, [0] * len(BUCKETS_S))
        for number, bound_s in enumerate(BUCKETS_S):
            counts[number] += seconds <= bound_s
        self._sums[webhook] += 1
        self._seconds[webhook] = self._seconds.get(webhook, 0.0) + seconds

    def text(self) -> str:
        """The exposition."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# HELP controller_runtime_webhook_requests_total Admission requests by HTTP status code."
        yield "# TYPE controller_runtime_webhook_requests_total counter"
        for (webhook, code), count in sorted(self._requests.items()):
            yield f'controller_runtime_webhook_requests_total{{webhook="{webhook}",code="{code}"}} {count}'
        yield "# HELP controller_runtime_webhook_requests_in_flight Admission requests that are being judged."
        yield "# TYPE controller_runtime_webhook_requests_in_flight gauge"
        for webhook, count in sorted(self.in_flight.items()):
            yield f'controller_runtime_webhook_requests_in_flight{{webhook="{webhook}"}} {count}'
        yield "# HELP controller_runtime_webhook_latency_seconds Time to answer an admission request."
        yield "# TYPE controller_runtime_webhook_latency_seconds histogram"
        for webhook, counts in sorted(self._buckets.items()):
            for bound_s, count in zip(BUCKETS_S, counts, strict=True):
                yield f'controller_runtime_webhook_latency_seconds_bucket{{webhook="{webhook}",le="{bound_s:g}"}} {count}'
            yield f'controller_runtime_webhook_latency_seconds_bucket{{webhook="{webhook}",le="+Inf"}} {self._sums[webhook]}'
            yield f'controller_runtime_webhook_latency_seconds_sum{{webhook="{webhook}"}} {self._seconds[webhook]:.6f}'
            yield f'controller_runtime_webhook_latency_seconds_count{{webhook="{webhook}"}} {self._sums[webhook]}'
        yield "# HELP knhk_admission_verdicts_total Answers: allowed, warned, denied, malformed, failed, shed, late or stranger."
        yield "# TYPE knhk_admission_verdicts_total counter"
        for (webhook, verdict), count in sorted(self._verdicts.items()):
            yield f'knhk_admission_verdicts_total{{webhook="{webhook}",verdict="{verdict}"}} {count}'
