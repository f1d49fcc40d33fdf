"""Judges a Δ by the GuardPlan: guards of class W1 and C1 always, those of class R1 when the tables could not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyoxigraph import BlankNode

from knhk_runtime.tiers.construct import Constructs
from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.expr import Expressions, check_expr
from knhk_runtime.tiers.graph import Graph, Term, node_of
from knhk_runtime.tiers.judgement import Detail, Judgement
from knhk_runtime.tiers.names import component
from knhk_runtime.tiers.shacl import Result, Validator
from knhk_runtime.tiers.shapes import load_shapes
from knhk_runtime.tiers.sparql import THIS, ask, check_rule

_PROPERTY = component("Property")
_QUALIFIED = component("QualifiedValueShape")
_IN_PLAN = {component(f"Qualified{name}Count"): _QUALIFIED for name in ("Min", "Max")}
MAX_DETAILS = 64
MAX_TEXT = 256


class Evaluator:
    """Guards of one plan, loaded once. Raises ShapeError when a shape, query, pattern or expression cannot be evaluated."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.guards: Sequence[Mapping[str, Any]] = plan["guards"]
        cold = plan.get("cold") or {}
        self._asks: Mapping[str, str] = cold.get("asks") or {}
        shapes, classes = cold.get("shapes") or "", cold.get("classes")
        self._shapes_graph = Graph.parse(shapes.encode())
        self._classes = self._shapes_graph if classes is None else Graph.parse(classes.encode())
        self._shapes = load_shapes(self._shapes_graph)
        self._constructs = Constructs(plan)
        self._by_source = self._index()
        for guard in self.guards:
            self._check(guard)

    def _index(self) -> dict[tuple[Term, str], list[int]]:
        found: dict[tuple[Term, str], list[int]] = {}
        for index, guard in enumerate(self.guards):
            if guard["kind"] == "shacl":
                found.setdefault((node_of(guard["shape"]), guard["component"]), []).append(index)
        return found

    def _check(self, guard: Mapping[str, Any]) -> None:
        where = str(guard["id"])
        if guard.get("expr") is not None:
            check_expr(where, guard["expr"])
        if guard["id"] in self._asks:
            check_rule(where, self._asks[guard["id"]])
        elif guard.get("expr") is not None:
            return
        elif guard["kind"] == "ask":
            raise ShapeError(where, "must have its query in cold.asks")
        elif guard["kind"] == "shacl" and not self._in_shapes(guard):
            raise ShapeError(where, f"shape {guard['shape']} with {guard['component']} is not in cold.shapes")
        elif guard["kind"] == "abac":
            raise ShapeError(where, "an abac guard must have an expression")

    def _in_shapes(self, guard: Mapping[str, Any]) -> bool:
        shape = self._shapes.by_node.get(node_of(guard["shape"]))
        return shape is not None and any(_in_plan(constraint.component) == guard["component"] for constraint in shape.constraints)

    def judge(self, graph_ntriples: bytes, only: Sequence[int] | None = None) -> Judgement:
        """Failing guards among `only` (None: all but guard 0, which the pack decides on the bytes), with details."""
        wanted = set(range(1, len(self.guards)) if only is None else only)
        graph = Graph.parse(graph_ntriples)
        details = list(self._judge_shapes(graph, wanted))
        details += self._judge_others(graph, wanted)
        triples: tuple[bytes, ...] = ()
        if any(self.guards[index]["kind"] == "construct" for index in wanted):
            made, over = self._constructs.make(graph)
            triples = () if over else made
            details += [Detail(index, message=self.guards[index]["message"]) for index in over if index in wanted]
        details.sort(key=lambda detail: detail.guard)
        failing = tuple(sorted({detail.guard for detail in details}))
        return Judgement(failing, tuple(details[:MAX_DETAILS]), triples)

    def _judge_shapes(self, graph: Graph, wanted: set[int]) -> Iterable[Detail]:
        for result, guards in self.results(graph, wanted):
            for index in guards:
                yield self._detail(index, result)

    def results(self, graph: Graph, guards: Iterable[int]) -> Iterator[tuple[Result, list[int]]]:
        """Validation results behind these guards of kind shacl, each once, with those of the guards that it makes fail."""
        wanted = {index for index in guards if self._by_shapes(index)}
        if not wanted:
            return
        only = frozenset(key for index in wanted for key in self._constraints_of(index))
        expressions = Expressions(self.plan["targets"], graph)
        focus = {target: set(expressions.focus_nodes(target)) for target in {self.guards[index]["target"] for index in wanted}}
        for result in Validator(self._shapes, graph, self._classes).validate(only):
            hit = [i for i in self._guards_of(result) if i in wanted and result.root in focus[self.guards[i]["target"]]]
            if hit:
                yield result, hit

    def _constraints_of(self, index: int) -> Iterator[tuple[Term, str]]:
        """The shape's node with each component that the guard stands for."""
        guard = self.guards[index]
        yield node_of(guard["shape"]), guard["component"]
        for iri, in_plan in _IN_PLAN.items():
            if in_plan == guard["component"]:
                yield node_of(guard["shape"]), iri

    def _by_shapes(self, index: int) -> bool:
        guard = self.guards[index]
        return guard["kind"] == "shacl" and self._in_shapes(guard)

    def _guards_of(self, result: Result) -> list[int]:
        """Guards of the outermost property shape whose sh:property led to the result, else of its own shape and component."""
        for outer in result.outer:
            if self._shapes.by_node[outer].path is not None:
                return self._by_source.get((outer, _PROPERTY), [])
        return self._by_source.get((result.shape, _in_plan(result.component)), [])

    def _detail(self, index: int, result: Result) -> Detail:
        path = str(result.path) if result.path is not None else ""
        message = self.guards[index]["message"] or next((text.value for text in result.messages), "")
        value = "" if result.value is None else _plain(result.value)
        return Detail(index, *(text[:MAX_TEXT] for text in (_plain(result.focus), path, value, message)))

    def _judge_others(self, graph: Graph, wanted: set[int]) -> Iterable[Detail]:
        expressions = Expressions(self.plan["targets"], graph)
        for index in sorted(wanted):
            guard = self.guards[index]
            if guard["kind"] in ("payload", "construct") or self._by_shapes(index):
                continue
            for focus in expressions.focus_nodes(guard["target"]):
                if not self._passes(guard, expressions, graph, focus):
                    yield Detail(index, str(focus)[:MAX_TEXT], guard.get("path") or "", "", str(guard["message"])[:MAX_TEXT])
                    break

    def _passes(self, guard: Mapping[str, Any], expressions: Expressions, graph: Graph, focus: Term) -> bool:
        if guard.get("expr") is None:
            return ask(graph, self._asks[guard["id"]], {THIS: focus})
        return expressions.test(guard["expr"], focus, expressions.focus_nodes(guard["target"]))

    def focus_nodes(self, graph: Graph, index: int) -> list[Term]:
        """Focus nodes of a guard's target."""
        return Expressions(self.plan["targets"], graph).focus_nodes(self.guards[index]["target"])


def _in_plan(iri: str) -> str:
    """The component as the plan names it: one for both counts of a qualified value shape."""
    return _IN_PLAN.get(iri, iri)


def _plain(term: Term) -> str:
    """A term as the hot tier tells it to people: IRI, lexical form, or label of a blank node."""
    return f"_:{term.value}" if isinstance(term, BlankNode) else term.value
