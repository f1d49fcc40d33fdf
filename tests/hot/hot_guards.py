"""Every form of E and V (formats/guardplan.md) with inputs for which it holds and for which it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hot_plans import ATTR, BLANK, EX, KNHK, Json, a_map, iri, item, lit, mapping, path, prop, ref

MAP = mapping(
    a_map(
        "thing",
        path("things", "*"),
        item("id"),
        prop("s", ref("s", "*")),
        prop("i", ref("i", "*", datatype="integer")),
        prop("d", ref("d", "*", datatype="decimal")),
        prop("t", ref("t", "*", datatype="dateTime")),
        prop("day", ref("day", "*", datatype="date")),
        prop("f", ref("f", "*", datatype="double")),
        prop("b", ref("b", "*", datatype="boolean")),
        prop("en", ref("en", "*", lang="en-GB")),
        prop("de", ref("de", "*", lang="de")),
        prop("l", ref("en", "*", lang="en-GB")),
        prop("l", ref("de", "*", lang="de")),
        prop("l", ref("en2", "*", lang="EN-gb")),
        prop("link", ref("link", "*", node="iri")),
        prop("any", ref("any", "*")),
        prop("other", ref("other", "*")),
        prop("part", {"child": "part"}),
        classes=("Thing",),
    ),
    a_map("part", path("things", "*", "parts", "*"), BLANK, prop("n", ref("n", datatype="integer")), classes=("Part",)),
)
NUM = 10**6
T0 = 1_704_067_200 * NUM  # 2024-01-01T00:00:00Z


def one(**values: Any) -> bytes:
    return json.dumps({"things": [{"id": "1", **values}]}).encode()


def both(name: str, expr: Json, holds: list[bytes], fails: list[bytes], escapes: list[bytes] | None = None) -> Any:
    return pytest.param(expr, holds, fails, escapes or [], id=name)


def every(p: str, test: Json) -> Json:
    return {"op": "all", "p": p if ":" in p else EX + p, "test": test}


def some(p: str, test: Json) -> Json:
    return {"op": "some", "p": p if ":" in p else EX + p, "test": test}


def numeric(low: int | None, high: int | None) -> Json:
    return {"t": "range", "family": "numeric", "min": low, "max": high}


def value(op: str, term: Json) -> Json:
    return {"t": "value", "op": op, "term": term}


def terms(*found: Json) -> Json:
    return {"t": "in", "terms": list(found)}


TRUE, FALSE = {"op": "const", "value": True}, {"op": "const", "value": False}
V1, V0 = {"t": "const", "value": True}, {"t": "const", "value": False}
MANY = [str(i) for i in range(30)]
REQUEST = iri(KNHK + "request")
CASES = [
    both(
        "count at least",
        {"op": "count", "p": EX + "s", "min": 2, "max": None},
        [one(s=["a", "b"]), one(s=MANY)],
        [one(), one(s=["a"]), one(s=["a", "a"])],
    ),
    both("count at most", {"op": "count", "p": EX + "s", "min": 0, "max": 20}, [one(), one(s=MANY[:20])], [one(s=MANY)]),
    both("count none", {"op": "count", "p": EX + "s", "min": 0, "max": 0}, [one()], [one(s=["a"])]),
    both(
        "range",
        every("d", numeric(0, 10 * NUM)),
        [one(), one(d=["0", "10", "9.999999", "-0"])],
        [one(d=["10.000001"]), one(d=["5", "-1"]), one(d=["x"])],
        [one(d=["1.0000001"]), one(d=["1", "999999999999"])],
    ),
    both("range some", some("i", numeric(5 * NUM, None)), [one(i=["1", "5"]), one(i=MANY)], [one(), one(i=["4", "-9"])]),
    both(
        "range of dateTime",
        every("t", {"t": "range", "family": "dateTime", "min": T0, "max": T0}),
        [one(t=["2024-01-01T00:00:00Z"]), one(t=["2024-01-01T01:00:00+01:00"]), one(t=["2023-12-31T24:00:00.000Z"])],
        [one(t=["2024-01-01T00:00:00.000001Z"]), one(t=["2024-01-01"])],
        [one(t=["2024-01-01T00:00:00"])],
    ),
    both(
        "range of date",
        every("day", {"t": "range", "family": "date", "min": 0, "max": 59}),
        [one(day=["1970-01-01", "1970-02-28"])],
        [one(day=["1970-03-02"]), one(day=["1969-12-31"])],
        [one(day=["1970-01-01Z"])],
    ),
    both("range of another family", every("b", numeric(None, None)), [one()], [one(b=["true"])]),
    both("empty range", every("i", numeric(5, 4)), [one()], [one(i=["0"])]),
    both("double", every("f", numeric(None, 2 * NUM)), [one(f=["1.5"])], [one(f=["3"])], [one(f=["1e0"]), one(f=["INF"]), one(f=["NaN"])]),
    both("kind", every("any", {"t": "kind", "kinds": ["iri", "bnode"]}), [one()], [one(any=["x"])]),
    both("kind of links", every("link", {"t": "kind", "kinds": ["iri"]}), [one(link=["https://e.x/a"])], []),
    both("kind of children", every("part", {"t": "kind", "kinds": ["bnode"]}), [one(parts=[{}, {}])], []),
    both(
        "datatype",
        every("i", {"t": "datatype", "iri": "http://www.w3.org/2001/XMLSchema#integer"}),
        [one(i=["1", "-7", "+0"])],
        [one(i=["1.0"]), one(i=["1", ""])],
    ),
    both(
        "datatype as found",
        every("any", {"t": "datatype", "iri": "http://www.w3.org/2001/XMLSchema#boolean"}),
        [one(any=[True])],
        [one(any=["true"]), one(any=[1])],
    ),
    both("length", every("s", {"t": "length", "min": 2, "max": 3}), [one(s=["ab", "äöü", "😀😀"])], [one(s=["a"]), one(s=["abcd"])]),
    both("length of a blank node", every("part", {"t": "length", "min": 0, "max": None}), [one()], [one(parts=[{}])]),
    both("lang", every("l", {"t": "lang", "ranges": ["en", "fr"]}), [one(en=["x"])], [one(de=["x"]), one(en=["x"], de=["y"])]),
    both("lang any", every("l", {"t": "lang", "ranges": ["*"]}), [one(de=["x"])], []),
    both("lang longer", every("l", {"t": "lang", "ranges": ["en-GB-x"]}), [one()], [one(en=["x"])]),
    both("lang of a plain literal", every("s", {"t": "lang", "ranges": ["*"]}), [one()], [one(s=["x"])]),
    both("in one", every("s", terms(lit("EUR"))), [one(s=["EUR"])], [one(s=["EUR", "USD"]), one(s=["EU"])]),
    both(
        "in many",
        every("any", terms(lit("a"), lit("1", "integer"), iri("x"))),
        [one(any=["a", 1])],
        [one(any=["1"]), one(any=[1.0]), one(any=["b"])],
    ),
    both(
        "in some",
        some("link", terms(iri("a"), iri("b"))),
        [one(link=["https://e.x/c", "https://e.x/b"])],
        [one(), one(link=["https://e.x/c"])],
    ),
    both(
        "equal value", every("any", value("eq", lit("1", "integer"))), [one(any=[1, 1.0])], [one(any=[2]), one(any=["1"]), one(any=[True])]
    ),
    both("equal term", every("s", value("eq", lit("x"))), [one(s=["x"])], [one(s=["y"])]),
    both(
        "unequal value",
        every("any", value("ne", lit("1", "integer"))),
        [one(any=[2, 0.5])],
        [one(any=[1]), one(any=[1.0]), one(any=["2"])],
        [one(any=[1e30])],
    ),
    both("unequal string", every("any", value("ne", lit("x"))), [one(any=["y"])], [one(any=["x"]), one(any=[1])]),
    both("unequal iri", every("link", value("ne", iri("a"))), [one(link=["https://e.x/b"])], [one(link=["https://e.x/a"])]),
    both(
        "and of tests",
        some("i", {"t": "and", "args": [numeric(NUM, None), numeric(None, 3 * NUM)]}),
        [one(i=["0", "2"])],
        [one(i=["0", "4"])],
    ),
    both(
        "all of a conjunction",
        every("i", {"t": "and", "args": [numeric(NUM, None), numeric(None, 3 * NUM)]}),
        [one(i=["1", "2"])],
        [one(i=["1", "4"])],
    ),
    both(
        "or of tests",
        every("i", {"t": "or", "args": [numeric(None, 0), numeric(5 * NUM, None)]}),
        [one(i=["-1", "5"])],
        [one(i=["0", "3"])],
    ),
    both("not of a test", every("i", {"t": "not", "arg": numeric(0, 5 * NUM)}), [one(i=["9", "-3"])], [one(i=["9", "3"])]),
    both(
        "xone of tests",
        every("i", {"t": "xone", "args": [numeric(0, None), numeric(None, 5 * NUM), numeric(9 * NUM, None)]}),
        [one(i=["-1", "6"])],
        [one(i=["3"]), one(i=["9"])],
    ),
    both("nested tests", every("i", {"t": "or", "args": [{"t": "and", "args": []}, {"t": "or", "args": []}]}), [one(i=["1"])], []),
    both("constant tests", {"op": "and", "args": [every("i", V1), {"op": "not", "arg": some("i", V0)}]}, [one(i=["1"])], []),
    both("a test that is false", every("s", {"t": "not", "arg": V1}), [one()], [one(s=["x"])]),
    both("self", {"op": "self", "test": {"t": "length", "min": 0, "max": 15}}, [one()], [b'{"things":[{"id":"long-identifier"}]}']),
    both("self in", {"op": "self", "test": terms(iri("i/1"), iri("i/2"))}, [one()], [b'{"things":[{"id":"3"}]}']),
    both(
        "unique languages", {"op": "uniqueLang", "p": EX + "l"}, [one(en=["a"], de=["b"])], [one(en=["a", "b"]), one(en=["a"], en2=["b"])]
    ),
    both(
        "unique",
        {"op": "unique", "p": EX + "s"},
        [b'{"things":[{"id":"1","s":["a","b"]},{"id":"2","s":["c"]}]}'],
        [
            b'{"things":[{"id":"1","s":["a","b"]},{"id":"2","s":["b"]}]}',
            b'{"things":[' + b",".join(b'{"id":"%d","s":["%d"]}' % (i, i % 20) for i in range(21)) + b"]}",
        ],
    ),
    both(
        "equals",
        {"op": "pair", "rel": "equals", "p": EX + "s", "q": EX + "other"},
        [one(), one(s=["a", "b"], other=["b", "a"])],
        [one(s=["a"]), one(s=["a"], other=["b"])],
    ),
    both(
        "disjoint",
        {"op": "pair", "rel": "disjoint", "p": EX + "s", "q": EX + "other"},
        [one(s=["a"], other=["b"])],
        [one(s=MANY, other=["29"])],
    ),
    both(
        "less than",
        {"op": "pair", "rel": "lessThan", "p": EX + "d", "q": EX + "any"},
        [one(d=["1", "2"], any=[3, 4.5]), one(d=["1"])],
        [one(d=["3"], any=[3]), one(d=["1"], any=["2"]), one(d=["1", "4"], any=[3])],
        [one(d=["1"], any=[1e30])],
    ),
    both(
        "less than for strings",
        {"op": "pair", "rel": "lessThan", "p": EX + "s", "q": EX + "other"},
        [one(s=["a"], other=["ab"])],
        [one(s=["é"], other=["z"])],
    ),
    both(
        "less than or equal",
        {"op": "pair", "rel": "lessThanOrEquals", "p": EX + "t", "q": EX + "t"},
        [one(t=["2024-01-01T00:00:00Z"])],
        [one(t=["2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"])],
    ),
    both(
        "closed",
        {"op": "closed", "allowed": ["http://www.w3.org/1999/02/22-rdf-syntax-ns#type", EX + "s"]},
        [one(s=["a"])],
        [one(s=MANY, any=["x"])],
    ),
    both("and", {"op": "and", "args": [TRUE, every("s", terms(lit("a")))]}, [one(s=["a"])], [one(s=["b"])]),
    both("or", {"op": "or", "args": [FALSE, some("s", terms(lit("a")))]}, [one(s=["a"])], [one()]),
    both(
        "xone",
        {"op": "xone", "args": [some("s", V1), some("i", V1), some("d", V1)]},
        [one(s=["a"])],
        [one(), one(s=["a"], i=["1"]), one(s=["a"], i=["1"], d=["1"])],
    ),
    both("not", {"op": "not", "arg": some("s", V1)}, [one()], [one(s=["a"])]),
    both("nothing", {"op": "and", "args": []}, [one()], []),
    both("no alternative", {"op": "or", "args": []}, [], [one()]),
    both("on the request", {"op": "on", "focus": REQUEST, "arg": some(ATTR + "action", terms(lit("create")))}, [one()], []),
    both(
        "for all",
        {"op": "forall", "target": 1, "min": 1, "arg": {"op": "all", "p": EX + "n", "test": numeric(0, None)}},
        [one(parts=[{"n": 1}])],
        [one(), one(parts=[{"n": 1}, {"n": -1}])],
    ),
    both("within", {"op": "within", "p": EX + "d", "rel": "le", "focus": REQUEST, "q": KNHK + "time"}, [], [one(), one(d=["1"])]),
    both(
        "within in time",
        {"op": "within", "p": EX + "t", "rel": "lt", "focus": REQUEST, "q": KNHK + "time"},
        [one(t=["2026-01-01T00:00:00Z"])],
        [one(), one(t=["2027-01-01T00:00:00Z"]), one(t=["2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])],
    ),
    both(
        "within by equality",
        {"op": "within", "p": EX + "s", "rel": "eq", "focus": REQUEST, "q": ATTR + "action"},
        [one(s=["create"])],
        [one(), one(s=["delete"])],
    ),
]
