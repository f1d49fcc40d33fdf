"""Copies of the outboxes of pods: byte for byte, whatever is sent twice, late, cut off or made up."""

from __future__ import annotations

import shutil
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from delta_world import decided

from knhk_runtime.outbox.erasing import erase_segment
from knhk_runtime.record import SEGMENT_HEAD, parse_record
from knhk_runtime.sequencer.copies import MAX_OUTBOXES, Copies, Elsewhere, Full, NoPod
from knhk_verify.errors import Bad

POD, OUTBOX = "spiffe://knhk.dev/ns/erp/point/orders/pod/pod-1", "0123456789abcdef"
SOURCE = f"erp.orders~pod-1~{OUTBOX}"
ONE, TWO, THREE = (decided(number).frames for number in (1, 2, 3))


def test_frames_come_once_wherever_sending_broke_off(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations")
    assert copies.end(POD, OUTBOX) is None
    at = 4, SEGMENT_HEAD
    for frames in (ONE, ONE, ONE + TWO, ONE + TWO, ONE):  # again, and longer, as after an answer that was lost
        copies.add(POD, OUTBOX, at, frames)
    end = 4, SEGMENT_HEAD + len(ONE + TWO)
    assert copies.end(POD, OUTBOX) == end
    copies.add(POD, OUTBOX, (5, SEGMENT_HEAD), THREE)
    copies.add(POD, OUTBOX, at, ONE + TWO)  # of a segment before the last
    assert Copies(tmp_path / "observations").end(POD, OUTBOX) == (5, SEGMENT_HEAD + len(THREE))
    assert (tmp_path / "observations" / SOURCE / f"{4:016x}.seg").read_bytes() == b"KNHKSEG1" + (4).to_bytes(8, "big") + ONE + TWO


def test_what_fits_nowhere_is_told_where_to_go_on(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations")
    with pytest.raises(Elsewhere) as told:
        copies.add(POD, OUTBOX, (0, 99), ONE)
    assert told.value.end is None
    copies.add(POD, OUTBOX, (1, SEGMENT_HEAD), ONE)
    for at in ((1, SEGMENT_HEAD + len(ONE) + 1), (2, SEGMENT_HEAD + 1), (9, 100)):
        with pytest.raises(Elsewhere) as told:
            copies.add(POD, OUTBOX, at, TWO)
        assert told.value.end == (1, SEGMENT_HEAD + len(ONE))


def test_nothing_that_is_there_is_replaced(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations")
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), ONE)
    before = (tmp_path / "observations" / SOURCE / f"{0:016x}.seg").read_bytes()
    with pytest.raises(Bad, match="is there with other bytes"):
        copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), TWO)
    for body in (b"", ONE[:-1], ONE + b"\0", bytes([ONE[0], ONE[1] ^ 1]) + ONE[2:], ONE[:20] + bytes([ONE[20] ^ 1]) + ONE[21:]):
        with pytest.raises(Bad):
            copies.add(POD, OUTBOX, (0, SEGMENT_HEAD + len(ONE)), body)
    assert (tmp_path / "observations" / SOURCE / f"{0:016x}.seg").read_bytes() == before


def test_what_was_erased_since_may_be_sent_again_and_stays_away(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations")
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), ONE + TWO)
    copies.add(POD, OUTBOX, (1, SEGMENT_HEAD), ONE + TWO)
    paths = [tmp_path / "observations" / SOURCE / f"{number:016x}.seg" for number in (0, 1)]
    for path in paths:
        assert erase_segment(path, lambda record: record.leaves == parse_record(TWO[8:], "two").leaves) == 1
        assert TWO not in path.read_bytes()
    before = paths[1].read_bytes()
    for number, sent in ((0, ONE + TWO), (1, ONE), (1, ONE + TWO)):
        copies.add(POD, OUTBOX, (number, SEGMENT_HEAD), sent)
    assert paths[1].read_bytes() == before
    with pytest.raises(Bad, match="is there with other bytes"):
        copies.add(POD, OUTBOX, (1, SEGMENT_HEAD), ONE + THREE)
    copies.add(POD, OUTBOX, (1, SEGMENT_HEAD + len(ONE)), TWO + THREE)
    assert paths[1].read_bytes() == before + THREE
    assert copies.end(POD, OUTBOX) == (1, SEGMENT_HEAD + len(ONE + TWO + THREE))


@pytest.mark.parametrize("client", ["", "spiffe://knhk.dev/component/knhk-operator", f"{POD}/../x", POD.replace("erp", "../erp")])
def test_only_pods_have_copies(tmp_path: Path, client: str) -> None:
    with pytest.raises(NoPod):
        Copies(tmp_path / "observations").add(client, OUTBOX, (0, SEGMENT_HEAD), ONE)
    with pytest.raises(Bad):
        Copies(tmp_path / "observations").add(POD, "../../etc", (0, SEGMENT_HEAD), ONE)
    assert list(tmp_path.iterdir()) == []


def test_one_pod_fills_no_disk(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations", client_bytes=3 * len(ONE))
    for segment in (0, 1):
        copies.add(POD, OUTBOX, (segment, SEGMENT_HEAD), ONE)
    with pytest.raises(Full):
        copies.add(POD, OUTBOX, (2, SEGMENT_HEAD), ONE)
    copies.add(POD.replace("pod-1", "pod-2"), OUTBOX, (0, SEGMENT_HEAD), ONE)
    (tmp_path / "observations" / SOURCE / f"{0:016x}.seg").unlink()  # archived
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), ONE)  # sent again late: it was there
    copies.add(POD, OUTBOX, (2, SEGMENT_HEAD), ONE)
    assert sorted(path.name for path in (tmp_path / "observations" / SOURCE).iterdir()) == [f"{n:016x}.seg" for n in (1, 2)]


def test_one_pod_has_few_outboxes_at_a_time(tmp_path: Path) -> None:
    copies = Copies(tmp_path / "observations")
    for number in range(MAX_OUTBOXES):
        copies.add(POD, f"{number:016x}", (0, SEGMENT_HEAD), ONE)
    with pytest.raises(Full, match="16 other outboxes"):
        copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), ONE)
    assert copies.end(POD, OUTBOX) is None
    copies.add(POD, f"{0:016x}", (1, SEGMENT_HEAD), TWO)  # those that are there go on
    copies.add(POD.replace("pod-1", "pod-2"), OUTBOX, (0, SEGMENT_HEAD), ONE)
    shutil.rmtree(tmp_path / "observations" / f"erp.orders~pod-1~{1:016x}")  # archived long ago
    copies.add(POD, OUTBOX, (0, SEGMENT_HEAD), ONE)


def test_names_that_are_asked_for_leave_nothing_behind(tmp_path: Path) -> None:
    """What is kept of names grows with each round of them; the interpreter's table of strings is made anew, whole, in one at most."""
    copies, many, held = Copies(tmp_path / "observations"), 5_000, list[int]()
    assert copies.end(POD, OUTBOX) is None
    tracemalloc.start()
    for number in range(5 * many):
        if number % many == 0:
            held.append(tracemalloc.get_traced_memory()[0])
        copies.end(POD, f"{number:016x}")
    tracemalloc.stop()
    assert min(after - before for before, after in pairwise(held)) < 20 * many
    assert list(tmp_path.iterdir()) == []
