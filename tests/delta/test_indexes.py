"""Which index a leaf has: what the archive has read of a log, whatever dies and however much it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from delta_world import Yard, decided

from knhk.adapters import log_indexes
from knhk.adapters.log_indexes import LogIndexes
from knhk.wiring.archive import opened_folder
from knhk_runtime.record import entry_key, leaf_digest, parse_record
from knhk_runtime.tlog.served import Served


def logged(yard: Yard, first: int, last: int) -> dict[bytes, tuple[int, bytes]]:
    """Decisions that come into the log, where no other leaves are; what is to be known of them."""
    found = dict[bytes, tuple[int, bytes]]()
    for number in range(first, last):
        made = decided(number)
        yard.record(made)
        (leaf,) = parse_record(made.frames[8:], "made").leaves
        found[entry_key(leaf)] = number, leaf_digest(leaf)
    yard.log.integrate()
    return found


@pytest.mark.parametrize("fresh", [1 << 17, 3], ids=["in memory", "more than memory holds"])
def test_what_was_read_is_known_until_it_is_met(yard: Yard, fresh: int) -> None:
    path = yard.base / "state" / "indexes.db"
    wanted, made = logged(yard, 0, 10), LogIndexes(path, fresh)
    made.learn(opened_folder(yard.log_dir).served)
    assert made.find([*wanted, b"?" * 17]) == wanted
    met, rest = list(wanted)[:4], list(wanted)[4:]
    made.forget(met)
    assert made.find(wanted) == {key: wanted[key] for key in rest}
    wanted |= logged(yard, 10, 13)
    made.learn(opened_folder(yard.log_dir).served)
    assert made.find(wanted) == {key: at for key, at in wanted.items() if key not in met}


def test_a_log_is_read_as_far_as_is_asked_for(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits, what lies far behind it in the log takes no room yet."""
    monkeypatch.setattr(log_indexes, "_READ", 4)
    wanted, read = logged(yard, 0, 12), list[int]()
    served = opened_folder(yard.log_dir).served

    class Followed(Served):
        def entries(self, start: int = 0) -> Iterator[bytes]:
            for index, each in enumerate(served.entries(start), start):
                read.append(index)
                yield each

    made = LogIndexes(yard.base / "state" / "indexes.db")
    made.learn(Followed(served.name, lambda path: None, served.size))
    first = list(wanted)[:6]
    assert made.find(first) == {key: wanted[key] for key in first}
    assert read == list(range(8))
    assert made.find(wanted) == wanted
    assert read == list(range(12))


@pytest.mark.parametrize("fresh", [1 << 17, 3], ids=["in memory", "more than memory holds"])
def test_a_process_that_died_is_followed_by_one_that_knows_all_that_was_not_met(yard: Yard, fresh: int) -> None:
    path = yard.base / "state" / "indexes.db"
    wanted, died = logged(yard, 0, 10), LogIndexes(path, fresh)
    died.learn(opened_folder(yard.log_dir).served)
    met = list(wanted)[:4]
    assert died.find(wanted) == wanted
    died.forget(met)
    wanted |= logged(yard, 10, 13)
    died.learn(opened_folder(yard.log_dir).served)
    assert len(died.find(wanted)) == 9  # and dies: nobody closes it
    made = LogIndexes(path, fresh)
    made.learn(opened_folder(yard.log_dir).served)
    assert made.find(wanted) == {key: at for key, at in wanted.items() if key not in met}
