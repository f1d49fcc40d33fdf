"""Many pods, one sum: in whatever order their words come, however often, whatever restarts, it is that of what each counted last."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk.decide.instances import MAX_BOOTS, Gone, Instance, Silent, Word, together, word_of
from knhk.model.faults import Refused
from knhk.model.rollout import combine, pair_stats

POINT = "erp/orders"
STABLE, CANDIDATE = "a" * 40, "b" * 40
PAIR = (STABLE, CANDIDATE)


def document(boot: int = 0, **changes: Any) -> dict[str, Any]:
    """A whole word of an agent."""
    return {
        "version": 1, "point": POINT, "boot": f"{boot:016x}", "epoch": 7, "evaluator": "", "ready": True, "counted": True,
        "running": {"stable": f"sha256:{STABLE}", "candidate": None, "data": None}, "refused": [], "drained": 0, "durable": 0, "acked": 0,
        "ringFull": 0, "pairs": [], "decisions": {}, "absent": 0, "heat": {}, **changes,
    }  # fmt: skip


def row(n: int, latency: int = 0, **changes: Any) -> dict[str, Any]:
    """Counts of the pair, all of which grow with n."""
    ways = {"newDenials": n // 3, "newAdmits": n // 5}
    return {
        "stable": STABLE, "candidate": CANDIDATE, "pairs": n, "routed": n // 7, "covered": n, "parked": n // 4, "clusters": n // 2,
        "errors": n // 6, "guards": {"g": ways}, "any": ways, "samples": {"newDenials": [f"{n:032x}"], "newAdmits": []},
        "enforcedDenials": n // 9, "lastCandidateEnforcedNs": n,
        "classes": {"stable": {"R1": n}, "candidate": {"R1": n // 2}, "bothR1": n // 2},
        "latency": {"stable": {"3": latency} if latency else {}, "candidate": {}}, **changes,
    }  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of an agent: the pairs that it told one after another (the outbox's, never fewer than before once it has counted again), and
    the durations that this run measured."""

    told: tuple[int, ...]
    measured: tuple[int, ...]


@st.composite
def pods(draw: st.DrawFn) -> list[list[Run]]:
    """Pods with their runs. A restarted agent begins below what was told before, and ends at it or above."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        reached, runs = 0, []
        for _ in range(draw(st.integers(1, 3))):
            again = sorted(draw(st.lists(st.integers(0, reached), max_size=2)))
            reached += draw(st.integers(0, 50))
            told = (*again, reached)
            runs.append(Run(told, tuple(sorted(draw(st.lists(st.integers(0, 30), min_size=len(told), max_size=len(told)))))))
        made.append(runs)
    return made


def joined(words: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    heard: dict[int, Instance] = {}
    for pod, said in words:
        word = word_of(said, POINT, PAIR)
        heard.setdefault(pod, Instance(f"pod-{pod}", word, 0)).hear(word, 0)
    return together(POINT, heard.values(), heard.values(), (), settled=True)


@given(pods(), st.data())
def test_order_repeats_and_restarts_do_not_change_the_sum(made: list[list[Run]], data: st.DataObject) -> None:
    words = [
        (pod, document(boot=number, pairs=[row(n, latency)], drained=2 * n))
        for pod, runs in enumerate(made)
        for number, run in enumerate(runs)
        for n, latency in zip(run.told, run.measured, strict=True)
    ]
    repeated = [words[i] for i in data.draw(st.lists(st.integers(0, len(words) - 1), max_size=5))]
    found = joined(data.draw(st.permutations([*words, *repeated])))
    last = [pair_stats({"pairs": [row(runs[-1].told[-1])]}, STABLE, CANDIDATE) for runs in made]
    summed, wanted = pair_stats(found, STABLE, CANDIDATE), combine(last)
    for name in ("pairs", "clusters", "errors", "guards", "any", "covered", "routed", "parked", "enforced_denials", "r1"):
        assert getattr(summed, name) == getattr(wanted, name), name
    assert summed.last_candidate_enforced_ns == max(one.last_candidate_enforced_ns for one in last)
    assert summed.latency[0].total == sum(run.measured[-1] for runs in made for run in runs)
    assert found["drained"] == sum(2 * runs[-1].told[-1] for runs in made)


@given(pods(), st.data())
def test_pods_that_are_gone_count_as_when_they_were_there(made: list[list[Run]], data: st.DataObject) -> None:
    heard = []
    for pod, runs in enumerate(made):
        said = [word_of(document(boot=b, pairs=[row(n, 7)], drained=n), POINT, PAIR) for b, run in enumerate(runs) for n in run.told]
        heard.append(Instance(f"pod-{pod}", said[0], 0))
        for word in said:
            heard[-1].hear(word, 0)
    before = together(POINT, heard, [], (), settled=True)
    gone, order = Gone(), data.draw(st.permutations(heard))
    cut = data.draw(st.integers(0, len(order)))
    assert all(gone.take(one) for one in order[:cut])
    assert together(POINT, order[cut:], [], (), settled=True, gone=gone) == before


def test_names_that_have_no_room_in_the_sum_stay_with_their_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knhk.decide.instances.MAX_GONE_WEIGHT", 0)
    gone = Gone()
    assert not gone.take(instance("a", pairs=[row(4)]))
    assert gone == Gone()


def test_what_is_told_of_other_packs_is_left_out() -> None:
    other = {**row(9), "candidate": "c" * 40}
    found = joined([(0, document(pairs=[row(4), other], decisions={STABLE: {"admit": 3}, "c" * 40: {"admit": 5}}))])
    assert [pair["candidate"] for pair in found["pairs"]] == [CANDIDATE]
    assert found["decisions"] == {STABLE: {"admit": 3}}


def test_a_new_pair_begins_at_nothing() -> None:
    word = word_of(document(pairs=[row(4)], ringFull=2), POINT, PAIR)
    one = Instance("pod", word, 0)
    one.hear(word, 0)
    one.keep((CANDIDATE, "c" * 40))
    found = together(POINT, [one], [one], (), settled=True)
    assert found["pairs"] == []
    assert found["ringFull"] == 2


def instance(pod: str, **changes: Any) -> Instance:
    word = word_of(document(**changes), POINT)
    found = Instance(pod, word, 0)
    found.hear(word, 0)
    return found


def test_the_point_runs_what_the_last_of_its_pods_runs() -> None:
    late = {"stable": "sha256:" + "c" * 64, "candidate": None, "data": None}
    found = together(POINT, [], [instance("a"), instance("b", epoch=6, running=late), instance("c")], (), settled=True)
    assert (found["epoch"], found["running"]) == (6, late)
    assert found["instances"]["epochs"] == {"7": 2, "6": 1}
    assert found["instances"]["stable"] == {f"sha256:{STABLE}": 2, late["stable"]: 1}


@pytest.mark.parametrize("name", ["ready", "listening", "counted"])
def test_one_that_is_not_yet_so_keeps_the_point_from_it(name: str) -> None:
    found = together(POINT, [], [instance("a"), instance("b", **{name: False})], (), settled=True)
    assert found[name] is False


def test_nobody_there_is_not_ready_and_who_is_waited_for_is_not_counted() -> None:
    assert together(POINT, [], [], (), settled=True)["ready"] is False
    assert together(POINT, [], [instance("a")], (), settled=False)["counted"] is False


def test_refusals_and_silence_name_the_pod_twenty_at_most() -> None:
    refused = [{"what": "x", "where": "rollout.json", "must": "must be signed"}]
    live = [instance(f"pod-{n:02}", refused=refused) for n in range(30)]
    found = together(POINT, [], live, [Silent(f"old-{n:02}", n) for n in range(30)], settled=True)
    assert [one["pod"] for one in found["refused"]] == [f"pod-{n:02}" for n in range(20)]
    assert found["refused"][0] == {"pod": "pod-00", **refused[0]}
    assert (len(found["instances"]["silent"]), found["instances"]["silentCount"]) == (20, 30)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"version": 2}, "version"),
        ({"point": "erp/others"}, "point"),
        ({"boot": "x"}, "boot"),
        ({"epoch": -1}, "epoch"),
        ({"ready": 1}, "ready"),
        ({"pairs": [{"stable": "a"}]}, "pairs"),
        ({"pairs": [row(1, pairs=True)]}, "pairs.a"),
        ({"pairs": [row(1, pairs=2**60)]}, "pairs.a"),
        ({"pairs": [row(1, guards={"g": 4})]}, "pairs.a"),
        ({"decisions": 3}, "decisions"),
        ({"decisions": {"x" * 3000: {"admit": 1}}}, "decisions"),
        ({"drained": "many"}, "drained"),
        ({"heat": {STABLE: {"predicates": {f"p{n}": 1 for n in range(9000)}}}}, "statistics"),
    ],
)
def test_a_word_that_is_none_is_refused_and_says_where(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(Refused) as refused:
        word_of({**document(), **changes}, POINT)
    assert refused.value.faults[0].where.startswith(where)


def test_no_word_of_a_pod_can_make_the_sum_unreadable() -> None:
    """What a pod invents is left out: buckets and directions that there are not, and sides that are missing."""
    invented = {"latency": {"stable": {"abc": 1, "999": 1}, "other": {"3": 1}}, "any": {"newDenials": 1, "sideways": 2}}
    odd = {**row(1), **invented, "classes": {"stable": {"R1": 1}}}
    found = joined([(0, document(pairs=[odd])), (1, document(pairs=[row(5)]))])
    assert pair_stats(found, STABLE, CANDIDATE).pairs == 6
    assert not any(name in str(found) for name in ("abc", "sideways", "999", "other"))


def test_a_pod_cannot_restart_for_ever_under_one_pair() -> None:
    word = word_of(document(), POINT)
    one = Instance("pod", word, 0)
    for boot in range(MAX_BOOTS):
        one.hear(word_of(document(boot), POINT), 0)
    with pytest.raises(Refused, match="must be one of the first"):
        one.hear(word_of(document(MAX_BOOTS), POINT), 0)


def test_a_pod_that_names_other_things_in_every_word_is_not_kept_for_ever() -> None:
    def names(number: int) -> dict[str, Any]:
        guards = {f"{number}-{name}" * 50: {"newDenials": 1} for name in range(1000)}
        return document(pairs=[row(number, guards=guards)])

    one = Instance("pod", word_of(document(), POINT), 0)
    told = list(itertools.takewhile(bool, (_taken(one, word_of(names(number), POINT, PAIR), number) for number in range(200))))
    assert 5 < len(told) < 200
    assert one.heard_ns == len(told) - 1
    with pytest.raises(Refused, match="must be at most 8 MiB of this pod"):
        one.hear(word_of(names(len(told)), POINT, PAIR), 1000)
    one.hear(word_of(document(pairs=[row(2000)]), POINT, PAIR), 2000)  # what is known may grow
    one.keep((STABLE, "c" * 40))
    one.hear(word_of(names(0), POINT, PAIR), 3000)


def _taken(one: Instance, word: Word, now_ns: int) -> bool:
    try:
        one.hear(word, now_ns)
    except Refused:
        return False
    return True
