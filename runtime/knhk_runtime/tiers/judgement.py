"""What a judge answers, and what of a plan decides which guards it is asked for. Light: no RDF library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from knhk_runtime.tiers.action import denies

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Detail:
    """Why a guard failed, for problem+json: guard number, focus, path, value and message, each cut at 256 characters."""

    guard: int
    focus: str = ""
    path: str = ""
    value: str = ""
    message: str = ""


@dataclass(frozen=True)
class Judgement:
    """`failing`: guard numbers, ascending."""

    failing: tuple[int, ...]
    details: tuple[Detail, ...] = ()
    triples: tuple[bytes, ...] = ()
    """Lines that the construct guards make, when these were asked for and all fit an A."""


class Judge(Protocol):
    """What `decide` needs: an Evaluator, or one in another process with a deadline (pool.py)."""

    @property
    def plan(self) -> Plan: ...

    def judge(self, graph_ntriples: bytes, only: Sequence[int] | None = None) -> Judgement: ...


def cold_guards(plan: Plan) -> tuple[int, ...]:
    """Numbers of the guards that the tables never decide, and of all constructs: tables that leave a decision open hand no triples over."""
    constructs = (index for index, guard in enumerate(plan["guards"]) if guard["kind"] == "construct")
    return tuple(sorted({*_numbers(plan, at_table=False), *constructs}))


def table_guards(plan: Plan) -> tuple[int, ...]:
    """Numbers of the guards of class R1, without guard 0."""
    return _numbers(plan, at_table=True)


def _numbers(plan: Plan, at_table: bool) -> tuple[int, ...]:
    guards = enumerate(plan["guards"])
    return tuple(index for index, guard in guards if guard["kind"] != "payload" and (guard["class"] == "R1") == at_table)


def denied_by(plan: Plan, failing: Iterable[int]) -> bool:
    """Whether these failing guards make the verdict DENY."""
    return any(denies(plan["guards"][index]) for index in failing)
