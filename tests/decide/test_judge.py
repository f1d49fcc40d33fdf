"""The judge: what it says of given counts, and its error rates over simulated rollouts."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from bench.judge_sim import BAD, GOOD, GUARDS, Truth, rollout, summary, svg, table
from hypothesis import given
from hypothesis import strategies as st

from knhk.decide.excess import Excess, _against, _for
from knhk.decide.judge import ALL, Ratio, _streams, judge, stream_count
from knhk.model.faults import Refused
from knhk.model.rollout import Analysis, Counts, Histogram, Outcome, PairStats, combine, pair_stats

STABLE, CANDIDATE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ANALYSIS = Analysis(guards=("currency", "total"), min_pairs=100)
RUNS = 10_000


def stats(pairs: int, currency: Counts = Counts(), total: Counts = Counts(), **more: object) -> PairStats:  # noqa: B008
    """Every pair a caller of its own; guards never overlap."""
    guards = {"currency": currency, "total": total}
    found = PairStats(
        "a",
        "b",
        pairs,
        pairs,
        guards=guards,
        any=currency + total,
        covered=pairs,
        samples={"newDenials": ("01",)},
    )
    return replace(found, **more)  # type: ignore[arg-type]


def test_equal_packs_pass_when_enough_was_seen() -> None:
    assert judge(stats(50), ANALYSIS).outcome is Outcome.UNDECIDED
    assert judge(stats(1_000), ANALYSIS).outcome is Outcome.PASS
    assert judge(stats(1_000), ANALYSIS).findings == ()


def test_a_bad_pack_fails_on_a_handful_of_differences() -> None:
    """What a person then reads: tolerance, guard, value, threshold, pairs, samples."""
    verdict = judge(stats(20, currency=Counts(8, 0)), ANALYSIS)
    assert verdict.outcome is Outcome.FAIL
    worst = verdict.findings[0]
    assert (worst.tolerance, worst.guard, worst.direction) == (
        "maxNewDenials",
        "currency",
        "newDenials",
    )
    assert (worst.value, worst.threshold, worst.pairs, worst.clusters) == ("0.4000", "0.01", 20, 20)
    assert worst.samples == ("01",)
    assert str(worst) == ("maxNewDenials of guard currency is 0.4000, must be 0.01 at most, on 20 clusters, 20 pairs")
    assert {f.guard for f in verdict.findings} == {"currency", ALL}


def test_a_verdict_is_the_same_however_often_it_is_asked_for() -> None:
    bad = stats(20, currency=Counts(8, 0))
    assert judge(bad, ANALYSIS) == judge(bad, ANALYSIS)


def test_new_admissions_fail_too() -> None:
    verdict = judge(stats(20, total=Counts(0, 8)), ANALYSIS)
    assert (verdict.outcome, verdict.findings[0].tolerance) == (Outcome.FAIL, "maxNewAdmits")


def test_what_many_guards_do_together_fails_as_well() -> None:
    """No guard alone is convincing; all together are."""
    guards = {f"g{n}": Counts(2, 0) for n in range(6)}
    seen = replace(stats(60), guards=guards, any=Counts(12, 0))
    verdict = judge(seen, replace(ANALYSIS, guards=tuple(guards)))
    assert (verdict.outcome, [f.guard for f in verdict.findings]) == (Outcome.FAIL, [ALL])


def test_a_zero_tolerance_fails_on_the_first_difference() -> None:
    strict = replace(ANALYSIS, max_new_admits=Decimal(0))
    assert judge(stats(20, total=Counts(0, 1)), strict).outcome is Outcome.FAIL
    assert judge(stats(1_000), strict).outcome is Outcome.PASS


def test_intended_changes_count_neither_alone_nor_together() -> None:
    meant = replace(ANALYSIS, intended=("curr*",))
    assert judge(stats(1_000, currency=Counts(500, 0)), ANALYSIS).outcome is Outcome.FAIL
    assert judge(stats(1_000, currency=Counts(500, 0)), meant).outcome is Outcome.PASS


def test_an_intended_change_hides_no_other_one() -> None:
    meant = replace(ANALYSIS, intended=("currency",))
    both = stats(1_000, currency=Counts(500, 0), total=Counts(200, 0))
    verdict = judge(both, meant)
    assert (verdict.outcome, verdict.findings[0].guard) == (Outcome.FAIL, "total")


CALLERS = st.sets(st.integers(0, 30))


@given(meant=CALLERS, one=CALLERS, two=CALLERS)
def test_the_aggregate_without_intended_changes_is_bounded_by_what_is_known(meant: set[int], one: set[int], two: set[int]) -> None:
    """Guards may hit the same callers, so counts only bound how many an unintended one has hit."""
    guards = {"currency": Counts(len(meant)), "one": Counts(len(one)), "two": Counts(len(two))}
    seen = replace(stats(1_000), guards=guards, any=Counts(len(meant | one | two)))
    together = _streams(seen, Analysis(intended=("currency",)))[0]
    assert together.low <= len(one | two) <= together.high


def test_more_watched_guards_need_more_evidence_each() -> None:
    """alpha is one budget for all of them."""

    def needed(guards: int) -> int:
        watching = replace(ANALYSIS, guards=tuple(f"g{n}" for n in range(guards)))
        return next(k for k in range(100) if judge(stats(100, Counts(k)), watching).outcome is Outcome.FAIL)

    assert needed(2) < needed(100) < needed(10_000)


def test_errors_fail_and_say_how_many() -> None:
    verdict = judge(stats(1_000, errors=3), ANALYSIS)
    assert (verdict.outcome, verdict.findings[0].tolerance) == (Outcome.FAIL, "maxErrors")
    assert (verdict.findings[0].value, verdict.findings[0].threshold) == ("3", "0")
    assert judge(stats(1_000, errors=3), replace(ANALYSIS, max_errors=3)).outcome is Outcome.PASS


def test_too_few_pairs_and_missing_receipts_are_undecided_not_failed() -> None:
    few = judge(stats(99), replace(ANALYSIS, beta=Decimal("0.2")))
    assert (few.outcome, few.findings[0].tolerance) == (Outcome.UNDECIDED, "minPairs")
    bare = judge(stats(1_000, covered=99), ANALYSIS)
    assert (bare.outcome, bare.findings[0].tolerance) == (Outcome.UNDECIDED, "receiptCoverage")


def test_the_same_caller_a_thousand_times_is_one_caller() -> None:
    one = stats(1_000, clusters=1, currency=Counts(1, 0))
    assert judge(one, ANALYSIS).outcome is Outcome.UNDECIDED


def test_a_first_version_needs_decisions_without_errors() -> None:
    first = PairStats(None, "b", pairs=100, covered=100, any=Counts(90, 0))
    assert judge(first, ANALYSIS).outcome is Outcome.PASS
    assert judge(replace(first, pairs=99), ANALYSIS).outcome is Outcome.UNDECIDED
    assert judge(replace(first, errors=1), ANALYSIS).outcome is Outcome.FAIL


def test_streams_are_counted_before_traffic_is_seen() -> None:
    assert stream_count(stats(0), ANALYSIS) == 11
    assert stream_count(stats(0), replace(ANALYSIS, intended=("*",))) == 5


@given(n=st.integers(1, 60), p0=st.integers(1, 9), more=st.integers(1, 9))
def test_the_ratio_is_a_martingale_at_the_tolerance(n: int, p0: int, more: int) -> None:
    """E[L] = 1 under p0, summed exactly over all counts: this is what Ville's inequality needs."""
    low, high = Fraction(p0, 20), Fraction(p0 + more, 20)
    ratio = Ratio.of(float(low), float(high))
    mean = math.fsum(math.comb(n, k) * float(low) ** k * float(1 - low) ** (n - k) * math.exp(ratio.log(n, k)) for k in range(n + 1))
    assert mean == pytest.approx(1.0)


def test_the_ratio_at_its_ends() -> None:
    assert Ratio.of(0.0, 0.5).log(10, 1) == math.inf
    assert Ratio.of(0.0, 0.5).log(10, 0) == pytest.approx(10 * math.log(0.5))
    assert Ratio.of(0.1, 1.0).log(10, 9) == -math.inf
    assert Ratio.of(0.1, 1.0).log(2, 2) == pytest.approx(2 * math.log(10))


# ---- error rates ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_good_pack_is_rolled_back_in_at_most_one_of_a_hundred_rollouts() -> None:
    """The worst good pack: everything exactly at its tolerance, asked after every batch."""
    found = summary(GOOD, RUNS)
    assert found.failed <= 0.01
    assert found.passed >= 0.99


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("truth", BAD.values(), ids=BAD)
def test_a_bad_pack_is_promoted_in_at_most_one_of_a_hundred_rollouts(truth: Truth) -> None:
    """The smallest bad packs: exactly the declared effect."""
    found = summary(truth, RUNS // len(BAD))
    assert found.passed <= 0.01
    assert found.failed >= 0.99


def test_a_seed_replays_a_rollout() -> None:
    assert rollout("7", BAD["denials"]) == rollout("7", BAD["denials"])
    assert len({rollout(str(n), BAD["denials"]) for n in range(5)}) > 1


def test_the_simulated_guards_are_those_that_alpha_is_split_over() -> None:
    assert stream_count(PairStats("a", "b"), Analysis(guards=GUARDS)) == 2 * (len(GUARDS) + 2) + 3


def test_table_and_curves_show_every_share() -> None:
    rows = [summary(Truth(share), 3) for share in (0.0, 0.3)]
    assert len(table(rows).splitlines()) == 4
    assert svg(rows).startswith("<svg")


# ---- statistics of agents -----------------------------------------------------------------------


def document(**row: object) -> dict[str, object]:
    pair = {
        "stable": "a" * 40,
        "candidate": "b" * 40,
        "pairs": 10,
        "routed": 4,
        "covered": 9,
        "parked": 2,
        "clusters": 7,
        "errors": 1,
        "guards": {"currency": {"newDenials": 2, "newAdmits": 1}},
        "any": {"newDenials": 2, "newAdmits": 1},
        "samples": {"newDenials": ["01", "02"], "newAdmits": []},
        "enforcedDenials": 3,
        "lastCandidateEnforcedNs": 99,
        **row,
    }
    return {
        "version": 1,
        "pairs": [pair],
        "decisions": {"b" * 40: {"admit": 4, "deny": 5}},
    }


def test_statistics_of_an_agent_are_read_for_the_pair_asked_for() -> None:
    found = pair_stats(document(), STABLE, CANDIDATE)
    assert (found.pairs, found.clusters, found.errors, found.covered, found.routed, found.parked) == (10, 7, 1, 9, 4, 2)
    assert found.guards == {"currency": Counts(2, 1)}
    assert (found.samples["newDenials"], found.last_candidate_enforced_ns) == (("01", "02"), 99)
    assert pair_stats(document(), CANDIDATE, STABLE).pairs == 0


def test_a_first_version_is_paired_with_no_pack() -> None:
    assert pair_stats(document(), None, CANDIDATE).pairs == 0
    zero = document(stable="0" * 40)
    assert pair_stats(zero, None, CANDIDATE).pairs == 10


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"pairs": -1}, "stats.json.pairs[0].pairs"),
        ({"pairs": "many"}, "stats.json.pairs[0].pairs"),
        ({"pairs": 1.5}, "stats.json.pairs[0].pairs"),
        ({"clusters": True}, "stats.json.pairs[0].clusters"),
        ({"guards": []}, "stats.json.pairs[0].guards"),
        ({"guards": {"g": 1}}, "stats.json.pairs[0].guards.g"),
        ({"any": {"newDenials": None}}, "stats.json.pairs[0].any.newDenials"),
        ({"classes": {"stable": {"R1": 1}}}, "stats.json.pairs[0].classes"),
        ({"classes": {"stable": {"R1": "1"}, "candidate": {}}}, "stats.json.pairs[0].classes.stable.R1"),
        ({"latency": {"stable": {"124": 1}}}, "stats.json.pairs[0].latency.stable"),
        ({"latency": {"candidate": {"5": -1}}}, "stats.json.pairs[0].latency.candidate.5"),
        ({"latency": []}, "stats.json.pairs[0].latency"),
    ],
)
def test_malformed_statistics_are_refused_by_place(row: dict[str, object], where: str) -> None:
    with pytest.raises(Refused) as caught:
        pair_stats(document(**row), STABLE, CANDIDATE)
    assert [fault.where for fault in caught.value.faults] == [where]


def test_points_add_up() -> None:
    one = pair_stats(document(), STABLE, CANDIDATE)
    both = combine([one, one])
    assert (both.pairs, both.any, both.guards["currency"]) == (20, Counts(4, 2), Counts(4, 2))
    with pytest.raises(ValueError, match="one pair"):
        combine([one, replace(one, candidate="c")])
    with pytest.raises(ValueError, match="one pair"):
        combine([])


def test_more_differences_never_make_a_verdict_milder() -> None:
    order = [Outcome.PASS, Outcome.UNDECIDED, Outcome.FAIL]
    found = [order.index(judge(stats(300, currency=Counts(k, 0)), ANALYSIS).outcome) for k in range(60)]
    assert all(a <= b for a, b in itertools.pairwise(found))
    assert set(found) == {0, 1, 2}


# ---- beside verdicts ----------------------------------------------------------------------------

QUICK, MS_4, MS_32 = 50, 84, 96  # buckets of 12 µs, 4 ms and 32 ms


def timed(stable: dict[int, int], candidate: dict[int, int], **more: object) -> PairStats:
    """Durations by bucket, over as many pairs; all decided by R1."""
    n = sum(stable.values())
    return stats(n, **{"r1": (n, n, n), "latency": (Histogram(stable), Histogram(candidate)), **more})  # type: ignore[arg-type]


def test_a_slow_pack_fails_and_says_how_slow_on_how_many() -> None:
    verdict = judge(timed({QUICK: 40}, {MS_4: 40}), ANALYSIS)
    assert (verdict.outcome, len(verdict.findings)) == (Outcome.FAIL, 1)
    worst = verdict.findings[0]
    assert (worst.tolerance, worst.threshold, worst.pairs, worst.guard) == ("maxLatencyRatio", "2", 40, "")
    assert float(worst.value) == pytest.approx(4_194_304 / 14_336, rel=0.01)


def test_slow_is_what_is_slower_than_the_old_pack_and_than_the_floor() -> None:
    assert judge(timed({QUICK: 1_000}, {MS_4: 1_000}), ANALYSIS).outcome is Outcome.FAIL
    assert judge(timed({MS_4: 1_000}, {MS_4: 1_000}), ANALYSIS).outcome is Outcome.PASS
    assert judge(timed({4: 1_000}, {QUICK: 1_000}), ANALYSIS).outcome is Outcome.PASS, "below the floor"
    assert judge(timed({4: 1_000}, {QUICK: 1_000}), replace(ANALYSIS, latency_floor_us=5)).outcome is Outcome.FAIL
    assert judge(timed({QUICK: 1_000}, {MS_4: 1_000}), replace(ANALYSIS, max_latency_ratio=Decimal(0))).outcome is Outcome.PASS
    assert judge(timed({QUICK: 1_000}, {MS_4: 1_000}), replace(ANALYSIS, max_latency_ratio=Decimal(500))).outcome is Outcome.PASS


def test_one_request_of_a_hundred_may_be_slow_and_six_may_not() -> None:
    for slow, outcome in ((20, Outcome.PASS), (120, Outcome.FAIL)):
        assert judge(timed({QUICK: 2_000}, {QUICK: 2_000 - slow, MS_32: slow}), ANALYSIS).outcome is outcome


def test_a_pack_that_was_not_timed_enough_is_not_called_quick() -> None:
    """After a restart of the agent: pairs are counted again, durations are not."""
    few = judge(stats(1_000, r1=(1_000, 1_000, 1_000), latency=(Histogram({QUICK: 20}), Histogram({QUICK: 20}))), ANALYSIS)
    assert (few.outcome, few.findings[0].tolerance, few.findings[0].pairs) == (Outcome.UNDECIDED, "maxLatencyRatio", 20)
    assert judge(stats(1_000, r1=(0, 0, 0)), ANALYSIS).outcome is Outcome.PASS, "the agent decides all: there is nothing to time"


def test_a_pack_that_leaves_r1_fails_and_one_that_comes_to_it_passes() -> None:
    verdict = judge(stats(100, r1=(100, 0, 0)), ANALYSIS)
    assert (verdict.outcome, str(verdict.findings[0])) == (
        Outcome.FAIL,
        "maxR1Drop is 1.0000, must be 0.1 at most, on 100 clusters, 100 pairs",
    )
    assert judge(stats(1_000, r1=(100, 1_000, 100)), ANALYSIS).outcome is Outcome.PASS
    assert judge(timed({QUICK: 1_000}, {QUICK: 1_000}, r1=(1_000, 980, 980)), ANALYSIS).outcome is Outcome.PASS
    assert judge(stats(1_000, r1=(1_000, 0, 0)), replace(ANALYSIS, max_r1_drop=Decimal(1))).outcome is Outcome.PASS


@pytest.mark.parametrize("beside", [{"r1": (200, 0, 0)}, {"parked": 16}])
def test_requests_that_one_pack_does_not_know_hide_nothing(beside: dict[str, Any]) -> None:
    """Nine of ten requests go to a route of one pack alone: of the others all leave R1, or one in twelve is parked."""
    verdict = judge(stats(2_000, routed=1_800, **beside), ANALYSIS)
    assert verdict.outcome is Outcome.FAIL
    assert judge(stats(2_000, **beside), ANALYSIS).outcome is not Outcome.FAIL, "as few of all are tolerated"


def test_a_pack_that_parks_fails_also_when_it_is_the_first_one() -> None:
    verdict = judge(stats(0, parked=40), ANALYSIS)
    assert (verdict.outcome, str(verdict.findings[0])) == (
        Outcome.FAIL,
        "maxParked is 1.0000, must be 0.01 at most, on 0 clusters, 40 pairs",
    )
    first = PairStats(None, "b", pairs=100, covered=100, parked=60)
    assert judge(first, ANALYSIS).findings[0].tolerance == "maxParked"
    assert judge(stats(1_000, parked=5), ANALYSIS).outcome is Outcome.PASS
    assert judge(stats(0, parked=40), replace(ANALYSIS, max_parked=Decimal(1))).outcome is Outcome.UNDECIDED


def test_a_new_route_is_a_difference_that_can_be_meant() -> None:
    admits = stats(100, any=Counts(0, 100), guards={"route": Counts(0, 100)})
    assert {finding.guard for finding in judge(admits, ANALYSIS).findings} == {"route", ALL}
    assert (
        judge(replace(admits, pairs=1_000, clusters=1_000, covered=1_000), replace(ANALYSIS, intended=("route",))).outcome is Outcome.PASS
    )


@given(d=st.sampled_from([-1, 0, 1]), p=st.floats(0.0, 1.0), both=st.integers(0, 40), more=st.integers(0, 40), less=st.integers(0, 40))
def test_the_capital_is_fair_and_margins_only_lower_it(d: int, p: float, both: int, more: int, less: int) -> None:
    """The factor is linear in x, so its mean is 1 where the mean of x is p: for each stake, over the two outermost distributions."""
    for rows in (_for(p), _against(p)):
        for _, up, down, same in rows:
            assert p * math.exp(up) + (1 - p) * math.exp(same) == pytest.approx(1.0)
            assert (1 + p) / 2 * math.exp(up) + (1 - p) / 2 * math.exp(down) == pytest.approx(1.0)
    n = both + more + less + 7 * (d + 1)
    known, margins = Excess(n, more, less), Excess.of_margins(n, more + both, less + both)
    assert margins.log_for(p) <= known.log_for(p) + 1e-9
    assert margins.log_against(p) <= known.log_against(p) + 1e-9


def test_durations_and_classes_of_an_agent_are_read_and_add_up() -> None:
    row = {
        "classes": {"stable": {"R1": 9, "W1": 1}, "candidate": {"R1": 4}, "bothR1": 3},
        "latency": {"stable": {"50": 2}, "candidate": {"50": 1, "84": 1}},
    }
    one = pair_stats(document(**row), STABLE, CANDIDATE)
    assert (one.r1, one.latency) == ((9, 4, 3), (Histogram({50: 2}), Histogram({50: 1, 84: 1})))
    both = combine([one, one])
    assert (both.r1, both.latency[1]) == ((18, 8, 6), Histogram({50: 2, 84: 2}))
    assert combine([one, pair_stats(document(), STABLE, CANDIDATE)]).r1 == (19, 14, 13), "a silent point changed nothing"
    assert pair_stats(document(), STABLE, CANDIDATE).r1 is None
