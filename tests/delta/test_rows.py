"""Rows are made from bytes a batch at a time: they are those that the format's page gives, whatever an outbox holds."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from delta_world import Yard, decided
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_oracle import folder_of, is_logged, rows_of
from strange_records import payload

from knhk.adapters import delta_parquet
from knhk.model.delta import Row
from knhk.model.faults import Corrupt
from knhk.reconcilers import archiving
from knhk.reconcilers.ledger import Kept
from knhk_hot import records
from knhk_runtime.outbox.records import entry
from knhk_runtime.record import Record, entry_key, frame, leaf_digest, parse_record
from knhk_runtime.sequencer.wire import parse_append
from knhk_verify.errors import Bad
from knhk_verify.leaf import LEAF_SIZE, parse_leaf

COPY = "erp.orders~pod-1~0123456789abcdef"


def strange(seed: int, count: int) -> list[bytes]:
    chance = random.Random(seed)
    return [payload(chance, number) for number in range(count)]


def parsed(data: bytes) -> Record | None:
    try:
        return parse_record(data, "record")
    except Bad:
        return None


def rows(offset: int, record: Record, index: dict[bytes, tuple[int, bytes]]) -> list[Row]:
    """None of a record of which a part is wrong."""
    try:
        return list(rows_of(COPY, 0, offset, record, index))
    except Bad:
        return []


def logged(yard: Yard, found: list[Record], chance: random.Random) -> dict[bytes, tuple[int, bytes]]:
    """Most of their leaves come into the log, the first of each key, some with another leaf in its place."""
    index, entries = dict[bytes, tuple[int, bytes]](), list[bytes]()
    for leaf in (leaf for record in found for leaf in record.leaves):
        kept = leaf if chance.random() < 0.8 else leaf[:6] + bytes([leaf[6] ^ 1]) + leaf[7:]
        try:
            parse_leaf(kept)
        except Bad:
            continue
        if chance.random() < 0.9 and entry_key(kept) not in index:
            index[entry_key(kept)] = len(index), leaf_digest(kept)
            entries.append(entry(kept))
    yard.log.commit([parse_append(len(entries).to_bytes(4, "big") + b"".join(entries))])
    return index


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1 << 40))
def test_rows_of_strange_records_are_those_of_the_page(seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        yard = Yard(Path(name))
        try:
            _compare(yard, seed)
        finally:
            yard.close()


def _compare(yard: Yard, seed: int) -> None:
    """By the strict parsers one record after another, and in the archive, field by field: rows, their folders, what has no index."""
    data = [each for each in strange(seed, 120) if parsed(each) is not None]
    found = [record for each in data if (record := parsed(each)) is not None]
    index, beside = logged(yard, found, random.Random(seed)), yard.outbox(COPY, acked=False)
    places = [beside.segments.append(frame(each)).start.offset for each in data]
    wanted = [row for offset, record in zip(places, found, strict=True) for row in rows(offset, record, index)]
    yard.clock.ns = 1 << 65  # nothing is young
    made = yard.archived()
    kept = Kept(yard.store, delta_parquet)
    there = Counter((path.rpartition("/")[0], row) for path in kept.names() for row in kept.rows(path))
    assert there == Counter((folder_of(row, ("local",)), row) for row in wanted)
    assert made.progress.rows == len(wanted)
    assert made.progress.untrue == sum(row.log_index is None and is_logged(row.leaf, index) for row in wanted)
    refused = any(not rows(0, record, index) for record in found)
    assert made.progress.broken == ({COPY} if refused else set())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 40))
def test_a_scan_ends_where_the_parser_of_records_does(seed: int) -> None:
    data = strange(seed, 20)
    frames = b"".join(map(frame, data))
    found, whole = records.scan(frames), [parsed(each) for each in data]
    count = next((n for n, record in enumerate(whole) if record is None), len(data))
    assert (len(found.times), found.why) == (count, records.NO_RECORD if count < len(data) else 0)
    assert found.starts[-1] == sum(8 + len(each) for each in data[:count])
    taken = [record for record in whole[:count] if record is not None]
    assert found.keys == [entry_key(leaf) for record in taken for leaf in record.leaves]
    assert found.times == [int.from_bytes(record.leaves[0][92:100], "big") for record in taken]


@pytest.mark.parametrize("cut", [1, 4, 7, 8, 9, 100])
def test_a_frame_that_is_not_whole_yet_is_not_there(cut: int) -> None:
    one, two = decided(1).frames, decided(2).frames
    found = records.scan(one + two[:-cut])
    assert (found.starts, found.why) == ([0, len(one)], 0)
    assert records.scan(one + two[:cut]).starts == [0, len(one)]


def test_an_altered_frame_is_told_from_one_that_is_not_whole() -> None:
    one, two = decided(1).frames, decided(2).frames
    for at in (4, 8, len(two) - 1):
        altered = two[:at] + bytes([two[at] ^ 1]) + two[at + 1 :]
        found = records.scan(one + altered)
        assert (found.starts, found.why) == ([0, len(one)], records.ALTERED)


def test_an_own_outbox_with_a_part_that_is_wrong_is_named(yard: Yard) -> None:
    """Its agent writes it here: nobody else is at fault, and nothing is left out in silence."""
    yard.record(decided(1))
    made = decided(2)
    yard.record(replace(made, frames=frame(made.frames[8:].replace(b"KNO1", b"KNO2"))))
    with pytest.raises(Corrupt, match=r"erp\.orders/0{16}\.seg offset \d+ O: must begin with KNO1"):
        yard.archived()


def test_records_that_make_much_of_little_are_fewer_in_a_commit(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A of which all guards failed take thirty-two times as much in memory: a pod that sends such is archived in smaller commits."""
    monkeypatch.setattr(archiving, "PART_BYTES", 1 << 10)
    a = b"KNA1\2\0\xff\xff" + b"\xff" * 8191 + b"\x7f" + bytes(2)
    for number in range(12):
        made, leaf_ends = decided(number), 36 + LEAF_SIZE
        o = parse_record(made.frames[8:], "made").observation
        head = made.frames[8:leaf_ends] + len(o).to_bytes(4, "big") + o + len(a).to_bytes(4, "big") + a
        yard.record(replace(made, frames=frame(head)), COPY)
    progress = yard.archived(commit_bytes=1 << 20).progress
    assert (progress.rows, progress.untrue, progress.commits) == (12, 12, 3)
