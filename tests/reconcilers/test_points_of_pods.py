"""What an EnforcementPoint says of its pods: how many run what is published, and which of them do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from rollout_world import World, pack, payload, point

from knhk.model.resource import Key

P1 = Key("EnforcementPoint", "erp", "p1")
SILENT = {"pod": "p1-x", "sinceNs": 0}


@dataclass
class Pods(World):
    """A world whose fleet tells `more` of p1; `late`: pods that still run the epoch before."""

    more: dict[str, Any] = field(default_factory=dict)
    late: int = 0
    silent: list[dict[str, Any]] = field(default_factory=list)

    def _statistics(self, name: str, epoch: int) -> dict[str, Any]:
        stable = (payload(self.fleet.documents[name])["stable"] or {}).get("digest")
        epochs = {str(epoch): 3 - self.late, **({str(epoch - 1): self.late} if self.late else {})}
        instances = {
            "live": 3, "epochs": epochs, "stable": {stable: 3} if stable else {}, "silent": self.silent, "silentCount": len(self.silent),
        }  # fmt: skip
        return {**super()._statistics(name, epoch - bool(self.late)), "instances": instances, **self.more}


@pytest.fixture
def live() -> Pods:
    """1.0.0 is live at p1, which has three pods."""
    world = Pods()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.run(8)
    return world


def ready(world: Pods) -> tuple[str, str, str]:
    found = world.ready(P1)
    return found["status"], found["reason"], found["message"]


def test_pods_are_counted_by_what_they_run(live: Pods) -> None:
    status = live.get(P1).status
    assert status["instances"] == {"live": 3, "current": 3, "silent": 0}
    assert status["revisions"] == [{"digest": live.get().status["live"]["digest"], "instances": 3}]
    assert "outliers" not in status
    assert ready(live)[0] == "True"


def test_a_point_is_ready_only_when_all_its_pods_run_what_is_published(live: Pods) -> None:
    live.late = 1
    live.run(8)
    assert live.get(P1).status["instances"] == {"live": 3, "current": 2, "silent": 0}
    status, reason, message = ready(live)
    assert (status, reason) == ("Unknown", "Rolling")
    assert message.endswith("2 of 3 pods run it")


def test_no_step_forward_is_taken_while_a_pod_runs_something_else(live: Pods) -> None:
    live.late = 1
    live.apply(pack("1.1.0"))
    live.until_phase("Rolling", "1.1.0")
    live.run(40)
    assert live.get().status["revision"]["arm"] == "Shadow"
    live.late = 0
    live.until_phase("Live", "1.1.0")


def test_a_point_is_ready_only_when_its_envoys_listen(live: Pods) -> None:
    live.more = {"listening": False}
    live.run(8)
    assert ready(live) == ("Unknown", "Starting", "Envoy does not listen yet")


def test_outliers_are_named_by_their_pods(live: Pods) -> None:
    live.more = {"refused": [{"pod": "p1-y", "what": "x", "where": "rollout.json", "must": "must be signed"}]}
    live.silent = [SILENT]
    live.run(8)
    assert live.get(P1).status["outliers"] == [
        {"name": "p1-y", "reason": "x: rollout.json: must be signed"},
        {"name": "p1-x", "reason": "the agent has told nothing yet"},
    ]
    assert ready(live)[1] == "Drifted"


def test_a_silent_pod_stops_no_rollout(live: Pods) -> None:
    live.silent = [SILENT]
    live.apply(pack("1.1.0"))
    live.until_phase("Live", "1.1.0")
