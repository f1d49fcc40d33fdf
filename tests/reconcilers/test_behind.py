"""Which counts may move a rollout forward: those of an agent that runs the published epoch and has counted to the end."""

from __future__ import annotations

from typing import Any

import pytest

from knhk.ports.fleet import Statistics
from knhk.reconcilers.observing import behind

POINT, DOCUMENT = "erp/orders", {"epoch": 7}


@pytest.mark.parametrize(
    ("rolling", "told", "why"),
    [
        (True, None, "has told nothing"),
        (True, {"epoch": 7, "counted": False}, "counts again"),
        (True, {"epoch": 6, "counted": True}, "must run epoch 7, it runs 6"),
        (True, {"epoch": 7, "counted": True}, ""),
        (False, None, ""),
        (False, {"epoch": 6, "counted": False}, "counts again"),
    ],
)
def test_counts_of_an_older_epoch_or_a_silent_agent_move_nothing(rolling: bool, told: dict[str, Any] | None, why: str) -> None:
    statistics = None if told is None else Statistics(told, 1)
    found = behind(POINT, rolling, DOCUMENT, statistics)
    assert (why in found) if why else (found == "")
