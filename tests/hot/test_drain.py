"""Rings to frames and leaves: what C makes equals what the pages say, and a ring that lies is refused, whatever it says."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hot_wire import Arm, Producer, Record, action, frame, leaf, observation, ring_header, ring_record

import knhk_hot.drain as hot
from knhk_hot.native import lib

CAPACITY = 4 << 20
DENY = action(2, 9, (3, 8))


def receipt(number: int) -> bytes:
    return b"SOURCE01" + struct.pack(">Q", number)


RECORDS = [
    Record(receipt(1), observation(b'{"a":1}')),
    Record(receipt(2), observation(b"x" * 5000), (Arm(a=DENY, verdict=2), Arm(b"Q" * 20, mode=2, flags=1, a=action(1, 9, ())))),
    Record(receipt(3), observation(b""), (Arm(kind=4, klass=0, verdict=2, pack=bytes(20), a=b""),), region=0, cluster=0),
    Record(
        receipt(4),
        observation(b"{}"),
        (Arm(kind=2, klass=0, verdict=0, a=b""), Arm(b"Q" * 20, kind=3, klass=0, verdict=0, mode=2, flags=1, a=b"")),
    ),
    Record(receipt(5), observation(b"{}"), (Arm(), Arm(b"Q" * 20, mode=2, flags=3))),
]
ASIDE = Record(
    receipt(6), observation(b'{"b":2}'), (Arm(a=DENY, verdict=2), Arm(b"Q" * 20, kind=2, klass=3, verdict=0, mode=2, flags=1, a=b""))
)


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Producer]:
    made = Producer(tmp_path / "0-1-0.ring")
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[[Path], hot.Ring]]:
    """Opens rings, and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def open_ring(path: Path) -> hot.Ring:
            ring = hot.Ring.open(path)
            stack.callback(ring.close)
            return ring

        yield open_ring


Opener = Callable[[Path], hot.Ring]


def salts_of(frames: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(frames):
        found.append(frames[at + 20 : at + 36])
        at += 8 + struct.unpack_from(">I", frames, at)[0]
    return found


def check(drained: hot.Drained, records: list[Record]) -> None:
    salts = salts_of(drained.frames)
    assert len(set(salts)) == len(records), "salts must be fresh"
    assert drained.frames == b"".join(frame(r, salt) for r, salt in zip(records, salts, strict=True))
    assert drained.leaves == b"".join(leaf(r, arm, salt) for r, salt in zip(records, salts, strict=True) for arm in r.arms)
    arms = [(r, arm, salt) for r, salt in zip(records, salts, strict=True) for arm in r.arms]
    assert drained.entries == b"".join(r.receipt + bytes([arm.flags & 1, 0, 118]) + leaf(r, arm, salt) for r, arm, salt in arms)


def test_records_become_frames_leaves_and_entries(producer: Producer, opened: Opener) -> None:
    for record in RECORDS:
        producer.put(record)
    ring = opened(producer.path)
    drained = ring.drain(1 << 20)
    check(drained, RECORDS)
    assert (drained.n_records, drained.n_leaves, drained.new_tail) == (5, 8, producer.head)
    assert drained.counts[(b"P" * 20, 1, 2, 1)] == 1
    assert sum(drained.counts.values()) == 8
    (pair,) = drained.discordant
    assert (pair.receipt, pair.cluster, [arm.a for arm in pair.arms]) == (receipt(2), 77, [DENY, action(1, 9, ())])
    assert ring.tail == 0, "only commit moves the tail"
    ring.commit(drained.new_tail)
    assert ring.drain(1 << 20).n_records == 0
    ring.beat()
    assert producer.load(320) > 0
    producer.store(256, 9)
    producer.store(384, 1)
    assert (ring.full, ring.closed, ring.source, ring.capacity) == (9, True, b"SOURCE01", CAPACITY)


def test_records_that_the_agent_must_judge_are_set_aside(producer: Producer, opened: Opener) -> None:
    for record in (RECORDS[0], ASIDE, RECORDS[1]):
        producer.put(record)
    drained = opened(producer.path).drain(1 << 20)
    check(drained, [RECORDS[0], RECORDS[1]])
    (aside,) = drained.parked
    assert (aside.receipt, aside.region, aside.cluster, aside.o) == (ASIDE.receipt, 3, 77, ASIDE.o)
    assert [vars(arm) for arm in aside.arms] == [vars(arm) for arm in ASIDE.arms]
    assert drained.n_records == 3


def test_records_that_come_while_a_batch_begins_have_salts_of_their_own(
    producer: Producer, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer goes on while the consumer makes salts for what it saw: what came since waits, and no salt is other memory."""
    records = [Record(receipt(i), observation(b"{}")) for i in range(2000)]
    given: list[bytes] = []
    random = hot.os.urandom

    def meanwhile(size: int) -> bytes:
        for record in () if given else records[1:]:
            producer.put(record)
        given.append(random(size))
        return given[-1]

    producer.put(records[0])
    ring, found = opened(producer.path), 0
    monkeypatch.setattr(hot.os, "urandom", meanwhile)
    while (drained := ring.drain(1 << 20)).n_records:
        check(drained, records[found : found + drained.n_records])
        assert b"".join(salts_of(drained.frames)) == given[-1][: 16 * drained.n_records]
        found += drained.n_records
        ring.commit(drained.new_tail)
    assert found == len(records)


def test_a_batch_ends_near_its_size_and_the_next_goes_on(producer: Producer, opened: Opener) -> None:
    for i in range(200):
        producer.put(Record(receipt(i), observation(b"y" * 700)))
    ring, found = opened(producer.path), 0
    while (drained := ring.drain(10_000)).n_records:
        assert drained.new_tail - ring.tail < 12_000
        check(drained, [Record(receipt(found + k), observation(b"y" * 700)) for k in range(drained.n_records)])
        found += drained.n_records
        ring.commit(drained.new_tail)
    assert found == 200


def test_a_record_larger_than_the_batch_is_taken_alone(producer: Producer, opened: Opener) -> None:
    big = Record(receipt(1), observation(b"z" * (1 << 20)))
    producer.put(big)
    check(opened(producer.path).drain(64), [big])


def test_pads_and_positions_beyond_the_capacity(tmp_path: Path, opened: Opener) -> None:
    producer = Producer(tmp_path / "r.ring", start=7 * CAPACITY - 1024)
    records = [Record(receipt(i), observation(b"w" * 400)) for i in range(4)]
    for record in records:
        producer.put(record)
    drained = opened(producer.path).drain(1 << 20)
    check(drained, records)
    assert drained.new_tail == producer.head
    producer.close()


GOOD = Record(receipt(9), observation(b"{}"))


def patched(offset: int, data: bytes) -> bytes:
    raw = ring_record(GOOD, 0)
    return raw[:offset] + data + raw[offset + len(data) :]


BROKEN = {
    "commit of zero": patched(0, bytes(8)),
    "commit of another position": patched(0, struct.pack("<Q", 65)),
    "length zero": patched(8, struct.pack("<I", 0)),
    "length not a multiple": patched(8, struct.pack("<I", 260)),
    "length past head": patched(8, struct.pack("<I", 4096)),
    "length past everything": patched(8, struct.pack("<I", 0xFFFFFFC0)),
    "length of a header only": patched(8, struct.pack("<I", 128)),
    "unknown type": patched(12, struct.pack("<I", 3)),
    "no arms": patched(54, b"\0"),
    "three arms": patched(54, b"\3"),
    "reserved byte": patched(55, b"\1"),
    "O longer than the record": patched(48, struct.pack("<I", 5000)),
    "O of all memory": patched(48, struct.pack("<I", 0xFFFFFFFF)),
    "O without a time": patched(48, struct.pack("<I", 11)),
    "A longer than the record": patched(84, struct.pack("<I", 4096)),
    "A of all memory": patched(84, struct.pack("<I", 0xFFFFFFFF)),
    "unknown kind": patched(76, b"\7"),
    "unknown verdict": patched(78, b"\3"),
    "unknown mode": patched(79, b"\0"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_record_is_reported_with_its_position_and_nothing_after_it_is_read(name: str, producer: Producer, opened: Opener) -> None:
    producer.put(RECORDS[0])
    at = producer.head
    raw = bytearray(BROKEN[name])
    if raw[:8] == ring_record(GOOD, 0)[:8]:
        raw[:8] = struct.pack("<Q", at + 1)
    producer.write(bytes(raw), len(raw))
    ring = opened(producer.path)
    first = ring.drain(1 << 20)
    check(first, RECORDS[:1])
    ring.commit(first.new_tail)
    with pytest.raises(hot.RingCorrupt, match=f"0-1-0.ring position {at}"):
        ring.drain(1 << 20)


@pytest.mark.parametrize(("head", "tail"), [(64, 128), (CAPACITY + 64, 0), (100, 0), (64, 1), (2**64 - 64, 0)])
def test_positions_that_cannot_be_are_refused(producer: Producer, opened: Opener, head: int, tail: int) -> None:
    producer.store(128, head)
    producer.store(192, tail)
    with pytest.raises(hot.RingCorrupt, match="head and tail"):
        opened(producer.path).drain(4096)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"KNHKRNG1",
        ring_header(CAPACITY),
        ring_header(CAPACITY - 64) + bytes(CAPACITY - 64),
        ring_header(4096) + bytes(4096),
        b"X" * (4096 + CAPACITY),
    ],
)
def test_files_that_are_no_rings_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.ring"
    path.write_bytes(data)
    with pytest.raises(hot.RingCorrupt):
        hot.Ring.open(path)


def test_a_truncated_file_is_noticed(producer: Producer, opened: Opener) -> None:
    ring = opened(producer.path)
    with producer.path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(hot.RingCorrupt, match="truncated"):
        ring.drain(4096)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.receipt[-1]))
def test_records_of_the_agent_itself_have_the_same_form(record: Record) -> None:
    arms = [hot.Arm(**vars(arm)) for arm in record.arms]
    made = hot.encode_record(record.receipt, record.region, record.cluster, record.o, arms, salt=b"0123456789abcdef")
    assert made.frame == frame(record, b"0123456789abcdef")
    assert made.leaves == tuple(leaf(record, arm, b"0123456789abcdef") for arm in record.arms)


def test_hashlib_serves_when_openssl_cannot_be_called_from_c() -> None:
    assert hot.SHA256_BY in {"openssl", "hashlib"}
    lib.knhk_use_sha256(hot._by_hashlib)
    try:
        test_records_of_the_agent_itself_have_the_same_form(RECORDS[1])
    finally:
        hot._choose_sha256()


@pytest.mark.parametrize("duration_ns", [1, 3, 4, 7, 8, 1_000, 8_191, 8_192, 1_000_000, 2**32 - 1])
def test_the_bucket_of_a_duration_begins_at_most_a_quarter_below_it(duration_ns: int) -> None:
    bucket = int(lib.knhk_latency_bucket(duration_ns))
    octave = bucket // 4 + 1
    first = bucket if bucket < 4 else (4 + bucket % 4) << (octave - 2)
    assert first <= duration_ns < (bucket + 1 if bucket < 4 else first + (1 << (octave - 2)))


def test_durations_of_both_arms_are_counted_where_both_decided(producer: Producer, opened: Opener) -> None:
    """By the flag of the candidate, whatever the order of the arms; a disposition or an arm without pack counts on neither side."""
    old, new = Arm(duration_ns=2), Arm(b"Q" * 20, mode=2, flags=1, duration_ns=3)
    unmeasured, parked = replace(old, duration_ns=0), Arm(kind=2, klass=0, verdict=0, a=b"", duration_ns=1)
    for number, arms in enumerate([(old, new), (new, old), (unmeasured, new), (parked, new), (old,)]):
        producer.put(Record(receipt(number), observation(b"{}"), arms))
    drained = opened(producer.path).drain(1 << 20)
    ((pair, (stable, candidate)),) = drained.latencies.items()
    assert pair == (b"P" * 20, b"Q" * 20)
    assert [(at, n) for at, n in enumerate(stable) if n] == [(2, 2)]
    assert [(at, n) for at, n in enumerate(candidate) if n] == [(3, 2)]


def test_a_batch_of_many_pairs_ends_before_the_one_that_has_no_room(producer: Producer, opened: Opener) -> None:
    for number in range(6):
        new = Arm(bytes([number]) * 20, mode=2, flags=1, duration_ns=3)
        producer.put(Record(receipt(number), observation(b"{}"), (Arm(duration_ns=2), new)))
    ring = opened(producer.path)
    first = ring.drain(1 << 20)
    ring.commit(first.new_tail)
    second = ring.drain(1 << 20)
    assert (first.n_records, len(first.latencies), second.n_records, len(second.latencies)) == (4, 4, 2, 2)
