"""The perfect hash of strings (formats/perfect.md): definition and C give the same numbers; every key is found, nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hot_plans import EX, a_map, item, mapping, pack, plan, prop, ref
from hot_vectors import VECTORS
from hot_wire import observation
from hypothesis import given, settings
from hypothesis import strategies as st

from knhk_gen import perfect
from knhk_gen.perfect import NoPlace, Perfect, Placed, Seed, hash64
from knhk_hot import perfect as native

FOUND: dict[str, Any] = json.loads((VECTORS / "perfect.json").read_text())
MILLION = 1_000_000
PLACES = {"definition": perfect.place, "C": native.place}


def listed(placed: Placed | None) -> list[list[int]] | None:
    return None if placed is None else [list(numbers) for numbers in placed]


def dictionary(keys: Sequence[bytes], found: Perfect) -> native.Dictionary:
    return native.Dictionary([keys[number] for number in found.order], found.seed, found.pilots, found.remap)


def check(keys: Sequence[bytes], strangers: Sequence[bytes]) -> None:
    """Every key has a place of its own, by definition and by C; no stranger is found."""
    found = perfect.build(keys, native.place)
    known = dictionary(keys, found)
    assert sorted(known.find(keys)) == list(range(len(keys)))
    assert [keys[found.order[at]] for at in known.find(keys)] == list(keys)
    assert set(known.find(strangers)) <= {native.ABSENT}
    assert [found.place_of(key) for key in keys[:1000]] == list(known.find(keys[:1000]))


@pytest.mark.parametrize("row", FOUND["hashes"], ids=lambda row: f"{row['key'][:20]}-{row['r']:x}")
def test_the_hash_is_that_of_the_page(row: dict[str, Any]) -> None:
    assert hash64(bytes.fromhex(row["key"]), Seed(row["r"], row["x"])) == row["hash"]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("row", FOUND["placed"], ids=lambda row: row["name"])
def test_the_places_are_those_of_the_page(row: dict[str, Any], place: perfect.Place) -> None:
    keys = [bytes.fromhex(key) for key in row["keys"]]
    made = perfect.build(keys, place)
    assert [made.seed.r, made.seed.x] == [row["r"], row["x"]]
    assert [list(made.pilots), list(made.remap), list(made.order)] == [row["pilots"], row["remap"], row["order"]]


@settings(max_examples=150, deadline=None)
@given(st.sets(st.binary(max_size=24), min_size=1, max_size=60), st.sets(st.binary(max_size=24), max_size=60), st.integers(0, 3))
def test_it_holds_what_a_dict_holds(keys: set[bytes], others: set[bytes], attempt: int) -> None:
    ordered = sorted(keys)
    seed = list(perfect.seeds(ordered))[attempt]
    assert listed(perfect.place(ordered, seed)) == listed(native.place(ordered, seed))
    found = perfect.build(ordered)
    known, numbers = dictionary(ordered, found), {key: i for i, key in enumerate(ordered)}
    asked = [*ordered, *sorted(others)]
    assert [None if at == native.ABSENT else found.order[at] for at in known.find(asked)] == [numbers.get(key) for key in asked]


@pytest.mark.slow
def test_a_million_keys_are_found_and_nothing_near_them() -> None:
    keys = [b"https://example.com/vendors/%d" % (7 * i) for i in range(MILLION)]
    near = [b"https://example.com/vendors/%d" % (7 * i + 1) for i in range(MILLION // 4)]
    cut, longer = [key[:-1] + b"?" for key in keys[: MILLION // 4]], [key + b"\0" for key in keys[: MILLION // 4]]
    check(keys, [*near, *cut, *longer])


HOSTILE = {
    "long common prefixes": [b"x" * 4000 + b"%d" % i for i in range(300)],
    "long common suffixes": [b"%d" % i + b"x" * 4000 for i in range(300)],
    "one byte of difference anywhere": [b"a" * i + b"b" + b"a" * (299 - i) for i in range(300)],
    "lengths alone": [b"\0" * i for i in range(300)],
    "every byte": [bytes([i]) for i in range(256)],
    "no UTF-8": [b"\xff" * i + b"\xc3" for i in range(100)],
    "embedded NUL": [b"a\0" + b"%d" % i for i in range(100)] + [b"a", b"a\0"],
    "empty alone": [b""],
    "ten megabytes": [b"", b"x" * 10_000_000, b"x" * 9_999_999 + b"y", b"x" * 9_999_999],
    "multiples of the chunk": [bytes(7 * i) for i in range(50)] + [b"\1" + bytes(7 * i) for i in range(50)],
}


@pytest.mark.parametrize("keys", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_keys_are_keys_as_others(keys: list[bytes]) -> None:
    check(keys, [key + b"\0\0!" for key in keys] + [b"!" + key for key in keys])


def twins(seed: Seed, pairs: int) -> list[bytes]:
    """Pairs of keys with the same hash under `seed`: c₀·r + c₁ = (c₀+d)·r + c₁′ modulo the prime, for a d that leaves c₁′ a chunk."""
    step = next(d for d in range(1, 1 << 20) if d * seed.r % perfect.PRIME < 1 << 55)
    less = step * seed.r % perfect.PRIME
    made: list[bytes] = []
    for i in range(1 << 20):
        chunks = ((i << 24, (1 << 55) + less), ((i << 24) + step, 1 << 55))
        one, other = (b"".join(chunk.to_bytes(7, "little") for chunk in pair) for pair in chunks)
        if hash64(one, seed) == hash64(other, seed):
            made += [one, other]
        if len(made) == 2 * pairs:
            return made
    raise AssertionError("the hash has no such pairs")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_keys_chosen_against_one_seed_cost_the_next_seed(place: perfect.Place) -> None:
    first, second = list(perfect.seeds([b"as an adversary guesses"]))[:2]
    keys = twins(first, 50)
    assert len({hash64(key, first) for key in keys}) == 50
    assert place(keys, first) is None
    assert listed(place(keys, second)) is not None
    check(keys, [key[::-1] for key in keys if key[::-1] not in keys])


def test_a_seed_that_fails_is_followed_by_the_next_and_the_last_by_an_error() -> None:
    keys, tried = [b"a", b"b", b"c"], []

    def after_three(keys: Sequence[bytes], seed: Seed) -> Placed | None:
        tried.append(seed)
        return native.place(keys, seed) if len(tried) > 3 else None

    found = perfect.build(keys, after_three)
    assert found.seed == list(perfect.seeds(keys))[3]
    assert sorted(map(found.place_of, keys)) == [0, 1, 2]
    with pytest.raises(NoPlace, match="none of 64 seeds spreads these 3 keys"):
        perfect.build(keys, lambda keys, seed: None)


def test_seeds_are_of_the_keys() -> None:
    assert list(perfect.seeds([b"a", b"b"])) == list(perfect.seeds([b"a", b"b"]))
    drawn = [tuple(perfect.seeds(keys)) for keys in ([b"a", b"b"], [b"ab"], [b"a", b"c"], [b"b", b"a"])]
    assert len({seed for row in drawn for seed in row}) == 4 * perfect.TRIES
    assert all(0 < seed.r < 1 << 60 for row in drawn for seed in row)


@pytest.mark.parametrize(
    ("keys", "why"), [([b"a", b"b", b"a"], "b'a' occurs twice"), ([], "0 keys: must be 1 to 16777215")], ids=["twice", "none"]
)
def test_what_has_no_perfect_hash_is_refused_with_the_reason(keys: list[bytes], why: str) -> None:
    with pytest.raises(NoPlace, match=why):
        perfect.build(keys)


def test_strings_of_an_input_that_no_pack_knows_are_told_apart() -> None:
    """Values get ids of their own: equal bytes are one term, near ones are not, whatever place the pack's hash gives them."""
    values = [EX + "known"[:n] for n in range(6)] + [EX + "known!", "known", "", "\0", "known\0"]
    made = plan([], [mapping(a_map("m", [], item("id"), prop("p", ref("v", "*"))))], routes={"r": "m"})
    body = '{"id":"x","v":[' + ",".join(f'"{v}"' for v in [*values, *values]).replace("\0", "\\u0000") + "]}"
    graph = pack(made).bind().graph(observation(body.encode(), "r")).decode()
    assert sum(f"<{EX}p>" in line for line in graph.split("\n")) == len(values)
