"""One pack over several stages: canary points first, then staging, then production; each from shadow to all callers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rollout_world import STEPS, World, pack, point, short
from waved_points import WAVES, OneProcess

POINTS = ("erp/p1", "erp/p2", "erp/p3")
TARGETS = "{point: p1, stage: canary}, {point: p2, stage: staging}, {point: p3}"
MODES = {"Stable": 0, "Shadow": 1, "Canary": 2}
APPROVED = "steps: [{weight: 10, minPairs: 20}, {weight: 50, minPairs: 20}]\n    approvals: [{stage: staging, notAuthor: false}]"


def staged(version: str) -> str:
    return pack(version, targets=TARGETS)


@pytest.fixture
def live() -> World:
    world = World()
    world.apply(*(point(name.partition("/")[2]) for name in POINTS), staged("1.0.0"))
    world.until_phase("Live")
    world.run(8)
    return world


def stands(world: World, version: str) -> list[tuple[bool, str]]:
    """For each point: whether the version is its stable pack, and the mode of its document."""
    digest = short({"digest": world.get().status["revision"]["digest"]})
    documents = [world.document(name) for name in POINTS]
    return [(short(document["stable"]) == digest, document["mode"]) for document in documents]


def test_each_stage_passes_before_the_next_begins(live: World) -> None:
    live.apply(staged("1.1.0"))
    live.until_phase("Rolling", "1.1.0")
    seen: list[list[tuple[bool, str]]] = []
    while live.get().status["revision"]["phase"] != "Live":
        if not seen or seen[-1] != stands(live, "1.1.0"):
            seen.append(stands(live, "1.1.0"))
        live.step()
    old, new = (False, "Stable"), (True, "Stable")
    shadow, canary = (False, "Shadow"), (False, "Canary")
    wanted = [[shadow, old, old], [canary, old, old], [new, shadow, old], [new, canary, old], [new, new, shadow], [new, new, canary]]
    assert [row for row in seen if row in wanted] == wanted
    assert all(row in [*wanted, [old, old, old]] for row in seen)
    assert stands(live, "1.1.0") == [new, new, new]
    told = [s["predicate"] for s in live.log.statements() if s["predicate"]["kind"] in ("RolloutStarted", "StepAdvanced", "Promoted")][-10:]
    names = [(one.get("stage"), one["arm"]) for one in told]
    stages = [(name, arm) for name in ("canary", "staging", "production") for arm in ("Shadow", "Canary", "Canary")]
    assert names[:-1] == stages
    assert told[-1]["kind"] == "Promoted"


def test_waves_are_of_the_present_stage() -> None:
    world = OneProcess()
    world.apply(*(point(name.partition("/")[2]) for name in POINTS), staged("1.0.0"))
    world.until_phase("Live")
    world.apply(staged("1.1.0").replace(STEPS, WAVES))
    world.until(lambda: world.get().status["revision"].get("stage") == 1 and "wave" in world.document(POINTS[1]))
    assert [row["point"] for row in world.get().status["revision"]["waves"]] == ["p2"]
    assert "wave" not in world.document(POINTS[0]) | world.document(POINTS[2])
    world.until_phase("Live", "1.1.0")


def test_each_stage_counts_its_own_pairs(live: World) -> None:
    live.apply(staged("1.1.0"))
    live.until(lambda: live.get().status["revision"].get("stage") == 1)
    assert live.get().status["revision"]["pairsAtStart"] == 0
    assert "staging: shadow" in live.ready()["message"]


def test_a_version_that_is_bad_in_a_later_stage_is_taken_back_from_all(live: World) -> None:
    live.apply(staged("1.1.0"))
    live.until(lambda: live.get().status["revision"].get("stage") == 1)
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack", "1.1.0")
    assert stands(live, "1.1.0") == [(False, "Stable")] * 3
    assert all(live.document(name)["candidate"] is None for name in POINTS)


def test_a_stage_may_wait_for_people(live: World) -> None:
    live.apply(staged("1.1.0").replace(STEPS, APPROVED))
    live.until(lambda: live.ready()["reason"] == "Unapproved")
    assert stands(live, "1.1.0") == [(True, "Stable"), (False, "Shadow"), (False, "Stable")]
    assert "stage staging must be approved" in live.ready()["message"]


FLAG = """apiVersion: knhk.dev/v1alpha1
kind: FeatureFlag
metadata: {name: careful, namespace: erp}
spec:
  pack: orders
  variants: {"on": true, "off": false}
  defaultVariant: "on"
  targeting: [{var: point, values: [p3], variant: "off"}]
"""


def test_a_flag_holds_the_stage_of_its_point_and_no_earlier_one(live: World) -> None:
    live.apply(FLAG, staged("1.1.0"))
    live.until(lambda: live.ready()["reason"] == "Held")
    assert stands(live, "1.1.0") == [(True, "Stable"), (True, "Stable"), (False, "Shadow")]
    assert live.ready()["message"] == "FeatureFlag careful is off at erp/p3"


def test_a_hand_applied_pack_reaches_no_stage_where_only_merged_commits_may(live: World) -> None:
    guarded = replace(live, merged_only=frozenset({"erp"}))
    guarded.apply(staged("1.1.0"))
    guarded.until(lambda: guarded.ready()["reason"] == "NotMerged")
    assert stands(guarded, "1.1.0") == [(False, "Shadow"), (False, "Stable"), (False, "Stable")]
