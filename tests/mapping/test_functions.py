"""Functions of mappings: each form that it must read, and what it must refuse. The functions run compiled."""

from __future__ import annotations

import datetime
import decimal
import json
import random

import pytest
from mapped import Denied, faults, objects

XSD = "http://www.w3.org/2001/XMLSchema#"
HEAD = 'prefixes: {ex: "https://e.x/"}\n'
AMOUNTS = ["", "1.23,4", "1,2,3", "1.2345,0", "12,", ",5", "--1", "1-+", "1e3", "x", "1.234.56,0", ".123,0"]
DAYS = ["20230229", "19000229", "20250431", "20241301", "20240100", "2024010", "202401011", "00000101", "2024O101", ""]
MOMENTS = ["20240101240000Z", "20240101006000Z", "20240101000000+1401", "20240101000000", "20240101000000z", "20240101000000+02:"]
DOTNET = ["/Date()/", "/Date(1)", "Date(1)/", "/Date(1+00:00)/", "/Date(1+00)/", "/Date(99999999999999999)/", "/Date(1)//"]
LISTS = 'codeLists:\n  iri: {A: ex:Open}\n  st: {A: "ex:Open", B: "ex:Paid", "é/\\"": "x"}\n  or: {T: "true", "*": "false"}\n'


def mapping(functions: str, rest: str = "") -> str:
    properties = f"{{ex:p: {{path: v, as: {functions}{rest}}}}}"
    return f"{HEAD}{LISTS}maps:\n  - {{id: m, iterator: $, subject: {{constant: ex:s}}, properties: {properties}}}\n"


def run(functions: str, value: object, rest: str = "") -> list[str] | Denied:
    return objects(mapping(functions, rest), json.dumps({"v": value}).encode())


def typed(text: str, datatype: str) -> list[str]:
    return [f'"{text}"^^<{XSD}{datatype}>']


CASES = [
    ("trim", " \t a b \n", ['"a b"']),
    ("trim", "  ", ['""']),
    ("stripZeros", "0000001000", ['"1000"']),
    ("stripZeros", "0000", ['"0"']),
    ("stripZeros", "", ['""']),
    ("upper", "aZé9", ['"AZé9"']),
    ("lower", "aZÉ9", ['"azÉ9"']),
    ("{absentIf: '00000000'}", "00000000", []),
    ("{absentIf: ''}", "", []),
    ("{absentIf: ''}", "x", ['"x"']),
    ("{prefix: 'https://e.x/a b'}", "1", ['"https://e.x/a b1"']),
    ("percentEncode", "a b/é", ['"a%20b%2F%C3%A9"']),
    ("[trim, stripZeros, {prefix: 'K-'}]", " 007 ", ['"K-7"']),
    ("{codes: st}", "B", ['"ex:Paid"']),
    ("{codes: st}", 'é/"', ['"x"']),
    ("{codes: or}", "N", ['"false"']),
    ("{codes: or}", "T", ['"true"']),
    ("decimalComma", "1.234.567,50-", typed("-1234567.5", "decimal")),
    ("decimalComma", " 12,00 ", typed("12", "decimal")),
    ("decimalComma", "0,00-", typed("0", "decimal")),
    ("decimalPoint", "1,234.50", typed("1234.5", "decimal")),
    ("decimalPoint", "+007.10", typed("7.1", "decimal")),
    ("decimalPoint", "-0.05", typed("-0.05", "decimal")),
    ("decimalPoint", 12.50, typed("12.5", "decimal")),
    ("decimalPoint", "100", typed("100", "decimal")),
    ("{date: YYYYMMDD}", "20240229", typed("2024-02-29", "date")),
    ("{date: YYYYMMDD}", "20000229", typed("2000-02-29", "date")),
    ("{date: M/D/YYYY}", "2/9/2024", typed("2024-02-09", "date")),
    ("{date: 'YYYY-MM-DD*'}", "2017-05-07 0:00:00", typed("2017-05-07", "date")),
    ("{date: DD.MM.YYYY}", "31.12.1999", typed("1999-12-31", "date")),
    ("{dateTime: 'YYYY-MM-DD h:mm:ss', zone: Z}", "2017-05-07 0:34:43", typed("2017-05-07T00:34:43Z", "dateTime")),
    ("{dateTime: 'YYYY-MM-DDThh:mm:ss.fZ'}", "2017-05-07T10:34:43.120+0530", typed("2017-05-07T10:34:43.12+05:30", "dateTime")),
    ("{dateTime: 'YYYYMMDDhhmmss'}", "20170507103443", typed("2017-05-07T10:34:43", "dateTime")),
    ("{dateTime: 'YYYY-MM-DDThh:mm:ssZ'}", "2017-05-07T10:34:43-08", typed("2017-05-07T10:34:43-08:00", "dateTime")),
    ("dotNetDate", "/Date(1539993600000+0000)/", typed("2018-10-20", "date")),
    ("dotNetDate", "/Date(1539993600000-0100)/", typed("2018-10-19", "date")),
    ("dotNetDateTime", "/Date(1573755038314)/", typed("2019-11-14T18:10:38.314Z", "dateTime")),
    ("dotNetDateTime", "/Date(-1)/", typed("1969-12-31T23:59:59.999Z", "dateTime")),
    ("epochMillis", 1407460071043, typed("2014-08-08T01:07:51.043Z", "dateTime")),
    ("epochSeconds", "0", typed("1970-01-01T00:00:00Z", "dateTime")),
    ("epochSeconds", -62135596800, typed("0001-01-01T00:00:00Z", "dateTime")),
]


@pytest.mark.parametrize(("functions", "value", "wanted"), CASES)
def test_a_function_gives(functions: str, value: object, wanted: list[str]) -> None:
    assert run(functions, value) == wanted


REFUSED = [
    ("{codes: st}", ["", "a", "A ", "AB"], "must be a code of the mapping's list"),
    ("decimalComma", AMOUNTS, "must be an amount such as 1.234,56"),
    ("decimalPoint", ["1.2.3", "1,23.4", "12 3", "0x1"], "must be an amount such as 1,234.56"),
    ("{date: YYYYMMDD}", DAYS, "must be a date in the form"),
    ("{dateTime: 'YYYYMMDDhhmmssZ'}", MOMENTS, "must be a date and time"),
    ("dotNetDate", DOTNET, "must be a date such as"),
    ("epochMillis", ["1.5", "", "-", "999999999999999999999", 253402300800000], "must be milliseconds"),
    ("epochSeconds", [253402300800, "1e3"], "must be seconds"),
]  # fmt: skip


@pytest.mark.parametrize(("functions", "values", "must"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_function_refuses(functions: str, values: list[object], must: str) -> None:
    for value in values:
        found = run(functions, value)
        assert isinstance(found, Denied), value
        assert found.must.startswith(must)
        assert found.path == "/v"


def test_moments_are_those_of_the_calendar() -> None:
    rng = random.Random(5)
    for _ in range(300):
        moment = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=rng.randrange(315537897599999))
        millis = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
        fraction = f".{moment.microsecond // 1000:03}".rstrip("0").rstrip(".")
        wanted = f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}{fraction}Z"
        assert run("epochMillis", millis) == typed(wanted, "dateTime")


def test_amounts_are_canonical_decimals() -> None:
    rng = random.Random(6)
    for _ in range(300):
        value = decimal.Decimal(rng.randrange(-(10**9), 10**9)) / 10 ** rng.randrange(5)
        plain = f"{value:f}"
        canonical = plain.rstrip("0").rstrip(".") if "." in plain else plain
        assert run("decimalPoint", f"{value:,f}") == typed("0" if canonical == "-0" else canonical, "decimal")


def test_a_declared_datatype_and_node_win_over_the_natural_one() -> None:
    assert run("{date: YYYYMMDD}", "20240101", ", datatype: ex:day") == ['"2024-01-01"^^<https://e.x/day>']
    assert run("{codes: iri}", "A", ", node: iri") == ["<https://e.x/Open>"]
    found = run("trim", "x", ", node: iri")
    assert isinstance(found, Denied)
    assert found.must == "must be an absolute IRI"


def test_functions_in_subjects_and_templates() -> None:
    text = HEAD + (
        "maps:\n  - {id: m, iterator: $, subject: {reference: k, as: [stripZeros, percentEncode, {prefix: 'https://e.x/k/'}]},"
        " properties: {ex:t: {template: 'https://e.x/t/{k|stripZeros}', node: iri}}}\n"
    )
    assert objects(text, b'{"k": "00a b"}') == ["<https://e.x/t/a%20b>"]


WRONG = [
    ("nope", "m.yaml:7: nope: must be one of trim"),
    ("date", "must be written {date: pattern}"),
    ("{trim: x}", "must be written trim, without argument"),
    ("{date: YYMMDD}", "YYMMDD: must be a pattern of YYYY"),
    ("{date: YYYY-MM}", "must hold year, month and day"),
    ("{date: 'YYYYMMDDhh'}", "must hold no time"),
    ("{dateTime: YYYYMMDD, zone: CET}", "CET: must be Z or an offset"),
    ("{date: YYYYMMDD, zone: Z}", "zone: must stand beside dateTime"),
    ("{codes: none}", "none: must be a list of codeLists with entries: iri, st, or"),
    ("{trim: x, upper: y}", "must be one function"),
    ("[trim, trim, trim, trim, trim, trim, trim, trim, trim]", "must go through at most 8 functions"),
]


@pytest.mark.parametrize(("functions", "fault"), WRONG)
def test_a_fault_names_its_line(functions: str, fault: str) -> None:
    found = faults(mapping(functions))
    assert any(fault in f for f in found), found
    assert all(f.startswith("m.yaml:7:") for f in found)
