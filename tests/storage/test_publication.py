"""A log in an object store: another machine goes on, two writers cannot fork it, and both lies of every step lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from machines import KEY, TTL_S, Clock, Machine, Quick, leaves
from memory_store import MemoryStore
from published_log import read

from knhk.model.faults import Corrupt, Deposed
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.lease import Lease
from knhk_runtime.sequencer.publication import StorePublication


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_another_machine_goes_on_where_the_store_says(tmp_path: Path, store: ObjectStore, clock: Clock) -> None:
    one, two = (Machine(tmp_path / name, store, clock) for name in ("one", "two"))
    log, lease = one.start()
    one.append(log, leaves(0, 300))
    log.integrate()
    lease.give_back()
    log.close()
    log, lease = two.start()
    assert (log.integrated, log.moved) == (300, 0)
    assert two.append(log, leaves(298, 302)) == [298, 299, 300, 301]
    log.integrate()
    log.close()
    assert read(store)[2] == leaves(0, 302)
    assert [row.key for row in store.list("tile/0")] == ["tile/0/000", "tile/0/001.p/44", "tile/0/001.p/46"]


def test_a_restart_on_the_same_machine_waits_for_nobody_and_keeps_what_was_acknowledged(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore()
    machine = Machine(tmp_path / "one", store, clock)
    log, _ = machine.start()
    machine.append(log, leaves(0, 3))
    log.integrate()
    machine.append(log, leaves(3, 7))  # killed before it is covered
    log, lease = machine.start()
    assert (lease.epoch, log.integrated, log.durable, log.moved) == (2, 3, 7, 0)
    assert {key: log.index_of(key) for key in machine.acked} == machine.acked
    log, lease = machine.start()  # killed again, before anything
    assert (lease.epoch, log.durable) == (3, 7)
    log.integrate()
    assert read(store)[2] == leaves(0, 7)


def test_a_writer_waits_until_the_other_has_been_silent_for_the_whole_lease(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore()
    one, two = (Machine(tmp_path / name, store, clock) for name in ("one", "two"))
    _, lease = one.start()
    waiting = two.lease()
    assert waiting.take() == TTL_S
    clock.now_s += TTL_S - 1
    lease.renew()
    assert waiting.take() == TTL_S
    clock.now_s += TTL_S - 1
    assert waiting.take() == 1
    assert lease.in_force()
    clock.now_s += 1
    assert not lease.in_force()
    assert waiting.take() == 0
    with pytest.raises(Deposed, match="epoch 1 is over"):
        lease.renew()


def test_a_lease_that_is_gone_from_the_store_is_no_longer_held(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore()
    machine = Machine(tmp_path / "one", store, clock)
    log, lease = machine.start()
    machine.append(log, leaves(0, 3))
    store.delete(["lease"])
    with pytest.raises(Deposed, match="the lease is gone"):
        lease.renew()
    with pytest.raises(OSError, match="another may write"):
        log.integrate()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"epoch":18446744073709551615,"holder":"","process":"","beat":1,"ttl_ms":1}',
        b'{"epoch":-5,"holder":"","process":"","beat":1,"ttl_ms":1}',
        b'{"epoch":5,"holder":"two","process":"p","beat":1,"ttl_ms":-1000}',
    ],
)
def test_what_is_no_lease_ends_a_writer_and_lets_none_begin(tmp_path: Path, clock: Clock, data: bytes) -> None:
    store = MemoryStore()
    machine = Machine(tmp_path / "one", store, clock)
    log, lease = machine.start()
    machine.append(log, leaves(0, 3))
    store.put("lease", data)
    with pytest.raises(Deposed, match=r"epoch 1 is over: .*lease.*must be a lease; remove it"):
        lease.renew()
    with pytest.raises(OSError, match="another may write"):
        log.integrate()
    with pytest.raises(Corrupt, match="must be a lease; remove it once no sequencer writes this log"):
        machine.start()


def test_a_folder_that_was_its_own_store_is_not_opened_without_while_its_epochs_hold_more(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "one"
    machine = Machine(folder, FolderStore(folder), clock)
    log, lease = machine.start()
    machine.append(log, leaves(0, 3))
    log.integrate()
    machine.append(log, leaves(3, 5))
    log.close()
    lease.give_back()
    with pytest.raises(Corrupt, match="start with --store"):
        Log(folder, KEY, Quick())
    log, _ = machine.start()
    log.integrate()
    log.close()
    again = Log(folder, KEY, Quick())
    assert (again.integrated, again.index_of(entry_key(leaves(4, 5)[0]))) == (5, 4)
    again.close()


def _forked(tmp_path: Path, store: ObjectStore, clock: Clock, before: int) -> tuple[Machine, Machine, Callable[[], bool]]:
    """One, which sleeps with five acknowledged entries, and two, which went on with others; one's next integration."""
    one, two = (Machine(tmp_path / name, store, clock) for name in ("one", "two"))
    log, _ = one.start()
    one.append(log, leaves(0, before))
    log.integrate()
    one.append(log, leaves(1000, 1005))
    waiting = two.lease()
    waiting.take()
    clock.now_s += TTL_S
    other, _ = two.start() if waiting.take() == 0 else pytest.fail("must be free")
    two.append(other, leaves(before, before + 9))
    other.integrate()
    return one, two, log.integrate


@pytest.mark.parametrize("before", [3, 250])
def test_a_writer_that_slept_publishes_nothing_and_what_it_acknowledged_is_appended_later(
    tmp_path: Path, store: ObjectStore, clock: Clock, before: int
) -> None:
    one, two, integrate = _forked(tmp_path, store, clock, before)
    kept = {row.key: store.get(row.key).data for row in store.list()}
    with pytest.raises((OSError, Deposed)):
        integrate()
    assert {row.key: store.get(row.key).data for row in store.list()} == kept
    two_lease = two.lease()
    two_lease.take()
    two_lease.give_back()
    log, _ = one.start()
    assert log.moved == 5
    log.integrate()
    assert read(store)[2] == leaves(0, before + 9) + leaves(1000, 1005)


@pytest.mark.parametrize("before", [3, 250])
def test_a_lease_that_lies_forks_nothing(tmp_path: Path, clock: Clock, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every clock wrong and every look at the lease too late: the checkpoint's own condition is left."""
    store = MemoryStore()
    one, _, integrate = _forked(tmp_path, store, clock, before)
    size, _root, _entries = read(store)
    monkeypatch.setattr(Lease, "in_force", lambda _: True)
    monkeypatch.setattr(Lease, "confirm", lambda _: None)
    with pytest.raises(Deposed):
        integrate()
    assert store.get("checkpoint").data.split(b"\n")[1] == b"%d" % size
    assert one.acked


def _fails(*_: object) -> None:
    raise OSError("told to fail")


def test_tiles_that_never_came_under_a_checkpoint_give_way_to_the_next_writers(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    one, two = (Machine(tmp_path / name, store, clock) for name in ("one", "two"))
    log, lease = one.start()
    one.append(log, leaves(0, 3))
    log.integrate()
    one.append(log, leaves(1000, 1400))
    with monkeypatch.context() as patched:  # its tiles stay, its checkpoint is never written, and the machine is lost
        patched.setattr(StorePublication, "checkpoint", _fails)
        with pytest.raises(OSError, match="told to fail"):
            log.integrate()
    lease.give_back()
    log, _ = two.start()
    two.append(log, leaves(3, 700))
    log.integrate()
    assert read(store)[2] == leaves(0, 700)


def test_a_writer_that_slept_after_its_look_at_the_lease_leaves_a_tile_that_another_published(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older writer left the very bytes that its successor publishes, so no etag tells that they are published now."""
    store = MemoryStore()
    old, one, two = (Machine(tmp_path / name, store, clock) for name in ("old", "one", "two"))
    log, lease = old.start()
    log.integrate()
    old.append(log, leaves(0, 5))
    with monkeypatch.context() as patched:
        patched.setattr(StorePublication, "checkpoint", _fails)
        with pytest.raises(OSError, match="told to fail"):
            log.integrate()
    lease.give_back()
    log, lease = one.start()
    one.append(log, leaves(1000, 1005))
    looks, look = count(), lease.confirm

    def sleeps() -> None:
        look()
        if next(looks) == 1:  # of the first tile that is there with other bytes
            waiting = two.lease()
            waiting.take()
            clock.now_s += TTL_S
            assert waiting.take() == 0
            other, _ = two.start()
            two.append(other, leaves(0, 5))
            other.integrate()

    monkeypatch.setattr(lease, "confirm", sleeps)
    with pytest.raises((OSError, Deposed)):
        log.integrate()
    assert read(store)[2] == leaves(0, 5)


def test_a_store_that_lost_its_checkpoint_is_refused(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore()
    machine = Machine(tmp_path / "one", store, clock)
    machine.start()
    store.delete(["checkpoint"])
    with pytest.raises(Corrupt, match=r"is missing, but meta\.json is there"):
        machine.start()


def test_partial_tiles_that_a_kill_left_are_collected_by_the_next_start(tmp_path: Path, clock: Clock) -> None:
    store = MemoryStore()
    machine = Machine(tmp_path / "one", store, clock)
    log, _ = machine.start()
    for start, stop in ((0, 3), (3, 9), (9, 300)):
        machine.append(log, leaves(start, stop))
        log.integrate()
    assert [row.key for row in store.list("tile") if ".p/" in row.key] == ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"]
    for key in ("tile/0/000.p/3", "tile/entries/000.p/9"):
        store.put(key, b"left")
    log, _ = machine.start()
    assert [row.key for row in store.list("tile") if ".p/" in row.key] == ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"]
