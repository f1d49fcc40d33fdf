"""What does not depend on one another is done at the same time, and comes to the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from random import Random

import pytest
from fakes import Shuffled
from rollout_world import World, pack, point

from knhk.adapters.threads import Threads
from knhk.model.resource import Key
from knhk.ports.together import InTurn, Together

MOST = 3
NAMES = [f"new-{n:02}" for n in range(12)]


@pytest.fixture
def threads() -> Iterator[Threads]:
    found = Threads(MOST)
    yield found
    found.close()


def test_acts_meet(threads: Threads) -> None:
    """Each waits for all others: one after the other they would never end."""
    barrier, met = threading.Barrier(MOST, timeout=30), set[int]()

    def act(n: int) -> None:
        barrier.wait()
        met.add(n)

    threads([lambda n=n: act(n) for n in range(MOST)])  # type: ignore[misc]
    assert met == set(range(MOST))


def test_all_are_done_when_the_first_error_is_raised(threads: Threads) -> None:
    done, slow = set[int](), threading.Event()

    def late() -> None:
        slow.wait(30)
        done.add(2)

    def fails(word: str) -> None:
        slow.set()
        raise OSError(word)

    with pytest.raises(OSError, match="one"):
        threads([lambda: fails("one"), late, lambda: fails("three")])
    assert done == {2}


@pytest.mark.parametrize("together", [InTurn(), Shuffled(Random(1), 5), Shuffled(Random(2), 5)], ids=["in turn", "shuffled", "otherwise"])
def test_new_packs_that_come_together_are_each_built_and_told_once(together: Together) -> None:
    world = World(together=together)
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    for name in NAMES:
        world.apply(pack("1.0.0", name=name, targets="{point: none}"))
    for name in NAMES:
        world.until_phase("Signed", key=Key("PolicyPack", "erp", name))
    world.until(lambda: not any("pending" in world.get(Key("PolicyPack", "erp", name)).status for name in NAMES))
    assert len(world.receipts()) == len(world.log.entries)
    for name in NAMES:
        subject = f"pack/erp/{name}@1.0.0"
        told = [row["predicate"]["kind"] for row in world.log.statements() if row["subject"][0]["name"] == subject]
        assert told == ["Compiled", "Built", "Signed"]
