"""SHACL validation by the way of a pack: shapes → GuardPlan → tables → kernels; the cold tier for what is not R1, and for the report.

The shapes become a pack that takes RDF as it is. Its tables decide every guard of class R1; what they find failing, the cold tier names
value by value, as it does for a denial. A guard that the tables fail and the cold tier does not is a bug and ends the validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pyoxigraph import Literal

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.faults import KnhkError
from knhk.model.observation import Observation
from knhk.model.rdf import RdfFile
from knhk.ports.compiler import Compiler
from knhk.reconcilers.evaluators import Evaluator, load
from knhk.reconcilers.lowering import plan_of
from knhk_gen.emit import emit
from knhk_runtime.tiers.action import failing_bits
from knhk_runtime.tiers.decide import COLD, OK
from knhk_runtime.tiers.graph import Graph
from knhk_runtime.tiers.judgement import cold_guards, table_guards
from knhk_runtime.tiers.report import Report
from knhk_runtime.tiers.shacl import Result

ROUTE: Final = "validate"
BODY_MAX: Final = 1 << 20  # formats/observation.md
_CLASSES: Final = ("R1", "W1", "C1")
BELOW_R1: Final = "W1"  # what decides a guard of class R1 that the tables could not


@dataclass(frozen=True)
class Validation:
    """A report, and who decided: for each guard with a focus node its row of the classification table, the class that decided it, and its
    evaluations (pairs of guard and focus node)."""

    plan: GuardPlan
    report: Report
    decided: Sequence[tuple[str, str, int]]

    @property
    def guards(self) -> dict[str, int]:
        """Guards with a focus node, by class."""
        return {klass: sum(c == klass for _, c, _ in self.decided) for klass in _CLASSES}

    @property
    def evaluations(self) -> dict[str, int]:
        """Evaluations, by class."""
        return {klass: sum(n for _, c, n in self.decided if c == klass) for klass in _CLASSES}


class TiersDisagree(KnhkError):
    """The tables and the cold tier differ: a bug of ours, never a verdict."""


def plan_for(shapes: RdfFile, data: RdfFile) -> GuardPlan:
    """The plan of a pack that judges RDF by these shapes. The class hierarchy is that of the data, as the Recommendation says."""
    text, base = (shapes.text, shapes.uri) if shapes.is_turtle else (shapes.ntriples, "")
    sources = (
        Source("shapes", "shapes", text, str(shapes.path), base=base),
        Source("data", "mapping", "format: rdf\n", str(data.path), media="application/yaml"),
    )
    return plan_of(PackSources("shape", "validate", "1", sources, {ROUTE: "data"}, "".join(data.classes), open_vocabulary=True))


def validate(shapes: RdfFile, data: RdfFile, compiler: Compiler, arch: str) -> Validation:
    """Validates. Raises Refused with every fault of the shapes, ShapeError for what cannot be evaluated, TiersDisagree."""
    plan = plan_for(shapes, data)
    (shared,) = compiler.compile(emit(plan), (arch,))
    evaluator = load(shared.data, plan.document, None)
    body = data.ntriples.encode()
    failing = _tables(evaluator, body)
    below = cold_guards(evaluator.plan) if failing is not None else tuple(range(1, len(evaluator.plan["guards"])))
    graph = Graph.parse(body)
    found = list(evaluator.judge.results(graph, {*(failing or ()), *below}))
    _agree(evaluator.plan, failing or (), {guard for _, guards in found for guard in guards})
    results = [_told(result, [evaluator.plan["guards"][i] for i in guards]) for result, guards in found]
    return Validation(plan, Report(results, {**data.tags, **shapes.tags}), list(_decided(evaluator, graph, escaped=failing is None)))


def _tables(evaluator: Evaluator, body: bytes) -> tuple[int, ...] | None:
    """Failing guards of class R1, or None when the tables cannot decide this graph: too large, a value beyond them, names of knhk.dev."""
    if len(body) > BODY_MAX or not table_guards(evaluator.plan):
        return None
    decision = evaluator.decide(Observation(0, ROUTE, body, region="local").encode())
    if decision.status not in (OK, COLD):
        return None
    failing = failing_bits(decision.a)
    return None if 0 in failing else failing


def _agree(plan: Mapping[str, Any], failing: Sequence[int], found: set[int]) -> None:
    lost = [plan["guards"][i]["id"] for i in failing if i not in found]
    if lost:
        raise TiersDisagree(f"the tables fail {', '.join(lost)}, the cold tier does not")


def _told(result: Result, guards: Sequence[Mapping[str, Any]]) -> Result:
    """The result with a message: its author's, else the standard one of its guard."""
    own = [g for g in guards if not result.outer or g["component"] == result.component]
    if result.messages or not own:
        return result
    return replace(result, messages=(Literal(own[0]["message"]),))


def _decided(evaluator: Evaluator, graph: Graph, escaped: bool) -> Iterator[tuple[str, str, int]]:
    for index, guard in enumerate(evaluator.plan["guards"][1:], start=1):
        focus = len(evaluator.judge.focus_nodes(graph, index))
        klass = str(guard["class"])
        if focus:
            yield guard["why"].partition(f": {klass}, ")[0], BELOW_R1 if escaped and klass == "R1" else klass, focus
