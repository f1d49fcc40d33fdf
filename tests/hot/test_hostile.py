"""Hostile JSON in the library itself, in every kernel: any depth, numbers at every limit, halves of pairs, repeated names, texts of 10 MB.
The same through Envoy: tests/attack/test_hostile_bodies.py; XML and its bombs: tests/mapping/test_xml.py."""

from __future__ import annotations

from decimal import Decimal
from itertools import cycle, islice

import pytest
from hot_plans import BLANK, EX, a_map, failing, guard, mapping, path, plan, prop, ref
from hot_wire import observation

MIB = 1 << 20
E_INPUT = -1
NUM = 10**6  # numbers are scaled integers
TOP = 10**9
MAPS = (
    a_map(
        "root",
        [],
        BLANK,
        prop("s", ref("s")),
        prop("d", ref("d", datatype="decimal")),
        prop("i", ref("i", datatype="integer")),
        classes=("Thing",),
    ),
    a_map("line", path("lines", "*"), BLANK, prop("n", ref("n"))),
)
TEXTS = plan([], [mapping(*MAPS)])


def between(name: str) -> dict[str, object]:
    """0 to 10^9."""
    return {"op": "all", "p": EX + name, "test": {"t": "range", "family": "numeric", "min": 0, "max": TOP * NUM}}


RANGES = plan([guard("d", between("d")), guard("i", between("i"))], [mapping(*MAPS)], [{"kind": "class", "classes": [EX + "Thing"]}])


def nested(depth: int, *pairs: tuple[bytes, bytes]) -> bytes:
    chosen = list(islice(cycle(pairs), depth))
    return b"".join(before for before, _ in chosen) + b"0" + b"".join(after for _, after in reversed(chosen))


LIST, OBJECT = (b"[", b"]"), (b'{"a":', b"}")


@pytest.mark.parametrize("depth", [65, 1000, 100_000, 150_000])
@pytest.mark.parametrize("form", [(LIST,), (OBJECT,), (LIST, OBJECT)], ids=["lists", "objects", "both"])
def test_depth_beyond_the_mappings_is_denied(form: tuple[tuple[bytes, bytes], ...], depth: int) -> None:
    deep = nested(depth, *form)
    for body in (deep, b'{"s":' + deep + b"}", b'{"unknown":' + deep + b"}", b'{"lines":[' + deep + b"]}", deep[: len(deep) // 2]):
        assert failing(TEXTS, observation(body)) == {"payload"}, body[:40]


EDGES = [2**n + k for n in (7, 8, 15, 16, 31, 32, 52, 53, 62, 63, 64, 65, 127, 128) for k in (-1, 0, 1)]
TENS = [10**n + k for n in (9, 12, 15, 18, 19, 20, 38) for k in (-1, 0, 1)]
NUMBERS = [
    *(f"{sign}{n}" for n in (*EDGES, *TENS) for sign in ("", "-")),
    "0", "-0", "-0.0", "0.000001", "-0.000001", "0.0000001", "999999999.999999", "1000000000.000001", "1000000000.0000001",
    "0." + "0" * 400 + "1",
    "-0." + "0" * 400 + "1", "1" * 10_000, "-" + "9" * 10_000, "0." + "9" * 10_000, "1000000000." + "0" * 10_000,
    "9223372036854.775807", "9223372036854.775808",
    "18446744073709.551616", "-9223372036854.775809",
]  # fmt: skip


@pytest.mark.parametrize("quoted", [False, True])
def test_a_number_at_any_limit_is_judged_as_the_number_it_is_or_left_to_the_tier_below(quoted: bool) -> None:
    decided = 0
    for text in NUMBERS:
        number, value = Decimal(text), f'"{text}"' if quoted else text
        for member in ("d", "i") if "." not in text else ("d",):
            found = failing(RANGES, observation(f'{{"{member}":{value}}}'.encode()))
            if not isinstance(found, set):
                assert found > 0, f"{text[:40]}: status {found}"
                continue
            assert found == (set() if 0 <= number <= TOP else {member}), text[:40]
            decided += 1
    assert decided > 50


EXPONENTS = [
    "1e400",
    "-1e400",
    "1e-400",
    "1e308",
    "1.7976931348623157e308",
    "1.8e308",
    "4.9e-324",
    "2e-324",
    "1e18446744073709551616",
    "1E+9",
    "1e10",
    "1e-7",
]


@pytest.mark.parametrize("text", EXPONENTS)
def test_an_exponent_never_brings_a_number_into_a_range_that_it_is_not_in(text: str) -> None:
    for member in ("d", "i"):
        found = failing(RANGES, observation(f'{{"{member}":{text}}}'.encode()))
        assert found != set() or 0 <= Decimal(text) <= TOP
        assert found != E_INPUT


HALVES = [
    '"\\ud800"', '"\\udbff"', '"\\udc00"', '"\\udfff"', '"\\ud800x"', '"x\\udc00"', '"\\ud800\\ud800"',
    '"\\udc00\\udc00"', '"\\udc00\\ud800"',
    '"\\ud800\\u0041"', '"\\ud83d\\\\ude00"', '"\\uD83D\\n"', '"\\ud83d', '"\\ud83d\\u', '"\\ud83d\\ude0"',
]  # fmt: skip
RAW = [
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
]


def test_half_a_pair_is_denied_wherever_it_stands() -> None:
    texts = [*(text.encode() for text in HALVES), *(b'"' + raw + b'"' for raw in RAW)]
    for text in texts:
        for body in (b'{"s":' + text + b"}", b"{" + text + b":1}", b'{"unknown":[' + text + b"]}", b'{"lines":[{"n":' + text + b"}]}"):
            assert failing(TEXTS, observation(body)) == {"payload"}, body
    for whole in ("\\ud800\\udc00", "\\udbff\\udfff", "\\uD83D\\uDE00", "\U00010000\U0010ffff"):
        assert failing(TEXTS, observation(f'{{"s":"{whole}","{whole}":1}}'.encode())) == set()


REPEATED = [
    '"s":1,"s":1', '"s":1,"\\u0073":1', '"\\u0073":1,"\\u0073":1', '"x":1,"s":2,"x":3', '"":1,"":2', '"a\\u0000":1,"a\\u0000":2',
    '"\\ud83d\\ude00":1,"\U0001f600":2', '"/":1,"\\/":2', '"é":1,"\\u00e9":2', '"x":{"y":1,"y":2}', '"lines":[{"n":1},{"n":1,"n":2}]',
    '"x":[[[{"y":1,"z":2,"y":3}]]]',
]  # fmt: skip
DISTINCT = ['"s":1,"S":1', '"a\\u0000":1,"a":2', '"a\\u0000b":1,"a\\u0000c":2', '"é":1,"e\u0301":2', '"x":{"y":1},"y":{"x":1}']


def test_a_name_that_is_repeated_in_any_spelling_is_denied() -> None:
    for members in REPEATED:
        assert failing(TEXTS, observation(f"{{{members}}}".encode())) == {"payload"}, members
    for members in DISTINCT:
        assert failing(TEXTS, observation(f"{{{members}}}".encode())) == set(), members


TEN = 10_000_000
LARGE = {
    "a value": b'{"s":"' + b"a" * TEN + b'"}',
    "a value that does not end": b'{"s":"' + b"a" * TEN,
    "a name": b'{"' + b"a" * TEN + b'":1}',
    "escapes": b'{"s":"' + b"\\u0061" * (TEN // 6) + b'"}',
    "halves of pairs": b'{"s":"' + b"\\ud800" * (TEN // 6) + b'"}',
    "an unknown member": b'{"x":"' + b"a" * TEN + b'"}',
    "lists": b"[" * TEN,
    "a number": b'{"d":' + b"9" * TEN + b"}",
    "blanks": b" " * TEN,
}


@pytest.mark.parametrize("what", LARGE)
def test_10_mb_are_no_observation(what: str) -> None:
    assert failing(TEXTS, observation(LARGE[what])) == E_INPUT


def test_a_text_as_long_as_a_body_may_be_is_read() -> None:
    room = MIB - len(b'{"s":""}')
    for text in (b"a" * room, b"\\u0061" * (room // 6), b"\xf0\x9f\x98\x80" * (room // 4)):
        assert failing(TEXTS, observation(b'{"s":"' + text + b'"}')) in (set(), 2)
    assert failing(TEXTS, observation(b'{"s":"' + b"a" * (room + 1) + b'"}')) == E_INPUT
