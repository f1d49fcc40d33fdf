"""Rules of several packs that contradict, shadow or never bite, found on the cases that translation validation makes; each with a payload.

What is told was seen on every case: a guard that was never seen to fail, a guard that fails only where another does, two guards of which
one failed on every payload that both judged, even after a search for a payload that passes both. A case that nobody made could show
otherwise. Where absence satisfies both, contradiction is about values: payloads that lack every predicate that both guards read do not
count then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from knhk.model.expectations import Case
from knhk.reconcilers.proving import Loaded
from knhk.reconcilers.testing import observation
from knhk_gen.ask import mentioned_iris
from knhk_gen.cases import Trial, cases, edits, trial
from knhk_gen.names import TYPE
from knhk_gen.shacl import predicates
from knhk_gen.shapes import Shapes
from knhk_gen.turtle import read_ntriples
from knhk_hot.pack import COLD, OK, PackError
from knhk_runtime.tiers.action import denies
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph

LEAST = 3
SEARCH_STEPS = 200


@dataclass(frozen=True)
class Witness:
    """A payload and what it shows."""

    shows: str
    case: Case


@dataclass(frozen=True)
class Conflict:
    """kind: contradictory, shadowed or never-firing. `guards` as PACK: GUARD, the one that suffers first."""

    kind: str
    guards: tuple[str, ...]
    told: str
    witnesses: tuple[Witness, ...]


@dataclass
class _Guard:
    """A guard and the numbers of the cases that its pack judged, in which it was judged on some focus node, had values by predicate, and
    failed."""

    name: str
    plan: Mapping[str, Any]
    document: Mapping[str, Any]
    reads: frozenset[str]
    met: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    given: dict[str, set[int]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @property
    def passed(self) -> set[int]:
        return self.reached - self.failed

    def with_value(self, predicates: Iterable[str]) -> set[int]:
        """Cases that reached it and have a value of one of these."""
        return self.reached & {number for p in predicates for number in self.given.get(p, ())}


@dataclass(frozen=True)
class _Judged:
    """Guards that were reached and that failed, and all predicates of the Δ."""

    reached: set[int]
    failed: set[int]
    predicates: set[str]


@dataclass
class _Seen:
    """One pack over all cases."""

    label: str
    under: Loaded
    guards: list[_Guard]

    def judge(self, case: Case) -> _Judged | None:
        """None when the pack does not judge the case or refuses its body."""
        if case.route not in self.under.plan["routes"]:
            return None
        o = observation(case, self.under.data).encode()
        first = self.under.bindings[0].decide(o)
        if first.status < 0 or (first.status == OK and 0 in first.failing_guards):
            return None
        try:
            graph = self.under.bindings[0].graph(o)
        except PackError:
            return None
        plan = self.under.plan
        tables = set(first.failing_guards) if first.status == OK else set()
        slow = range(1, len(plan["guards"])) if first.status not in (OK, COLD) else _of_class(plan, r1=first.status == COLD)
        failing = tables | set(self.under.cold.judge(graph, list(slow)).failing)
        parsed = Graph.parse(graph)
        expressions = Expressions(plan["targets"], parsed)
        focused = {i for i in range(len(plan["targets"])) if expressions.focus_nodes(i)}
        reached = {i for i, guard in enumerate(plan["guards"]) if guard["target"] in focused} | failing
        return _Judged(reached, failing, {p.value for _, p, _ in parsed.triples()})


def _of_class(plan: Mapping[str, Any], r1: bool) -> list[int]:
    """Guards that the slow tier is asked for: those below R1, and those of R1 when the tables said nothing of them."""
    return [i for i, guard in enumerate(plan["guards"]) if i > 0 and (r1 or guard["class"] != "R1")]


def conflicts(
    packs: Mapping[str, Loaded], samples: Sequence[Case], callers: Sequence[str], count: int, seed: int
) -> tuple[tuple[Conflict, ...], int]:
    """All conflicts among these packs, by label; and how many cases were judged."""
    seen = [_Seen(label, under, _guards(label, under.plan)) for label, under in packs.items()]
    plans = [under.plan for under in packs.values()]
    trials = [trial(plan, [s for s in samples if s.route in plan["routes"]], callers, plans) for plan in plans]
    made = list(_fresh(case for each in trials for case in cases(each, seed, count)))
    for number, case in enumerate(made):
        for pack in seen:
            judged = pack.judge(case)
            if judged is not None:
                _note(pack, number, judged)
    guards = [guard for pack in seen for guard in pack.guards[1:] if guard.document["kind"] != "construct"]
    found = [*_never(guards, made), *_contradictions(guards, made, seen, trials), *_shadows(guards, made)]
    return tuple(found), len(made)


def _note(pack: _Seen, number: int, judged: _Judged) -> None:
    for guard in pack.guards:
        guard.met.add(number)
    for i in judged.reached:
        guard = pack.guards[i]
        guard.reached.add(number)
        for p in guard.reads & judged.predicates:
            guard.given.setdefault(p, set()).add(number)
    for i in judged.failed:
        pack.guards[i].failed.add(number)


def _fresh(every: Iterable[Case]) -> Iterator[Case]:
    known = set()
    for case in every:
        key = (case.route, case.body, tuple(sorted(case.attributes.items())), case.time_ns, case.region)
        if key not in known:
            known.add(key)
            yield case


def _guards(label: str, plan: Mapping[str, Any]) -> list[_Guard]:
    cold = plan["cold"]
    shapes = Shapes(read_ntriples(cold["shapes"], label), open_vocabulary=True)

    def reads(guard: Mapping[str, Any]) -> frozenset[str]:
        if "expr" in guard:
            return frozenset(_predicates(guard["expr"]))
        if guard["id"] in cold["asks"]:
            return mentioned_iris(cold["asks"][guard["id"]]) - {TYPE}
        return frozenset(predicates(shapes, str(guard["shape"])))

    return [_Guard(f"{label}: {guard['id']}", plan, guard, reads(guard)) for guard in plan["guards"]]


def _predicates(expr: Mapping[str, Any]) -> Iterator[str]:
    todo: list[Any] = [expr]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield from (node[key] for key in ("p", "q") if isinstance(node.get(key), str))
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _never(guards: Sequence[_Guard], made: Sequence[Case]) -> Iterator[Conflict]:
    for guard in guards:
        if guard.failed:
            continue
        told = f"reached by {len(guard.reached)} of {len(made)} cases, failed in none" if guard.reached else "no case reached its target"
        shows, among = ("passes", guard.reached) if guard.reached else ("does not reach it", guard.met)
        shown = [Witness(shows, made[min(among)])] if among else []
        yield Conflict("never-firing", (guard.name,), told, tuple(shown))


def _related(guards: Sequence[_Guard]) -> Iterator[tuple[_Guard, _Guard]]:
    """Pairs that deny and read a predicate in common."""
    heavy = [g for g in guards if denies(g.document) and g.failed and g.passed]
    return ((a, b) for a, b in combinations(heavy, 2) if a.reads & b.reads)


def _contradictions(guards: Sequence[_Guard], made: Sequence[Case], seen: Sequence[_Seen], trials: Sequence[Trial]) -> Iterator[Conflict]:
    for a, b in _related(guards):
        shared = a.reads & b.reads
        for both, among in ((a.reached & b.reached, ""), (a.with_value(shared) & b.with_value(shared), "with a value ")):
            if a.passed & b.passed & both or len(a.passed & both) < LEAST or len(b.passed & both) < LEAST:
                continue
            if _search(a, b, shared if among else frozenset(), made, seen, trials):
                continue
            told = f"on each of {len(both)} payloads {among}that both judge, one of them fails"
            shown = [Witness(f"passes {x.name}, fails {y.name}", made[min(x.passed & y.failed & both)]) for x, y in ((a, b), (b, a))]
            yield Conflict("contradictory", (a.name, b.name), told, tuple(shown))
            break


def _search(a: _Guard, b: _Guard, shared: frozenset[str], made: Sequence[Case], seen: Sequence[_Seen], trials: Sequence[Trial]) -> bool:
    """Whether some change of a case that passes `a` passes both, with a value of one of the `shared` predicates if there are any."""
    of = {id(guard): (pack, i) for pack in seen for i, guard in enumerate(pack.guards)}
    (pack_a, i), (pack_b, k) = of[id(a)], of[id(b)]
    start = made[min(a.passed & b.failed)]
    steps = [edit for each in trials for edit in edits(each, start.route) if start.route in each.slots][:SEARCH_STEPS]
    for edit in steps:
        try:
            case = edit.on(start)
        except ValueError:
            continue
        left, right = pack_a.judge(case), pack_b.judge(case)
        if left is None or right is None or (shared and not shared & left.predicates & right.predicates):
            continue
        if i in left.reached - left.failed and k in right.reached - right.failed:
            return True
    return False


def _shadows(guards: Sequence[_Guard], made: Sequence[Case]) -> Iterator[Conflict]:
    told: set[str] = set()
    for a, b in _related(guards):
        for under, over in ((a, b), (b, a)):
            if under.name in told or len(under.failed) < LEAST or (not under.failed < over.failed and under.failed != over.failed):
                continue
            if not under.failed <= over.reached:
                continue
            told.add(under.name)
            same = under.failed == over.failed
            text = "fails exactly where the other does" if same else f"fails only where the other does, in {len(under.failed)} cases"
            shown = [Witness("fails both", made[min(under.failed)])]
            if not same:
                shown.append(Witness(f"fails {over.name} alone", made[min(over.failed - under.failed)]))
            yield Conflict("shadowed", (under.name, over.name), text, tuple(shown))
            break
