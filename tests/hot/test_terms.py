"""Lexical forms and scaled values: the engine (terms.c) and the emitter's table of constants (emit_terms.py) say the same."""

from __future__ import annotations

import datetime
import json
from itertools import product

import pytest
from hot_plans import EX, XSD, a_map, failing, guard, item, lit, mapping, plan, prop, ref
from hot_wire import observation

from knhk_gen.emit_terms import DATATYPES, FAMILIES, value_of

FORMS = [
    "", " ", "0", "-0", "+0", "1", "-1", "+1", "01", "1 ", " 1", "1.", ".1", ".", "+", "-", "+-1", "1.0", "1.000000",
    "1.0000000", "-1.5", "1e3", "1E-3", "1e", "1e+", "e1", "1.5e0", "INF", "+INF", "-INF", "inf", "NaN", "nan", "0x1", "1_000",
    "１", "127", "128", "-128", "-129", "255", "256", "32767", "32768", "65535", "65536", "2147483647", "2147483648",
    "-2147483648", "-2147483649", "4294967295", "4294967296", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "-9223372036854775809", "18446744073709551615", "18446744073709551616", "-18446744073709551616",
    "99999999999999999999999999999999999999", "-99999999999999999999999999", "000000000000000000000000000000001",
    "576460752303", "576460752303.423487", "576460752303.423488", "-576460752303.423488", "999999999999999", "1000000000000000",
    "123456789.123456", "0.123456", "0.1234567", "0.000001", "123456789012345", "16777216", "16777217", "true", "false", "TRUE",
    "True", "2", "2024-02-29", "2023-02-29", "2000-02-29", "1900-02-29", "2024-13-01", "2024-00-01", "2024-01-32", "2024-1-1",
    "2024-04-31", "0000-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "010000-01-01", "12345678904-02-29", "12345678901-02-29",
    "2000000000000000000000100-02-29", "-0044-03-15", "2024-01-01Z",
    "2024-01-01+14:00", "2024-01-01+14:01", "2024-01-01-05:30", "2024-01-01z", "1969-12-31", "1970-01-01",
    "2024-01-01T00:00:00", "2024-01-01T00:00:00Z", "2024-01-01T24:00:00Z", "2024-01-01T24:00:01Z", "2024-01-01T24:00:00.0Z",
    "2024-01-01T24:00:00.1Z", "2024-01-01T23:59:60Z", "2024-01-01T23:59:59.999999Z", "2024-01-01T23:59:59.9999999Z",
    "2024-01-01T00:00:00.Z", "2024-01-01T00:00:00+01:00", "2024-01-01T00:00:00-13:59", "2024-01-01T00:00:00-14:01",
    "2024-01-01T00:00Z", "2024-01-01 00:00:00Z", "2024-01-01t00:00:00Z", "1900-03-01T00:00:00Z", "10000-01-01T00:00:00Z",
    "2024-02-30T00:00:00Z", "-2024-01-01T00:00:00Z", "00:00:00", "24:00:00", "24:00:01", "12:34:56.789Z", "12:34", "2024",
    "-2024", "02024", "20240", "2024-01", "2024-13", "2024Z", "--02-29", "--02-30", "--04-31", "--12", "--13", "---31", "---32",
    "---00", "--1", "P1Y", "P", "PT", "P1Y2M3DT4H5M6.7S", "-P1D", "P1S", "PT1S", "P1M1Y", "PT1.5M", "P1YT", "P1H", "PT1M",
    "P1M", "P1D", "PT.5S", "PT5.S", "P-1D", "en", "en-GB", "en-", "-en", "toolonglanguage", "e1", "en-1", "a b", "a  b", " a",
    "a ", "a\tb", "a\nb", "ab", "abc", "AB", "AQ==", "AR==", "AAE=", "AAF=", "A===", "====", "AAAA", "AA=A", "https://e.x/",
    "not a uri", "é", "😀",
]  # fmt: skip
PLAN = plan(
    [guard(f"{name}", {"op": "all", "p": EX + name, "test": {"t": "datatype", "iri": XSD + name}}) for name in DATATYPES],
    [mapping(a_map("m", [], item("id"), *(prop(name, ref("v", datatype=name)) for name in DATATYPES), classes=("Thing",)))],
)


@pytest.mark.parametrize("form", FORMS)
def test_validity(form: str) -> None:
    wanted = {name for name in DATATYPES if not value_of(form, XSD + name).valid}
    assert failing(PLAN, observation(json.dumps({"id": "1", "v": form}).encode())) == wanted


VALUED = ("decimal", "integer", "long", "double", "float", "date", "dateTime", "boolean")
CANONICAL = {1: "decimal", 2: "date", 3: "dateTime", 4: "boolean"}


def spelled(family: int, scaled: int) -> str:
    """Another spelling of a scaled value, in the family's plainest datatype."""
    if family == FAMILIES["numeric"]:
        return f"{'-' if scaled < 0 else '+'}{abs(scaled) // 10**6:03}.{abs(scaled) % 10**6:06}"
    if family == FAMILIES["boolean"]:
        return str(scaled)
    if family == FAMILIES["date"]:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(scaled)).isoformat()
    text = (datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=scaled)).isoformat(timespec="microseconds")
    return text + "-00:00"


def test_values() -> None:
    """`value eq` of each exact form with another spelling of the same value and of the next one; inexact forms escape."""
    exact = escaped = 0
    both = a_map("m", [], item("id"), *(prop(name, ref(name, datatype=name)) for name in VALUED), classes=("Thing",))
    for form, name in product(FORMS, VALUED):
        value = value_of(form, XSD + name)
        if not value.valid or value.family == 0 or (len(form) > 20 and not value.scaled):
            continue
        scaled = 0 if value.scaled is None else value.scaled
        same = lit(spelled(value.family, scaled), CANONICAL[value.family])
        if value_of(same["v"], same["dt"]).scaled != scaled:
            continue  # the plain spelling itself needs more digits than are exact
        expr = {"op": "all", "p": EX + name, "test": {"t": "value", "op": "eq", "term": same}}
        found = failing(plan([guard("g", expr)], [mapping(both)]), observation(json.dumps({"id": "1", name: form}).encode()))
        assert found == (2 if value.scaled is None else set()), (form, name)
        exact += value.scaled is not None
        escaped += value.scaled is None
        if exact + escaped > 60:
            break
    assert exact > 10
    assert escaped > 3
