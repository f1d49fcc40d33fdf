"""μ whole: the tables first, then the cold tier for what they leave open; A does not tell which tier decided (formats/action.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from knhk_runtime.tiers.action import ADMIT, action_bytes, failing_bits, verdict_of
from knhk_runtime.tiers.errors import InputRefused
from knhk_runtime.tiers.judgement import Detail, Judge, cold_guards, denied_by, table_guards

OK, COLD, ESCAPE = 0, 1, 2
CLASS_W1, CLASS_C1 = 2, 3
_CLASSES = {"R1": 1, "W1": CLASS_W1, "C1": CLASS_C1}


class TableDecision(Protocol):
    """hot_c's Decision: status by knhk_pack.h; verdict counts with OK only, a with OK and (bits of R1 guards) with COLD."""

    @property
    def status(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def klass(self) -> int: ...
    @property
    def a(self) -> bytes: ...


class Binding(Protocol):
    """hot_c's pack bound to a data bundle."""

    def decide(self, o: bytes) -> TableDecision: ...
    def graph(self, o: bytes) -> bytes: ...
    def explain(self, o: bytes, a: bytes) -> Sequence[Mapping[str, str]]: ...


@dataclass(frozen=True)
class Decided:
    """verdict 1 ADMIT or 2 DENY, class 1 R1, 2 W1, 3 C1, A, and for a denial what to tell the client."""

    verdict: int
    klass: int
    a: bytes
    violations: tuple[Mapping[str, Any], ...]


def decide(binding: Binding, judge: Judge, o: bytes) -> Decided:
    """Decides O. Raises InputRefused when the pack cannot judge it, Undecided when the cold tier could not in its budget."""
    first = binding.decide(o)
    if first.status < 0:
        raise InputRefused(first.status, f"the pack refuses the input (status {first.status})")
    if first.status == OK:
        denied = first.verdict == 2
        return Decided(first.verdict, first.klass, first.a, tuple(binding.explain(o, first.a)) if denied else ())
    graph = binding.graph(o)
    failing = set(failing_bits(first.a)) if first.status == COLD else set()
    details: list[Detail] = []
    if first.status == ESCAPE:
        tables = judge.judge(graph, table_guards(judge.plan))
        failing |= set(tables.failing)
        details += tables.details
    cold = cold_guards(judge.plan)
    triples: tuple[bytes, ...] = ()
    if cold and not denied_by(judge.plan, failing):
        lower = judge.judge(graph, cold)
        details += [detail for detail in lower.details if detail.guard not in failing]
        failing |= set(lower.failing)
        triples = lower.triples
    guards = judge.plan["guards"]
    verdict = verdict_of(guards, failing)
    a = action_bytes(guards, failing, triples if verdict == ADMIT else ())
    return Decided(verdict, first.klass or _lowest(guards), a, _violations(guards, details) if verdict == 2 else ())


def _lowest(guards: list[Mapping[str, Any]]) -> int:
    return max([CLASS_W1, *(_CLASSES[guard["class"]] for guard in guards)])


def _violations(guards: list[Mapping[str, Any]], details: list[Detail]) -> tuple[Mapping[str, Any], ...]:
    """The members of formats/agent.md."""
    return tuple(
        {
            "guard": guards[detail.guard]["id"],
            "rule": guards[detail.guard].get("component") or guards[detail.guard]["kind"],
            "shape": guards[detail.guard].get("named") or guards[detail.guard].get("shape") or "",
            "path": guards[detail.guard].get("path") or detail.path,
            "focus": detail.focus,
            "value": detail.value,
            "message": detail.message,
        }
        for detail in details
    )
