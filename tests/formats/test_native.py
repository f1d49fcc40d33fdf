"""The edges of formats/vectors in C: packs, bundles and rings (tests/hot/test_vectors.py reads the other files)."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from edge_vectors import VECTORS
from hot_plans import BLANK, a_map, mapping, pack, plan

from knhk_hot.drain import Ring, RingCorrupt
from knhk_hot.pack import DENY, E_BUNDLE, E_INPUT, OK, Binding, PackError

EDGES = json.loads((VECTORS / "edges.json").read_bytes())
PLAN = plan([], [mapping(a_map("m", [], BLANK))], routes={"create": "m"})


def rows(*path: str) -> Any:
    found = EDGES
    for part in path:
        found = found[part]
    return [pytest.param(row, id=row["name"]) for row in found]


def data(row: Any) -> bytes:
    return bytes.fromhex(row["bytes"]) + bytes(row.get("zeros", 0))


@pytest.fixture(scope="module")
def binding() -> Binding:
    return pack(PLAN).bind()


@pytest.mark.parametrize("row", rows("observation", "accepted"))
def test_observation_is_decided(row: Any, binding: Binding) -> None:
    """The bodies are not JSON, which is a matter of guard 0, not of O."""
    found = binding.decide(data(row))
    assert (found.status, found.verdict, found.failing_guards) == (OK, DENY, (0,))


@pytest.mark.parametrize("row", rows("observation", "refused"))
def test_observation_is_refused(row: Any, binding: Binding) -> None:
    found = binding.decide(data(row))
    assert (found.status, found.a) == (E_INPUT, b"")


@pytest.mark.parametrize("row", rows("bundle", "built"))
def test_bundle_is_bound(row: Any) -> None:
    pack(PLAN).bind(data(row))


@pytest.mark.parametrize("row", rows("bundle", "refused"))
def test_bundle_is_refused(row: Any) -> None:
    with pytest.raises(PackError) as refused:
        pack(PLAN).bind(data(row))
    assert refused.value.status == E_BUNDLE


def ring_file(folder: Path, row: Any) -> Path:
    """The file of a row: formats/vectors/edges.json keeps of it what is not zero."""
    head = bytearray(bytes.fromhex(row["header"]).ljust(4096, b"\0"))
    struct.pack_into("<Q", head, 128, row["head"])
    struct.pack_into("<Q", head, 192, row["tail"])
    path = folder / "x.ring"
    with path.open("wb") as file:
        file.write(head + data(row))
        file.truncate(row["size"])
    return path


def drain(path: Path) -> list[int]:
    """Numbers of records of each batch, to the end of the ring."""
    ring, found = Ring.open(path), []
    try:
        while ring.tail != ring.head:
            batch = ring.drain(1 << 20)
            found.append(batch.n_records)
            ring.commit(batch.new_tail)
    finally:
        ring.close()
    return found


@pytest.mark.parametrize("row", rows("ring", "refused"))
def test_ring_is_refused(row: Any, tmp_path: Path) -> None:
    path = ring_file(tmp_path, row)
    with pytest.raises(RingCorrupt) as refused:
        drain(path)
    assert refused.value.where == f"{path} position {row['position'] or 0}"


def test_ring_of_the_vector_is_drained(tmp_path: Path) -> None:
    """The rows above differ in one thing from this one."""
    found = json.loads((VECTORS / "ring.json").read_bytes())
    records = "".join(record["bytes"] for record in found["records"])
    row = {"header": found["header"], "head": found["head"], "tail": 0, "bytes": records, "size": 4096 + found["capacity"]}
    assert drain(ring_file(tmp_path, row)) == [2]
