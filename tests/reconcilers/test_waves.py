"""A rollout over the pods of a point by waves: only the wave's pods have the candidate, its statistics are judged, and pods come and go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from rollout_world import POINT, STEPS, World, pack, payload, point, short
from waved_points import WAVES, OneProcess

from knhk.model.resource import Key
from knhk.model.waves import is_in
from knhk.ports.fleet import Statistics

P1 = Key("EnforcementPoint", "erp", "p1")


def waved(version: str, **more: Any) -> str:
    return pack(version, **more).replace(STEPS, WAVES)


@dataclass
class Waved(World):
    """p1 has pods: each judges by the document as it sees it. `deaf`: in no wave, whatever the document says. `seen`: pods that had a
    candidate, by the wave of the document."""

    traffic: int = 12
    uids: list[str] = field(default_factory=lambda: [f"uid-{i}" for i in range(4)])
    deaf: bool = False
    settled: bool = True
    seen: dict[int | None, set[str]] = field(default_factory=dict)

    def inside(self, document: dict[str, Any]) -> list[str]:
        if "wave" not in document:
            return list(self.uids)
        return [] if self.deaf else [uid for uid in self.uids if is_in(document["salt"], uid, document["wave"])]

    def _judge(self, name: str) -> None:
        document = payload(self.fleet.documents[name]) if name in self.fleet.documents else {}
        if not document:
            return
        if document["candidate"]:
            self.seen.setdefault(document.get("wave"), set()).update(self.inside(document))
        before = self.traffic
        self.traffic = before * len(self.inside(document))
        super()._judge(name)
        self.traffic = before
        told = self.fleet.told[name].document
        running = {**told["running"], **({} if self.inside(document) else {"candidate": None})}
        in_wave = len(self.inside(document)) if "wave" in document else None
        instances = {
            "live": len(self.uids), "ids": sorted(self.uids), "settled": self.settled, "inWave": in_wave,
            "epochs": {str(document["epoch"]): len(self.uids)}, "stable": {}, "silent": [], "silentCount": 0,
        }  # fmt: skip
        self.fleet.told[name] = Statistics({**told, "running": running, "instances": instances}, self.clock.ns)

    @property
    def wave(self) -> set[str]:
        """Pods in the present wave."""
        return set(self.inside(self.document()))

    def at_step(self, step: int) -> bool:
        revision = self.get().status["revision"]
        return revision.get("arm") == "Canary" and revision["step"] == step and self.document()["mode"] == "Canary"


@pytest.fixture
def live() -> Waved:
    world = Waved()
    world.apply(point(), waved("1.0.0"))
    world.until_phase("Live")
    world.run(8)
    world.seen.clear()
    return world


def test_waves_grow_from_one_pod_to_all(live: Waved) -> None:
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(0))
    first = live.wave
    assert len(first) == 1
    live.until(lambda: live.get(P1).status["instances"] == {"live": 4, "current": 4, "silent": 0, "wave": 1})
    assert "wave of 25 % of pods" in live.ready()["message"]
    assert live.get(P1).status.get("outliers", []) == []
    live.until(lambda: live.at_step(1))
    assert len(live.wave) == 2
    assert first < live.wave
    live.until_phase("Live", "1.1.0")
    assert "wave" not in live.document()
    assert live.get().status["revision"].keys().isdisjoint({"wave", "waves"})
    advanced = [s["predicate"] for s in live.log.statements() if s["predicate"]["kind"] == "StepAdvanced"][-3:]
    assert [one["evidence"].get("wave") for one in advanced] == [25, 50, None]


def test_pods_outside_of_the_wave_never_have_the_candidate(live: Waved) -> None:
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(1))
    bound = live.document()["wave"]
    live.until_phase("Live", "1.1.0")
    assert {len(pods) for wave, pods in live.seen.items() if wave is not None and wave <= bound} == {1, 2}


def test_a_bad_version_is_taken_back_from_every_pod_and_denied(live: Waved) -> None:
    """It is good in shadow, and bad when it is enforced in the wave."""
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(0))
    live.bad = frozenset({"1.1.0"})
    live.until_phase("RolledBack", "1.1.0")
    document = live.document()
    assert (document["mode"], document["candidate"], "wave" in document) == ("Stable", None, False)
    assert live.inside(document) == live.uids
    assert short(document["stable"]) == live.get().status["live"]["digest"].removeprefix("sha256:")[:40]
    assert [row["digest"] for row in live.get().status["denyList"]] == [live.get().status["revision"]["digest"]]


def test_a_pod_that_is_drained_in_a_wave_gives_its_place_to_another_and_the_step_goes_on(live: Waved) -> None:
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(0))
    (gone,) = live.wave
    step, since = live.get().status["revision"]["step"], live.get().status["revision"]["phaseSince"]
    live.traffic = 0
    live.uids = [uid for uid in live.uids if uid != gone] + ["uid-new"]
    live.until(lambda: len(live.wave) >= 1)
    revision = live.get().status["revision"]
    assert (revision["step"], revision["phaseSince"]) == (step, since)
    live.traffic = 12
    live.until_phase("Live", "1.1.0")


def test_a_rollout_that_stands_still_says_so_while_its_wave_takes_others_in(live: Waved) -> None:
    live.apply(waved("1.1.0", no_data="Hold", deadline=30))
    live.until(lambda: live.at_step(0))
    live.traffic = 0
    live.until_phase("Stalled", "1.1.0")
    live.uids = [uid for uid in live.uids if uid not in live.wave]
    told = set()
    for _ in range(40):
        live.step()
        told.add((live.get().status["revision"]["phase"], live.ready()["status"], live.ready()["reason"]))
    assert len(live.wave) == 1
    assert told == {("Stalled", "False", "NoData")}


def test_a_wave_with_too_few_pods_says_so_and_no_step_forward_is_taken(live: Waved) -> None:
    live.apply(waved("1.1.0", deadline=30))
    live.until(lambda: live.get().status["revision"].get("arm") == "Shadow")
    live.deaf = True
    live.until(lambda: live.at_step(0))
    live.run(8)
    must = "EnforcementPoint erp/p1 must have 1 of 4 live pods in its wave of 25 %, it has 0"
    assert live.ready()["message"].endswith(f"; {must}")
    live.until_phase("Aborted", "1.1.0")
    assert must in live.ready()["message"]


def test_an_operator_that_knows_only_some_pods_yet_draws_nothing(live: Waved) -> None:
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(0))
    bound, everybody = live.document()["wave"], list(live.uids)
    live.traffic, live.settled = 0, False
    live.uids = [uid for uid in everybody if uid not in live.wave]
    live.start()
    live.run(8)
    assert live.document()["wave"] == bound
    live.traffic, live.settled, live.uids = 12, True, everybody
    live.until_phase("Live", "1.1.0")


def test_an_edit_to_a_smaller_wave_keeps_pods_out_at_once(live: Waved) -> None:
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(1))
    live.traffic = 0
    edited = waved("1.1.0").replace("wave: 25", "wave: 10").replace("wave: 50", "wave: 60")
    live.apply(edited)
    live.run(8)
    assert len(live.wave) == 2  # the bounds of the wave that it had: the step of 10 % goes on with pods that have it already
    live.traffic = 12
    live.until_phase("Live", "1.1.0")


def test_one_process_is_every_wave_of_its_point() -> None:
    world = OneProcess()
    world.apply(point(), waved("1.0.0"))
    world.until_phase("Live")
    world.apply(waved("1.1.0"))
    world.until(lambda: world.document(POINT)["mode"] == "Canary" and is_in(world.document()["salt"], POINT, world.document()["wave"]))
    world.until_phase("Live", "1.1.0")


def test_the_status_of_a_wave_is_what_a_definition_allows(live: Waved) -> None:
    """The store checks each status; here what a person reads of it."""
    live.apply(waved("1.1.0"))
    live.until(lambda: live.at_step(0))
    revision = live.get().status["revision"]
    assert revision["wave"] == 25
    assert revision["waves"] == [{"point": "p1", "below": live.document()["wave"]}]
