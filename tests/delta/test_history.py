"""What was in force at an earlier time, from policy events in the log's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from knhk.lockchain.events import PolicyEvent
from knhk.reconcilers.history import PointThen, Rolling, Then, points_at, state_at

EVER = "9999-12-31T23:59:59Z"
ONE, TWO, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64, "sha256:" + "3" * 64


def pack(kind: str, at: str, version: str, digest: str, generation: int = 1, **more: Any) -> PolicyEvent:
    named = {"namespace": "erp", "name": "orders", "version": version, "digest": digest}
    evidence = {"generation": generation}
    return PolicyEvent(kind, (f"pack/erp/orders@{version}", digest[7:]), "knhk", at, pack=named, evidence=evidence, **more)


def point(at: str, mode: str, **said: Any) -> PolicyEvent:
    return PolicyEvent("PointChanged", ("point/erp/p", "0" * 64), "knhk", at, point="erp/p", evidence={"mode": mode, **said})


EVENTS = list(
    enumerate(
        [
            pack("RolloutStarted", "2026-11-26T10:00:00Z", "1.0.0", ONE, stage="production", arm="Shadow", step=0, weight=0),
            point("2026-11-26T10:00:01Z", "Shadow", candidate=ONE, flags={"fast": "on"}),
            pack("Promoted", "2026-11-26T10:05:00Z", "1.0.0", ONE),
            pack("RolloutStarted", "2026-11-26T11:00:00Z", "1.1.0", TWO, 2, stage="canary", arm="Shadow", step=0, weight=0),
            pack("StepAdvanced", "2026-11-26T11:10:00Z", "1.1.0", TWO, 2, stage="canary", arm="Canary", step=1, weight=100),
            pack("Aborted", "2026-11-26T11:20:00Z", "1.1.0", TWO, 2, reason="by hand"),
            pack("Compiled", "2026-11-26T11:30:00Z", "1.1.0", TWO, 3),
            pack("RolledBack", "2026-11-26T12:00:00Z", "1.1.0", TWO, 3, reason="new denials"),
            pack("Compiled", "2026-11-26T12:30:00Z", "1.2.0", ONE, 4),
        ]
    )
)


def test_what_was_live_and_on_its_way_is_told_for_each_moment() -> None:
    then = state_at(EVENTS, "2026-11-26T10:04:00Z")
    assert (then.events, then.last, then.packs["erp/orders"].version) == (2, 1, "")
    assert (then.points["erp/p"].mode, then.points["erp/p"].candidate, then.points["erp/p"].flags) == ("Shadow", ONE, {"fast": "on"})
    then = state_at(EVENTS, "2026-11-26T11:15:00Z")
    orders = then.packs["erp/orders"]
    assert (orders.version, orders.digest, orders.index) == ("1.0.0", ONE, 2)
    assert orders.rolling == Rolling("1.1.0", TWO, "canary", "Canary", 1, 100, 4)
    assert state_at(EVENTS, "2026-11-26T09:00:00Z").packs == {}


def test_an_abort_is_denied_until_the_spec_changes_and_a_rollback_for_ever() -> None:
    denied = {at: state_at(EVENTS, f"2026-11-26T{at}:00Z").packs["erp/orders"].denied for at in ("11:25", "11:45", "12:10", "12:45")}
    assert denied["11:25"] == {TWO: "Aborted: by hand"}
    assert denied["11:45"] == {}
    assert denied["12:10"] == denied["12:45"] == {TWO: "RolledBack: new denials"}
    assert state_at(EVENTS, "2026-11-26T12:45:00Z").packs["erp/orders"].rolling is None


def signed(at: str, version: str, digest: str) -> PolicyEvent:
    made = pack("Signed", at, version, digest)
    stages = [{"name": "canary", "points": ["p"]}, {"name": "production", "points": ["q", "r"]}]
    return replace(made, evidence={**made.evidence, "stages": stages, "data": "limits"})


def data(at: str, image: str) -> PolicyEvent:
    return PolicyEvent("DataPublished", ("data/erp/limits@1.0.0", "d" * 64), "knhk", at, point="", evidence={"image": image})


ROLLED = list(
    enumerate(
        [
            point("2026-11-26T10:00:00Z", "Stable"),
            data("2026-11-26T10:00:01Z", "sha256:image"),
            signed("2026-11-26T10:00:02Z", "1.0.0", ONE),
            pack("RolloutStarted", "2026-11-26T10:01:00Z", "1.0.0", ONE, stage="canary", arm="Shadow", step=0, weight=0),
            pack("StepAdvanced", "2026-11-26T10:02:00Z", "1.0.0", ONE, stage="canary", arm="Canary", step=1, weight=100),
            pack("StepAdvanced", "2026-11-26T10:03:00Z", "1.0.0", ONE, stage="production", arm="Shadow", step=0, weight=0),
            pack("Promoted", "2026-11-26T10:04:00Z", "1.0.0", ONE),
            signed("2026-11-26T11:00:00Z", "1.1.0", TWO),
            pack("RolloutStarted", "2026-11-26T11:01:00Z", "1.1.0", TWO, stage="canary", arm="Shadow", step=0, weight=0),
            point("2026-11-26T11:01:30Z", "Shadow", stable=ONE, candidate=TWO, data="sha256:image", flags={"fast": "on"}),
            pack("RolledBack", "2026-11-26T11:02:00Z", "1.1.0", TWO, reason="new denials"),
            PolicyEvent("Deleted", ("point/erp/r", "0" * 64), "knhk", "2026-11-26T11:03:00Z", point="erp/r"),
        ]
    )
)


def ran(at: str) -> Mapping[str, PointThen]:
    return points_at(state_at(ROLLED, f"2026-11-26T{at}:59Z"))


def test_points_stand_as_their_pack_brought_them_although_they_said_nothing_themselves() -> None:
    assert ran("10:00") == {"erp/p": PointThen(0, "Stable", "", "", "", {})}
    assert ran("10:01") == {"erp/p": PointThen(3, "Shadow", "", ONE, "sha256:image", {})}
    assert ran("10:02") == {"erp/p": PointThen(4, "Canary", "", ONE, "sha256:image", {})}
    shadowed = PointThen(5, "Shadow", "", ONE, "sha256:image", {})
    assert ran("10:03") == {"erp/p": PointThen(5, "Stable", ONE, "", "sha256:image", {}), "erp/q": shadowed, "erp/r": shadowed}
    live = PointThen(6, "Stable", ONE, "", "sha256:image", {})
    assert ran("10:04") == ran("11:00") == {"erp/p": live, "erp/q": live, "erp/r": live}


def passed(*later: PolicyEvent) -> Mapping[str, PointThen]:
    """ONE is live, TWO has passed the point, which said so itself, and then `later`."""
    events = [
        data("2026-11-26T10:00:00Z", "sha256:image"),
        signed("2026-11-26T10:00:01Z", "1.0.0", ONE),
        pack("Promoted", "2026-11-26T10:01:00Z", "1.0.0", ONE),
        replace(two := signed("2026-11-26T11:00:00Z", "1.1.0", TWO), evidence={**two.evidence, "data": "other"}),
        PolicyEvent(
            "DataPublished", ("data/erp/other@1.0.0", "e" * 64), "knhk", "2026-11-26T11:00:01Z", evidence={"image": "sha256:other"}
        ),
        pack("RolloutStarted", "2026-11-26T11:01:00Z", "1.1.0", TWO, stage="canary", arm="Canary", step=0, weight=100),
        pack("StepAdvanced", "2026-11-26T11:02:00Z", "1.1.0", TWO, stage="production", arm="Shadow", step=0, weight=0),
        point("2026-11-26T11:03:00Z", "Stable", stable=TWO, data="sha256:other", flags={"fast": "on"}),
        *later,
    ]
    return points_at(state_at(enumerate(events), "2026-11-26T12:00:00Z"))


def test_a_revision_that_has_passed_a_point_is_not_stable_there_after_it_is_taken_back() -> None:
    own = {"fast": "on"}
    goes_on = pack("StepAdvanced", "2026-11-26T11:04:00Z", "1.1.0", TWO, stage="production", arm="Canary", step=1, weight=100)
    assert passed()["erp/p"] == PointThen(7, "Stable", TWO, "", "sha256:other", own)
    assert passed(goes_on)["erp/p"] == PointThen(8, "Stable", TWO, "", "sha256:other", own), "it passed there, and goes on elsewhere"
    live = PointThen(2, "Stable", ONE, "", "sha256:image", {})
    for end in ("RolledBack", "Aborted", "Superseded"):
        back = passed(pack(end, "2026-11-26T11:04:00Z", "1.1.0", TWO, reason="new denials"))
        assert back == {"erp/p": PointThen(8, "Stable", ONE, "", "sha256:image", own), "erp/q": live, "erp/r": live}, end
    again = pack("RolloutStarted", "2026-11-26T11:05:00Z", "1.1.0", TWO, 2, stage="canary", arm="Shadow", step=0, weight=0)
    anew = passed(pack("Aborted", "2026-11-26T11:04:00Z", "1.1.0", TWO, reason="by hand"), again)
    assert anew["erp/p"] == PointThen(9, "Shadow", ONE, TWO, "sha256:other", own)


def test_the_first_revision_leaves_nothing_when_it_is_taken_back() -> None:
    events = [
        signed("2026-11-26T10:00:00Z", "1.0.0", ONE),
        pack("RolloutStarted", "2026-11-26T10:01:00Z", "1.0.0", ONE, stage="production", arm="Shadow", step=0, weight=0),
        point("2026-11-26T10:02:00Z", "Stable", stable=ONE, data="sha256:image"),
        pack("RolledBack", "2026-11-26T10:03:00Z", "1.0.0", ONE, reason="new denials"),
    ]
    assert points_at(state_at(enumerate(events), EVER)) == {"erp/p": PointThen(3, "Stable", "", "", "", {})}


def test_a_pack_that_goes_takes_nothing_from_the_one_that_has_the_point_now() -> None:
    other = {"namespace": "erp", "name": "limits", "version": "1.0.0", "digest": TWO}
    events = [
        signed("2026-11-26T10:00:00Z", "1.0.0", ONE),
        pack("Promoted", "2026-11-26T10:01:00Z", "1.0.0", ONE),
        point("2026-11-26T10:02:00Z", "Stable", stable=ONE),
        replace(signed("2026-11-26T10:03:00Z", "1.0.0", TWO), subject=("pack/erp/limits@1.0.0", TWO[7:]), pack=other),
        replace(pack("Promoted", "2026-11-26T10:04:00Z", "1.0.0", TWO), subject=("pack/erp/limits@1.0.0", TWO[7:]), pack=other),
        PolicyEvent("Deleted", ("pack/erp/orders@1.0.0", "0" * 64), "knhk", "2026-11-26T10:05:00Z", pack=other),
    ]
    assert points_at(state_at(enumerate(events), EVER))["erp/p"] == PointThen(4, "Stable", TWO, "", "", {})


def of_limits(event: PolicyEvent) -> PolicyEvent:
    """The same event of the other pack that is signed for the point; it reads data of its own."""
    named = {"namespace": "erp", "name": "limits", "version": "1.0.0", "digest": OTHER}
    evidence = {**event.evidence, **({"data": "theirs"} if event.kind == "Signed" else {})}
    return replace(event, subject=("pack/erp/limits@1.0.0", OTHER[7:]), pack=named, evidence=evidence)


def test_of_two_packs_at_a_point_the_one_that_came_last_has_it() -> None:
    step = partial(pack, "StepAdvanced", version="1.1.0", digest=TWO, stage="production", arm="Shadow", weight=0)
    events = [
        signed("2026-11-26T10:00:00Z", "1.0.0", ONE),
        pack("Promoted", "2026-11-26T10:01:00Z", "1.0.0", ONE),
        point("2026-11-26T10:02:00Z", "Stable", stable=ONE),
        of_limits(signed("2026-11-26T10:03:00Z", "1.0.0", OTHER)),
        of_limits(pack("Promoted", "2026-11-26T10:04:00Z", "1.0.0", OTHER)),
        signed("2026-11-26T10:05:00Z", "1.1.0", TWO),
        step(at="2026-11-26T10:06:00Z", step=1),
        pack("RolledBack", "2026-11-26T10:07:00Z", "1.1.0", TWO, reason="new denials"),
    ]
    ran = [points_at(state_at(enumerate(events[:count]), EVER))["erp/p"] for count in range(3, 9)]
    assert [(each.index, each.stable) for each in ran] == [(2, ONE), (2, ONE), (4, OTHER), (4, OTHER), (6, TWO), (4, OTHER)]


def test_a_candidate_that_is_taken_back_leaves_the_data_of_another_packs_stable_revision() -> None:
    events = [
        data("2026-11-26T10:00:00Z", "sha256:image"),
        PolicyEvent(
            "DataPublished", ("data/erp/theirs@1.0.0", "e" * 64), "knhk", "2026-11-26T10:00:01Z", evidence={"image": "sha256:theirs"}
        ),
        signed("2026-11-26T10:00:02Z", "1.0.0", ONE),
        pack("Promoted", "2026-11-26T10:01:00Z", "1.0.0", ONE),
        of_limits(signed("2026-11-26T10:02:00Z", "1.0.0", OTHER)),
        of_limits(pack("Promoted", "2026-11-26T10:03:00Z", "1.0.0", OTHER)),
        signed("2026-11-26T10:04:00Z", "1.1.0", TWO),
        pack("RolloutStarted", "2026-11-26T10:05:00Z", "1.1.0", TWO, stage="canary", arm="Shadow", step=0, weight=0),
        point("2026-11-26T10:06:00Z", "Shadow", stable=OTHER, candidate=TWO, data="sha256:image"),
        pack("RolledBack", "2026-11-26T10:07:00Z", "1.1.0", TWO, reason="new denials"),
    ]
    assert points_at(state_at(enumerate(events), EVER))["erp/p"] == PointThen(9, "Stable", OTHER, "", "sha256:theirs", {})


def test_a_point_that_a_flag_holds_shadows_on_when_its_pack_takes_a_step() -> None:
    step = partial(pack, version="1.1.0", digest=TWO, stage="canary", arm="Canary")
    events = [
        signed("2026-11-26T11:00:00Z", "1.1.0", TWO),
        step("StepAdvanced", "2026-11-26T11:01:00Z", step=1, weight=100),
        point("2026-11-26T11:02:00Z", "Shadow", candidate=TWO, flags={"fast": "off"}),
        step("StepAdvanced", "2026-11-26T11:03:00Z", step=2, weight=500),
        point("2026-11-26T11:04:00Z", "Canary", candidate=TWO, flags={"fast": "on"}),
        step("StepAdvanced", "2026-11-26T11:05:00Z", step=3, weight=900),
    ]
    modes = [points_at(state_at(enumerate(events[:count]), EVER))["erp/p"].mode for count in range(2, 7)]
    assert modes == ["Canary", "Shadow", "Shadow", "Canary", "Canary"]


def test_what_a_point_said_itself_counts_until_its_pack_moves_again() -> None:
    live, own = PointThen(6, "Stable", ONE, "", "sha256:image", {}), {"fast": "on"}
    assert ran("11:01") == {"erp/p": PointThen(9, "Shadow", ONE, TWO, "sha256:image", own), "erp/q": live, "erp/r": live}
    back = PointThen(10, "Stable", ONE, "", "sha256:image", own)
    assert ran("11:02") == {"erp/p": back, "erp/q": live, "erp/r": live}
    assert ran("11:03") == {"erp/p": back, "erp/q": live}, "a point that was deleted runs nothing"
    assert points_at(Then()) == {}
