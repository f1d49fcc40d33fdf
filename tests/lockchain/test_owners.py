"""Whose a ring is: what is promised to one client no other gets, whatever a client names, whatever the disk does, after any restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lying_disk import Lying, Quick

from knhk.adapters.signer_local import LocalSigner
from knhk.model.faults import Corrupt
from knhk_runtime.sequencer import owners
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, Taken
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.owners import Owners
from knhk_runtime.sequencer.wal import Wal
from knhk_runtime.sequencer.wire import Append, parse_append
from knhk_runtime.sequencer_client import encode_batch

ORIGIN = "knhk.dev/test"
ONE, TWO = "spiffe://knhk.dev/ns/erp/point/orders/pod/one", "spiffe://knhk.dev/ns/erp/point/orders/pod/two"


def ring(number: int) -> bytes:
    return b"RING" + number.to_bytes(4, "big")


def opened(folder: Path, files: Disk | None = None) -> Owners:
    made = Owners(files or Quick(), folder)
    (files or Quick()).mkdir(folder)
    made.recover()
    return made


def claim(to: Owners, client: str, *rings: bytes) -> bool:
    if to.taken(client, rings, {}):
        return False
    to.keep(to.gives(client, (), rings, {}))
    return True


def use(to: Owners, client: str, source: bytes) -> bool:
    if to.taken(client, (source,), {}) or to.crowded(client, (source,), {}):
        return False
    to.keep(to.gives(client, (source,), (), {}))
    return True


def test_who_names_rings_without_end_loses_his_own_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with a leaf stay his, as do all of another; after a restart, too."""
    monkeypatch.setattr(owners, "MAX_UNUSED_OF_ONE", 8)
    known = opened(tmp_path)
    assert claim(known, TWO, ring(1))
    assert claim(known, ONE, ring(2))
    assert use(known, ONE, ring(2))
    assert claim(known, ONE, ring(3))
    for number in range(100, 200):
        assert claim(known, ONE, ring(number))
    for each in (known, opened(tmp_path)):
        assert each.taken(ONE, (ring(1),), {}) == {ring(1)}, "another's, never used"
        assert each.taken(TWO, (ring(2),), {}) == {ring(2)}, "his own, with a leaf"
        assert each.taken(TWO, [ring(number) for number in (3, *range(100, 192))], {}) == frozenset(), "given way"
        assert len(each.taken(TWO, [ring(number) for number in range(192, 200)], {})) == 8
        each.close()


def test_rows_that_count_no_more_leave_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "MAX_UNUSED_OF_ONE", 8)
    monkeypatch.setattr(owners, "MAX_STALE", 32)
    known = opened(tmp_path)
    assert use(known, TWO, ring(1))
    most = 0
    for number in range(100, 1100):
        assert claim(known, ONE, ring(number))
        most = max(most, sum(path.stat().st_size for path in tmp_path.glob("*.seg")))
    assert most < 80 * (2 * 9 + 32 + 9 + 2), "twice what counts, and some"
    again = opened(tmp_path)
    assert (again.taken(ONE, (ring(1),), {}), len(again.taken(TWO, [ring(n) for n in range(1092, 1100)], {}))) == ({ring(1)}, 8)
    (first,) = sorted(tmp_path.glob("*.seg"))[:1]
    assert int(first.stem, 16) > 0
    known.close()
    again.close()


def test_what_was_known_before_is_missed(tmp_path: Path) -> None:
    known = opened(tmp_path)
    assert claim(known, ONE, ring(1))
    known.close()
    known = opened(tmp_path)
    assert claim(known, ONE, ring(2))
    known.close()
    first, _ = sorted(tmp_path.glob("*.seg"))
    first.unlink()
    with pytest.raises(Corrupt, match="begins at row 1: what was known before it is missing"):
        opened(tmp_path)


@pytest.mark.parametrize("persists", [False, True], ids=["lost", "persisted"])
def test_no_lie_of_a_disk_gives_a_ring_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, persists: bool) -> None:
    """Each step of storage fails once, in both ways; each acknowledged claim of TWO stays TWO's in this process and in the next."""
    monkeypatch.setattr(owners, "MAX_UNUSED_OF_ONE", 4)
    monkeypatch.setattr(owners, "MAX_STALE", 6)
    at = 0
    while True:
        folder, promised = tmp_path / str(at), list[bytes]()
        folder.mkdir()
        files = Lying(at, persists)
        known = Owners(files, folder)
        known.recover()
        for number in range(40):
            for client, source in ((ONE, ring(1000 + number)), (TWO, ring(number))):
                try:
                    kept = use(known, client, source) if number % 20 == 0 else client == ONE and claim(known, client, source)
                except OSError:
                    continue
                if kept and client == TWO:
                    promised.append(source)
            assert known.taken(ONE, promised, {}) == set(promised)
        known.close()
        again = opened(folder)
        assert again.taken(ONE, promised, {}) == set(promised), f"step {at}"
        again.close()
        if files.steps <= at:
            break
        at += 1
    assert at > 40


def test_what_is_said_again_in_part_and_once_more_in_part_is_not_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it says all again, and once more in the next: the parts are not taken for the whole."""
    known = opened(tmp_path)
    for number in range(9):
        assert use(known, TWO, ring(number))
    known.close()
    monkeypatch.setattr(owners, "MAX_STALE", -100)
    monkeypatch.setattr(owners, "_KEPT_AT_ONCE", 2)
    whole = Wal.append

    def torn(wal: Wal, first: int, payloads: Sequence[bytes]) -> None:
        whole(wal, first, payloads[:3])
        raise OSError("killed")

    for _ in range(2):
        known = opened(tmp_path)
        with monkeypatch.context() as here:
            here.setattr(Wal, "append", torn)
            with pytest.raises(OSError, match="killed"):
                claim(known, ONE, ring(100))
        known.close()
    again = opened(tmp_path)
    assert again.taken(ONE, [ring(number) for number in range(9)], {}) == {ring(number) for number in range(9)}
    again.close()


def test_a_group_of_claims_and_leaves_takes_one_sync_of_each_file(
    tmp_path: Path, signer: LocalSigner, leaves: Callable[[int, int], list[bytes]]
) -> None:
    """Who names rings holds nobody up for longer than a leaf does."""

    class Counted(Quick):
        syncs = 0

        def sync(self, fd: int) -> None:
            self.syncs += 1

    files = Counted()
    log = Log(tmp_path, load_key(signer.key_file("log"), ORIGIN), files)
    warm = [Append((), (), b"", TWO, frozenset({ring(0)})), parse_append(encode_batch(leaves(0, 1)))]
    log.commit(warm)
    files.syncs = 0
    claims = [Append((), (), b"", ONE, frozenset({ring(number)})) for number in range(1, 50)]
    stolen = Append((), (), b"", ONE, frozenset({ring(0), ring(99)}))
    answers = log.commit([*claims, stolen, parse_append(encode_batch(leaves(1, 3)))])
    assert (files.syncs, answers[:49], answers[50]) == (2, [[]] * 49, [1, 2])
    assert isinstance(answers[49], Taken)
    assert log.commit([Append((), (), b"", TWO, frozenset({ring(99)}))]) == [[]], "nothing of a refused claim counts"
    log.close()


def test_one_body_with_two_leaves_of_a_key_is_told(tmp_path: Path, signer: LocalSigner, leaves: Callable[[int, int], list[bytes]]) -> None:
    """As it would be in two bodies; the same leaf twice is one."""
    log = Log(tmp_path, load_key(signer.key_file("log"), ORIGIN), Quick())
    first, second = leaves(0, 2)
    other = first[:92] + (int.from_bytes(first[92:100], "big") + 1).to_bytes(8, "big") + first[100:]
    (told,) = log.commit([parse_append(encode_batch([second, first, other]))])
    assert isinstance(told, Taken)
    assert (told.items, "is that of another leaf, of the same body" in told.what) == ((2,), True)
    assert log.durable == 0
    salted = first[:8] + bytes(64) + first[72:]
    assert log.commit([parse_append(encode_batch([second, first, first, salted]))]) == [[0, 1, 1, 1]]
    log.close()
