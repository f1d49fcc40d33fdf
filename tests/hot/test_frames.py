"""Checksums and frames many at once: what C says is what zlib and the pages say, at every length and wherever a byte is wrong."""

from __future__ import annotations

import random
import zlib

import pytest
from hot_wire import Arm, Record, action, frame, leaf, observation

from knhk_hot.frames import entries_of_frames, sound_frames
from knhk_hot.native import ffi, lib

SALT = b"0123456789abcdef"
RECORDS = [
    Record(
        b"SOURCE01" + n.to_bytes(8, "big"), observation(b"x" * 7 * n), tuple(Arm(flags=arm, a=action(1, 9, ())) for arm in range(1 + n % 2))
    )
    for n in range(40)
]
FRAMES = [frame(record, SALT) for record in RECORDS]


def test_crc_is_that_of_zlib_at_every_length_and_place() -> None:
    chance = random.Random(7)
    data = chance.randbytes(9000)
    for length in (*range(400), 4095, 4096, 4097, 8191, 8900):
        for start in (0, 1, 7, 16):
            part, before = data[start : start + length], chance.getrandbits(32)
            wanted = zlib.crc32(part, before)
            held = ffi.from_buffer("uint8_t[]", part)
            assert lib.knhk_crc32(before, held, length) == lib.knhk_crc32_scalar(before, held, length) == wanted


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 30])
def test_frames_that_are_cut_off_are_not_whole(cut: int) -> None:
    whole = b"".join(FRAMES)
    assert sound_frames(whole + FRAMES[0][:cut]) == (len(whole), len(whole))
    assert sound_frames(whole + bytes(64)) == (len(whole), len(whole)), "room that nobody wrote is no frame"


def test_the_first_frame_with_an_altered_byte_is_found() -> None:
    for number in (0, 1, 17, len(FRAMES) - 1):
        before = sum(map(len, FRAMES[:number]))
        for at in (4, 7, 8, len(FRAMES[number]) - 1):
            altered = bytearray(b"".join(FRAMES))
            altered[before + at] ^= 1
            assert sound_frames(bytes(altered)) == (len(altered), before)


def test_entries_are_those_of_the_page() -> None:
    wanted = [r.receipt + bytes([arm.flags & 1, 0, 118]) + leaf(r, arm, SALT) for r in RECORDS for arm in r.arms]
    assert entries_of_frames(b"".join(FRAMES)) == b"".join(wanted)
    assert entries_of_frames(b"") == b""


def test_a_frame_without_room_for_its_leaves_is_refused() -> None:
    payload = bytes([1, 3]) + FRAMES[0][10 : 8 + 28 + 2 * 118]
    size = len(payload).to_bytes(4, "big")
    lying = size + zlib.crc32(size + payload).to_bytes(4, "big") + payload
    with pytest.raises(ValueError, match="no room"):
        entries_of_frames(FRAMES[1] + lying + FRAMES[2])
    with pytest.raises(ValueError, match="no room"):
        entries_of_frames(FRAMES[1] + FRAMES[2][:-1])
