"""Regions hold each other's logs: a witness that mirrors says how far, and a log counts who holds what, by its policy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest
from machines import KEY, Quick
from memory_store import MemoryStore
from region_logs import log_of, of_folder
from witness_world import witness_key

from knhk.model.faults import Waiting
from knhk_runtime.objects.port import PLAIN, About, ObjectStore
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.mirrors import MirroringRegions
from knhk_runtime.tlog.fsck import fsck
from knhk_runtime.tlog.notes import cosign, format_vkey, mirrored
from knhk_runtime.tlog.policy import parse_policy
from knhk_runtime.witness.mirror import Mirror

T = TypeVar("T")
KEYS = [witness_key(60 + n, f"witness.example/{n}") for n in range(3)]
ORIGIN = KEY.verifier.name


class Full(MemoryStore):
    """A store without room."""

    def put_all(self, items: Any, about: About = PLAIN) -> None:
        raise Waiting("Storage", "no room", 1.0)


def mirror_of(place: Callable[[], Path], store: ObjectStore) -> Mirror:
    return Mirror(ORIGIN, lambda: of_folder(place()), store, lambda: ([KEY.verifier], []))


def test_a_mirror_holds_what_it_says_and_says_no_more(tmp_path: Path) -> None:
    store = MemoryStore()

    async def story() -> None:
        mirror = mirror_of(lambda: tmp_path / "log", store)
        assert (await mirror.reach(1, 0.0), mirror.size) == (0, 0)
        log_of(tmp_path / "log", (0, 5))
        assert await mirror.reach(5, 60.0) == 5
        assert await mirror.reach(6, 0.1) == 5
        assert (fsck(store, KEY.verifier).size, mirror.error) == (5, "")

    asyncio.run(story())


def test_what_is_not_stored_or_forked_is_not_held(tmp_path: Path) -> None:
    async def story() -> None:
        log_of(tmp_path / "a", (0, 5))
        log_of(tmp_path / "b", (0, 2), (900, 910))
        full = mirror_of(lambda: tmp_path / "a", Full())
        assert (await full.reach(5, 0.1), "no room" in full.error) == (0, True)
        place = [tmp_path / "a"]
        mirror = mirror_of(lambda: place[0], MemoryStore())
        assert await mirror.reach(5, 60.0) == 5
        place[0] = tmp_path / "b"
        assert (await mirror.reach(12, 0.1), "has forked" in mirror.error) == (5, True)

    asyncio.run(story())


class Regions:
    """What each of three witnesses answers when it is asked for its mirror."""

    def __init__(self, tmp_path: Path, quorum: str) -> None:
        lines = [
            f"log {format_vkey(KEY.verifier)}",
            *(f"witness W{n} {format_vkey(key.verifier)} http://w{n}" for n, key in enumerate(KEYS)),
        ]
        named = "quorum none" if quorum == "none" else f"group G {quorum} W0 W1 W2\nquorum G"
        self.policy = parse_policy("\n".join([*lines, named, ""]).encode())
        self.sizes: dict[int, int] = {}
        log_of(tmp_path / "log", (0, 4))
        self.notes = {4: (tmp_path / "log" / "checkpoint").read_bytes()}
        log_of(tmp_path / "log", (4, 9))
        self.notes |= {9: (tmp_path / "log" / "checkpoint").read_bytes()}
        self.ours = tmp_path / "log"
        self.signs: Callable[[int, str], str] = lambda host, text: mirrored(text, KEYS[host].verifier, 1, KEYS[host].sign)

    async def get(self, url: str) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        host, _, path = url.removeprefix("http://w").partition("/")
        assert path.partition("?")[0] == f"mirror/{sha256(ORIGIN.encode()).hexdigest()}"
        size = self.sizes.get(int(host))
        if size is None:
            return 404, b"{}"
        text = self.notes[size].decode().rpartition("\n\n")[0] + "\n"
        return 200, self.notes[size] + self.signs(int(host), text).encode()


def counted(regions: Regions, after: Callable[[MirroringRegions], bool]) -> int:
    """What a log takes for held once this is so."""

    async def story() -> int:
        log = Log(regions.ours, KEY, Quick())
        asked = MirroringRegions(regions.policy, KEY.verifier, log.root, regions.get)
        asked.published(log.published)
        task = asyncio.create_task(asked.run())
        async with asyncio.timeout(60):
            while not after(asked):  # noqa: ASYNC110  told by no event
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        log.close()
        return asked.size

    return asyncio.run(story())


@pytest.mark.parametrize(
    ("quorum", "sizes", "held"),
    [
        ("1", {0: 9}, 9),
        ("2", {0: 9, 1: 4}, 4),
        ("2", {0: 9, 2: 9}, 9),
        ("2", {0: 9}, 0),
        ("3", {0: 9, 1: 9, 2: 4}, 4),
        ("none", {0: 9, 1: 9, 2: 9}, 0),
    ],
)
def test_so_much_is_held_as_a_quorum_of_mirrors_has(tmp_path: Path, quorum: str, sizes: dict[int, int], held: int) -> None:
    """One that mirrors nothing, as witnesses of third parties do, does not count, however much it has cosigned."""
    regions = Regions(tmp_path, quorum)
    regions.sizes = sizes

    def all_said(asked: MirroringRegions) -> bool:
        return all(told.size == sizes.get(n, 0) and told.error != "not asked yet" for n, told in enumerate(asked.told.values()))

    assert counted(regions, all_said) == held


def test_a_checkpoint_of_another_is_no_mirror_of_ours(tmp_path: Path) -> None:
    regions = Regions(tmp_path, "1")
    regions.sizes = {0: 9}
    regions.notes = {9: regions.notes[9].replace(b"\n9\n", b"\n8\n")}
    assert counted(regions, lambda asked: any("mirror" in told.error for told in asked.told.values())) == 0


def cosigned_only(host: int, text: str) -> str:
    return cosign(text, KEYS[host].verifier, 1, KEYS[host].sign)


def of_another(host: int, text: str) -> str:
    return mirrored(text, KEYS[host - 1].verifier, 1, KEYS[host - 1].sign)


def of_a_thief(host: int, text: str) -> str:
    return mirrored(text, KEYS[host].verifier, 1, KEYS[host - 1].sign)


def of_a_smaller_one(host: int, text: str) -> str:
    return mirrored(text.replace("\n9\n", "\n4\n"), KEYS[host].verifier, 1, KEYS[host].sign)


@pytest.mark.parametrize("signs", [lambda host, text: "", cosigned_only, of_another, of_a_thief, of_a_smaller_one])
def test_who_answers_for_a_mirror_and_has_not_its_key_counts_for_nothing(tmp_path: Path, signs: Callable[[int, str], str]) -> None:
    """Nor does who has cosigned and not mirrored, which needs none of the entries."""
    regions = Regions(tmp_path, "1")
    regions.sizes, regions.signs = {0: 9}, signs
    told = "the signature of .* is wrong|is not signed by"
    assert counted(regions, lambda asked: any(re.search(told, each.error) for each in asked.told.values())) == 0


@pytest.mark.parametrize("since", [(), (900, 910)], ids=["shorter", "longer"])
def test_a_mirror_of_what_this_log_has_lost_holds_nothing_of_it(tmp_path: Path, since: tuple[int, int] | tuple[()]) -> None:
    """The log's folder came back from a copy: what mirrors have beyond it are other entries, under the log's own signature."""
    regions = Regions(tmp_path, "1")
    regions.sizes = {0: 9}
    regions.ours = log_of(tmp_path / "copy", (0, 4), *([since] if since else []))
    assert counted(regions, lambda asked: any("another history" in told.error for told in asked.told.values())) == 0
