"""Placement as processes of this machine keeps the port's promises."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.placement_processes import PointFolders, ProcessPlacement
from knhk.adapters.processes import Supervisor

sys.path.insert(0, str(Path(__file__).parents[1] / "admission"))
sys.path.insert(0, str(Path(__file__).parent))
import placement_contract as contract
from pods import point_spec

POINT = "erp/orders"


@pytest.fixture
def placement(tmp_path: Path) -> Iterator[ProcessPlacement]:
    supervisor = Supervisor()

    def folders(point: str) -> PointFolders:
        base = tmp_path / point.replace("/", ".")
        return PointFolders(base / "point", base / "outbox", base / "rings", base / "run")

    yield ProcessPlacement(supervisor, folders, tmp_path / "registry", tmp_path / "sequencer.sock", tmp_path / "root.pub")
    supervisor.stop_all()


def spec(port: int = 0) -> dict[str, Any]:
    return {**point_spec(), "listen": {"address": "127.0.0.1", "port": port}}


@pytest.mark.server
def test_ensuring(placement: ProcessPlacement) -> None:
    contract.ensuring_twice_is_ensuring_once(placement, POINT, spec())


@pytest.mark.server
def test_removing(placement: ProcessPlacement) -> None:
    contract.what_was_removed_is_gone_and_may_be_removed_again(placement, POINT, spec())


def test_mending(placement: ProcessPlacement) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        contract.what_a_person_must_mend_is_stalled(placement, POINT, spec(taken.getsockname()[1]))
