"""What every adapter of knhk.ports.placement promises. Tests of an adapter call each of these with a placement of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from knhk.model.faults import Stalled
from knhk.ports.placement import Placement


def ensuring_twice_is_ensuring_once(placement: Placement, point: str, spec: Mapping[str, Any]) -> None:
    """And it says where clients are to go."""
    first = placement.ensure(point, spec)
    assert placement.ensure(point, spec).address == first.address
    assert first.address.rpartition(":")[2].isdecimal()
    assert point in placement.placed()


def what_was_removed_is_gone_and_may_be_removed_again(placement: Placement, point: str, spec: Mapping[str, Any]) -> None:
    placement.ensure(point, spec)
    placement.remove(point)
    assert point not in placement.placed()
    placement.remove(point)
    placement.remove("nobody/nothing")


def what_a_person_must_mend_is_stalled(placement: Placement, point: str, bad: Mapping[str, Any]) -> None:
    with pytest.raises(Stalled, match="must"):
        placement.ensure(point, bad)
