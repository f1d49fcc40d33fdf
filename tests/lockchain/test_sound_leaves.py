"""Leaves of a body that are judged all at once are judged as each by itself is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import product

import pytest

from knhk_hot.leaves import sound_leaves
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.wire import _ALLOWED, Append, _entries, parse_append, parse_leaves
from knhk_verify.errors import Bad
from knhk_verify.leaf import LAYOUT, LEAF_SIZE, parse_leaf

ITEM = 17 + 2 + LEAF_SIZE


def leaf(kind: int = 1, verdict: int = 1, h_a: bytes = b"a" * 32, number: int = 1) -> bytes:
    return LAYOUT.pack(1, kind, 1, verdict, 1, 0, 3, b"o" * 32, h_a, b"p" * 20, 7, number.to_bytes(16, "big"), 0)


def body(*leaves: bytes) -> bytearray:
    items = (leaf[100:116] + bytes([leaf[5] & 1]) + LEAF_SIZE.to_bytes(2, "big") + leaf for leaf in leaves)
    return bytearray(len(leaves).to_bytes(4, "big") + b"".join(items))


def is_sound(item: bytes) -> bool:
    """By the verifier's parser."""
    with suppress(Bad):
        parse_leaf(item[19:])
        return item[17:19] == b"\0\x76" and entry_key(item[19:]) == item[:17]
    return False


def test_sound_leaves_are_taken_in_their_order() -> None:
    leaves = (leaf(), leaf(kind=2, verdict=0, h_a=bytes(32), number=2), leaf(kind=4, verdict=2, h_a=bytes(32), number=3))
    append = parse_append(bytes(body(*leaves)))
    assert (append.entries, append.keys) == (leaves, tuple(map(entry_key, leaves)))
    assert append.sources == {bytes(8)}


@pytest.mark.parametrize("parse", [parse_append, parse_leaves])
@pytest.mark.parametrize("second", [leaf(number=2), leaf(kind=3, verdict=0, h_a=bytes(32), number=2)], ids=["decision", "disposition"])
def test_every_value_of_every_byte_is_taken_or_refused_as_by_itself(parse: Callable[[bytes], Append], second: bytes) -> None:
    """Among them a decision without verdict, which was once taken when it came with others."""
    made = body(leaf(), second)
    for at in range(4 + ITEM, len(made)):
        for value in {0, 1, 2, 3, 4, 5, 63, 64, 118, 255, made[at] ^ 1}:
            altered = made[:]
            altered[at] = value
            taken = False
            with suppress(Bad):
                parse(bytes(altered))
                taken = True
            assert taken == is_sound(bytes(altered[4 + ITEM :])), (at - 4 - ITEM, value)


def is_taken_apart(made: bytes) -> bool:
    """A body of one item, by the way that says what is wrong."""
    with suppress(Bad):
        return len(_entries(made).entries) == 1
    return False


@pytest.mark.parametrize(
    "one",
    [leaf(), leaf(kind=3, verdict=0, h_a=bytes(32)), leaf()[:5] + b"\x3f" + leaf()[6:]],
    ids=["decision", "disposition", "flags"],
)
def test_every_value_of_every_byte_of_an_item_is_sound_in_c_as_it_is_apart(one: bytes) -> None:
    """Neither laxer, which would let it into the log, nor stricter, which would only be slow."""
    made = body(one)
    for at, value in product(range(4, len(made)), range(256)):
        altered = bytes(made[:at]) + bytes([value]) + bytes(made[at + 1 :])
        assert sound_leaves(altered[4:], _ALLOWED) == is_taken_apart(altered), (at - 4, value)


def test_every_kind_with_every_verdict_with_or_without_an_action_is_sound_in_c_as_it_is_apart() -> None:
    actions = [bytes(32), b"a" * 32, *(bytes(at) + b"\1" + bytes(31 - at) for at in range(32))]
    sound = 0
    for kind, verdict, action in product(range(7), range(5), actions):
        made = bytes(body(leaf(kind, verdict, action)))
        assert sound_leaves(made[4:], _ALLOWED) == is_taken_apart(made), (kind, verdict, action)
        sound += is_taken_apart(made)
    assert sound == 2 * len(actions) + 3 * 3  # decisions with a verdict; the others with any, and no action
