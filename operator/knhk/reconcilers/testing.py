"""`pack test`: what a pack decides of its expectations, which guards they exercise, and how many mutants of it they notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.model.arrows import GuardPlan, SharedObject
from knhk.model.canonical import sha256_hex
from knhk.model.expectations import Case, Expectations
from knhk.model.faults import Fault, Refused
from knhk.model.observation import ZEROS, Observation
from knhk.ports.compiler import Compiler
from knhk.reconcilers.evaluators import Evaluator, load
from knhk_gen.emit import emit
from knhk_gen.implied import implied
from knhk_gen.mutants import Mutant, mutants, schemata
from knhk_runtime.record import parse_action
from knhk_runtime.tiers.action import DENY, verdict_of
from knhk_runtime.tiers.decide import ESCAPE
from knhk_runtime.tiers.decide import decide as decide_whole
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tiers.errors import InputRefused, ShapeError
from knhk_runtime.tiers.evaluator import Evaluator as ColdTier
from knhk_runtime.tiers.expr import Expressions
from knhk_runtime.tiers.graph import Graph
from knhk_verify.leaf import CLASSES, VERDICTS

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What became of one case. `failing`: guard numbers; `reached`: guards that had a focus node and were judged; `told`: empty when
    it came as expected, else what is wrong."""

    case: Case
    o: bytes
    verdict: str
    klass: str
    escaped: bool
    failing: frozenset[int]
    reached: frozenset[int]
    graph: bytes | None
    told: tuple[str, ...]


@dataclass(frozen=True)
class Covered:
    """How often one guard failed and passed. `implied`: the mappings keep it, no input can make it fail."""

    guard: str
    source: str
    failed: int
    passed: int
    implied: bool


@dataclass(frozen=True)
class Survivor:
    """A mistake that no case notices."""

    guard: str
    source: str
    what: str


@dataclass(frozen=True)
class Tiers:
    """How many evaluations of guards, whole cases, and whole payloads that are files as they lie there, each class decided."""

    evaluations: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    payloads: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Report:
    """The outcome of a test. `mutants` is None when they were not asked for."""

    seen: tuple[Seen, ...]
    covered: tuple[Covered, ...]
    mutants: int | None
    survivors: tuple[Survivor, ...]
    tiers: Tiers

    @property
    def wrong(self) -> tuple[Seen, ...]:
        """Cases that did not come as expected."""
        return tuple(seen for seen in self.seen if seen.told)

    @property
    def coverage(self) -> float:
        """Percent of the guards that both failed and passed, of those that can fail."""
        able = [c for c in self.covered if not c.implied]
        return percent(sum(c.failed > 0 and c.passed > 0 for c in able), len(able))

    @property
    def mutation(self) -> float | None:
        """Percent of the mutants that were noticed."""
        return None if self.mutants is None else percent(self.mutants - len(self.survivors), self.mutants)

    def meets(self, wanted: Expectations) -> bool:
        """Whether all came as expected, with the coverage and the mutation score that are required."""
        enough = self.mutation is None or self.mutation >= wanted.mutation
        return not self.wrong and self.coverage >= wanted.coverage and enough


def percent(part: int, whole: int) -> float:
    """Percent, rounded down to a tenth, so that 100 means all."""
    return 100.0 if whole == 0 else part * 1000 // whole / 10


@dataclass(frozen=True)
class Subject:
    """A pack under test: plan, evaluator, data bundle."""

    plan: Plan
    evaluator: Evaluator
    data: bytes | None

    def decide(self, case: Case) -> Seen:
        """What the pack decides of one case."""
        o = observation(case, self.data).encode()
        try:
            decided = decide_whole(self.evaluator, self.evaluator.judge, o)
        except InputRefused as error:
            raise Refused([Fault(case.place(), case.name, f"must be a request that the pack judges: {error}")]) from error
        action = parse_action(decided.a)
        failing = frozenset(action.failing)
        graph = None if 0 in failing else self.evaluator.graph(o)
        reached = _reached(self.plan, graph, failing)
        verdict, klass = VERDICTS[decided.verdict], CLASSES[decided.klass]
        seen = Seen(case, o, verdict, klass, self.evaluator.decide(o).status == ESCAPE, failing, reached, graph, ())
        told = mismatch(self.plan, case, verdict, failing)
        return replace(seen, told=(*told, *_other_triples(case, action.triples)))


def observation(case: Case, data: bytes | None) -> Observation:
    """O of a case."""
    bundle = ZEROS if data is None else bytes.fromhex(sha256_hex(data))
    return Observation(case.time_ns, case.route, case.body, case.attributes, case.region, bundle, evaluator_digest())


def subject(plan: GuardPlan, compiler: Compiler, arch: str, data: bytes | None) -> Subject:
    """A plan compiled and bound to its data."""
    return Subject(plan.document, load(_object(compiler.compile(emit(plan)), arch), plan.document, data), data)


def _object(made: Sequence[SharedObject], arch: str) -> bytes:
    return next(shared.data for shared in made if shared.arch == arch)


def test(subject: Subject, expectations: Expectations, compiler: Compiler, arch: str, mutate: bool) -> Report:
    """Decide every case, count coverage and classes, and look which mutants the cases notice."""
    seen = tuple(subject.decide(case) for case in expectations.cases)
    covered = tuple(_covered(subject.plan, seen))
    tiers = _tiers(subject.plan, seen)
    if not mutate:
        return Report(seen, covered, None, (), tiers)
    kept = implied(subject.plan)
    every = [mutant for mutant in mutants(subject.plan) if mutant.guard not in kept]
    noticed = _noticed(subject, every, seen, compiler, arch)
    guards = subject.plan["guards"]
    survivors = tuple(
        Survivor(guards[mutant.guard]["id"], guards[mutant.guard]["source"], mutant.what)
        for i, mutant in enumerate(every)
        if i not in noticed
    )
    return Report(seen, covered, len(every), survivors, tiers)


def mismatch(plan: Plan, case: Case, verdict: str, failing: Collection[int]) -> tuple[str, ...]:
    """What is not as the case expects."""
    told = [] if verdict == case.verdict else [f"verdict is {verdict}, expected {case.verdict}"]
    if case.failing is None:
        return tuple(told)
    guards = [plan["guards"][i] for i in sorted(failing)]
    names = [{guard["id"], guard.get("named") or guard["shape"]} - {""} for guard in guards]
    told += [f"{guard['id']} fails too" for guard, own in zip(guards, names, strict=True) if not own & set(case.failing)]
    told += [f"{name} does not fail" for name in case.failing if not any(name in own for own in names)]
    return tuple(told)


def _other_triples(case: Case, made: Sequence[bytes]) -> Iterator[str]:
    if case.triples is None:
        return
    found = [triple.decode() for triple in made]
    yield from (f"makes too: {triple}" for triple in found if triple not in case.triples)
    yield from (f"does not make: {triple}" for triple in case.triples if triple not in found)


def _reached(plan: Plan, graph: bytes | None, failing: frozenset[int]) -> frozenset[int]:
    """Guards that were judged on some focus node: below a denial by the tables the slower tiers are not asked."""
    if graph is None:
        return failing
    expressions = Expressions(plan["targets"], Graph.parse(graph))
    focused = {index for index in range(len(plan["targets"])) if expressions.focus_nodes(index)}
    guards = plan["guards"]
    asked = verdict_of(guards, [i for i in failing if guards[i]["class"] == "R1"]) != DENY
    return failing | {i for i, guard in enumerate(guards) if guard["target"] in focused and (asked or guard["class"] == "R1")}


def _covered(plan: Plan, seen: Sequence[Seen]) -> Iterator[Covered]:
    failed = Counter(i for each in seen for i in each.failing)
    passed = Counter(i for each in seen for i in each.reached - each.failing)
    kept = implied(plan)
    for i, guard in enumerate(plan["guards"]):
        yield Covered(guard["id"], guard["source"], failed[i], passed[i], i in kept)


def _tiers(plan: Plan, seen: Sequence[Seen]) -> Tiers:
    """A guard of the tables counts in the class that decided when the input was beyond them."""
    tiers = Tiers()
    for each in seen:
        tiers.cases[each.klass] += 1
        if not each.case.edited:
            tiers.payloads[each.klass] += 1
        for i in each.reached:
            klass = plan["guards"][i]["class"]
            tiers.evaluations[each.klass if each.escaped and klass == "R1" else klass] += 1
    return tiers


# -- mutants --


def _noticed(subject: Subject, every: Sequence[Mutant], seen: Sequence[Seen], compiler: Compiler, arch: str) -> set[int]:
    """Numbers of the mutants that make some case come out otherwise than expected."""
    right = [each for each in seen if not each.told]
    noticed = {i for i, mutant in enumerate(every) if mutant.expr is None and mutant.cold is None and _tells(subject, mutant, right, {})}
    noticed |= _noticed_by_tables(subject, [i for i, m in enumerate(every) if m.expr is not None], every, right, compiler, arch)
    return noticed | {i for i, mutant in enumerate(every) if mutant.cold is not None and _noticed_cold(subject, mutant, right)}


def _tells(subject: Subject, mutant: Mutant, seen: Sequence[Seen], fails: Mapping[int, bool]) -> bool:
    """Whether some case differs when the mutant's guard fails as `fails` says, by number of the case; else it does not fail."""
    return any(_differs(subject, mutant, each, fails.get(i, False)) for i, each in enumerate(seen))


def _differs(subject: Subject, mutant: Mutant, each: Seen, fails: bool) -> bool:
    if fails == (mutant.guard in each.failing):
        return False
    failing = each.failing | {mutant.guard} if fails else each.failing - {mutant.guard}
    verdict = VERDICTS[verdict_of(subject.plan["guards"], failing)]
    return bool(mismatch(subject.plan, each.case, verdict, failing))


def _noticed_by_tables(
    subject: Subject, numbers: Sequence[int], every: Sequence[Mutant], seen: Sequence[Seen], compiler: Compiler, arch: str
) -> set[int]:
    """All mutants with expressions, as guards of one pack."""
    if not numbers:
        return set()
    plan = GuardPlan(schemata(subject.plan, [every[n] for n in numbers]))
    evaluator = load(_object(compiler.compile(emit(plan)), arch), plan.document, subject.data)
    first = len(subject.plan["guards"])
    fails: list[dict[int, bool]] = [{} for _ in numbers]
    for i, each in enumerate(seen):
        for guard in parse_action(decide_whole(evaluator, evaluator.judge, each.o).a).failing:
            if guard >= first:
                fails[guard - first][i] = True
    return {n for n, failed in zip(numbers, fails, strict=True) if _tells(subject, every[n], seen, failed)}


def _noticed_cold(subject: Subject, mutant: Mutant, seen: Sequence[Seen]) -> bool:
    """A mutant of a shape or query of the cold tier; one that cannot be loaded is noticed by everyone."""
    try:
        tier = ColdTier({**subject.plan, "cold": mutant.cold})
    except ShapeError:
        return True
    return any(
        _differs(subject, mutant, each, mutant.guard in tier.judge(each.graph, [mutant.guard]).failing)
        for each in seen
        if each.graph is not None and mutant.guard in each.reached
    )
