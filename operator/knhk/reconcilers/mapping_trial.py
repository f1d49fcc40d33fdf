"""Trying a mapping on a payload: the triples that the compiled extractor makes, each with the rule behind it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import pyoxigraph

from knhk.model.arrows import PackSources, Source
from knhk.model.faults import Fault, Refused
from knhk.model.observation import ZEROS, Observation
from knhk.packaging.builds import Step
from knhk.ports.compiler import Compiler
from knhk.reconcilers.evaluators import Evaluator, load
from knhk.reconcilers.lowering import place
from knhk_gen.emit import emit
from knhk_gen.mapping_trace import ROUTE, Rule, Traced, trace
from knhk_runtime.tiers.errors import InputRefused

DENY = 2
REQUEST = "https://knhk.dev/ns#request"


@dataclass(frozen=True)
class Line:
    """One triple, as N-Triples writes its terms, and the rule that made it."""

    subject: str
    object: str
    rule: Rule


@dataclass(frozen=True)
class Trial:
    """Lines in the order of the mapping; rules that made nothing; or why guard 0 refuses the payload."""

    lines: tuple[Line, ...]
    silent: tuple[Rule, ...]
    faults: tuple[Fault, ...] = ()


def try_mapping(pack: PackSources, source: Source, body: bytes, file: str, compiler: Compiler, arch: str) -> Generator[Step, None, Trial]:
    """Raises Refused with every fault of the mapping, at the places that the author knows."""
    try:
        traced = trace(replace(source, path=source.name, first_line=1))
    except Refused as refused:
        raise Refused(replace(fault, where=place(pack, fault.where)) for fault in refused.faults) from refused
    yield Step("Compiled", f"{len(traced.rules)} rules")
    (data,) = (made.data for made in compiler.compile(emit(traced.plan)) if made.arch == arch)
    yield Step("Linked", f"{len(data)} bytes")
    return _run(load(data, traced.plan.document, None), traced, pack, body, file)


def _run(evaluator: Evaluator, traced: Traced, pack: PackSources, body: bytes, file: str) -> Trial:
    try:
        o = Observation(0, ROUTE, body, {}, region="local", bundle=ZEROS, evaluator=ZEROS).encode()
    except ValueError as error:
        raise Refused([Fault(file, f"{len(body)} bytes", str(error))]) from error
    first = evaluator.decide(o)
    if first.status == 0 and first.verdict == DENY:
        return Trial((), (), tuple(_fault(file, told) for told in evaluator.explain(o, first.a)))
    try:
        graph = evaluator.graph(o)
    except InputRefused as error:
        raise Refused([Fault(file, str(error), "must be within the limits of formats/guardplan.md")]) from error
    lines = [_line(traced, quad) for quad in pyoxigraph.parse(graph, pyoxigraph.RdfFormat.N_TRIPLES) if quad.subject.value != REQUEST]
    made = {line.rule for line in lines}
    order = {rule: i for i, rule in enumerate(traced.rules)}
    placed = {rule: replace(rule, where=place(pack, rule.where)) for rule in traced.rules}
    lines.sort(key=lambda line: (order[line.rule], line.subject, line.object))
    return Trial(
        tuple(replace(line, rule=placed[line.rule]) for line in lines),
        tuple(placed[rule] for rule in traced.rules if rule not in made),
    )


def _line(traced: Traced, quad: Any) -> Line:
    return Line(str(quad.subject), str(quad.object), traced.rule(quad.predicate.value))


def _fault(file: str, told: Any) -> Fault:
    where = f"{file} {told['path']}" if told["path"] else file
    return Fault(where, told["value"], str(told["message"]).rpartition(": ")[2])
