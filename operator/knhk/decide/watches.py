"""What the judge watches beside verdicts, request by request: how long packs take, which class decides, what is parked."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from knhk.decide.excess import Excess
from knhk.model.rollout import MAX_BUCKETS, Analysis, PairStats, bucket_start_ns

LATENCY, R1_DROP, PARKED = "maxLatencyRatio", "maxR1Drop", "maxParked"
SLOW_SHARE = 0.01  # the slowest requests may be slower: the tolerance is of the 99th percentile
WATCHES = 3
NS_PER_US = 1000


@dataclass(frozen=True)
class Level:
    """One excess that is tested. Where counts are only bounded, the bound that makes failing (passing) harder."""

    failing: Excess
    passing: Excess
    value: str


@dataclass(frozen=True)
class Watch:
    """One tolerance: the share `allowed` at each level. `tests`: how many levels there can be, whatever the data are."""

    tolerance: str
    allowed: float
    threshold: str
    samples: int
    levels: tuple[Level, ...]
    tests: int = 1


def watches(stats: PairStats, analysis: Analysis) -> list[Watch]:
    """Those that are limited and that there is something to compare for."""
    found = [_parked(stats, analysis), _r1(stats, analysis), _latency(stats, analysis)]
    return [watch for watch in found if watch is not None]


def _parked(stats: PairStats, analysis: Analysis) -> Watch | None:
    if analysis.max_parked >= 1:
        return None
    asked = stats.both + stats.parked
    excess = Excess(asked, stats.parked, 0)
    return _share_watch(PARKED, analysis.max_parked, excess)


def _r1(stats: PairStats, analysis: Analysis) -> Watch | None:
    if analysis.max_r1_drop >= 1 or stats.stable is None or stats.r1 is None:
        return None
    stable, candidate, both = stats.r1
    return _share_watch(R1_DROP, analysis.max_r1_drop, Excess(stats.both, max(0, stable - both), max(0, candidate - both)))


def _share_watch(tolerance: str, allowed: Decimal, excess: Excess) -> Watch:
    value = f"{max(0, excess.more - excess.less) / max(1, excess.n):.4f}"
    return Watch(tolerance, float(allowed), f"{allowed:f}", excess.n, (Level(excess, excess, value),))


def _latency(stats: PairStats, analysis: Analysis) -> Watch | None:
    """At each duration t from the floor on: the candidate took t or longer, stable t/ratio or longer, each counted in all requests.
    Between two buckets that the candidate hit nothing is worse than at the upper one, so only those are looked at."""
    if not analysis.max_latency_ratio or stats.stable is None:
        return None
    ratio, first = float(analysis.max_latency_ratio), _first_bucket(analysis.latency_floor_us * NS_PER_US)
    stable, candidate = stats.latency
    samples = min(stable.total, candidate.total)
    unmeasured = max(0, stats.both - max(samples, stats.r1[2] if stats.r1 else 0))  # decided by the agent: neither slow nor fast
    levels = [Level(Excess(samples, 0, 0), Excess(samples + unmeasured, 0, 0), _ratio(stats, -(-samples // 100)))]
    for bucket in sorted(b for b in candidate.buckets if b >= first):
        slow, base_ns = candidate.surely_reaching(bucket_start_ns(bucket)), bucket_start_ns(bucket) / ratio
        failing = Excess.of_margins(samples, slow, stable.reaching(base_ns))
        passing = Excess.of_margins(samples + unmeasured, slow, stable.surely_reaching(base_ns))
        levels.append(Level(failing, passing, _ratio(stats, slow)))
    return Watch(LATENCY, SLOW_SHARE, f"{analysis.max_latency_ratio:f}", samples, tuple(levels), max(1, MAX_BUCKETS - first))


@lru_cache(maxsize=64)
def _first_bucket(floor_ns: int) -> int:
    return next((bucket for bucket in range(MAX_BUCKETS) if bucket_start_ns(bucket) >= floor_ns), MAX_BUCKETS)


def _ratio(stats: PairStats, rank: int) -> str:
    """How many times as long the candidate's `rank`-th slowest request took as stable's: as sure as buckets are wide."""
    stable, candidate = stats.latency
    if not rank:
        return "0"
    return f"{bucket_start_ns(candidate.longest(rank)) / bucket_start_ns(stable.longest(rank) + 1):.2f}"
