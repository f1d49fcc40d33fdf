"""Interrupted while it brings what lies elsewhere, a restore is run again."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from restore_house import House, base, killed, moved_in, quiet
from rollout_world import PACK, pack

from knhk.wiring import restore as wiring
from knhk.wiring.home import Home
from knhk.wiring.restore import restore_home

pytestmark = pytest.mark.xdist_group("restore")


@pytest.fixture
def lost(tmp_path: Path) -> House:
    """What is left of it is kept elsewhere, and the home is gone."""
    house = moved_in(tmp_path / "house")
    house.commit(*base(pack("1.0.0", targets="{point: p1}, {point: p2}", bundles="{name: roles}")))
    house.until("Live", "1.0.0")
    house.look()
    house.world.settle()
    house.lose()
    for name in ("log", "registry"):
        shutil.move(house.home.root / name, house.folder / name)
    house.home.root.rmdir()
    return house


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(600)
def test_killed_while_it_brings_the_registry_it_is_run_again(lost: House) -> None:
    left = lost.left(log=str(lost.folder / "log"), registry=lost.folder / "registry")
    for module, name, nth in ((shutil, "copystat", 1), (shutil, "copystat", 2), (wiring, "private_folder", 3), (Home, "prepare", 1)):
        running = multiprocessing.get_context("fork").Process(target=killed, args=(module, name, nth, lost.home, left))
        running.start()
        running.join(120)
        assert running.exitcode == -signal.SIGKILL, name
        assert not lost.home.store.exists()
    restore_home(lost.home, left, quiet)
    world = lost.start(lost.opened())
    assert world.get(PACK).status["live"]["version"] == "1.0.0"
    lost.world.log.close()
