"""Packs and bundle are in memory before the first request; what is not, is decided or parked as the point says; heat is in the ring."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_native import build_pack, store
from shim_rig import Rig, pack_id, rig, wait_for
from shim_ring import all_records, word

pytestmark = pytest.mark.server
BIG = 3 << 20
BUNDLE = b"KNHKBND2" + bytes(1 << 20)
ABSENT, PACKS, SAMPLES, HEAT = 448, 512, 576, 640
DEFAULT = ["stable", "bundle", "candidate"]


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, workers=1) as made:
        yield made


def residency(limit: int = 0, absent: str = "Decide", preload: list[str] = DEFAULT) -> dict[str, object]:
    return {"bytes": limit, "absent": absent, "preload": preload}


def bundle(point: Rig) -> dict[str, str]:
    path = store(point.packs, BUNDLE, ".bnd")
    return {"path": str(path), "sha256": path.stem}


def mapped(point: Rig, name: str) -> tuple[int, int]:
    """KiB that Envoy has mapped of a file, and those of them that are in memory and in its page tables."""
    assert point.process is not None
    text = Path(f"/proc/{point.process.pid}/smaps").read_text()
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)
    sizes = [
        (int(m[1]), int(r[1]))
        for b in blocks
        if name in b.split("\n")[0] and (m := re.search(r"Size: +(\d+)", b)) and (r := re.search(r"Rss: +(\d+)", b))
    ]
    return sum(size for size, _ in sizes), sum(rss for _, rss in sizes)


def header(point: Rig, offset: int) -> int:
    return sum(word(path, offset) for path in point.rings.glob("*.ring"))


def test_pack_and_bundle_are_in_memory_before_the_first_request(point: Rig) -> None:
    pack = build_pack(point.packs, filler=BIG)
    point.configure(stable=pack, bundle=bundle(point), residency=residency())
    for name in (pack.name, Path(bundle(point)["path"]).name):
        size, resident = mapped(point, name)
        assert size >= 1024
        assert resident == size, name
    assert point.post(b"fine").status == 200
    assert header(point, ABSENT) == 0


def test_what_is_beyond_the_budget_is_not_read(point: Rig) -> None:
    pack = build_pack(point.packs, filler=BIG)
    point.configure(stable=pack, residency=residency(1 << 20))
    size, resident = mapped(point, pack.name)
    assert resident < size


def test_a_pack_that_is_not_resident_decides_when_the_point_says_so(point: Rig) -> None:
    point.configure(stable=build_pack(point.packs, filler=BIG), residency=residency(1 << 20, "Decide"))
    assert [point.post(body).status for body in (b"fine", b"bad")] == [200, 403]
    assert point.agent.parked == []
    assert header(point, ABSENT) == 2


def test_a_request_whose_pack_is_not_resident_is_parked_when_the_point_says_so(point: Rig) -> None:
    pack = build_pack(point.packs, filler=BIG)
    point.configure(stable=pack, residency=residency(1 << 20, "Park"))
    answer = point.post(b"bad")
    assert answer.status == 200, "the agent admits, and the pack, which denies, was not asked"
    (parked,) = point.agent.parked
    assert parked.receipt.hex() == answer.receipt
    assert parked.arms == ((pack_id(pack), 0, 1, 1, b""),)
    assert all_records(point.rings) == {}, "its leaves are the agent's"
    point.configure(stable=pack, residency=residency(0, "Park"))
    assert point.post(b"bad").status == 403, "without a budget it is resident and decides"


def test_the_budget_goes_to_what_is_named_first(point: Rig) -> None:
    """A bundle of 1 MiB and a budget of 2: with the bundle first the pack of 3 MiB has no room, and neither has it after the candidate."""
    pack, small = build_pack(point.packs, filler=BIG), build_pack(point.packs, "bad,foreign")
    for order, limit, kept in (
        (["bundle", "stable", "candidate"], 4 << 20, False),
        (["stable", "candidate", "bundle"], 7 << 20, True),
    ):
        point.configure(pack, small, bundle=bundle(point), residency=residency(limit, "Park", order))
        parked = len(point.agent.parked)
        assert point.post(b"fine").status == 200
        assert (len(point.agent.parked) == parked) is kept, order


def test_an_observed_arm_that_is_not_resident_does_not_hold_the_request(point: Rig) -> None:
    stable, candidate = build_pack(point.packs), build_pack(point.packs, "bad,foreign", filler=BIG)
    point.configure(stable, candidate, mode="Shadow", residency=residency(1 << 20, "Park"))
    answer = point.post(b"fine")
    assert (answer.status, point.agent.parked) == (200, [])
    kinds = [leaf.kind for leaf in all_records(point.rings)[str(answer.receipt)].leaves]
    assert kinds == ["DECISION", "PARK"], "the agent judges the other arm in the background"


def test_heat_of_sampled_decisions_is_in_the_ring(point: Rig) -> None:
    pack = build_pack(point.packs)
    point.configure(stable=pack)
    for _ in range(65):
        point.post(b"fine")
    (path,) = point.rings.glob("*.ring")
    data = path.read_bytes()[:4096]
    assert data[PACKS : PACKS + 40] == bytes.fromhex(pack_id(pack)) + bytes(20)
    assert struct.unpack_from("=2Q", data, SAMPLES) == (2, 0), "the first decision of a worker and each 64th after it"
    assert struct.unpack_from("=3Q", data, HEAT) == (0, 4, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bytes": -1, "absent": "Decide", "preload": DEFAULT},
        {"bytes": 0, "absent": "Deny", "preload": DEFAULT},
        {"bytes": 0, "absent": "Decide", "preload": ["stable", "stable", "bundle"]},
        {"bytes": 0, "absent": "Decide", "preload": ["stable", "bundle"]},
        {"bytes": 0, "absent": "Decide"},
        None,
    ],
    ids=["bytes", "absent", "twice", "short", "missing", "none"],
)
def test_a_configuration_that_says_nothing_sensible_is_refused(point: Rig, wrong: object) -> None:
    pack = build_pack(point.packs)
    point.configure(stable=pack)
    before = point.stat("rejected")
    point.publish(point.settings(pack, residency=wrong))
    wait_for("the refusal", lambda: point.stat("rejected") > before)
    assert point.post(b"fine").status == 200
