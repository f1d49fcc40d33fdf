"""The fleet by folders: whole files, newest wins, and a reader that is woken by news."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path

import pytest

from knhk.adapters.fleet_folder import FolderFleet
from knhk.model.faults import Conflict, Corrupt


def test_what_is_published_lies_where_the_agent_reads_it(tmp_path: Path) -> None:
    fleet = FolderFleet(tmp_path)
    fleet.publish_keys("erp/gate", b"keys")
    fleet.publish_config("erp/gate", b"point")
    fleet.publish_document("erp/gate", b"one")
    fleet.publish_document("erp/gate", b"two")
    desired = tmp_path / "erp.gate" / "desired"
    assert {path.name: path.read_bytes() for path in desired.iterdir()} == {
        "keys.json": b"keys",
        "point.json": b"point",
        "rollout.json": b"two",
    }
    assert fleet.document("erp/gate") == b"two"
    assert fleet.document("erp/other") is None


def test_equal_bytes_are_not_written_again(tmp_path: Path) -> None:
    fleet = FolderFleet(tmp_path)
    fleet.publish_document("erp/gate", b"one")
    path = tmp_path / "erp.gate" / "desired" / "rollout.json"
    before = path.stat().st_ino
    fleet.publish_document("erp/gate", b"one")
    assert path.stat().st_ino == before


def test_a_document_of_an_older_epoch_takes_no_newer_ones_place(tmp_path: Path) -> None:
    """Of one epoch there is one document; one that nobody can read gives way to any."""
    fleet = FolderFleet(tmp_path)
    for envelope in (b"{", _document(7), _document(8), _document(8)):
        fleet.publish_document("erp/gate", envelope)
    for late in (_document(7), _document(8, mode="Canary"), b"{"):
        with pytest.raises(Conflict, match="erp/gate"):
            fleet.publish_document("erp/gate", late)
    assert fleet.document("erp/gate") == _document(8)


def _document(epoch: int, **members: str) -> bytes:
    return json.dumps({"payload": base64.b64encode(json.dumps({"epoch": epoch, **members}).encode()).decode()}).encode()


def test_statistics_are_none_then_the_last_word(tmp_path: Path) -> None:
    fleet = FolderFleet(tmp_path)
    assert fleet.statistics("erp/gate") is None
    (tmp_path / "erp.gate").mkdir()
    path = tmp_path / "erp.gate" / "stats.json"
    path.write_text('{"drained": 3}')
    told = fleet.statistics("erp/gate")
    assert told is not None
    assert told.document == {"drained": 3}
    assert told.written_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_statistics_that_are_no_object_are_told_with_their_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "erp.gate").mkdir()
    (tmp_path / "erp.gate" / "stats.json").write_bytes(data)
    with pytest.raises(Corrupt, match=r"stats\.json"):
        FolderFleet(tmp_path).statistics("erp/gate")


def test_waiting_ends_with_the_points_that_spoke(tmp_path: Path) -> None:
    fleet = FolderFleet(tmp_path)
    (tmp_path / "erp.gate").mkdir()
    path = tmp_path / "erp.gate" / "stats.json"
    path.write_text("{}")
    known = {"erp/gate": path.stat().st_mtime_ns, "erp/other": 0}
    assert fleet.wait(known, 0) == frozenset()
    speaks = threading.Thread(target=lambda: os.utime(path, ns=(0, known["erp/gate"] + 1)))
    speaks.start()
    assert fleet.wait(known, 30) == {"erp/gate"}
    speaks.join()
