"""Regions of points: each has the number that the log's list gives it, and one that is not listed changes nothing that runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rollout_world import POINT, World, pack, point

from knhk.model.faults import Refused
from knhk.model.regions import regions_of
from knhk.model.resource import Key

P1 = Key("EnforcementPoint", "erp", "p1")


def of(region: str, name: str = "p1") -> str:
    return f"{point(name)}  region: {region}\n"


def number(world: World, name: str = POINT) -> Any:
    return json.loads(world.fleet.configs[name])["regionIndex"]


def test_without_a_list_every_region_is_taken_and_has_number_0() -> None:
    world = World()
    world.apply(of("eu"), of("us", "p2"))
    world.until(lambda: {"erp/p1", "erp/p2"} <= set(world.fleet.configs))
    assert (number(world), number(world, "erp/p2")) == (0, 0)


def test_with_a_list_a_point_has_the_number_of_its_region() -> None:
    world = World(regions=("local", "eu", "us"))
    world.apply(of("us"), point("p2"))
    world.until(lambda: {"erp/p1", "erp/p2"} <= set(world.fleet.configs))
    assert (number(world), number(world, "erp/p2")) == (2, 0)


def test_a_new_point_of_no_region_of_the_list_is_told_nothing_until_it_is_one() -> None:
    world = World(regions=("eu",))
    world.apply(of("us"), pack("1.0.0"))
    world.run(80)
    told = world.ready(P1)
    assert (told["status"], told["reason"]) == ("Unknown", "UnknownRegion")
    assert told["message"].startswith("spec.region: 'us': must be one of eu, or be added after these to the log's regions")
    assert (world.fleet.documents, world.placement.running) == ({}, {})
    world.regions = ("eu", "us")
    world.start()
    world.until_phase("Live")
    assert number(world) == 1


def test_a_point_that_runs_stays_as_it_was_while_its_region_is_none_of_the_list() -> None:
    world = World(regions=("eu", "us"))
    world.apply(of("us"), pack("1.0.0"))
    world.until_phase("Live")
    config, stable = world.fleet.configs[POINT], world.document()["stable"]
    world.apply(of("ap"))
    world.run(40)
    assert world.ready(P1)["reason"] == "UnknownRegion"
    assert (world.fleet.configs[POINT], world.document()["stable"]) == (config, stable)
    world.apply(of("eu"))
    world.until(lambda: world.ready(P1)["status"] == "True")
    assert number(world) == 0


def test_a_list_that_comes_later_and_has_not_the_region_of_a_point_stops_nothing() -> None:
    world = World()
    world.apply(of("us"), pack("1.0.0"))
    world.until_phase("Live")
    config = world.fleet.configs[POINT]
    world.regions = ("local", "eu")
    world.start()
    world.apply(pack("1.1.0"))
    world.until_phase("Live", "1.1.0")
    assert world.ready(P1)["reason"] == "UnknownRegion"
    assert world.fleet.configs[POINT] == config


@pytest.mark.parametrize(("text", "names"), [("", ()), (" ", ()), ("eu", ("eu",)), ("local, eu,us-1", ("local", "eu", "us-1"))])
def test_names_are_given_by_commas(text: str, names: tuple[str, ...]) -> None:
    assert regions_of(text) == names


@pytest.mark.parametrize("text", ["eu,", "eu,,us", "eu,eu", "EU", "eu us", "$(KNHK_REGIONS)", "a" * 64, "eu/us"])
def test_what_are_no_names_of_regions_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="must be other names, by commas, each of at most 63 lower-case letters"):
        regions_of(text)
