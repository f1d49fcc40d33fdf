"""Error rates of the judge over simulated rollouts; `--write` puts table and curves into docs/.

A rollout: callers with heavy-tailed request counts (Zipf), each with one character that all of its
requests share (met a difference or not), asked in batches, judged after every batch by the judge of
the product until it passes, fails, or the traffic ends. One seed, one result.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from knhk.decide.judge import judge
from knhk.model.rollout import Analysis, Counts, Histogram, Outcome, PairStats

DOCS = Path(__file__).parent.parent / "docs"
GUARDS = tuple(f"guard{n}" for n in range(8))
ANALYSIS = Analysis(guards=GUARDS, min_pairs=100)
CALLERS = 4_000
ZIPF = 1.1
BATCH = 40
BATCHES = 200
QUICK, STALLED, SLOW = 50, 84, 92  # buckets: 12 µs; 4 ms, as of a thread that lost its core; 16 ms
STALLS = 0.01  # share of decisions of either arm that lose their core
SHARES = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.08, 0.12, 0.2, 0.3)


@dataclass(frozen=True)
class Truth:
    """How a candidate really differs: share of callers that meet a new denial by guard 0 and a new
    admission by guard 1. `steady`: probability that a request of such a caller shows it. Shares of requests: `slow` ones
    take four times as long as stable's slowest, `left_r1` leave class R1, `parked` are not decided in time."""

    new_denials: float
    new_admits: float = 0.0
    steady: float = 1.0
    slow: float = 0.0
    left_r1: float = 0.0
    parked: float = 0.0


@dataclass(frozen=True)
class Run:
    """How one rollout ended, and after how much."""

    outcome: Outcome
    pairs: int
    clusters: int
    discordant: int


@dataclass(frozen=True)
class Summary:
    """Many rollouts of one truth: shares of outcomes, means of sizes."""

    truth: Truth
    runs: int
    passed: float
    failed: float
    pairs: float
    clusters: float
    discordant: float


@lru_cache(maxsize=1)
def _weights() -> list[float]:
    return list(accumulate((n + 1) ** -ZIPF for n in range(CALLERS)))


def _how_many(chance: random.Random, n: int, share: float) -> int:
    draw = chance.random
    return sum([draw() < share for _ in range(n)]) if share else 0


@dataclass
class Beside:
    """What is counted beside verdicts."""

    asked: int = 0
    parked: int = 0
    left_r1: int = 0
    stalled: int = 0
    stable_stalled: int = 0
    slow: int = 0

    def batch(self, chance: random.Random, truth: Truth) -> None:
        """One more batch; a decision is slow, or stalled, or neither."""
        self.asked += BATCH
        self.parked += _how_many(chance, BATCH, truth.parked)
        self.left_r1 += _how_many(chance, BATCH, truth.left_r1)
        slow = _how_many(chance, BATCH, truth.slow)
        self.slow += slow
        self.stalled += _how_many(chance, BATCH - slow, STALLS)
        self.stable_stalled += _how_many(chance, BATCH, STALLS)

    def told(self) -> tuple[tuple[int, int, int], tuple[Histogram, Histogram]]:
        """R1 counts and durations, over as many pairs as were asked."""
        r1 = self.asked, self.asked - self.left_r1, self.asked - self.left_r1
        stable = {QUICK: self.asked - self.stable_stalled, STALLED: self.stable_stalled}
        candidate = {QUICK: self.asked - self.stalled - self.slow, STALLED: self.stalled, SLOW: self.slow}
        return r1, (_histogram(stable), _histogram(candidate))


def _histogram(buckets: dict[int, int]) -> Histogram:
    return Histogram({bucket: n for bucket, n in buckets.items() if n})


def _batches(chance: random.Random, truth: Truth) -> Iterator[PairStats]:
    """Cumulative statistics after each batch, as an agent counts them."""
    callers, weights = range(CALLERS), _weights()
    seen: set[int] = set()
    waiting: dict[int, int] = {}  # callers that will meet a difference: 0 new denial, 1 new admission
    met = [0, 0]
    beside = Beside()
    for n in range(1, BATCHES + 1):
        asked = chance.choices(callers, cum_weights=weights, k=BATCH)
        for caller in set(asked) - seen:
            kind = chance.random()
            if kind < truth.new_denials + truth.new_admits:
                waiting[caller] = int(kind >= truth.new_denials)
        seen.update(asked)
        for caller in asked if waiting else ():
            if caller in waiting and chance.random() < truth.steady:
                met[waiting.pop(caller)] += 1
        both = {GUARDS[0]: Counts(met[0], 0), GUARDS[1]: Counts(0, met[1])}
        pairs = n * BATCH
        total = Counts(met[0], met[1])
        beside.batch(chance, truth)
        r1, latency = beside.told()
        yield PairStats("a", "b", pairs, len(seen), guards=both, any=total, covered=pairs, parked=beside.parked, r1=r1, latency=latency)


def rollout(seed: str, truth: Truth, analysis: Analysis = ANALYSIS) -> Run:
    """One rollout, judged after every batch."""
    outcome, stats = Outcome.UNDECIDED, PairStats("a", "b")
    for stats in _batches(random.Random(seed), truth):
        outcome = judge(stats, analysis).outcome
        if outcome is not Outcome.UNDECIDED:
            break
    discordant = stats.any.new_denials + stats.any.new_admits
    return Run(outcome, stats.pairs, stats.clusters, discordant)


def summary(truth: Truth, runs: int, analysis: Analysis = ANALYSIS) -> Summary:
    """`runs` rollouts of one truth."""
    found = [rollout(f"{truth}/{n}", truth, analysis) for n in range(runs)]

    def share(outcome: Outcome) -> float:
        return sum(run.outcome is outcome for run in found) / runs

    def mean(values: Sequence[int]) -> float:
        return sum(values) / runs

    return Summary(
        truth,
        runs,
        share(Outcome.PASS),
        share(Outcome.FAIL),
        mean([run.pairs for run in found]),
        mean([run.clusters for run in found]),
        mean([run.discordant for run in found]),
    )


# The worst good pack (everything exactly at its tolerance), and the smallest bad ones (exactly the effect; beside
# verdicts the effect comes on top of the tolerance). Of the unsteady one twice as many callers are hit, but each
# request shows it with probability one half only.
GOOD = Truth(0.01, 0.01, slow=0.01, left_r1=0.1, parked=0.01 / 0.99)
BAD = {
    "denials": Truth(0.05),
    "admits": Truth(0.0, 0.05),
    "unsteady": Truth(0.10, steady=0.5),
    "slow": Truth(0.0, slow=0.06),
    "slower tier": Truth(0.0, left_r1=0.15),
    "parking": Truth(0.0, parked=0.06 / 0.94),
}


def table(rows: Sequence[Summary]) -> str:
    """Operating characteristic and average sample number, Markdown."""
    head = "| share of callers newly denied | passed | rolled back | undecided | callers | pairs | differing callers |"
    lines = [head, "|" + "---|" * 7]
    for row in rows:
        left = max(0.0, 1 - row.passed - row.failed)
        lines.append(
            f"| {row.truth.new_denials:.1%} | {row.passed:.2%} | {row.failed:.2%} | {left:.2%}"
            f" | {row.clusters:.0f} | {row.pairs:.0f} | {row.discordant:.1f} |"
        )
    return "\n".join(lines) + "\n"


def svg(rows: Sequence[Summary]) -> str:
    """Two curves over the share of callers hit: probability of rollback, and callers needed."""
    width, height, left, top = 640, 300, 56, 24
    right, bottom = width - 64, height - 44
    most = max(row.clusters for row in rows) * 1.1
    last = rows[-1].truth.new_denials

    def x(share: float) -> float:
        return left + (right - left) * (share / last) ** 0.5

    def line(values: Sequence[float], color: str) -> str:
        at = " ".join(
            f"{x(row.truth.new_denials):.1f},{bottom - (bottom - top) * value:.1f}" for row, value in zip(rows, values, strict=True)
        )
        return f'<polyline points="{at}" fill="none" stroke="{color}" stroke-width="2"/>'

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle", color: str = "#333") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left},{top}V{bottom}H{right}V{top}" fill="none" stroke="#999"/>',
        line([row.failed for row in rows], "#b3261e"),
        line([row.clusters / most for row in rows], "#1f5fa8"),
    ]
    for share in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3):
        parts.append(text(x(share), bottom + 16, f"{share:.0%}"))
    for part in (0.0, 0.5, 1.0):
        at = bottom - (bottom - top) * part
        parts.append(text(left - 6, at + 4, f"{part:.0%}", "end", "#b3261e"))
        parts.append(text(right + 6, at + 4, f"{most * part:.0f}", "start", "#1f5fa8"))
    parts.append(text((left + right) / 2, height - 8, "share of callers that the candidate newly denies"))
    parts.append(text(left, 14, "rolled back", "start", "#b3261e"))
    parts.append(text(right, 14, "callers until decided", "end", "#1f5fa8"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(job: tuple[Truth, int]) -> Summary:
    return summary(*job)


BEGIN, END = "<!-- table: python -m bench.judge_sim --write -->\n", "<!-- end of table -->\n"


def write(rows: Sequence[Summary]) -> None:
    """Put table and curves where the page shows them."""
    page = DOCS / "judge.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + table(rows) + END + after)
    (DOCS / "img").mkdir(exist_ok=True)
    (DOCS / "img" / "judge.svg").write_text(svg(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print the table; with --write, put it into docs/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="rollouts for each share")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true", help="write docs/judge.md and docs/img/judge.svg")
    args = parser.parse_args(argv)
    jobs = [(Truth(share), args.runs) for share in SHARES]
    with ProcessPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(_row, jobs))
    sys.stdout.write(table(rows))
    if args.write:
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
