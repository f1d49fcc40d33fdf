"""Inputs that the fuzz drivers begin with: right ones in each format, and the wrong ones that a grammar would not come upon."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from knhk_hot.perfect import place

LINES = [{"qty": 1, "price": "9.99", "day": "20240229", "ref": "k1"}, {"qty": "2", "ref": "k2", "day": "00000000"}]
EXAMPLE = {
    "id": "INV 1",
    "currency": "EUR",
    "total": 12.5,
    "issued": "2026-01-31",
    "paid": True,
    "lines": LINES,
    "peers": [{"k": "k1"}, {"k": "k2"}],
    "tags": ["a b", "\u00e9", ""],
    "link": "https://e.x/a?b",
    "when": "/Date(1700000000000+0230)/",
    "at": " 2024-02-29T24:00:00.5Z",
}


def observation(body: bytes, route: bytes = b"create") -> bytes:
    """A canonical O with two attributes."""
    attributes = {b"action": b"create", b"sub": b"anna"}
    parts = [b"KNO1", (1_790_000_000 * 10**9).to_bytes(8, "big"), b"\0\5local", len(route).to_bytes(2, "big"), route, bytes(64)]
    parts.append(len(attributes).to_bytes(2, "big"))
    for name, value in attributes.items():
        parts += [len(name).to_bytes(2, "big"), name, len(value).to_bytes(4, "big"), value]
    return b"".join([*parts, len(body).to_bytes(4, "big"), body])


FORMS: dict[str, list[object]] = {  # values of each function and datatype of the route "forms": right ones, the limits, wrong ones
    "trim": [" a\t", "", 7], "absentIf": ["-", "x"], "stripZeros": ["000120", "0", ""], "upper": ["a\u00e9z"], "lower": ["A\u00c9Z"],
    "decimalPoint": ["1,234.50", "-.5", "1.2.3", "9" * 40], "decimalComma": ["1.234,50-", "1,5"],
    "date": ["2024-2-9x", "2023-2-29", "0000-1-1", "9999-12-31"],
    "dateTime": ["29.02.2024 24:00:00.0Z", "01.01.2024 23:59:59.120+05:30", "31.12.1999 00:00:00.5-1400", "1.1.1 1:1:1.Z"],
    "local": ["2024-02-29T12:30:00", "2024-02-29T24:00:01"],
    "dotNetDate": ["/Date(1700000000000+0230)/", "/Date(-1)/", "/Date(253402300799999-1400)/", "/Date(x)/"],
    "dotNetDateTime": ["/Date(1700000000123)/", "/Date(-62135596800001)/"], "epochMillis": [1700000000123, "-1", "1e3", "253402300800000"],
    "epochSeconds": [1700000000, "-62135596800", "1.5"], "codes": ["EUR", "XXX"], "prefix": ["a:b", ""], "percentEncode": ["a b/\u00e9%~"],
    "expand": ["name", "ex:a", "http://e.x/a", "other", "no:a", "ex://x"], "string": ["", "\u0000"],
    "boolean": ["true", "0", "1", "false", "yes"],
    "decimal": ["1.", ".5", "-0.0", "+1", "9" * 30, "1e2"],
    "integer": ["-0", "9223372036854775807", "-9223372036854775808", "1" + "0" * 40],
    "double": ["INF", "-INF", "NaN", "1e308", "1e400", "4.9e-324", "1e", "+INF"], "float": ["1e38", "3.5e38", "1e-46", "-0", "NaN"],
    "time": ["23:59:59.999999Z", "24:00:00", "24:00:01", "12:00:00+14:00", "12:00:00.", "12:00"],
    "gYear": ["2024", "-0001", "12345", "0000", "2024Z"], "gYearMonth": ["2024-02", "2024-13"], "gMonthDay": ["--02-29", "--02-30"],
    "gDay": ["---31", "---32"], "gMonth": ["--12", "--13", "--12-05:00"], "anyURI": ["https://e.x/\u00e9", "a b"],
    "nonNegativeInteger": ["-0", "-1"], "positiveInteger": ["0", "1"], "nonPositiveInteger": ["0", "1"], "negativeInteger": ["-1", "0"],
    "long": ["9223372036854775807", "9223372036854775808"], "int": ["2147483648"], "short": ["-32769"], "byte": ["127", "128"],
    "unsignedLong": ["18446744073709551615", "18446744073709551616"], "unsignedInt": ["4294967296"], "unsignedShort": ["65536"],
    "unsignedByte": ["255", "256"], "normalizedString": ["a  b", "a\tb"], "token": ["a b", "a  b", " a"],
    "language": ["en-GB", "e1", "abcdefghi", "en-", "de-1996"],
    "duration": ["P1Y2M3DT4H5M6.7S", "-P1D", "P", "PT", "P1M2Y", "PT1.S"], "dayTimeDuration": ["P1DT2H", "P1Y"],
    "yearMonthDuration": ["P1Y2M", "P1D"], "hexBinary": ["0aFF", "0", "zz"],
    "base64Binary": ["YQ==", "YWI=", "Y Q = =", "YR==", "YWJj", "Y"],
    "dateTimeStamp": ["2024-02-29T23:59:60Z", "2024-02-29T00:00:00"],
}  # fmt: skip
FORMS["date"] += ["2024-02-29+01:00", "-0001-01-01", "2023-02-29", "12024-01-01"]
FORMS["dateTime"] += ["2024-02-29T23:59:59.1234567-13:59", "2024-02-30T00:00:00", "2024-02-29T24:00:00.000"]


def _form_seeds() -> list[bytes]:
    """One body for each form, and one with all of them."""
    whole: dict[str, object] = {"id": "f", **FORMS}
    bodies = [whole, *({"id": name, name: values} for name, values in FORMS.items())]
    return [observation(json.dumps(body).encode(), b"forms") for body in bodies]


THING: dict[str, list[object]] = {
    "s": ["a", "ab", "", "A", "\u00e9", "a1"], "i": [0, 1, 5, -9, "x", 7], "d": ["0", "10", "9.999999", "-0", "1.0000001"],
    "t": ["2024-01-01T00:00:00Z", "2024-01-06T12:30:00+01:00", "2024-01-01T00:00:00"], "day": ["1970-01-01", "1970-01-01Z"],
    "f": ["1.5", "INF", "1e0"], "b": ["true", "false"], "en": ["a", "b"], "en2": ["a"], "de": ["a"], "link": ["https://e.x/a", "https://e.x/i/1"],
    "any": ["a", 1, True, "b"], "other": ["a", "c"],
}  # fmt: skip


def _thing_seeds() -> list[bytes]:
    """Things with none, one, some, many and repeated values of each property."""
    of: list[Callable[[list[object]], list[object]]] = [
        lambda v: [],
        lambda v: v[:1],
        lambda v: v[1:3],
        lambda v: v,
        lambda v: [v[0], v[0]],
        lambda v: [f"{i}" for i in range(40)],
    ]
    things = [{"id": f"{i}", **{name: pick(values) for name, values in THING.items()}} for i, pick in enumerate(of)]
    things += [{"id": "1", name: pick(values)} for name, values in THING.items() for pick in of]
    parts = [{"id": "1", "parts": [{"n": n} for n in range(k)]} for k in (0, 1, 9)]
    return [observation(json.dumps({"things": one}).encode(), b"things") for one in (things[:6], parts, *([thing] for thing in things))]


def _decide_seeds() -> list[bytes]:
    bodies = [json.dumps(EXAMPLE).encode(), b"{}", b"[]", b"", b'{"a":1,"a":2}', b'{"id":"' + b"\\u00e9" * 40 + b'"}', b"[" * 200]
    bodies.append(json.dumps({f"m{i}": i for i in range(40)}).encode())
    return [observation(body) for body in bodies] + [
        observation(b"", b"bare"),
        observation(b'{"a":[{"k":1,"v":[1,2],"w":["x"]}]}', b"other"),
        observation(b"{}", b"other"),
        *_form_seeds(),
        *_thing_seeds(),
    ]


XML_HEAD = b'<?xml version="1.0" encoding="UTF-8"?><Doc xmlns="urn:a" xmlns:b="urn:b">'
XML_ITEM = (
    b'<Item id="1" k="k1"><Name>a&amp;&#x42;<![CDATA[<c>]]></Name><Day>20240229</Day>'
    b'<b:Amt Ccy="EUR">1.234,50-</b:Amt><Ref>k1</Ref><Any/></Item>'
)


def _xml_seeds() -> list[bytes]:
    bomb = b"<!DOCTYPE Doc [" + b"".join(b"<!ENTITY a%d '&a%d;&a%d;'>" % (i + 1, i, i) for i in range(8)) + b"]>"
    bodies = [
        XML_HEAD + 3 * XML_ITEM + b"</Doc>",
        b"\xef\xbb\xbf" + XML_HEAD + XML_ITEM.replace(b"a&amp;", b"<!-- c --><?pi x?>\xf0\x9f\x98\x80\r\n") + b"</Doc>",
        bomb + XML_HEAD[38:] + b"<Item>&a8;</Item></Doc>",
        (XML_HEAD + b"</Doc>").decode().encode("utf-16"),
        XML_HEAD + b"<Item>" * 200,
        XML_HEAD + b"<Item " + b" ".join(b"a%d='%d'" % (i, i) for i in range(300)) + b"/></Doc>",
        XML_HEAD + b"".join(b"<n%d xmlns:p%d='u%d'/>" % (i, i, i) for i in range(300)) + b"</Doc>",
        XML_HEAD + b"<Item><Name>" + b"x" * 20000 + b"&#xD800;\xed\xa0\x80</Name></Item></Doc>",
        XML_HEAD + b"<Item id='1' id='2'/></Doc>",
        XML_HEAD[:-1]
        + b" xmlns:i='http://www.w3.org/2001/XMLSchema-instance' i:schemaLocation='a b'>\n "
        + XML_ITEM[:-12]
        + b"<Part x='1'/></Item>\n</Doc>",
        XML_HEAD + b"<Item i='1'/></Doc>",
        XML_HEAD + b"<Item>text</Item></Doc>",
        XML_HEAD + b"<Item><Name><b/></Name></Item></Doc>",
        b"",
    ]
    return [observation(body, route) for body in bodies for route in (b"xml", b"loose")]


def _ntriples_seeds() -> list[bytes]:
    thing = b"<https://e.x/i/1> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <https://e.x/Thing> .\n"
    xsd = b"^^<http://www.w3.org/2001/XMLSchema#"
    lines = [
        thing,
        b'_:b0\t<https://e.x/s> "a\\u00E9\\U0001F600\\n\\"" . # a comment\n',
        b'<https://e.x/i/1> <https://e.x/d> "1.50"' + xsd + b"decimal> .\r\n<https://e.x/i/1> <https://e.x/part> _:b.0 .\n",
        b'<https://e.x/i/1> <https://e.x/any> "x"@en-GB .\n<https://e.x/i/1> <https://e.x/t> "2024-02-29T24:00:00Z"'
        + xsd
        + b"dateTime> .\n",
        b"<https://e.x/\\u0020> <p> <> .\n",
        b'<https://e.x/a> <https://e.x/b> "\\uD800" .\n',
    ]
    bodies = [*lines, b"".join(lines[:4]), thing * 40, b"".join(thing.replace(b"/1", b"/%d" % i) for i in range(40))]
    return [observation(body, b"rdf") for body in bodies]


@dataclass(frozen=True)
class _Seed:
    r: int = 0x9E3779B97F4A7C1
    x: int = 0


def bundle_seed() -> bytes:
    """A small data bundle (formats/bundle.md)."""
    keys = [b"", b"5", b"http://www.w3.org/2001/XMLSchema#integer", b"https://e.x/limit", b"https://e.x/u", b"https://e.x/{}"]
    placed = place(keys, _Seed())
    if placed is None:
        raise ValueError("the seed of the fuzzed bundle does not serve")
    pilots, remap, order = placed
    strings = [keys[i] for i in order]
    index = {text: i for i, text in enumerate(strings)}
    first = [int(i > index[b"https://e.x/u"]) for i in range(len(strings) + 1)]
    area, offsets = b"".join(strings), [0, *accumulate(map(len, strings))]
    out = struct.pack("<8s4I2Q", b"KNHKBND2", len(strings), 1, len(area), index[b"https://e.x/{}"], _Seed.r, _Seed.x)
    triple = struct.pack("<IIIB3x", index[b"https://e.x/limit"], index[b"5"], index[b"http://www.w3.org/2001/XMLSchema#integer"], 2)
    words = [struct.pack(f"<{len(part)}I", *part) for part in (remap, offsets, first)]
    for part in (struct.pack(f"<{len(pilots)}H", *pilots), *words, area, triple):
        out += bytes(-len(out) % 8) + part
    return out


def _ring_seed() -> bytes:
    o = b"KNO1" + bytes(20)
    record = struct.pack("<QII16sQQIHBB", 1, 256, 1, bytes(16), 5, 7, len(o), 0, 1, 0)
    record += struct.pack("<20sBBBBB3xII", bytes(20), 1, 1, 1, 1, 0, 11, 0)
    record = (record.ljust(128, b"\0") + o + b"KNA1" + bytes(7)).ljust(256, b"\0")
    second = struct.pack("<QII", 257, 64, 2).ljust(64, b"\0")
    return struct.pack("<HH", 320, 0) + record + second


def _leaf(kind: int, flags: int, pack: bytes = b"p" * 20) -> bytes:
    return struct.pack(">6BH32s32s20sQ16sH", 1, kind, 1, 1, 1, flags, 0, bytes(32), bytes(32), pack, 5, bytes(16), 0)


def _record(flags: int, leaves: list[bytes], o: bytes, acts: list[bytes]) -> bytes:
    """A payload of an outbox, with its length in front as fuzz_records.c takes it."""
    made = struct.pack(">BBHQ16s", 1, len(leaves), flags, 7, bytes(16)) + b"".join(leaves)
    made += b"".join(len(each).to_bytes(4, "big") + each for each in (o, *acts))
    return len(made).to_bytes(2, "big") + made


def _records_seeds() -> list[bytes]:
    o = observation(b"{}")
    a = b"KNA1\2\0\0\x09\1\1\0\1\0\0\0\3a b"
    plain, two = _record(0, [_leaf(1, 0)], o, [a]), _record(0, [_leaf(1, 0), _leaf(2, 1)], o, [a, b""])
    sealed = _record(2, [_leaf(1, 0)], b"KNE1" + b"t" * 96, [b"KNA1\1\0\0\1\0\0\0"])
    erased = _record(1, [_leaf(4, 0, bytes(20))], bytes(20), [b""])
    altered = bytes([plain[0] | 0x80]) + plain[1:]
    return [plain + two + sealed + erased, two, sealed + altered, erased + b"\0\4junk" + plain, b""]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "decide": _decide_seeds,
    "batch": lambda: [*_decide_seeds(), *_xml_seeds(), *_ntriples_seeds()],
    "xml": _xml_seeds,
    "ntriples": _ntriples_seeds,
    "bundle": lambda: [bundle_seed(), b"KNHKBND2"],
    "ring": lambda: [_ring_seed(), b""],
    "records": _records_seeds,
    "host": lambda: [random.Random(seed).randbytes(1000) for seed in range(8)],  # any bytes are choices
}
