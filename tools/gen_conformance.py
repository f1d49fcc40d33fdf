"""Writes docs/conformance.md: the W3C SHACL core tests at hand through `knhk shape validate`'s path, and which class decided.

A class is what is measured: bench/results/shapes.json holds one run of `python -m bench.shapes`; a row of the classification table above
its class's budget at p99 counts in the next class.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "conformance"))

import w3c  # noqa: E402
from rdflib import Graph  # noqa: E402
from rdflib.namespace import RDF  # noqa: E402

from knhk.adapters.rdf_files import read  # noqa: E402
from knhk.reconcilers.validating import validate  # noqa: E402
from knhk.wiring import packs  # noqa: E402

OUT = ROOT / "docs" / "conformance.md"
MEASURED = ROOT / "bench" / "results" / "shapes.json"
CLASSES = ("R1", "W1", "C1")
BUDGET_NS = {"R1": 2.0, "W1": 1e6, "C1": 500e6}
UNITS = {"R1": ("ns", 1.0), "W1": ("µs", 1e3), "C1": ("µs", 1e3)}
HEAD = """# Conformance to SHACL

<!-- Written by tools/gen_conformance.py; do not edit. -->

W3C SHACL core tests at hand: {passed} of {tests} pass, as report graphs, by the path of `knhk shape validate`: shapes, guard plan,
tables, kernels; the cold tier for what is W1 or C1. They are 67 of the 98 of that suite, so this is no statement about the whole.
SHACL-SPARQL is tried by tests of our own (`tests/conformance/test_sparql.py`), and every component on every form of path against
pySHACL (`tests/conformance/test_core_semantics.py`). Cases out of the Recommendation's text, section by section, with results reasoned by
hand are in `tests/conformance/test_recommendation.py`.

What the Recommendation leaves open, or asks of a processor, is answered so: recursive shapes, `sh:entailment`, and a shapes graph that is
ill-formed are failures (exit 2) that say where and why; `owl:imports` and `sh:shapesGraph` are not followed: the two files are all;
blank nodes of the shapes are no nodes of the data, in one file too; `sh:detail` is not given; the class hierarchy is that of the data.
"""
TIERS = """
A test's class is the lowest that had to decide a constraint of it. An evaluation is a pair of constraint and focus node.

## What a row of the classification table costs

One run of `python -m bench.shapes` on {machine}, two cores, load {load}. R1: nanoseconds of CPU that one guard adds to a decision of 63
others, all holding, the Δ read before, in batches of 16, as means of 1,000 decisions and more; the budget is 2 ns per guard, amortised
so, for a single evaluation is below what a clock can tell.
W1 and C1: µs of CPU of one judgement from N-Triples; the budgets are 1,000 µs and 500,000 µs.
All at p99. A row above its budget counts in the next class, in this table and in those of this page; the compiler's class says which tier
decides, and stays. Rows that only say where a guard stands (`sh:property` on the focus node, targets, paths) have no cost of their own.

| row of the classification table | class | p99 | counts as |
|---|---|---:|---|"""


@dataclass(frozen=True)
class Tried:
    """A test: whether the report is the expected graph, and evaluations by class."""

    name: str
    passed: bool
    evaluations: Counter[str]

    @property
    def klass(self) -> str:
        """The lowest class that had to decide; R1 where nothing had a focus node."""
        return max((c for c in CLASSES if self.evaluations[c]), key=CLASSES.index, default="R1")


def counted_class(row: str, klass: str, measured: dict[tuple[str, str], float]) -> str:
    """The class whose budget the row keeps."""
    taken = measured.get((row, klass), 0.0)
    while taken > BUDGET_NS[klass] and klass != CLASSES[-1]:
        klass = CLASSES[CLASSES.index(klass) + 1]
    return klass


def attempt(path: Path, measured: dict[tuple[str, str], float]) -> Tried:
    """Runs one test."""
    case = w3c.read(path)
    made = validate(read(case.shapes, "s"), read(case.data, "d"), packs.compiler(), packs.host_arch())
    graph = Graph().parse(data=made.report.turtle(), format="turtle")
    (report,) = graph.subjects(RDF.type, w3c.SH.ValidationReport)
    counts: Counter[str] = Counter()
    for row, klass, evaluations in made.decided:
        counts[counted_class(row, klass, measured)] += evaluations
    return Tried(case.name, w3c.normal(graph, report, case.messages) == case.expected, counts)


def share(part: int, whole: int) -> str:
    """A percentage with one place."""
    return f"{100 * part / whole:.1f} %"


def summary(tried: list[Tried]) -> list[str]:
    """Shares of tests and of evaluations, with and without the one large test."""
    lines = ["| | tests | R1 | R1 or W1 | evaluations | R1 | R1 or W1 |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, some in (("all", tried), ("without complex/", [t for t in tried if not t.name.startswith("complex/")])):
        within = [sum(t.klass in CLASSES[: n + 1] for t in some) for n in range(2)]
        total = sum((t.evaluations for t in some), Counter())
        counts = [sum(total[c] for c in CLASSES[: n + 1]) for n in range(2)]
        shares = [*(share(n, len(some)) for n in within), str(total.total()), *(share(n, total.total()) for n in counts)]
        lines.append(f"| {name} | {len(some)} | " + " | ".join(shares) + " |")
    return lines


def shown(ns: float, klass: str) -> str:
    """A figure in the unit of its class."""
    unit, scale = UNITS[klass]
    return f"{ns / scale:,.1f} {unit}" if unit == "ns" else f"{ns / scale:,.0f} {unit}"


def page(tried: list[Tried], measured: dict[tuple[str, str], float], machine: str, load: str) -> str:
    """The document."""
    passed = sum(t.passed for t in tried)
    rows = (f"| {row} | {klass} | {shown(ns, klass)} | {counted_class(row, klass, measured)} |" for (row, klass), ns in measured.items())
    lines = [
        HEAD.format(passed=passed, tests=len(tried)),
        *summary(tried),
        TIERS.format(machine=machine, load=load),
        *rows,
        "",
        "## Tests",
        "",
        "| test | class | R1 | W1 | C1 | result |",
        "|---|---|---:|---:|---:|---|",
        *(
            f"| {t.name} | {t.klass} | {' | '.join(str(t.evaluations[c]) for c in CLASSES)} | {'passed' if t.passed else 'FAILED'} |"
            for t in tried
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    logging.getLogger("rdflib.term").disabled = True  # the tests hold ill-formed literals on purpose
    warnings.simplefilter("ignore", UserWarning)
    told = json.loads(MEASURED.read_text(encoding="utf-8"))
    measured = {(r["row"], r["class"]): float(r["p99_ns"]) for r in told["rows"]}
    tried = [attempt(path, measured) for path in w3c.files()]
    OUT.write_text(page(tried, measured, told["machine"], " ".join(map(str, told["load"]))), encoding="utf-8")


if __name__ == "__main__":
    main()
