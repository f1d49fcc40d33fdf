"""The judge: an anytime-valid sequential test on discordant pairs. docs/judge.md has the mathematics.

For each guard and direction, and for all guards together, the share p of callers (clusters) that meet
a difference is tested by the likelihood ratio of `effect` against the tolerance:

    L(n, k) = (p1/p0)^k · ((1-p1)/(1-p0))^(n-k)      k of n clusters met a difference

Under p ≤ p0 it is a supermartingale, so P(ever L ≥ m/alpha) ≤ alpha/m (Ville 1939): the judge may be asked
after every request, and over m streams a good pack fails with probability alpha at most. Under p ≥ p1
the same holds for 1/L: a pack with the effect passes with probability beta at most (Wald 1945,
Robbins 1970). What is watched beside verdicts (knhk.decide.watches) is tested by knhk.decide.excess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from knhk.decide.watches import WATCHES, Level, Watch, watches
from knhk.model.rollout import (
    DIRECTIONS,
    ROUTE,
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
MAX_FINDINGS = 8


class _Stream(NamedTuple):
    """One tested share. `low` … `high` bound the number of clusters that met a difference unintended."""

    guard: str
    direction: Direction
    low: int
    high: int


@dataclass(frozen=True)
class Ratio:
    """ln L(n, k) = k·seen + (n-k)·unseen of one tolerance p0 against one effect p1."""

    seen: float
    unseen: float

    @classmethod
    def of(cls, p0: float, p1: float) -> Ratio:
        """0 ≤ p0 < p1 ≤ 1. With p0 = 0 one difference proves p1; with p1 = 1 one caller without disproves it."""
        seen = math.log(p1 / p0) if p0 > 0.0 else math.inf
        unseen = math.log1p(-p1) - math.log1p(-p0) if p1 < 1.0 else -math.inf
        return cls(seen, unseen)

    def log(self, n: int, k: int) -> float:
        """ln L(n, k) for 0 ≤ k ≤ n."""
        if k and math.isinf(self.seen):
            return math.inf
        return (k * self.seen if k else 0.0) + ((n - k) * self.unseen if n > k else 0.0)


def judge(stats: PairStats, analysis: Analysis) -> Verdict:
    """Pass, Fail or Undecided, with the findings that say why, the worst first.

    A first version (`stats.stable` None) has nothing to differ from: it passes with enough judged
    decisions and no more errors than tolerated.
    """
    streams = [] if stats.stable is None else _streams(stats, analysis)
    beside, m = watches(stats, analysis), stream_count(stats, analysis)
    failed = [*_errors(stats, analysis), *_crossed(streams, m, stats, analysis), *_exceeded(beside, m, stats, analysis)]
    if failed:
        return Verdict(Outcome.FAIL, tuple(failed[:MAX_FINDINGS]))
    still = [*_too_few(stats, analysis), *_uncovered(stats, analysis), *_unsettled(streams, stats, analysis)]
    if stats.stable is not None:
        still += _not_yet_within(beside, stats, analysis)
    return Verdict(Outcome.UNDECIDED if still else Outcome.PASS, tuple(still[:MAX_FINDINGS]))


def stream_count(stats: PairStats, analysis: Analysis) -> int:
    """m: guards that are watched and the aggregate, each in two directions, and what is watched beside."""
    return len(DIRECTIONS) * (1 + len(_watched(stats, analysis))) + WATCHES


def _watched(stats: PairStats, analysis: Analysis) -> list[str]:
    known = {ROUTE, *analysis.guards, *stats.guards}
    return sorted(guard for guard in known if not _intended(guard, analysis)) if analysis.intended else sorted(known)


def _intended(guard: str, analysis: Analysis) -> bool:
    return any(fnmatchcase(guard, pattern) for pattern in analysis.intended)


def _streams(stats: PairStats, analysis: Analysis) -> list[_Stream]:
    watched = _watched(stats, analysis)
    streams = [_together(stats, analysis, watched, direction) for direction in DIRECTIONS]
    for guard in watched:
        counts = stats.guards.get(guard, Counts())
        streams += [_Stream(guard, d, counts.of(d), counts.of(d)) for d in DIRECTIONS]
    return streams


def _together(stats: PairStats, analysis: Analysis, watched: list[str], direction: Direction) -> _Stream:
    """The aggregate without intended changes. Counts overlap between guards, so only bounds are known:
    the lower one is used to fail, the upper one to pass, and both errors keep their size."""
    total = stats.any.of(direction)
    meant = sum(c.of(direction) for g, c in stats.guards.items() if _intended(g, analysis))
    each = [stats.guards[g].of(direction) for g in watched if g in stats.guards]
    if not meant:
        return _Stream(ALL, direction, total, total)
    low = max(total - meant, *each, 0)
    return _Stream(ALL, direction, low, max(low, min(total, sum(each))))


def _ratios(analysis: Analysis) -> dict[Direction, Ratio]:
    p1 = float(analysis.effect)
    return {d: Ratio.of(float(analysis.tolerance(d)), p1) for d in DIRECTIONS}


def _crossed(streams: list[_Stream], m: int, stats: PairStats, analysis: Analysis) -> list[Finding]:
    """Streams whose evidence for the effect is m/alpha to 1 or more, the strongest first."""
    limit = math.log(m / float(analysis.alpha))
    ratios = _ratios(analysis)
    found = []
    for stream in streams:
        if stream.low and (evidence := ratios[stream.direction].log(max(stats.clusters, stream.low), stream.low)) >= limit:
            found.append((-evidence, -stream.low, stream.guard == ALL, stream.guard, stream))
    return [_finding(s, s.low, stats, analysis) for *_, s in sorted(found, key=lambda row: row[:4])]


def _unsettled(streams: list[_Stream], stats: PairStats, analysis: Analysis) -> list[Finding]:
    """Streams whose evidence against the effect is not yet 1/beta to 1, the least settled first."""
    limit = math.log(float(analysis.beta))
    ratios = _ratios(analysis)
    still = []
    for stream in streams:
        evidence = ratios[stream.direction].log(max(stats.clusters, stream.high), stream.high)
        if evidence > limit:
            still.append((-evidence, stream.guard, stream))
    still.sort(key=lambda row: row[:2])
    return [_finding(s, s.high, stats, analysis) for *_, s in still[:MAX_FINDINGS]]


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


def _exceeded(beside: list[Watch], m: int, stats: PairStats, analysis: Analysis) -> list[Finding]:
    """Watches with a level whose evidence for more than is allowed is m·tests/alpha to 1 or more."""
    found = []
    for watch in beside:
        limit = math.log(m * watch.tests / float(analysis.alpha))
        evidence, level = max(((level.failing.log_for(watch.allowed), level) for level in watch.levels), key=lambda row: row[0])
        if evidence >= limit:
            found.append(_watch_finding(watch, level, stats))
    return found


def _not_yet_within(beside: list[Watch], stats: PairStats, analysis: Analysis) -> list[Finding]:
    """Watches with a level whose evidence against `effect` more than is allowed is not yet 1/beta to 1."""
    limit = -math.log(float(analysis.beta))
    found = []
    for watch in beside:
        bad = min(1.0, watch.allowed + float(analysis.effect))
        evidence, level = min(((level.passing.log_against(bad), level) for level in watch.levels), key=lambda row: row[0])
        if evidence < limit:
            found.append(_watch_finding(watch, level, stats))
    return found


def _watch_finding(watch: Watch, level: Level, stats: PairStats) -> Finding:
    return Finding(watch.tolerance, ALL, "", level.value, watch.threshold, watch.samples, stats.clusters)


def share(k: int, n: int) -> str:
    """k/n as a decimal string with 4 places, "0" of nothing."""
    if n <= 0:
        return "0"
    parts = (20_000 * k + n) // (2 * n)
    return f"{parts // 10_000}.{parts % 10_000:04d}"


def _errors(stats: PairStats, analysis: Analysis) -> list[Finding]:
    if stats.errors <= analysis.max_errors:
        return []
    return [_count("maxErrors", stats.errors, analysis.max_errors, stats)]


def _too_few(stats: PairStats, analysis: Analysis) -> list[Finding]:
    if stats.pairs >= max(1, analysis.min_pairs):
        return []
    return [_count("minPairs", stats.pairs, max(1, analysis.min_pairs), stats)]


def _uncovered(stats: PairStats, analysis: Analysis) -> list[Finding]:
    """As many pairs as are asked for must have their receipts in the log before they count for a promotion."""
    if stats.covered >= max(1, analysis.min_pairs):
        return []
    return [_count("receiptCoverage", stats.covered, max(1, analysis.min_pairs), stats)]


def _count(tolerance: str, value: int, threshold: int, stats: PairStats) -> Finding:
    return Finding(tolerance, ALL, "", str(value), str(threshold), stats.pairs, stats.clusters)
