"""Audit: what was admitted, judged again from the sources by another implementation (knhk.reconcilers.oracle)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyoxigraph import NamedNode, RdfFormat, parse

from knhk.model.arrows import PackSources
from knhk.model.faults import KnhkError, Waiting
from knhk.reconcilers.evaluators import Evaluator
from knhk.reconcilers.lowering import plan_of, portable
from knhk.reconcilers.oracle import Key, Oracle, canonical_lines, key_of
from knhk.reconcilers.oracle_mapping import Malformed, Triple, Unsaid
from knhk_gen.names import KNHK
from knhk_gen.turtle import ill_formed_is_no_news
from knhk_runtime.record import Record, parse_observation
from knhk_runtime.tiers.action import denies
from knhk_runtime.tiers.errors import InputRefused
from knhk_runtime.unsealing import NO_ACCESS, Closed, Unsealer
from knhk_verify.errors import Bad
from knhk_verify.leaf import Leaf

CONFIDENCE = 0.95
GOAL_PPM = 10.0
MAX_TOLD = 100
ADMIT, DECISION, ENFORCED = 1, 1, 1
CACHED, BROWNOUT, FAIL_OPEN = 4, 8, 16
APART = (("fail-open", FAIL_OPEN), ("brownout", BROWNOUT), ("cached", CACHED))
JUDGED = "judged"


@dataclass
class Counted:
    """Admitted records of one kind, those of them that the sources deny, admitted leaves of that kind of which no record is kept, and
    records that are `left`: they were to be judged, and could not be."""

    judged: int = 0
    violations: int = 0
    unrecorded: int = 0
    left: int = 0

    @property
    def ppm(self) -> float:
        return 1e6 * self.violations / self.judged if self.judged else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share in ppm, by Clopper and Pearson (Biometrika 26, 1934): it covers the true one in 95 of 100 audits at least. What is
        unrecorded may have been anything: all of it right at the lower end, all of it a violation at the upper one."""
        of = self.judged + self.unrecorded
        low, _ = clopper_pearson(self.violations, of, CONFIDENCE)
        _, high = clopper_pearson(self.violations + self.unrecorded, of, CONFIDENCE)
        return 1e6 * low, 1e6 * high


@dataclass(frozen=True)
class Violation:
    where: str
    receipt: str
    kind: str
    guards: tuple[str, ...]


@dataclass
class Audited:
    """`kinds`: judged decisions, and apart those that were admitted for other reasons. `erased`: O is gone. `packless`: from before
    the first pack of their point, which admits all of that. `unjudged`, by reason: nothing is said of them."""

    kinds: dict[str, Counted] = field(default_factory=lambda: {name: Counted() for name in (JUDGED, *(name for name, _ in APART))})
    erased: int = 0
    packless: int = 0
    sealed: int = 0
    unjudged: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    @property
    def unrecorded(self) -> int:
        """Admitted leaves of which no record is kept here, of all kinds."""
        return sum(counted.unrecorded for counted in self.kinds.values())

    @property
    def blind(self) -> bool:
        """Whether judged decisions, which the goal is held against, were there to be judged again, and none of them could be."""
        return self.kinds[JUDGED].left > 0 and self.kinds[JUDGED].judged == 0

    def leave(self, leaf: Leaf, reason: str) -> None:
        self.kinds[_kind(leaf)].left += 1
        self.unjudged[reason] = self.unjudged.get(reason, 0) + 1


class Sources:
    """The sources of packs by the digest of the plan that they give: no other sources judge a pack."""

    def __init__(self, packs: Sequence[PackSources]) -> None:
        self._of = {plan.digest: (pack, plan.document) for pack in packs for plan in (plan_of(pack),)}
        self._made = dict[str, _Judge]()

    def packs(self) -> tuple[PackSources, ...]:
        """As they were given."""
        return tuple(pack for pack, _ in self._of.values())

    def plans(self) -> frozenset[str]:
        """Digests of the plans that they judge."""
        return frozenset(self._of)

    def judge(self, plan_digest: str) -> _Judge | None:
        if plan_digest not in self._made and plan_digest in self._of:
            self._made[plan_digest] = _Judge(*self._of[plan_digest])
        return self._made.get(plan_digest)


class _Judge:
    def __init__(self, pack: PackSources, plan: Mapping[str, Any]) -> None:
        self._guards = dict[Key, list[str]]()
        for guard in plan["guards"]:
            if denies(guard):
                self._guards.setdefault(key_of(guard), []).append(guard["id"])
        slow = [key_of(guard) for guard in plan["guards"] if guard["class"] != "R1" and guard["kind"] != "payload"]
        self._oracle = Oracle(portable(pack), slow)
        nodes = {target["node"]["v"] for target in plan["targets"] if target["kind"] == "node"}
        self._described = nodes | set(plan["bundle"]["subjects"])

    def denied_by(self, evaluator: Evaluator, o: bytes) -> tuple[str, ...]:
        """Ids of the guards that deny O by the sources. Raises InputRefused."""
        seen = parse_observation(o)
        graph = evaluator.graph(o)
        try:
            mapped: set[Triple] | None = self._oracle.extracted(seen.route, seen.body)
        except Unsaid:
            mapped = None
        except Malformed:
            return ("payload",)
        if mapped is not None and not self._same(graph, mapped):
            return ("mapping",)
        return tuple(sorted(name for key in self._oracle.denied_by(graph) for name in self._guards.get(key, ())))

    def _same(self, graph: bytes, mapped: set[Triple]) -> bool:
        """Whether the tables extracted what the mapping says."""
        own: set[Triple] = {(q.subject, q.predicate, q.object) for q in parse(graph, format=RdfFormat.N_TRIPLES)}
        ours, theirs = ({t for t in triples if not self._reserved(t)} for triples in (own, mapped))
        return ours == theirs or canonical_lines(ours) == canonical_lines(theirs)  # blank nodes, and tags of languages in capitals

    def _reserved(self, triple: Triple) -> bool:
        subject = triple[0]
        return isinstance(subject, NamedNode) and (subject.value.startswith(KNHK) or subject.value in self._described)


@dataclass(frozen=True)
class Loaded:
    """A pack as it decided: its evaluator, and the digest of its plan."""

    evaluator: Evaluator
    plan_digest: str


# (first 20 bytes of the pack's digest, digest of the bundle file) → the pack; raises KnhkError with the reason
Load = Callable[[bytes, bytes], Loaded]


@dataclass(frozen=True)
class Case:
    """An admitted decision: where its record is, and O in clear. `key`: what it was decided by, as `Load` takes it."""

    where: str
    leaf: Leaf
    key: tuple[bytes, bytes]
    observation: bytes


Outcome = tuple[str, ...] | str
"""Guards that deny by the sources, none of them where the decision was right; or why nothing is said of it."""
Judge = Callable[[Iterator[Case]], Iterator[tuple[Case, Outcome]]]
"""The same cases in the same order, each with its outcome."""


def one_by_one(sources: Sources, load: Load) -> Judge:
    """Judges in this process."""

    def judge(cases: Iterator[Case]) -> Iterator[tuple[Case, Outcome]]:
        with warnings.catch_warnings(), ill_formed_is_no_news():
            for case in cases:
                yield case, outcome(case.key, case.observation, sources, load)

    return judge


def outcome(key: tuple[bytes, bytes], observation: bytes, sources: Sources, load: Load) -> Outcome:
    """Of one O. Raises Waiting when its pack cannot be had just now."""
    try:
        loaded = load(*key)
        judge = sources.judge(loaded.plan_digest)
        if judge is None:
            return f"no sources given whose plan is {loaded.plan_digest[:16]}…: give --pack"
        return judge.denied_by(loaded.evaluator, observation)
    except InputRefused:
        return ("payload",)
    except Waiting:
        raise  # what could not be asked for now says nothing of a decision
    except KnhkError as error:
        return str(error)


def audit(admitted: Iterator[tuple[str, Leaf, Record | None]], judge: Judge, unsealer: Unsealer = NO_ACCESS) -> Audited:
    """Judges every enforced, admitted decision again: (place, leaf, record: None where none is kept). `unsealer` opens
    sealed records. Raises Bad for what cannot be read, and Waiting when a pack cannot be had just now."""
    result = Audited()
    for case, found in judge(_cases(admitted, result, unsealer)):
        _count(case, found, result)
    return result


def _cases(admitted: Iterator[tuple[str, Leaf, Record | None]], result: Audited, unsealer: Unsealer) -> Iterator[Case]:
    """What is to be judged; what cannot be is counted."""
    for where, leaf, record in unsealer.ahead(_wanted(admitted, result), lambda each: each[2]):
        try:
            opened = unsealer.open(record, where)
        except Bad as error:
            result.leave(leaf, f"it does not open: {error.what}")
            continue
        if not isinstance(opened, Record):
            result.erased += opened is Closed.ERASED
            result.sealed += opened is Closed.SEALED
            result.kinds[_kind(leaf)].left += opened is Closed.SEALED
        elif not any(leaf.pack):
            result.packless += 1
        else:
            yield Case(where, leaf, (leaf.pack, parse_observation(opened.observation, where).bundle), opened.observation)


def _wanted(admitted: Iterator[tuple[str, Leaf, Record | None]], result: Audited) -> Iterator[tuple[str, Leaf, Record]]:
    """What is to be judged; what has no record is counted."""
    for where, leaf, record in admitted:
        if (leaf.kind, leaf.verdict, leaf.mode) != (DECISION, ADMIT, ENFORCED):
            continue
        if record is None:
            result.kinds[_kind(leaf)].unrecorded += 1
        else:
            yield where, leaf, record


def _kind(leaf: Leaf) -> str:
    return next((name for name, bit in APART if leaf.flags & bit), JUDGED)


def _count(case: Case, found: Outcome, result: Audited) -> None:
    if isinstance(found, str):
        result.leave(case.leaf, found)
        return
    kind = _kind(case.leaf)
    counted = result.kinds[kind]
    counted.judged += 1
    if found:
        counted.violations += 1
        if len(result.violations) < MAX_TOLD:
            result.violations.append(Violation(case.where, case.leaf.receipt_id.hex(), kind, found))


def clopper_pearson(found: int, of: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a share: (0, 1) when nothing was tried."""
    if of == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if found == 0 else _where(lambda p: 1 - _at_most(found - 1, of, p), tail, rising=True)
    high = 1.0 if found == of else _where(lambda p: _at_most(found, of, p), tail, rising=False)
    return low, high


def _at_most(found: int, of: int, p: float) -> float:
    """P(X ≤ found) of a binomial X."""
    if p <= 0 or p >= 1:
        return 1.0 if p <= 0 or found >= of else 0.0
    log_p, log_q, whole = math.log(p), math.log1p(-p), math.lgamma(of + 1)
    terms = (whole - math.lgamma(k + 1) - math.lgamma(of - k + 1) + k * log_p + (of - k) * log_q for k in range(found + 1))
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _where(value: Callable[[float], float], wanted: float, rising: bool) -> float:
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if (value(middle) < wanted) == rising:
            low = middle
        else:
            high = middle
    return high if not rising else low
