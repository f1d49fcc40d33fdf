"""What the courier does with an answer of the exchange, true or not."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agent_world import Packs, World, make_packs

from knhk.model.faults import Corrupt, Waiting
from knhk_runtime.courier.mirror import Mirror, read_desired
from knhk_runtime.exchange.watch import Folders
from knhk_runtime.pull import Stop
from knhk_runtime.wiring import architecture, root_key


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Packs:
    return make_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def world(packs: Packs, tmp_path: Path) -> Iterator[World]:
    found = World.make(tmp_path, packs)
    yield found
    found.close()


def files_of(world: World, **changes: bytes) -> dict[str, bytes]:
    files = {"keys.json": world.packs.signer.keys_json(), "point.json": world.point_json(), "rollout.json": world.sign(world.rollout())}
    return files | {name.replace("_", "."): data for name, data in changes.items()}


def answer(files: dict[str, bytes], **changes: Any) -> bytes:
    rows = {name: {"sha256": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()} for name, data in files.items()}
    return json.dumps({"etag": "a1", "files": rows, **changes}).encode()


def desired(world: World) -> set[str]:
    return {path.name for path in (world.point / "desired").iterdir()}


def mirror(world: World, registry: Path, pulled: list[str], fails: bool = False) -> Mirror:
    def pull(digest: str, stop: Stop) -> None:
        pulled.append(digest)
        assert "rollout.json" not in desired(world), "images come before the document that names them"
        if fails:
            raise Waiting("RegistryAway", "the registry does not answer", 1.0)

    return Mirror(Folders(world.point), root_key(world.root_pub), registry, architecture(), pull)


def test_images_are_pulled_before_the_document_that_names_them_is_written(world: World, tmp_path: Path) -> None:
    pulled: list[str] = []
    mirror(world, tmp_path / "empty", pulled).take(files_of(world), Stop())
    assert pulled == [world.packs.digests["1.0.0"]]
    assert desired(world) == {"keys.json", "point.json", "rollout.json"}


def test_without_its_images_a_document_is_not_written(world: World, tmp_path: Path) -> None:
    with pytest.raises(Waiting):
        mirror(world, tmp_path / "empty", [], fails=True).take(files_of(world), Stop())
    assert "rollout.json" not in desired(world)


@pytest.mark.failure("registry", "rollout")
def test_a_rollback_to_what_lies_here_needs_no_registry(world: World) -> None:
    """In a pod: what the layout holds whole is not asked for again."""
    pulled: list[str] = []
    mirror(world, world.registry, pulled, fails=True).take(files_of(world), Stop())
    assert (pulled, "rollout.json" in desired(world)) == ([], True)


def test_images_of_the_last_three_documents_stay(world: World) -> None:
    kept: list[set[str]] = []
    found = Mirror(
        Folders(world.point),
        root_key(world.root_pub),
        world.registry,
        architecture(),
        lambda digest, stop: None,
        lambda keep: kept.append(set(keep)),
    )
    one, two = (world.packs.digests[version] for version in ("1.0.0", "1.1.0"))
    arms = [("1.0.0", None), ("1.0.0", "1.1.0"), ("1.0.0", "1.1.0"), ("1.1.0", None)]
    for stable, candidate in arms:
        rollout = world.rollout(stable=world.pack(stable), candidate=candidate and world.pack(candidate))
        found.take(files_of(world, rollout_json=world.sign(rollout)), Stop())
    assert kept == [{one, two}]
    for _ in range(2):
        found.take(files_of(world, rollout_json=world.sign(world.rollout(stable=world.pack("1.1.0"), data=None))), Stop())
    assert kept == [{one, two}]


def test_documents_that_the_agent_refuses_are_none_of_the_three(world: World, tmp_path: Path) -> None:
    """Signed documents for images that are none: what runs is not pruned away for their sake."""
    kept: list[set[str]] = []
    told = Folders(world.point), root_key(world.root_pub), world.registry, architecture()
    found = Mirror(*told, lambda digest, stop: None, lambda keep: kept.append(set(keep)))
    one, two = (world.packs.digests[version] for version in ("1.0.0", "1.1.0"))
    bad = [{**world.pack("1.0.0"), "digest": f"sha256:{n:064x}"} for n in range(4)]
    for stable in (world.pack("1.0.0"), *bad, world.pack("1.1.0"), world.pack("1.0.0")):
        found.take(files_of(world, rollout_json=world.sign(world.rollout(stable=stable))), Stop())
    assert kept == [{one, two}]


def test_what_was_stopped_writes_nothing_and_holds_up_nothing(world: World) -> None:
    """A rollback arrives while the pull of the document before it hangs, and that document never comes after it."""
    hangs, ended = threading.Event(), threading.Event()

    def pull(digest: str, stop: Stop) -> None:
        stop.bind(ended.set)
        hangs.set()
        assert ended.wait(60)

    found = Mirror(Folders(world.point), root_key(world.root_pub), world.registry, architecture(), pull, lambda keep: None)
    missing = {**world.pack("1.0.0"), "digest": f"sha256:{1:064x}"}
    newer, older = Stop(), files_of(world, rollout_json=world.sign(world.rollout(stable=missing)))
    back = files_of(world)
    with ThreadPoolExecutor(1) as aside:
        waits = aside.submit(found.take, older, newer)
        assert hangs.wait(60)
        found.take(back, Stop())
        newer.set()
        with pytest.raises(Waiting):
            waits.result(60)
    assert (world.point / "desired" / "rollout.json").read_bytes() == back["rollout.json"]


def test_what_is_not_signed_for_this_point_makes_no_room_be_taken(world: World, tmp_path: Path) -> None:
    """A lying exchange cannot fill a pod's disk with images; the agent says why it refuses."""
    forged = [
        world.sign(world.rollout(), role="build"),
        world.sign(world.rollout(point="erp/others")),
        b"{}",
    ]
    for rollout in forged:
        pulled: list[str] = []
        mirror(world, tmp_path / "empty", pulled).take(files_of(world, rollout_json=rollout), Stop())
        assert pulled == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        json.dumps({"etag": "a1", "files": {}}).encode(),
        answer({"keys.json": b"k", "point.json": b"p", "rollout.json": b"r"}, etag="a b\r\nX: y"),
        answer({"keys.json": b"k", "point.json": b"p", "rollout.json": b"r"}, etag="é"),
        answer({"keys.json": b"k", "point.json": b"p", "rollout.json": b"r" * (2 << 20)}),
        answer({"keys.json": b"k", "point.json": b"p", "rollout.json": b"r"}).replace(hashlib.sha256(b"r").hexdigest().encode(), b"0" * 64),
        answer({"keys.json": b"k", "point.json": b"p", "rollout.json": b"r"}).replace(base64.b64encode(b"r"), b"*"),
    ],
)
def test_an_answer_that_is_not_whole_is_none(body: bytes) -> None:
    with pytest.raises(Corrupt):
        read_desired(body, "https://exchange")


def test_other_files_than_the_four_are_left_out() -> None:
    files = {"keys.json": b"k", "point.json": b"p", "rollout.json": b"r", "../private/ecds.json": b"x"}
    assert set(read_desired(answer(files), "https://exchange")[1]) == {"keys.json", "point.json", "rollout.json"}
