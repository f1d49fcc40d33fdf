"""The fleet of pods under a clock that the test sets: what is published outlives the process, and no pod's death makes counts fall."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from exchange_world import Callers, SetClock, word

from knhk.adapters.fleet_exchange import GONE_AFTER_S, MAX_PODS, SETTLES_WITHIN_S, ExchangeFleet
from knhk.adapters.fleet_folder import FolderShelf
from knhk.model.faults import Refused
from knhk.ports.fleet import SILENT_AFTER_S

POINT = "erp/orders"
A, B, C = (letter * 64 for letter in "abc")


def envelope(stable: str | None, candidate: str | None) -> bytes:
    """A rollout document, as far as the fleet reads it."""
    named = {"stable": stable and {"digest": f"sha256:{stable}"}, "candidate": candidate and {"digest": f"sha256:{candidate}"}}
    return json.dumps({"payload": base64.b64encode(json.dumps(named).encode()).decode()}).encode()


def judged(n: int, **changes: Any) -> dict[str, Any]:
    return word(pairs=[{"stable": A[:40], "candidate": B[:40], "pairs": n, "samples": {}}], **changes)


def pairs_of(fleet: ExchangeFleet) -> int:
    told = fleet.statistics(POINT)
    assert told is not None
    return sum(row["pairs"] for row in told.document["pairs"])


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def callers() -> Callers:
    found = Callers()
    for pod in ("one", "two"):
        found.add(POINT, pod)
    return found


@pytest.fixture
def fleet(tmp_path: Path, callers: Callers, clock: SetClock) -> ExchangeFleet:
    return ExchangeFleet(FolderShelf(tmp_path), callers, clock)


def tell(fleet: ExchangeFleet, pod: str, document: dict[str, Any]) -> None:
    fleet.tell(POINT, f"uid-{pod}", pod, document)


def test_nothing_whole_is_published_until_all_three_are(fleet: ExchangeFleet) -> None:
    fleet.publish_keys(POINT, b"keys")
    fleet.publish_config(POINT, b"point")
    assert fleet.desired(POINT) is None
    fleet.publish_document(POINT, envelope(A, None))
    first = fleet.desired(POINT)
    assert first is not None
    assert set(first.files) == {"keys.json", "point.json", "rollout.json"}
    fleet.publish_bootstrap(POINT, b"envoy")
    second = fleet.desired(POINT)
    assert second is not None
    assert second.etag != first.etag


def test_what_was_published_outlives_the_process(fleet: ExchangeFleet, tmp_path: Path, callers: Callers, clock: SetClock) -> None:
    fleet.publish_keys(POINT, b"keys")
    fleet.publish_config(POINT, b"point")
    fleet.publish_document(POINT, envelope(A, None))
    again = ExchangeFleet(FolderShelf(tmp_path), callers, clock)
    assert again.document(POINT) == envelope(A, None)
    assert again.desired(POINT) == fleet.desired(POINT)


def test_a_pod_that_goes_away_takes_no_counts_with_it_while_its_pair_runs(fleet: ExchangeFleet, callers: Callers, clock: SetClock) -> None:
    fleet.publish_document(POINT, envelope(A, B))
    tell(fleet, "one", judged(40))
    tell(fleet, "two", judged(2))
    del callers.running[POINT]["uid-one"]
    clock.sleep(10 * SILENT_AFTER_S)
    tell(fleet, "two", judged(3))
    assert pairs_of(fleet) == 43
    told = fleet.statistics(POINT)
    assert told is not None
    assert told.document["instances"] | {"epochs": {}, "stable": {}} == {
        "live": 1,
        "ids": ["uid-two"],
        "settled": True,
        "inWave": None,
        "epochs": {},
        "stable": {},
        "silent": [],
        "silentCount": 0,
    }
    fleet.publish_document(POINT, envelope(A, C))
    fleet.publish_document(POINT, envelope(A, B))
    assert pairs_of(fleet) == 0


def test_a_step_of_the_same_pair_keeps_its_counts(fleet: ExchangeFleet) -> None:
    fleet.publish_document(POINT, envelope(A, B))
    tell(fleet, "one", judged(40))
    fleet.publish_document(POINT, envelope(A, B) + b" ")
    assert pairs_of(fleet) == 40


def test_weeks_of_deploys_under_one_pair_leave_room_for_the_next_pod(fleet: ExchangeFleet, callers: Callers, clock: SetClock) -> None:
    """Pods that are gone are one sum: each is in it once, and has no place any more."""
    fleet.publish_document(POINT, envelope(A, B))
    for deploy in range(5):
        names = [f"pod-{deploy}-{n}" for n in range(MAX_PODS // 2)]
        callers.running[POINT] = {f"uid-{name}": name for name in names}
        for name in names:
            tell(fleet, name, judged(3))
        assert pairs_of(fleet) == 3 * len(names) * (deploy + 1)
        callers.running[POINT] = {}
        for _ in range(2):
            fleet.statistics(POINT)
            clock.sleep(GONE_AFTER_S + 1)
    assert pairs_of(fleet) == 5 * 3 * (MAX_PODS // 2)
    with pytest.raises(Refused, match="is counted"):
        tell(fleet, "pod-0-0", judged(9))
    assert pairs_of(fleet) == 5 * 3 * (MAX_PODS // 2)


@pytest.mark.parametrize("why", ["it ends still", "the API server is away"])
def test_who_may_speak_again_is_no_part_of_the_sum_yet(fleet: ExchangeFleet, callers: Callers, clock: SetClock, why: str) -> None:
    """A node that was cut off for an hour comes back, and its pods tell what they decided meanwhile."""
    fleet.publish_document(POINT, envelope(A, B))
    tell(fleet, "one", judged(40))
    del callers.running[POINT]["uid-one"]
    callers.ending, callers.away = {"uid-one"} if why == "it ends still" else set(), why != "it ends still"
    for _ in range(3):
        fleet.statistics(POINT)
        clock.sleep(20 * GONE_AFTER_S)
    tell(fleet, "one", judged(60))
    assert pairs_of(fleet) == 60


def test_a_silent_pod_is_an_outlier_and_not_the_points_silence(fleet: ExchangeFleet, clock: SetClock) -> None:
    tell(fleet, "one", word())
    spoke_ns = clock.ns
    clock.sleep(SILENT_AFTER_S + 1)
    tell(fleet, "two", word(epoch=8))
    told = fleet.statistics(POINT)
    assert told is not None
    assert told.written_ns == clock.ns
    assert (told.document["epoch"], told.document["ready"]) == (8, True)
    assert told.document["instances"]["silent"] == [{"pod": "one", "sinceNs": spoke_ns}]


def test_a_pod_that_said_its_last_word_is_no_outlier(fleet: ExchangeFleet) -> None:
    fleet.publish_document(POINT, envelope(A, B))
    tell(fleet, "one", judged(4, ending=True, ready=False))
    tell(fleet, "two", judged(1))
    told = fleet.statistics(POINT)
    assert told is not None
    assert told.document["ready"] is True
    assert told.document["instances"]["silent"] == []
    assert pairs_of(fleet) == 5


def test_after_a_restart_nothing_counts_before_the_pods_that_run_were_heard(fleet: ExchangeFleet, clock: SetClock) -> None:
    """Else a step could be taken on the word of the one pod that spoke first."""
    tell(fleet, "one", word())
    assert counted(fleet) is False
    tell(fleet, "two", word())
    assert counted(fleet) is True


def test_a_pod_that_never_speaks_is_not_waited_for_for_ever(fleet: ExchangeFleet, clock: SetClock) -> None:
    clock.sleep(SETTLES_WITHIN_S + 1)
    tell(fleet, "one", word())
    assert counted(fleet) is True


def counted(fleet: ExchangeFleet) -> Any:
    told = fleet.statistics(POINT)
    assert told is not None
    return told.document["counted"]


def test_waiting_ends_with_the_points_that_spoke(fleet: ExchangeFleet) -> None:
    assert fleet.wait({POINT: 0}, 0) == frozenset()
    speaks = threading.Thread(target=lambda: tell(fleet, "one", word()))
    speaks.start()
    assert fleet.wait({POINT: 0}, 60) == {POINT}
    speaks.join()


def test_words_of_one_moment_are_news_each(fleet: ExchangeFleet) -> None:
    tell(fleet, "one", word())
    told = fleet.statistics(POINT)
    assert told is not None
    tell(fleet, "two", word())
    assert fleet.wait({POINT: told.written_ns}, 0) == {POINT}
