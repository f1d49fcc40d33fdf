"""What a bench gives: rows of measured values with their spread, goals beside, notes under."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Minimum, median and 99th percentile of `n` samples, in the unit of the row."""

    low: float
    median: float
    high: float
    n: int


@dataclass(frozen=True)
class Goal:
    """A number to reach: `most` for a ceiling, else a floor. Judged on the median, or on the 99th percentile when `on_high`."""

    value: float
    most: bool = False
    on_high: bool = False

    def reached(self, spread: Spread) -> bool:
        seen = spread.high if self.on_high else spread.median
        return seen <= self.value if self.most else seen >= self.value

    def text(self) -> str:
        return f"{'≤' if self.most else '≥'} {number(self.value)}{' (p99)' if self.on_high else ''}"


@dataclass(frozen=True)
class Row:
    """One measured value. `spread` None: not run, and `note` says why."""

    name: str
    unit: str
    spread: Spread | None
    note: str = ""
    goal: Goal | None = None

    def judged(self) -> str:
        """The goal and whether it was reached, or by which factor it was missed."""
        if self.goal is None or self.spread is None:
            return self.goal.text() if self.goal else ""
        seen = self.spread.high if self.goal.on_high else self.spread.median
        if self.goal.reached(self.spread):
            return f"{self.goal.text()}: reached"
        short = seen / self.goal.value if self.goal.most else self.goal.value / seen
        return f"{self.goal.text()}: missed by ×{short:.2f}"


@dataclass(frozen=True)
class Figures:
    """The table of one bench."""

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def value(self, row: str) -> float:
        """Median of the row of that name."""
        return next(r.spread.median for r in self.rows if r.name == row and r.spread)

    def document(self) -> dict[str, Any]:
        """Plain JSON data."""
        rows = [{**asdict(row), "judged": row.judged()} for row in self.rows]
        return {"name": self.name, "title": self.title, "rows": rows, "notes": list(self.notes)}

    def markdown(self) -> str:
        head = ["| figure | min | median | p99 | unit | goal | note |", "|---|---:|---:|---:|---|---|---|"]
        lines = [
            f"| {row.name} | {' | '.join(cells(row.spread))} | {row.unit} | {row.judged()} | {row.note} |".replace("  ", " ")
            for row in self.rows
        ]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"## {self.title}", "", *head, *lines, "", *notes]).rstrip() + "\n"


def cells(spread: Spread | None) -> list[str]:
    """Three cells; the outer ones are empty for a single sample."""
    if spread is None:
        return ["", "not run", ""]
    if spread.n == 1:
        return ["", number(spread.median), ""]
    return [number(spread.low), number(spread.median), number(spread.high)]


def number(x: float) -> str:
    """Three significant digits, thousands apart."""
    if x == 0 or not math.isfinite(x):
        return str(x)
    digits = max(0, 2 - math.floor(math.log10(abs(x))))
    return f"{x:,.{digits}f}"


def spread(samples: Sequence[float]) -> Spread:
    """Of at least one sample."""
    ordered = sorted(samples)
    high = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    return Spread(ordered[0], statistics.median(ordered), high, len(ordered))


def single(value: float) -> Spread:
    """Of one sample."""
    return Spread(value, value, value, 1)


def per_op(work: Callable[[], object], ops: int, samples: int, clock: Callable[[], int], warm: int = 2) -> list[float]:
    """Nanoseconds per operation of `samples` calls of `work`, which does `ops` operations each; `warm` calls before are not counted."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(samples):
        begun = clock()
        work()
        found.append((clock() - begun) / ops)
    return found
