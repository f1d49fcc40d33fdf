"""Translation validation: a compiled pack against its sources, on cases of its own constants (docs/adr/0016-translation-validation.md)."""

from __future__ import annotations

import hashlib
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain
from typing import Any, cast

from pyoxigraph import NamedNode, RdfFormat, parse

from knhk.model.arrows import GuardPlan, PackSources, SharedObject
from knhk.model.canonical import sha256_hex
from knhk.model.expectations import Case
from knhk.model.faults import Fault, Stalled
from knhk.model.resource import Resource
from knhk.reconcilers.lowering import place, portable
from knhk.reconcilers.oracle import Key, Mistaken, Oracle, Said, canonical_lines, key_of
from knhk.reconcilers.oracle_mapping import Malformed, Triple, Unsaid
from knhk.reconcilers.testing import observation
from knhk_gen.cases import Trial, by_place, cases, edits, several, smaller, trial
from knhk_gen.names import KNHK
from knhk_gen.turtle import ill_formed_is_no_news
from knhk_gen.turtle import parse as parse_turtle
from knhk_hot.pack import COLD, OK, Binding, Decision, Pack, PackError
from knhk_runtime.record import Action, parse_action
from knhk_runtime.tiers.action import MAX_LINE, MAX_TRIPLES, denies
from knhk_runtime.tiers.decide import decide
from knhk_runtime.tiers.errors import InputRefused, Undecided
from knhk_runtime.tiers.evaluator import Evaluator

CASES, SEED = 1000, 1
LEAST = 20
"""Cases that are compared whatever the time, and fewer of which are no proof, where there are as many."""
MAX_SHRINKS = 600
TUNES_A_CASE, MAX_TUNES = 1, 1500
MAX_VALUES_TUNED = 12


Ended = Callable[[], bool]
"""Whether the time of a proof is over."""


@dataclass(frozen=True)
class Disagreement:
    """A bug of the compiler: a guard on which tables and sources differ, and the smallest case found that shows it."""

    guard: str
    where: str
    kernel: str
    tables: str
    sources: str
    case: Case
    detail: str = ""

    def fault(self) -> Fault:
        """For people."""
        body = self.case.body.decode(errors="replace")
        attributes = " ".join(f"{k}={v}" for k, v in sorted(self.case.attributes.items()))
        detail = f" ({self.detail})" if self.detail else ""
        answers = f"{self.tables} by the {self.kernel} kernels, {self.sources} by the sources{detail}"
        shown = f"{self.guard}: {answers}, on {body} {attributes}".rstrip()
        return Fault(
            self.where, shown, "must be decided as the sources say: this is a bug of the compiler, please report it with this case"
        )


@dataclass
class Proof:
    """What one run did. `asked`: the cases that were wanted, which with seed, sources and `bundle` (SHA-256 of the data, hexadecimal)
    makes them; `cases` fewer when time ended or no more differ. `digest` covers every O and A in order; `judged` counts cases by what
    came of them; `guards` those that both failed and passed, of `all_guards` in class R1; `slow` the same of `all_slow` below R1, where
    another engine than the tier's had the word."""

    seed: int
    asked: int
    bundle: str | None
    cases: int = 0
    digest: str = ""
    kernels: tuple[str, ...] = ()
    judged: Counter[str] = field(default_factory=Counter)
    guards: int = 0
    all_guards: int = 0
    slow: int = 0
    all_slow: int = 0
    disagreement: Disagreement | None = None

    @property
    def compared(self) -> int:
        """Cases of which the sources said something."""
        return self.judged.total() - self.judged["not-judged"]

    def document(self) -> dict[str, Any]:
        """For provenance and output."""
        judged = {name: self.judged[name] for name in ("compared", "queries-skipped", "refused", "escaped", "not-judged")}
        return {
            "cases": self.cases, "asked": self.asked, "seed": self.seed, "digest": self.digest, "bundle": self.bundle,
            "kernels": list(self.kernels), "judged": judged,
            "guards": {"both": self.guards, "all": self.all_guards},
            "slow": {"both": self.slow, "all": self.all_slow},
        }  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A pack under proof, each kernel variant of this machine bound to its data."""

    plan: Mapping[str, Any]
    bindings: tuple[Binding, ...]
    cold: Evaluator
    data: bytes | None

    def decisions(self, o: bytes) -> list[Decision]:
        return [binding.decide(o) for binding in self.bindings]


def loaded(plan: GuardPlan, objects: Sequence[SharedObject], arch: str, data: bytes | None) -> Loaded:
    """The pack of this machine's architecture in every variant."""
    pack = Pack.load(next(shared.data for shared in objects if shared.arch == arch))
    bindings = tuple(pack.bind(data, kernel=name) for name in pack.variants)
    return Loaded(plan.document, bindings, Evaluator(plan.document), data)


def callers(bundle: Resource | None) -> list[str]:
    """Values of `sub` that a data bundle knows."""
    template = "" if bundle is None else bundle.spec.get("callerTemplate", "")
    if bundle is None or template.count("{}") != 1:
        return []
    before, after = template.split("{}")
    names = (str(s) for s in parse_turtle(bundle.spec["source"]["inline"], bundle.path or "bundle").by_subject)
    return sorted(
        n[len(before) : len(n) - len(after)] for n in names if n.startswith(before) and n.endswith(after) and len(n) > len(template) - 2
    )


def prove(
    pack: PackSources,
    under: Loaded,
    samples: Sequence[Case],
    callers: Sequence[str],
    count: int = CASES,
    seed: int = SEED,
    begun: Callable[[], Ended] = lambda: lambda: False,
) -> Proof:
    """Run the cases until time has ended, of which `begun`, called when the sources are read, gives what says so; stop at the first
    disagreement and make its case small. Raises Stalled when too few cases could be compared."""
    with warnings.catch_warnings(), ill_formed_is_no_news():
        return _prove(pack, under, trial(under.plan, samples, callers), count, seed, begun)


def _prove(pack: PackSources, under: Loaded, every: Trial, count: int, seed: int, begun: Callable[[], Ended]) -> Proof:
    data = None if under.data is None else sha256_hex(under.data)
    proof = Proof(seed, count, data, kernels=tuple(b.kernel for b in under.bindings))
    keys = _keys(under.plan)
    proof.all_guards = sum(guards[0] != 0 and _all_r1(under.plan, guards) for guards in keys.values())
    try:
        slow = [key for key, guards in keys.items() if guards[0] != 0 and not _all_r1(under.plan, guards)]
        proof.all_slow = len(slow)
        oracle = Oracle(portable(pack), slow)
    except Mistaken as error:
        nothing = Case("", {"": ""}, "", b"", False, {}, 0, "", "", None)
        proof.disagreement = Disagreement("reading", pack.name, "all", str(error), "another graph", nothing)
        return proof
    judge = _Judge(pack, under, oracle, keys)
    digest = hashlib.sha256()
    tuned = _tuned(every, under, count)
    untuned = [base for base in every.bases if base not in tuned.bases][:count]
    least, ended = max(LEAST, len(every.bases)), begun()
    for case in chain(untuned, cases(tuned, seed, count - len(untuned))):
        if proof.compared >= least and ended():
            break
        proof.cases += 1
        outcome = judge.case(case)
        proof.judged[outcome.kind] += 1
        digest.update(outcome.o + outcome.a)
        if outcome.disagreement is not None:
            proof.disagreement = _minimised(judge, outcome.disagreement)
            break
    _demand_cases(proof)
    proof.digest = digest.hexdigest()
    proof.guards = sum(_all_r1(under.plan, keys[key]) for key in judge.failed & judge.passed)
    proof.slow = len(judge.slow_failed & judge.slow_passed)
    return proof


def _demand_cases(proof: Proof) -> None:
    """Raises Stalled unless enough cases were compared, or a difference was found."""
    least = max(1, min(LEAST, proof.cases // 2))
    if proof.compared < least and proof.disagreement is None:
        told = f"{proof.compared} of {proof.cases} cases could be compared, must be {least} at least"
        raise Stalled("ProofUnfinished", f"{told}: too little is known of the pack, so nothing is published")


@dataclass(frozen=True)
class _Outcome:
    kind: str
    o: bytes
    a: bytes
    disagreement: Disagreement | None = None


def _keys(plan: Mapping[str, Any]) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for number, guard in enumerate(plan["guards"]):
        found.setdefault(key_of(guard), []).append(number)
    return found


def _all_r1(plan: Mapping[str, Any], guards: Sequence[int]) -> bool:
    return all(plan["guards"][i]["class"] == "R1" for i in guards)


class _Judge:
    """Compares one case at a time."""

    def __init__(self, pack: PackSources, under: Loaded, oracle: Oracle, keys: Mapping[Key, list[int]]) -> None:
        self.pack, self.under, self.oracle, self.keys = pack, under, oracle, keys
        targets = {target["node"]["v"] for target in under.plan["targets"] if target["kind"] == "node"}
        self._described = targets | set(under.plan["bundle"]["subjects"])
        self.failed: set[Key] = set()
        self.passed: set[Key] = set()
        self.slow_failed: set[Key] = set()
        self.slow_passed: set[Key] = set()

    def case(self, case: Case) -> _Outcome:
        """All variants, then all tiers, against the oracle."""
        o = observation(case, self.under.data).encode()
        made = self.under.decisions(o)
        first = made[0]
        odd = next((i for i, other in enumerate(made) if (other.status, other.a) != (first.status, first.a)), None)
        if odd is not None:
            kernel = self.under.bindings[odd].kernel
            return _Outcome("compared", o, first.a, self._differ("kernels", kernel, _shown(made[odd]), _shown(first), case))
        if first.status < 0:
            return _Outcome("not-judged", o, b"")
        refused = first.status == OK and 0 in first.failing_guards
        mapped = self._mapped(case, refused)
        if isinstance(mapped, Disagreement) or refused:
            return _Outcome("refused", o, first.a, mapped if isinstance(mapped, Disagreement) else None)
        try:
            graph = self.under.bindings[0].graph(o)
            whole = decide(self.under.bindings[0], self.under.cold, o)
        except (PackError, InputRefused, Undecided):
            return _Outcome("not-judged", o, b"")
        if mapped is not None and (found := self._extracted(case, graph, mapped)) is not None:
            return _Outcome("compared", o, first.a, found)
        action = parse_action(whole.a)
        said = self.oracle.judge(graph, not self._denied(action))
        kind = "escaped" if first.status not in (OK, COLD) else "queries-skipped" if said.unsaid else "compared"
        return _Outcome(kind, o, whole.a, self._compared(case, action, said))

    def _mapped(self, case: Case, refused: bool) -> set[Triple] | Disagreement | None:
        """What the mapping makes of the body, None when its reading says nothing; a difference in what is refused."""
        try:
            triples = self.oracle.extracted(case.route, case.body)
        except Unsaid:
            return None
        except Malformed as error:
            return None if refused else self._unlike(case, "taken", "refused", str(error))
        if not refused:
            return triples
        return None if self._reserved(triples) else self._unlike(case, "refused", "taken", f"{len(triples)} triples")

    def _reserved(self, triples: Iterable[Triple]) -> bool:
        """Whether a body describes a node that it may not, or perhaps may not."""
        return any(isinstance(s, NamedNode) and (s.value.startswith(KNHK) or s.value in self._described) for s, _, _ in triples)

    def _extracted(self, case: Case, graph: bytes, mapped: set[Triple]) -> Disagreement | None:
        """A difference between the graph that the tables extracted and that of the mapping, what is no part of the body apart."""
        own = {cast(Triple, (q.subject, q.predicate, q.object)) for q in parse(graph, format=RdfFormat.N_TRIPLES)}
        ours, theirs = (canonical_lines(t for t in triples if not self._reserved((t,))) for triples in (own, mapped))
        if ours == theirs:
            return None
        told = [f"only the tables have {line}" for line in sorted(ours - theirs)[:1]]
        told += [f"only the sources have {line}" for line in sorted(theirs - ours)[:1]]
        return self._unlike(case, "extracted otherwise", "extracted as written", "; ".join(told))

    def _unlike(self, case: Case, tables: str, sources: str, detail: str) -> Disagreement:
        name = self.pack.routes[case.route]
        where = next((f"{s.path}:{s.first_line}" for s in self.pack.sources if s.name == name), self.pack.name)
        return Disagreement(f"mapping {name}", where, self.under.bindings[0].kernel, tables, sources, case, detail)

    def _denied(self, action: Action) -> bool:
        """Whether the tables deny, so that no slower tier was asked."""
        guards = self.under.plan["guards"]
        return any(denies(guards[i]) and guards[i]["class"] == "R1" for i in action.failing)

    def _compared(self, case: Case, action: Action, said: Said) -> Disagreement | None:
        guards, failing = self.under.plan["guards"], set(action.failing)
        unknown = said.failing - self.keys.keys()
        if unknown:
            return self._differ(" ".join(sorted(unknown)[0]), "all", "no guard", "failing", case)
        denied = self._denied(action)
        for key, numbers in self.keys.items():
            kind = guards[numbers[0]]["kind"]
            if kind in ("payload", "construct") or key in said.unsaid:
                continue
            if denied and not _all_r1(self.under.plan, numbers):
                continue
            mine, theirs = bool(failing & set(numbers)), key in said.failing
            (self.failed if theirs else self.passed).add(key)
            if key in said.second and not _all_r1(self.under.plan, numbers):
                (self.slow_failed if theirs else self.slow_passed).add(key)
            if mine != theirs:
                words = ("passing", "failing")
                return self._differ(guards[numbers[0]]["id"], self.under.bindings[0].kernel, words[mine], words[theirs], case)
        makers = [i for i, guard in enumerate(guards) if guard["kind"] == "construct"]
        return self._compared_triples(case, action, said.triples, makers) if makers and said.triples is not None else None

    def _compared_triples(self, case: Case, action: Action, lines: Sequence[bytes], makers: Sequence[int]) -> Disagreement | None:
        fits = len(lines) <= MAX_TRIPLES and all(len(line) <= MAX_LINE for line in lines)
        failed = any(i in action.failing for i in makers)
        if action.verdict == 1 and (action.triples != lines or not fits):
            name = self.under.plan["guards"][makers[0]]["id"]
            return self._differ(name, self.under.bindings[0].kernel, f"makes {len(action.triples)}", f"makes {len(lines)}", case)
        if failed and fits:
            name = self.under.plan["guards"][makers[0]]["id"]
            return self._differ(name, self.under.bindings[0].kernel, "failing", "passing", case)
        return None

    def _differ(self, guard: str, kernel: str, tables: str, sources: str, case: Case) -> Disagreement:
        known = next((g for g in self.under.plan["guards"] if g["id"] == guard), None)
        return Disagreement(guard, place(self.pack, known["source"]) if known else self.pack.name, kernel, tables, sources, case)


def _shown(decision: Decision) -> str:
    return decision.a.hex() if decision.status == OK else f"status {decision.status}"


def _tuned(every: Trial, under: Loaded, count: int) -> Trial:
    """The trial with its made bodies changed, one member at a time, as long as fewer guards fail: most cases should differ from a valid one
    in one place."""
    tunes = min(MAX_TUNES, TUNES_A_CASE * count)
    return replace(every, bases=tuple(_tune(every, base, under, tunes) for base in every.bases))


def _tune(every: Trial, base: Case, under: Loaded, tunes: int) -> Case:
    if not base.name.startswith("made for "):
        return base
    whole = _decided(under, base).triples
    best, least = base, _distance(under, base, whole)
    places = by_place(edit for edit in edits(every, base.route) if (edit.kind, edit.name) != ("attribute", "action"))
    rng = random.Random(SEED)
    single = [(edit,) for place in places for edit in place[:MAX_VALUES_TUNED]]
    for changes in (*single, *(several(places, rng) for _ in range(tunes)), *single):
        if least == 0:
            break
        try:
            case = reduce(lambda made, edit: edit.on(made), changes, best)
        except ValueError:
            continue
        distance = _distance(under, case, whole)
        if distance < least:
            best, least = case, distance
    return best


def _decided(under: Loaded, case: Case) -> Decision:
    return under.bindings[0].decide(observation(case, under.data).encode())


def _distance(under: Loaded, case: Case, whole: int) -> int:
    """Guards of the tables that fail, and triples fewer than `whole`, as a rule that finds nothing is no aim; a refused body is farther."""
    first, worst = _decided(under, case), len(under.plan["guards"]) + whole
    if first.status not in (OK, COLD) or 0 in first.failing_guards:
        return worst
    return len(first.failing_guards) + max(0, whole - first.triples)


def _minimised(judge: _Judge, found: Disagreement) -> Disagreement:
    """The same guard, the same difference, a case as small as single steps make it."""
    left, shrinking = MAX_SHRINKS, True
    while shrinking and left > 0:
        shrinking = False
        for case in smaller(found.case):
            left -= 1
            again = judge.case(case).disagreement
            if again is not None and (again.guard, again.tables, again.sources) == (found.guard, found.tables, found.sources):
                found, shrinking = again, True
                break
            if left == 0:
                break
    return found
