"""What rings have counted of predicates and absent packs is summed, living and gone, and decides what is read into memory first."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from agent_rings import Producer
from agent_world import World, shim_config, until

from knhk_hot.drain import Ring
from knhk_runtime.ring.drain import DrainLoop
from knhk_runtime.ring.heat import Heat, preload

STABLE, CANDIDATE = b"\1" * 20, b"\2" * 20
NAMES = ("https://e.x/a", "https://e.x/b", "https://e.x/limit")
ABSENT, PACKS, SAMPLES, HEAT, ARM = 448, 512, 576, 640, 1728


def counted(folder: Path, worker: int, pack: bytes, samples: int, counts: list[int], absent: int = 0) -> Producer:
    """A ring of formats/ring.md whose shim has counted this of its stable pack."""
    ring = Producer(folder, worker)
    ring.map[PACKS : PACKS + 20] = pack
    ring.words[ABSENT // 8], ring.words[SAMPLES // 8] = absent, samples
    for i, n in enumerate(counts):
        ring.words[HEAT // 8 + i] = n
    return ring


def drain(folder: Path) -> DrainLoop:
    made = DrainLoop(folder, Ring.open, lambda made, drained: None, lambda records: None)
    made.start()
    return made


def test_both_arms_of_a_ring_are_read(tmp_path: Path) -> None:
    producer = counted(tmp_path, 0, STABLE, 3, [0, 5])
    producer.map[PACKS + 20 : PACKS + 40] = CANDIDATE
    producer.words[SAMPLES // 8 + 1], producer.words[(HEAT + ARM) // 8] = 2, 9
    ring = Ring.open(producer.path)
    heat = Heat()
    heat.add(ring)
    assert heat.named(STABLE, NAMES) == {NAMES[1]: 5}
    assert heat.named(CANDIDATE, NAMES) == {NAMES[0]: 9}
    assert {pack: samples for pack, (samples, _) in heat.packs.items()} == {STABLE: 3, CANDIDATE: 2}
    ring.close()
    producer.close()


def test_heat_is_the_sum_of_all_rings_and_stays_when_one_goes(tmp_path: Path) -> None:
    one, two = counted(tmp_path, 0, STABLE, 2, [1, 7, 4], absent=3), counted(tmp_path, 1, STABLE, 1, [1, 0, 4], absent=1)
    loop = drain(tmp_path)
    want = {NAMES[2]: 8, NAMES[1]: 7, NAMES[0]: 2}
    until(lambda: loop.heat.named(STABLE, NAMES) == want, "both rings")
    assert list(loop.heat.named(STABLE, NAMES)) == [NAMES[2], NAMES[1], NAMES[0]], "hottest first"
    assert (loop.heat.absent, loop.heat.packs[STABLE][0]) == (4, 3)
    one.close_ring()
    until(lambda: len(list(tmp_path.glob("*.ring"))) == 1, "the closed ring is removed")
    two.words[HEAT // 8] += 10
    until(lambda: loop.heat.named(STABLE, NAMES) == {**want, NAMES[0]: 12}, "the other goes on")
    assert loop.heat.absent == 4
    loop.stop()
    two.close()


@pytest.mark.parametrize(
    ("packs", "order"),
    [
        ({}, ("stable", "bundle", "candidate")),
        ({STABLE: (10, [5, 0, 0])}, ("stable", "bundle", "candidate")),
        ({STABLE: (10, [0, 0, 4]), CANDIDATE: (8, [])}, ("stable", "candidate", "bundle")),
        ({STABLE: (10, [0, 0, 9]), CANDIDATE: (8, [])}, ("stable", "bundle", "candidate")),
        ({STABLE: (10, [0, 0, 90]), CANDIDATE: (12, [])}, ("candidate", "stable", "bundle")),
    ],
    ids=["nothing known", "bundle untouched", "bundle cooler than the candidate", "bundle hotter than the candidate", "candidate hottest"],
)
def test_what_is_hot_is_read_first(packs: dict[bytes, tuple[int, list[int]]], order: tuple[str, ...]) -> None:
    assert preload(Heat(0, packs), STABLE, CANDIDATE, [NAMES[2]], NAMES) == order


@pytest.mark.server
def test_the_point_says_what_is_kept_and_the_statistics_what_is_hot(world: World) -> None:
    point = world.point_json(residency={"bytes": 64 << 20, "absent": "Park"})
    world.desire(world.sign(world.rollout(pointConfig=hashlib.sha256(point).hexdigest())), point)
    world.start_agent()
    world.runs(1)
    config = shim_config(world)
    assert config["residency"] == {"bytes": 64 << 20, "absent": "Park", "preload": ["stable", "bundle", "candidate"]}
    pack = bytes.fromhex(config["stable"]["digest"])[:20]
    ring = counted(world.rings, 0, pack, 4, [6], absent=2)
    told = until(lambda: (stats := world.stats()).get("absent") == 2 and stats, "statistics with heat")
    assert told["heat"][pack.hex()]["samples"] == 4
    assert list(told["heat"][pack.hex()]["predicates"].values()) == [6]
    ring.close_ring()
