"""A point that no application follows: it answers with its verdict, and says of what it admits what the candidate would deny."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_native import build_pack
from shim_rig import Rig, pack_id, rig
from shim_ring import all_records

pytestmark = pytest.mark.server


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1, application=False) as made:
        yield made


def test_what_is_admitted_is_answered_by_the_point_itself(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    answer = point.post(b"good")
    assert (answer.status, answer.body) == (200, b"")
    (leaf,) = all_records(point.rings)[str(answer.receipt)].leaves
    assert leaf.verdict == "ADMIT"
    assert point.app.seen == []


def test_what_is_denied_or_unknown_is_answered_as_everywhere(point: Rig) -> None:
    point.configure(build_pack(point.packs))
    denied = point.post(b"bad")
    assert (denied.status, denied.reason) == (403, "denied")
    assert point.post(b"good", path="/nowhere").reason == "unmatched"


def test_of_what_is_admitted_the_shadow_tells_what_it_would_deny(point: Rig) -> None:
    candidate = build_pack(point.packs, "bad,foreign")
    point.configure(build_pack(point.packs), candidate, mode="Shadow")
    answer = point.post(b"foreign")
    assert (answer.status, answer.reason) == (200, "observed")
    assert answer.problem["receipt"] == answer.receipt
    assert answer.problem["violations"][0]["rule"] == "sh:pattern"
    leaves = all_records(point.rings)[str(answer.receipt)].leaves
    assert [(leaf.enforced, leaf.verdict) for leaf in leaves] == [(True, "ADMIT"), (False, "DENY")]
    assert leaves[1].pack == pack_id(candidate)
    assert point.post(b"good").body == b""
    assert point.post(b"bad").reason == "denied"


def test_before_a_first_pack_the_shadow_tells_too(point: Rig) -> None:
    point.configure(None, build_pack(point.packs), baseline="Admit", mode="Shadow")
    assert point.post(b"bad").reason == "observed"


def test_where_an_application_follows_its_callers_learn_nothing_of_candidates(tmp_path: Path) -> None:
    with rig(tmp_path, workers=1) as point:
        point.configure(build_pack(point.packs), build_pack(point.packs, "bad,foreign"), mode="Shadow")
        assert point.post(b"foreign").status == 200
        assert len(point.app.seen) == 1
