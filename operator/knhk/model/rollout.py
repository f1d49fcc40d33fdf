"""Facts of a rollout: what was declared, what the points counted, what the judge said. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from knhk.model.faults import Fault, Refused
from knhk.model.waves import EVERYBODY

Direction = Literal["newDenials", "newAdmits"]
DIRECTIONS: tuple[Direction, Direction] = ("newDenials", "newAdmits")
TOLERANCE: Mapping[Direction, str] = {"newDenials": "maxNewDenials", "newAdmits": "maxNewAdmits"}
MAX_GUARDS = 65_535
ROUTE = "route"  # pseudo-guard: one pack knows the route of a request and the other does not
R1 = "R1"
SIDES = ("stable", "candidate")
MAX_BUCKETS = 124  # formats/ring.md
MAX_SAMPLES = 5


STAGES = ("canary", "staging", "production")  # in the order in which a revision reaches them
PRODUCTION = STAGES[-1]


class OnNoData(StrEnum):
    """What to do when a deadline passes before enough was judged."""

    ABORT = "Abort"
    HOLD = "Hold"
    PROMOTE = "Promote"


@dataclass(frozen=True)
class Counts:
    """Clusters that met a difference at least once, by direction."""

    new_denials: int = 0
    new_admits: int = 0

    def of(self, direction: Direction) -> int:
        """The count of one direction."""
        return self.new_denials if direction == "newDenials" else self.new_admits

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.new_denials + other.new_denials, self.new_admits + other.new_admits)


@dataclass(frozen=True)
class Histogram:
    """Durations of one arm: samples by bucket of formats/ring.md, four for each power of two nanoseconds."""

    buckets: Mapping[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of samples."""
        return sum(self.buckets.values())

    def reaching(self, ns: float) -> int:
        """At most how many samples took `ns` or longer: those of its bucket count."""
        return sum(n for bucket, n in self.buckets.items() if bucket_start_ns(bucket + 1) > ns)

    def surely_reaching(self, ns: float) -> int:
        """At least how many samples took `ns` or longer: those of its bucket do not count unless it begins there."""
        return sum(n for bucket, n in self.buckets.items() if bucket_start_ns(bucket) >= ns)

    def longest(self, rank: int) -> int:
        """The bucket of the `rank`-th longest sample, 1 … total; 0 of nothing."""
        for bucket in sorted(self.buckets, reverse=True):
            rank -= self.buckets[bucket]
            if rank <= 0:
                return bucket
        return 0

    def __add__(self, other: Histogram) -> Histogram:
        both = {*self.buckets, *other.buckets}
        return Histogram({bucket: self.buckets.get(bucket, 0) + other.buckets.get(bucket, 0) for bucket in both})


def bucket_start_ns(bucket: int) -> int:
    """The shortest duration of a bucket."""
    return bucket if bucket < 4 else (4 + bucket % 4) << (bucket // 4 - 1)


@dataclass(frozen=True)
class PairStats:
    """What was counted over requests that both arms judged (formats/agent.md, Statistics); cumulative.

    `stable` is None for a first version: there is nothing to differ from, and `pairs` then counts
    decisions of the candidate. Digests are the first 20 bytes in hexadecimal. `clusters` are the
    independent units. `routed` counts pairs of which only one pack knows the route. `covered` counts pairs whose leaves
    the log has acknowledged, `parked` requests that the candidate could not decide in time. `r1`: pairs that stable,
    candidate, and both decided by R1. `latency`: of stable and candidate, over pairs that both decided without the agent.
    """

    stable: str | None
    candidate: str
    pairs: int = 0
    clusters: int = 0
    errors: int = 0
    guards: Mapping[str, Counts] = field(default_factory=dict)
    any: Counts = Counts()
    samples: Mapping[Direction, tuple[str, ...]] = field(default_factory=dict)
    covered: int = 0
    routed: int = 0
    parked: int = 0
    enforced_denials: int = 0
    last_candidate_enforced_ns: int = 0
    r1: tuple[int, int, int] | None = None
    latency: tuple[Histogram, Histogram] = (Histogram(), Histogram())

    @property
    def both(self) -> int:
        """Pairs that both packs decided: what classes, durations and parks are shares of."""
        return max(0, self.pairs - self.routed)


@dataclass(frozen=True)
class Analysis:
    """What the author tolerates. Shares are of clusters, 0 … 1; `effect` is what must be found. `max_r1_drop` and `max_parked`
    are shares of requests, 1 of no limit; `max_latency_ratio` 0 is no limit.

    `guards` are the ids of all guards of both packs, known before traffic is: the allowed
    false-rollback error `alpha` is split over them. `intended` are glob patterns of guard ids.
    """

    max_new_denials: Decimal = Decimal("0.01")
    max_new_admits: Decimal = Decimal("0.01")
    max_parked: Decimal = Decimal("0.01")
    max_r1_drop: Decimal = Decimal("0.1")
    max_latency_ratio: Decimal = Decimal(2)
    latency_floor_us: int = 1000
    effect: Decimal = Decimal("0.05")
    alpha: Decimal = Decimal("0.01")
    beta: Decimal = Decimal("0.005")
    intended: tuple[str, ...] = ()
    max_errors: int = 0
    min_pairs: int = 1
    guards: tuple[str, ...] = ()

    def tolerance(self, direction: Direction) -> Decimal:
        """The tolerated share in one direction."""
        return self.max_new_denials if direction == "newDenials" else self.max_new_admits


class Outcome(StrEnum):
    """A judgement has three values; Undecided is neither success nor failure."""

    PASS = "Pass"
    FAIL = "Fail"
    UNDECIDED = "Undecided"


@dataclass(frozen=True)
class Finding:
    """Which tolerance, where, what was measured against what, on how much. Shares are decimal strings."""

    tolerance: str
    guard: str
    direction: str
    value: str
    threshold: str
    pairs: int
    clusters: int
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" of guard {self.guard}" if self.guard else ""
        seen = f"on {self.clusters} clusters, {self.pairs} pairs"
        return f"{self.tolerance}{where} is {self.value}, must be {self.threshold} at most, {seen}"

    def document(self) -> dict[str, Any]:
        """As status and policy events carry it."""
        return {
            "tolerance": self.tolerance,
            "guard": self.guard,
            "direction": self.direction,
            "value": self.value,
            "threshold": self.threshold,
            "pairs": self.pairs,
            "clusters": self.clusters,
            "samples": list(self.samples),
        }


@dataclass(frozen=True)
class Verdict:
    """`findings` say why it failed or what is still open; the worst first. Empty when it passed."""

    outcome: Outcome
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Step:
    """A canary step: `weight` in percent, `min_pairs` judged pairs since the step began, `wave` percent of a point's instances."""

    weight: int
    min_pairs: int
    wave: int = EVERYBODY


@dataclass(frozen=True)
class Approvals:
    """Whom a stage waits for: `count` people of `approvers` (empty: of all), `not_author` among them, `within_s` after its shadow."""

    count: int = 1
    approvers: frozenset[str] = frozenset()
    not_author: bool = True
    within_s: int = 604_800


@dataclass(frozen=True)
class Approved:
    """A recorded approval of a revision. `unreviewed`: given in an embedded home, which knows no other user."""

    stage: str
    approver: str
    unreviewed: bool = False


@dataclass(frozen=True)
class Stage:
    """A group of enforcement points (NAMESPACE/NAME) that a candidate reaches together. `approvals`: None, nobody is waited for."""

    name: str
    points: tuple[str, ...]
    shadow_min_pairs: int
    steps: tuple[Step, ...]
    deadline_s: int
    approvals: Approvals | None = None


@dataclass(frozen=True)
class RolloutSpec:
    """How a pack wants to be rolled out; stages in order."""

    stages: tuple[Stage, ...]
    analysis: Analysis = Analysis()
    on_no_data: OnNoData = OnNoData.ABORT
    suspend: bool = False


def _count(value: object, where: str, faults: list[Fault]) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    faults.append(Fault(where, repr(value)[:80], "must be an integer of at least 0"))
    return 0


def _counts(value: object, where: str, faults: list[Fault]) -> Counts:
    if not isinstance(value, Mapping):
        faults.append(Fault(where, repr(value)[:80], "must be an object with newDenials and newAdmits"))
        return Counts()
    denials, admits = (_count(value.get(d, 0), f"{where}.{d}", faults) for d in DIRECTIONS)
    return Counts(denials, admits)


def _samples(value: object) -> dict[Direction, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        return {}
    found: dict[Direction, tuple[str, ...]] = {}
    for direction in DIRECTIONS:
        ids = value.get(direction)
        if isinstance(ids, list):
            found[direction] = tuple(str(i)[:32] for i in ids[:MAX_SAMPLES])
    return found


def _r1(row: Mapping[str, Any], where: str, faults: list[Fault]) -> tuple[int, int, int] | None:
    """Out of `classes`; None of statistics without them."""
    value = row.get("classes")
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(value.get(side), Mapping) for side in SIDES):
        faults.append(Fault(f"{where}.classes", repr(value)[:80], "must be an object with stable, candidate and bothR1"))
        return None
    stable, candidate = (_count(value[side].get(R1, 0), f"{where}.classes.{side}.{R1}", faults) for side in SIDES)
    return stable, candidate, _count(value.get("bothR1", 0), f"{where}.classes.bothR1", faults)


def _histogram(value: object, where: str, faults: list[Fault]) -> Histogram:
    if not isinstance(value, Mapping) or not all(str(key).isdecimal() and int(key) < MAX_BUCKETS for key in value):
        faults.append(Fault(where, repr(value)[:80], f"must be an object of counts by bucket, 0 to {MAX_BUCKETS - 1}"))
        return Histogram()
    return Histogram({int(key): _count(n, f"{where}.{key}", faults) for key, n in value.items()})


def _latency(row: Mapping[str, Any], where: str, faults: list[Fault]) -> tuple[Histogram, Histogram]:
    value = row.get("latency", {})
    if not isinstance(value, Mapping):
        faults.append(Fault(f"{where}.latency", repr(value)[:80], "must be an object with stable and candidate"))
        return Histogram(), Histogram()
    stable, candidate = (_histogram(value.get(side, {}), f"{where}.latency.{side}", faults) for side in SIDES)
    return stable, candidate


def _pair(row: Mapping[str, Any], stable: str | None, candidate: str, where: str) -> PairStats:
    faults: list[Fault] = []
    guards = row.get("guards", {})
    if not isinstance(guards, Mapping) or len(guards) > MAX_GUARDS:
        faults.append(
            Fault(
                f"{where}.guards",
                repr(guards)[:80],
                f"must be an object of at most {MAX_GUARDS} guards",
            )
        )
        guards = {}
    numbers = {
        key: _count(row.get(key, 0), f"{where}.{key}", faults)
        for key in ("pairs", "covered", "routed", "parked", "clusters", "errors", "enforcedDenials", "lastCandidateEnforcedNs")
    }
    stats = PairStats(
        stable=stable,
        candidate=candidate,
        pairs=numbers["pairs"],
        clusters=numbers["clusters"],
        errors=numbers["errors"],
        guards={str(g): _counts(c, f"{where}.guards.{g}", faults) for g, c in guards.items()},
        any=_counts(row.get("any", {}), f"{where}.any", faults),
        samples=_samples(row.get("samples")),
        covered=numbers["covered"],
        routed=numbers["routed"],
        parked=numbers["parked"],
        enforced_denials=numbers["enforcedDenials"],
        last_candidate_enforced_ns=numbers["lastCandidateEnforcedNs"],
        r1=_r1(row, where, faults),
        latency=_latency(row, where, faults),
    )
    if faults:
        raise Refused(faults)
    return stats


def short_digest(digest: str) -> str:
    """First 20 bytes of "sha256:…" or of plain hexadecimal, as leaves and statistics name packs."""
    return digest.removeprefix("sha256:")[:40]


def pair_stats(document: Mapping[str, Any], stable: str | None, candidate: str, where: str = "stats.json") -> PairStats:
    """The counts of one pair out of an agent's statistics (formats/agent.md). Raises Refused when malformed.

    A pair that was not seen yet has zero counts. For a first version (`stable` None) the pair is the
    point's baseline, which is no pack, and the candidate.
    """
    short = short_digest(candidate)
    other = None if stable is None else short_digest(stable)
    rows = document.get("pairs", [])
    for i, row in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(row, Mapping) or row.get("candidate") != short:
            continue
        if row.get("stable") == (other or "0" * 40) or (other is None and not row.get("stable")):
            return _pair(row, other, short, f"{where}.pairs[{i}]")
    return PairStats(other, short)


def combine(stats: Iterable[PairStats]) -> PairStats:
    """One PairStats of several points. Raises ValueError for none, or for different pairs."""
    rows = list(stats)
    if not rows or len({(row.stable, row.candidate) for row in rows}) != 1:
        raise ValueError("combine must be given the statistics of one pair")
    guards: dict[str, Counts] = {}
    for row in rows:
        for guard, counts in row.guards.items():
            guards[guard] = guards.get(guard, Counts()) + counts
    samples = {direction: tuple(s for row in rows for s in row.samples.get(direction, ()))[:MAX_SAMPLES] for direction in DIRECTIONS}
    total = Counts()
    for row in rows:
        total = total + row.any
    return PairStats(
        stable=rows[0].stable,
        candidate=rows[0].candidate,
        pairs=sum(r.pairs for r in rows),
        clusters=sum(r.clusters for r in rows),
        errors=sum(r.errors for r in rows),
        guards=guards,
        any=total,
        samples=samples,
        covered=sum(r.covered for r in rows),
        routed=sum(r.routed for r in rows),
        parked=sum(r.parked for r in rows),
        enforced_denials=sum(r.enforced_denials for r in rows),
        last_candidate_enforced_ns=max(r.last_candidate_enforced_ns for r in rows),
        r1=_added(rows),
        latency=(sum((r.latency[0] for r in rows), Histogram()), sum((r.latency[1] for r in rows), Histogram())),
    )


def _added(rows: list[PairStats]) -> tuple[int, int, int] | None:
    """R1 counts of several points; a point that told none counts as one where all stayed as it was."""
    told = [row.r1 or (row.pairs, row.pairs, row.pairs) for row in rows]
    if all(row.r1 is None for row in rows):
        return None
    stable, candidate, both = (sum(column) for column in zip(*told, strict=True))
    return stable, candidate, both
