"""Both arms judge every request; weight says whose verdict counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import Rig, pack_id, rig, wait_for
from shim_ring import all_records

pytestmark = pytest.mark.server
CALLERS = [f"user-{n}" for n in range(60)]


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1) as made:
        yield made


def packs(point: Rig) -> tuple[Path, Path]:
    return build_pack(point.packs), build_pack(point.packs, "bad,foreign")


def in_canary(point: Rig, weight: int) -> set[str]:
    stable, candidate = packs(point)
    point.configure(stable, candidate, weight=weight)
    marker = f"w{weight}".encode()
    denied = {caller for caller in CALLERS if point.post(b"foreign " + marker, auth=caller).status == 403}
    assert denied == {caller for caller in CALLERS if point.post(b"foreign " + marker, auth=caller).status == 403}, "sticky"
    return denied


def test_the_canary_grows_and_never_loses_anyone(point: Rig) -> None:
    stable, candidate = packs(point)
    groups = [in_canary(point, weight) for weight in (0, 100, 300, 1000)]
    assert groups[0] == set()
    assert groups[3] == set(CALLERS)
    assert groups[1] <= groups[2]
    assert 0 < len(groups[2]) < len(CALLERS)
    for record in all_records(point.rings).values():
        first, second = record.leaves
        assert (first.pack, second.pack, first.flags, second.flags) == (pack_id(stable), pack_id(candidate), 0, 1)
        assert (first.verdict, second.verdict) == ("ADMIT", "DENY")
        assert first.enforced != second.enforced


def test_shadow_observes_only(point: Rig) -> None:
    stable, candidate = packs(point)
    point.configure(stable, candidate, mode="Shadow", weight=1000)
    answer = point.post(b"foreign")
    assert answer.status == 200
    leaves = all_records(point.rings)[str(answer.receipt)].leaves
    assert [(leaf.enforced, leaf.verdict) for leaf in leaves] == [(True, "ADMIT"), (False, "DENY")]
    assert all(leaf.duration_ns > 0 for leaf in leaves), "each pack was timed"


def test_the_request_does_not_wait_for_the_arm_that_is_only_observed(point: Rig) -> None:
    stable, candidate = packs(point)
    bundle_less = build_pack(point.packs, "bad", revision=7)
    point.configure(stable, candidate, mode="Shadow")
    assert point.post(b"cold").status == 200
    (parked,) = point.agent.parked
    assert [arm[2:4] for arm in parked.arms] == [(1, 1), (2, 1)]
    # Stable has no pack and admits by baseline: the candidate's cold verdict is left to the agent, from the ring.
    point.configure(None, bundle_less, mode="Shadow", baseline="Admit")
    answer = wait_for("baseline", lambda: (got := point.post(b"cold")).status == 200 and len(point.agent.parked) == 1 and got)
    stable_leaf, candidate_leaf = all_records(point.rings)[str(answer.receipt)].leaves
    assert (stable_leaf.kind, stable_leaf.verdict, stable_leaf.pack, stable_leaf.a) == (
        "DECISION",
        "ADMIT",
        "0" * 40,
        b"KNA1\x01" + bytes(5),
    )
    assert (candidate_leaf.kind, candidate_leaf.verdict, candidate_leaf.enforced) == ("PARK", "", False)


def test_without_a_pack_the_baseline_rules(point: Rig) -> None:
    point.configure(None)
    answer = point.post(b"fine")
    assert (answer.status, answer.reason) == (403, "no-policy")
    leaf = all_records(point.rings)[str(answer.receipt)].enforced
    assert (leaf.kind, leaf.pack, leaf.duration_ns) == ("REFUSED", "0" * 40, 0)
    assert point.app.seen == []


@pytest.mark.parametrize("how", [{"stale": True}, {"notAfterNs": 1}])
def test_a_stale_document_ends_the_canary(point: Rig, how: dict[str, int | bool]) -> None:
    stable, candidate = packs(point)
    point.configure(stable, candidate, weight=1000, **how)
    answer = point.post(b"foreign")
    assert answer.status == 200
    (leaf,) = all_records(point.rings)[str(answer.receipt)].leaves
    assert (leaf.pack, leaf.flags) == (pack_id(stable), 2)


def test_without_a_sticky_attribute_each_request_is_its_own(point: Rig) -> None:
    stable, candidate = packs(point)
    point.configure(stable, candidate, weight=500, stickyAttribute=None)
    statuses = [point.post(b"foreign").status for _ in range(60)]
    assert 0 < statuses.count(403) < 60
    assert {record.cluster for record in all_records(point.rings).values()} == {0}


def test_an_unknown_decision_makes_no_pair_for_the_judge(point: Rig) -> None:
    """A client may repeat with any id: it must not count against the candidate."""
    stable, candidate = packs(point)
    point.configure(stable, candidate, weight=1000)
    point.agent.verdict = lambda _: (410, 1, b"")
    answer = point.post(b"cold", headers={"knhk-decision": "0" * 32})
    assert (answer.status, answer.reason) == (403, "decision-invalid")
    (leaf,) = all_records(point.rings)[str(answer.receipt)].leaves
    assert (leaf.kind, leaf.pack, leaf.flags, leaf.enforced) == ("REFUSED", pack_id(candidate), 1, True)


def test_a_decision_id_on_what_the_candidate_decides_counts_nothing_as_parked(point: Rig) -> None:
    """Any id makes the agent be asked, and a client may keep it busy: that the candidate could not decide would not be true."""
    stable, candidate = packs(point)
    point.configure(stable, candidate, weight=1000)
    point.agent.verdict = lambda _: (503, 1, b"")
    answer = point.post(b"fine", headers={"knhk-decision": "0" * 32})
    assert (answer.status, answer.reason) == (202, "parked")
    (leaf,) = all_records(point.rings)[str(answer.receipt)].leaves
    assert (leaf.kind, leaf.pack, leaf.flags, leaf.enforced) == ("PARK", pack_id(candidate), 1, True)
    cold = point.post(b"cold")
    assert [leaf.enforced for leaf in all_records(point.rings)[str(cold.receipt)].leaves] == [False, True]
