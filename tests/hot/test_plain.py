"""One escape changes nothing: bodies without escapes are read in one pass, the others by yyjson; both give the same A and Δ."""

from __future__ import annotations

import json
import os
import random
import re

import pytest
from hot_json import ALLOW, BAD, DENY, GOOD
from hot_plans import bindings
from hot_wire import observation

from knhk_hot.pack import PackError

SEED = int(os.environ.get("KNHK_SEED", "20261126"))
PLANS = {"unknown members allowed": ALLOW, "unknown members denied": DENY}
FIRST_LETTER = re.compile(rb'"([a-z])')
NUMBERS = (
    "0",
    "-0",
    "7",
    "1234567",
    "12345678",
    "123456789012345678901234567890",
    "-12.50",
    "1e5",
    "0.1E-7",
    "01",
    "1.",
    "-",
    "+1",
    "1e",
    ".5",
    "0x1",
    "1_0",
)
WORDS = ("true", "false", "null", "nul", "True", "truex", "NaN")
TEXTS = (
    "",
    "x",
    "manager",
    "exactly8",
    "ninebytes",
    "fifteen bytes..",
    "sixteen bytes ..",
    "é",
    "日本語",
    "😀" * 3,
    "a" * 63,
    "b" * 64,
    "c" * 200,
    "/",
    "\x7f",
    "er",  # strings of the pack, some of 8 bytes and fewer
    "deep",
    "lines",
)
NAMES = ("a", "link", "deep", "er", "lines", "n", "tags", "tag", "b", "", "longer than eight", "longer than nine!")
SPACES = ("", "", "", " ", "\n  ", "\t\r", "\x0b")


def escaped(body: bytes) -> bytes | None:
    """The same JSON with the first letter after the first quotation mark as an escape; None when there is none."""
    found = FIRST_LETTER.search(body)
    if found is None or body.index(b'"') != found.start():
        return None
    return body[: found.start(1)] + b"\\u%04x" % found.group(1)[0] + body[found.end(1) :]


def outcome(plan_name: str, body: bytes) -> tuple[object, ...]:
    """Status, A, and the Δ or why there is none; every variant gives the same."""
    (binding, *others) = bindings(PLANS[plan_name])
    o = observation(body)
    d = binding.decide(o)
    assert [other.decide(o) for other in others] == [d] * len(others)
    try:
        graph: object = binding.graph(o)
    except PackError as error:
        graph = error.status
    return d.status, d.a, d.triples, graph


def document(chance: random.Random, depth: int = 0) -> str:
    """JSON, or nearly: names that occur twice, numbers and words that are none, spaces that are none."""
    space = chance.choice(SPACES) if chance.random() < 0.2 else ""
    kind = chance.random()
    if depth < 5 and kind < (1 if depth == 0 else 0.25):
        names = [
            chance.choice(NAMES) if chance.random() < 0.9 else f"m{chance.randrange(99)}" for _ in range(chance.choice((0, 1, 2, 3, 5, 9)))
        ]
        names = names if chance.random() < 0.1 else list(dict.fromkeys(names))
        inside = ",".join(f"{space}{json.dumps(name)}{space}:{space}{document(chance, depth + 1)}{space}" for name in names)
        return "{" + (inside or space) + "}"
    if depth < 5 and kind < 0.4:
        return "[" + f",{space}".join(document(chance, depth + 1) for _ in range(chance.choice((0, 1, 2, 3)))) + space + "]"
    if kind < 0.7:
        return json.dumps(chance.choice(TEXTS), ensure_ascii=False)
    return (
        chance.choice(NUMBERS[:9] if chance.random() < 0.97 else NUMBERS)
        if kind < 0.9
        else chance.choice(WORDS[:3] if chance.random() < 0.97 else WORDS)
    )


def mutated(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(1, len(body) + 1)
    what = chance.choice((b"", b'"', b"\x00", b"\x1f", b"\xff", b"\xc3", b",", b"}", b"]", b"0", b" "))
    return body[:at] + what + body[at + chance.randrange(2) :]


@pytest.mark.parametrize("name", PLANS)
def test_an_escape_changes_nothing(name: str) -> None:
    chance, compared, admitted = random.Random(SEED), 0, 0
    for number in range(4_000):
        body = document(chance).encode()
        if number % 3 == 0:
            body = mutated(chance, body)
        other = escaped(body)
        if other is None:
            continue
        plain, through_yyjson = outcome(name, body), outcome(name, other)
        assert plain == through_yyjson, f"seed {SEED}, number {number}: {body!r} and {other!r}"
        compared += 1
        admitted += isinstance(plain[3], bytes)
    assert compared > 1_500
    assert 20 < admitted < compared - 20


@pytest.mark.parametrize("body", [*GOOD, *BAD])
def test_an_escape_changes_no_known_body(body: bytes) -> None:
    other = escaped(body)
    if other is not None:
        assert outcome("unknown members allowed", body) == outcome("unknown members allowed", other)


@pytest.mark.parametrize("count", [1, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("twice", [False, True])
def test_members_that_nobody_maps_are_distinct_too(count: int, twice: bool) -> None:
    names = [f"member-{i}" for i in range(count)] + ["member-0"] * twice
    body = ('{"a":"x",' + ",".join(f'"{name}":{i}' for i, name in enumerate(names)) + "}").encode()
    other = escaped(body)
    assert other is not None
    assert outcome("unknown members allowed", body) == outcome("unknown members allowed", other)
    assert isinstance(outcome("unknown members allowed", body)[3], int) == twice
