"""From an edited source to a decision: lowering, C text, both architectures, the first verdict."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench import inputs
from bench.figures import Figures, Goal, Row, single, spread
from knhk.adapters.compiler_zig import ZigCompiler
from knhk.model.arrows import PackSources
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import OK, Pack
from knhk_hot.toolchain import HOST

TITLE = "Compiler"
GOALS = {64: Goal(0.5, most=True), 1024: Goal(2.0, most=True)}
DEMO = Path(__file__).parent.parent / "demo.json"


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _edited(sources: PackSources, number: int) -> PackSources:
    """The same pack under another version, so that no cache knows its text."""
    return replace(sources, version=f"1.0.{number}-{time.time_ns()}")


def _rows(count: int, runs: int) -> list[Row]:
    sources = inputs.many_guards(count)
    steps: dict[str, list[float]] = {"lower": [], "emit": [], "cold": [], "warm": []}
    for number in range(runs):
        with tempfile.TemporaryDirectory(prefix="knhk-bench-") as cache:
            compiler, made = ZigCompiler(Path(cache)), _edited(sources, number)
            begun = time.perf_counter()
            plan = lower(made)
            steps["lower"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            text = emit(plan)
            steps["emit"].append(time.perf_counter() - begun)
            steps["cold"].append(_seconds(partial(compiler.compile, text)))
            steps["warm"].append(_seconds(partial(compiler.compile, text)))
    whole = spread([sum(step) for step in zip(steps["lower"], steps["emit"], steps["cold"], strict=True)])
    return [
        Row(f"{count} guards, both architectures, cold", "s", spread(steps["cold"]), "zig cc and link, no object kept", GOALS[count]),
        Row(f"{count} guards, both architectures, warm", "s", spread(steps["warm"]), "objects from the cache"),
        Row(f"{count} guards, Turtle to plan", "s", spread(steps["lower"])),
        Row(f"{count} guards, plan to C text", "s", spread(steps["emit"])),
        Row(f"{count} guards, Turtle to both objects, cold", "s", whole),
    ]


def _first_decision(number: int) -> float:
    """Seconds from changed sources of the invoice pack to its first verdict in this process."""
    _, o = inputs.invoice_cases()[0]
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as cache:
        begun = time.perf_counter()
        objects = ZigCompiler(Path(cache)).compile(emit(lower(_edited(inputs.invoice_sources(), number))))
        so = next(made.data for made in objects if made.arch == HOST)
        decision = Pack.load(so).bind(inputs.finance_roles()).decide(o)
        taken = time.perf_counter() - begun
    if decision.status != OK:
        raise ValueError(f"the invoice pack did not decide: status {decision.status}")
    return taken


def run(quick: bool = False) -> Figures:
    """Wall seconds."""
    runs, sizes = (1, (64,)) if quick else (5, (64, 1024))
    inputs.finance_roles()
    rows = list(itertools.chain.from_iterable(_rows(count, runs) for count in sizes))
    first = spread([_first_decision(number) for number in range(runs)])
    rows.append(Row("invoice pack, edit to first decision in process", "s", first, "both architectures, cold"))
    rows.append(_demo())
    return Figures("compile", TITLE, tuple(rows), ("Wall time; the two architectures are linked side by side.",))


def _demo() -> Row:
    """`knhk apply` to the first decision in Envoy, as the last `make demo` saw it."""
    name, goal = "apply to first decision in Envoy (make demo)", Goal(5, most=True)
    if not DEMO.exists():
        return Row(name, "s", None, "not run: there is no demo.json; `make demo` writes it", goal)
    return Row(name, "s", single(float(json.loads(DEMO.read_text())["apply_to_first_decision_s"])), "one run, from demo.json", goal)
