"""The judge: an anytime-valid sequential test on discordant pairs. docs/judge.md has the mathematics.

For each guard and direction, and for all guards together, the share p of callers (clusters) that meet
a difference is tested by the likelihood ratio of `effect` against the tolerance:

    L(n, k) = (p1/p0)^k · ((1-p1)/(1-p0))^(n-k)      k of n clusters met a difference

Under p ≤ p0 it is a supermartingale, so P(ever L ≥ m/alpha) ≤ alpha/m (Ville 1939): the judge may be asked
after every request, and over m streams a good pack fails with probability alpha at most. Under p ≥ p1
the same holds for 1/L: a pack with the effect passes with probability beta at most (Wald 1945,
Robbins 1970).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fnmatch import fnmatchcase

from knhk.model.rollout import (
    DIRECTIONS,
    TOLERANCE,
    Analysis,
    Counts,
    Direction,
    Finding,
    Outcome,
    PairStats,
    Verdict,
)

ALL = ""  # the guard id of the aggregate in findings
MAX_FINDINGS = 16


@dataclass(frozen=True)
class _Stream:
    """One tested share. `low` … `high` bound the number of clusters that met a difference unintended."""

    guard: str
    direction: Direction
    low: int
    high: int


def judge(stats: PairStats, analysis: Analysis) -> Verdict:
    """Pass, Fail or Undecided, with the findings that say why, the worst first.

    A first version (`stats.stable` None) has nothing to differ from: it passes with enough judged
    decisions and no more errors than tolerated.
    """
    streams = [] if stats.stable is None else _streams(stats, analysis)
    failed = [*_errors(stats, analysis), *_crossed(streams, stats, analysis)]
    if failed:
        return Verdict(Outcome.FAIL, tuple(failed[:MAX_FINDINGS]))
    still = [*_too_few(stats, analysis), *_uncovered(stats), *_unsettled(streams, stats, analysis)]
    return Verdict(Outcome.UNDECIDED if still else Outcome.PASS, tuple(still[:MAX_FINDINGS]))


def log_likelihood_ratio(n: int, k: int, p0: float, p1: float) -> float:
    """ln L(n, k). Infinite when p0 is 0 and something was seen, or p1 is 1 and something was not."""
    if k and p0 <= 0.0:
        return math.inf
    if n > k and p1 >= 1.0:
        return -math.inf
    seen = k * math.log(p1 / p0) if k else 0.0
    return seen + (n - k) * (math.log1p(-p1) - math.log1p(-p0)) if n > k else seen


def stream_count(stats: PairStats, analysis: Analysis) -> int:
    """m: guards that are watched and the aggregate, each in two directions."""
    return len(DIRECTIONS) * (1 + len(_watched(stats, analysis)))


def _watched(stats: PairStats, analysis: Analysis) -> list[str]:
    known = {*analysis.guards, *stats.guards}
    return sorted(guard for guard in known if not _intended(guard, analysis))


def _intended(guard: str, analysis: Analysis) -> bool:
    return any(fnmatchcase(guard, pattern) for pattern in analysis.intended)


def _streams(stats: PairStats, analysis: Analysis) -> list[_Stream]:
    watched = _watched(stats, analysis)
    streams = [_together(stats, analysis, watched, direction) for direction in DIRECTIONS]
    for guard in watched:
        counts = stats.guards.get(guard, Counts())
        streams += [_Stream(guard, d, counts.of(d), counts.of(d)) for d in DIRECTIONS]
    return streams


def _together(
    stats: PairStats, analysis: Analysis, watched: list[str], direction: Direction
) -> _Stream:
    """The aggregate without intended changes. Counts overlap between guards, so only bounds are known:
    the lower one is used to fail, the upper one to pass, and both errors keep their size."""
    total = stats.any.of(direction)
    meant = sum(c.of(direction) for g, c in stats.guards.items() if _intended(g, analysis))
    each = [stats.guards[g].of(direction) for g in watched if g in stats.guards]
    if not meant:
        return _Stream(ALL, direction, total, total)
    low = max(total - meant, *each, 0)
    return _Stream(ALL, direction, low, max(low, min(total, sum(each))))


def _evidence(k: int, stats: PairStats, analysis: Analysis, direction: Direction) -> float:
    n = max(stats.clusters, k)
    return log_likelihood_ratio(n, k, float(analysis.tolerance(direction)), float(analysis.effect))


def _crossed(streams: Iterable[_Stream], stats: PairStats, analysis: Analysis) -> list[Finding]:
    limit = math.log(stream_count(stats, analysis) / float(analysis.alpha))
    found = []
    for stream in streams:
        evidence = _evidence(stream.low, stats, analysis, stream.direction)
        if evidence >= limit:
            found.append((-evidence, -stream.low, stream.guard == ALL, stream.guard, stream))
    return [_finding(s, s.low, stats, analysis) for *_, s in sorted(found, key=lambda row: row[:4])]


def _unsettled(streams: Iterable[_Stream], stats: PairStats, analysis: Analysis) -> list[Finding]:
    limit = math.log(float(analysis.beta))
    still = []
    for stream in streams:
        evidence = _evidence(stream.high, stats, analysis, stream.direction)
        if evidence > limit:
            still.append((-evidence, stream.guard, stream))
    return [
        _finding(s, s.high, stats, analysis) for *_, s in sorted(still, key=lambda row: row[:2])
    ]


def _finding(stream: _Stream, k: int, stats: PairStats, analysis: Analysis) -> Finding:
    return Finding(
        tolerance=TOLERANCE[stream.direction],
        guard=stream.guard,
        direction=stream.direction,
        value=share(k, stats.clusters),
        threshold=f"{analysis.tolerance(stream.direction):f}",
        pairs=stats.pairs,
        clusters=stats.clusters,
        samples=stats.samples.get(stream.direction, ()),
    )


def share(k: int, n: int) -> str:
    """k/n as a decimal string with 4 places, "0" of nothing."""
    if n <= 0:
        return "0"
    return f"{(Decimal(k) / Decimal(n)).quantize(Decimal('0.0001'), ROUND_HALF_EVEN):f}"


def _errors(stats: PairStats, analysis: Analysis) -> list[Finding]:
    if stats.errors <= analysis.max_errors:
        return []
    return [_count("maxErrors", stats.errors, analysis.max_errors, stats)]


def _too_few(stats: PairStats, analysis: Analysis) -> list[Finding]:
    if stats.pairs >= max(1, analysis.min_pairs):
        return []
    return [_count("minPairs", stats.pairs, max(1, analysis.min_pairs), stats)]


def _uncovered(stats: PairStats) -> list[Finding]:
    """Every judged pair must have a durable receipt before it counts for a promotion."""
    if stats.durable >= stats.pairs:
        return []
    return [_count("receiptCoverage", stats.durable, stats.pairs, stats)]


def _count(tolerance: str, value: int, threshold: int, stats: PairStats) -> Finding:
    return Finding(tolerance, ALL, "", str(value), str(threshold), stats.pairs, stats.clusters)
