"""The run as one picture: each engine's time for a decision, and every figure that has a goal beside it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figures, Row

OURS, THEIRS, MISSED = "#1f6f8b", "#9aa5ab", "#c0562f"


def _names(axes: Any, names: Sequence[str]) -> None:
    """Bars from below, one for each row: two rows may have one name."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    """Medians on a logarithmic scale, whiskers from the least to the 99th percentile."""
    told = [(row, row.spread) for row in reversed(rows) if row.spread is not None]
    medians = [s.median for _, s in told]
    whiskers = [[s.median - s.low for _, s in told], [max(0.0, s.high - s.median) for _, s in told]]
    colours = [OURS if "pack" in row.name else THEIRS for row, _ in told]
    axes.barh(range(len(told)), medians, xerr=whiskers, color=colours, height=0.6, error_kw={"elinewidth": 0.8})
    _names(axes, [row.name for row, _ in told])
    axes.set_xscale("log")
    axes.set_xlabel("ns of CPU a decision, from raw JSON (median; whiskers: least, p99)")
    for place, (_, s) in enumerate(told):
        axes.annotate(f" {s.median:,.0f}", (max(s.high, s.median), place), va="center", fontsize=7)


def _goals(axes: Any, rows: Sequence[Row]) -> None:
    """How far each figure is on the good side of its goal: right of 1 is reached."""
    told = []
    for row in reversed(rows):
        if row.goal and row.spread:
            seen = row.spread.high if row.goal.on_high else row.spread.median
            told.append((f"{row.name} ({row.unit})", row.goal.value / seen if row.goal.most else seen / row.goal.value))
    colours = [OURS if far >= 1 else MISSED for _, far in told]
    axes.barh(range(len(told)), [far - 1 for _, far in told], left=1, color=colours, height=0.6)
    _names(axes, [name for name, _ in told])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda far, _: f"×{far:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times the goal (right of the line: reached)")


def draw(tables: Sequence[Figures], head: str, to: Path) -> None:
    """Writes an SVG of what these tables hold. Raises ImportError without matplotlib (`make bench` installs it)."""
    matplotlib = importlib.import_module("matplotlib")
    figure_of = importlib.import_module("matplotlib.figure").Figure
    decisions = [row for table in tables if table.name == "verdict" for row in table.rows if row.unit == "ns"]
    verdict = [row for row in decisions if not row.name.startswith("of a single") and "per body byte" not in row.name]
    judged = [row for table in tables for row in table.rows if row.goal and row.spread]
    panels = [(draw_on, rows) for draw_on, rows in ((_bars, verdict), (_goals, judged)) if rows]
    if not panels:
        return
    with matplotlib.rc_context({"font.size": 8, "svg.hashsalt": "bench", "svg.fonttype": "none"}):
        heights = [0.26 * len(rows) + 0.9 for _, rows in panels]
        figure = figure_of(figsize=(9, sum(heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for (draw_on, rows), on in zip(panels, axes, strict=True):
            draw_on(on, rows)
            on.spines[["top", "right"]].set_visible(False)
        figure.suptitle(head, fontsize=8)
        figure.savefig(to, metadata={"Date": None})
