"""Leaf, O, A, frames, outbox records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knhk_runtime.record import (
    SEGMENT_HEAD,
    SEGMENT_MAGIC,
    check_record,
    encode_leaf,
    entry_key,
    frame,
    o_key,
    parse_action,
    parse_observation,
    parse_record,
    scan_frames,
)
from knhk_verify.errors import Bad
from knhk_verify.leaf import Leaf, parse_leaf

LEAF = Leaf(1, 1, 1, 1, 1, 0, b"o" * 32, b"a" * 32, b"p" * 20, 5, b"r" * 16)
HEAD = SEGMENT_MAGIC + (3).to_bytes(8, "big")
OBSERVED = b"KNO1" + (9).to_bytes(8, "big") + b"\0\5local\0\6orders" + bytes(64) + b"\0\2\0\3iss\0\0\0\1x\0\3sub\0\0\0\3ann" + b"\0\0\0\2{}"
ACTED = b"KNA1\2\0\0\x09\0\1\0\1\0\0\0\3a b"


def test_a_leaf_has_118_bytes_and_reads_back() -> None:
    data = encode_leaf(LEAF)
    assert len(data) == 118
    assert parse_leaf(data) == LEAF
    assert entry_key(data) == b"r" * 16 + b"\1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": 0}, "kind"),
        ({"kind": 5}, "kind"),
        ({"klass": 4}, "class"),
        ({"verdict": 0}, "verdict"),
        ({"mode": 3}, "mode"),
        ({"flags": 64}, "flags"),
        ({"kind": 2}, r"H\(A\)"),
        ({"time_ns": -1}, "range"),
        ({"h_o": b"short"}, "32 bytes"),
    ],
)
def test_no_other_leaf_can_be_made(change: dict[str, object], field: str) -> None:
    with pytest.raises(Bad, match=field):
        encode_leaf(replace(LEAF, **change))  # type: ignore[arg-type]


@given(st.binary(max_size=140))
def test_parsers_refuse_or_accept_and_never_crash(data: bytes) -> None:
    for parse in (parse_leaf, parse_observation, parse_action):
        for whole in (data, encode_leaf(LEAF)[: len(data)], OBSERVED[: len(data)] + data, ACTED[: len(data)] + data):
            with contextlib.suppress(Bad):
                parse(whole)
    with pytest.raises(Bad):
        parse_record(data, "record")


def test_observation_and_action_read() -> None:
    seen = parse_observation(OBSERVED)
    assert (seen.time_ns, seen.region, seen.route, seen.body) == (9, "local", "orders", b"{}")
    assert seen.attributes == (("iss", "x"), ("sub", "ann"))
    acted = parse_action(ACTED)
    assert (acted.verdict, acted.guards, acted.failing, acted.triples) == (2, 9, (8,), (b"a b",))


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (parse_observation, OBSERVED + b"\0"),
        (parse_observation, OBSERVED[:-1]),
        (parse_observation, OBSERVED.replace(b"iss", b"sub")),
        (parse_observation, OBSERVED.replace(b"iss", b"ISS")),
        (parse_observation, OBSERVED.replace(b"ann", b"\xff\xff\xff")),
        (parse_action, ACTED + b"\0"),
        (parse_action, ACTED.replace(b"\x09\0\1", b"\x09\0\2")),
        (parse_action, ACTED.replace(b"\2\0\0\x09", b"\3\0\0\x09")),
    ],
)
def test_malformed_o_and_a_are_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Bad):
        parse(data)


def test_o_key_forgets_the_time_only() -> None:
    assert o_key(OBSERVED) == o_key(OBSERVED[:4] + bytes(8) + OBSERVED[12:])
    assert o_key(OBSERVED) != o_key(OBSERVED[:-1] + b"]")


def test_a_cut_segment_has_a_torn_tail_and_no_lost_frame() -> None:
    payloads = [b"\1" + bytes([n]) * n for n in (1, 40, 200)]
    data = HEAD + b"".join(map(frame, payloads))
    ends = [SEGMENT_HEAD, SEGMENT_HEAD + 10, SEGMENT_HEAD + 10 + 49, len(data)]
    for size in range(SEGMENT_HEAD, len(data) + 1):
        frames, end = scan_frames(data[:size], 3, "file")
        assert end == max(e for e in ends if e <= size)
        assert [payload for _, payload in frames] == payloads[: ends.index(end)]
    assert scan_frames(data + bytes(5000), 3, "file")[1] == len(data)  # blocks allocated, not written


def test_every_flipped_bit_of_a_segment_is_reported_with_file_and_offset() -> None:
    data = HEAD + b"".join(frame(b"\1" + bytes([n]) * n) for n in (1, 40, 70))
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(Bad, match=r"file offset \d+"):
                scan_frames(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], 3, "file")


def test_a_record_is_checked_against_its_own_bytes(make_record: Callable[[int], tuple[bytes, tuple[bytes, ...]]]) -> None:
    payload, leaves = make_record(1)
    record = parse_record(payload, "r")
    assert record.leaves == leaves
    check_record(record, "r")
    for changed in (
        replace(record, salt=bytes(16)),
        replace(record, observation=record.observation[:-2] + b"9}"),
        replace(record, actions=(record.actions[1], record.actions[0])),
        replace(record, actions=(b"", b"")),
    ):
        with pytest.raises(Bad):
            check_record(changed, "r")
