"""The registry in a folder: durable, idempotent, safe with concurrent writers, and never wrong bytes."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from registry_contract import RegistryContract, artifact

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.model.faults import Corrupt


class TestLayout(RegistryContract):
    @pytest.fixture
    def registry(self, tmp_path: Path) -> LayoutRegistry:
        return LayoutRegistry(tmp_path)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_is_an_oci_layout(tmp_path: Path) -> None:
    made = artifact(b"one")
    LayoutRegistry(tmp_path).publish([made], "erp/one:1")
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == made.digest
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "erp/one:1"
    document = json.loads((tmp_path / "blobs" / "sha256" / made.digest[7:]).read_bytes())
    for part in (document["config"], *document["layers"]):
        data = (tmp_path / "blobs" / "sha256" / part["digest"][7:]).read_bytes()
        assert len(data) == part["size"]


def test_publishing_twice_changes_nothing(tmp_path: Path) -> None:
    registry = LayoutRegistry(tmp_path)
    registry.publish([artifact(b"one")], "erp/one:1")
    before = snapshot(tmp_path)
    registry.publish([artifact(b"one")], "erp/one:1")
    assert snapshot(tmp_path) == before


def test_removing_takes_referrers_and_garbage_along_and_nothing_else(tmp_path: Path) -> None:
    registry = LayoutRegistry(tmp_path)
    one, two = artifact(b"one"), artifact(b"two")
    registry.publish([one, artifact(b"about one", one)], "erp/one:1")
    registry.publish([two], "erp/two:1")
    registry.remove(one.digest)
    lost = registry.collect_garbage()
    assert registry.tags() == {"erp/two:1": two.digest}
    assert registry.read(two.digest) == two.root.data
    assert len(lost) == 4  # two manifests, two files; the empty config is shared
    with pytest.raises(Corrupt, match="missing"):
        registry.read(one.digest)


def test_a_damaged_manifest_stops_the_garbage_collector(tmp_path: Path) -> None:
    registry = LayoutRegistry(tmp_path)
    one = artifact(b"one")
    registry.publish([one], "erp/one:1")
    path = tmp_path / "blobs" / "sha256" / one.digest[7:]
    path.write_bytes(path.read_bytes().replace(b"layers", b"lawyer"))
    before = snapshot(tmp_path)
    with pytest.raises(Corrupt, match=one.digest):
        registry.collect_garbage()
    assert snapshot(tmp_path) == before


def test_publishing_mends_a_damaged_blob(tmp_path: Path) -> None:
    registry = LayoutRegistry(tmp_path)
    one = artifact(b"one")
    registry.publish([one])
    (tmp_path / "blobs" / "sha256" / one.digest[7:]).write_bytes(b"damage")
    registry.publish([one])
    assert registry.read(one.digest) == one.root.data


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"manifests":[1]}',
        b'{"schemaVersion":2,"manifests":[{"digest":"x"}]}',
    ],
)
def test_a_malformed_index_is_told_with_its_place(tmp_path: Path, index: bytes) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(Corrupt, match=r"index\.json"):
        LayoutRegistry(tmp_path).listed()


def _publish(folder: Path, worker: int) -> None:
    registry = LayoutRegistry(folder)
    for i in range(10):
        registry.publish([artifact(f"{worker} {i}".encode())], f"w{worker}:{i}")


def test_writers_in_other_processes_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_publish, args=(tmp_path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(LayoutRegistry(tmp_path).tags()) == sorted(f"w{n}:{i}" for n in range(3) for i in range(10))
