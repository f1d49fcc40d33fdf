"""Literals and patterns by the standards: XSD 1.1 lexical spaces and order, XPath 3.1 regular expressions."""

from __future__ import annotations

import pytest
from pyoxigraph import Literal, NamedNode

from knhk_runtime.tiers.literals import compare, value_of, well_formed
from knhk_runtime.tiers.names import XSD
from knhk_runtime.tiers.xpath_regex import PatternError, compile_pattern


def lit(text: str, name: str) -> Literal:
    return Literal(text, datatype=NamedNode(XSD + name))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("integer", ["0", "-7", "+007", "9" * 5000], ["", "1.0", " 1", "1e3", "٣"]),
        ("byte", ["-128", "127"], ["128", "-129"]),
        ("unsignedLong", ["18446744073709551615", "-0"], ["18446744073709551616", "-1"]),
        ("positiveInteger", ["1"], ["0"]),
        ("decimal", ["1.", ".5", "-0.0"], [".", "1e3", "INF", "1,5"]),
        ("double", ["1e400", "-INF", "NaN", ".5E-3"], ["+NaN", "inf", "1e", "0x1"]),
        ("boolean", ["true", "0"], ["TRUE", "yes", ""]),
        (
            "date",
            ["2024-02-29", "2000-02-29Z", "-0004-02-29", "12024-02-29"],
            ["2023-02-29", "1900-02-29", "2024-13-01", "24-01-01", "02024-01-01"],
        ),
        (
            "dateTime",
            ["2024-01-01T24:00:00Z", "2024-01-01T00:00:00.123456789+14:00"],
            ["2024-01-01T24:00:01", "2024-01-01", "2024-01-01T00:00:60Z"],
        ),
        ("dateTimeStamp", ["2024-01-01T00:00:00Z"], ["2024-01-01T00:00:00"]),
        ("time", ["23:59:59.9"], ["24:00:01", "1:00:00"]),
        ("gMonthDay", ["--02-29"], ["--02-30"]),
        ("duration", ["P1Y", "-PT0.5S", "P1M2DT3H"], ["P", "P1S", "PT", "1Y", "P-1Y"]),
        ("dayTimeDuration", ["P1DT1H"], ["P1M"]),
        ("yearMonthDuration", ["P1Y2M"], ["P1D"]),
        ("hexBinary", ["", "0aFF"], ["0", "0g"]),
        ("base64Binary", ["", "YQ==", "YW I="], ["Y", "YQ=", "Y*=="]),
        ("language", ["en", "de-CH-1996"], ["", "e_n", "toolonglanguage"]),
        ("NCName", ["a-b.c", "é"], ["a:b", "1a", ""]),
        ("token", ["a b"], [" a", "a  b", "a\tb"]),
        ("string", ["", "\n", "\x00"], []),
    ],
)
def test_lexical_spaces(name: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not well_formed(lit(text, name))] == []
    assert [text for text in bad if well_formed(lit(text, name))] == []


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        (lit("0.1", "decimal"), lit("0.10", "decimal"), 0),
        (lit("9" * 40, "integer"), lit("9" * 39 + "8", "integer"), 1),
        (lit("0.1", "double"), lit("0.1", "decimal"), 0),
        (lit("1e400", "double"), lit("9" * 300, "integer"), 1),
        (lit("1e400", "double"), lit("9" * 400, "integer"), 0),
        (lit("-INF", "double"), lit("0", "integer"), -1),
        (lit("NaN", "double"), lit("NaN", "double"), None),
        (lit("a", "string"), lit("b", "string"), -1),
        (lit("1", "string"), lit("1", "integer"), None),
        (lit("false", "boolean"), lit("1", "boolean"), -1),
        (lit("2024-01-01T00:00:00Z", "dateTime"), lit("2024-01-01T01:00:00+01:00", "dateTime"), 0),
        (lit("2024-01-01T24:00:00Z", "dateTime"), lit("2024-01-02T00:00:00Z", "dateTime"), 0),
        (lit("2024-01-01T00:00:00", "dateTime"), lit("2024-01-01T13:00:00Z", "dateTime"), None),
        (lit("2024-01-01T00:00:00", "dateTime"), lit("2024-01-01T14:00:01Z", "dateTime"), -1),
        (lit("2024-01-31", "date"), lit("2024-02-01", "date"), -1),
        (lit("-0001-12-31", "date"), lit("0000-01-01", "date"), -1),
        (lit("P1M", "duration"), lit("P30D", "duration"), None),
        (lit("P1M", "duration"), lit("P32D", "duration"), -1),
        (lit("PT60S", "duration"), lit("PT1M", "duration"), 0),
        (lit("x", "integer"), lit("1", "integer"), None),
        (Literal("a", language="en"), Literal("a", language="en"), None),
    ],
)
def test_order(left: Literal, right: Literal, order: int | None) -> None:
    a, b = value_of(left), value_of(right)
    found = None if a is None or b is None else compare(a, b)
    assert found == order
    mirrored = None if a is None or b is None else compare(b, a)
    assert mirrored == (None if order is None else -order)


@pytest.mark.parametrize(
    ("pattern", "flags", "matches", "misses"),
    [
        ("^a$", "", ["a"], ["a\n", "b\na"]),
        ("^a$", "m", ["b\na"], ["ab"]),
        ("a.b", "", ["axb"], ["a\nb", "a\rb"]),
        ("a.b", "s", ["a\nb"], []),
        ("^\\p{Lu}\\P{L}$", "", ["Ä1"], ["ä1", "AB"]),
        ("^[a-z-[aeiou]]+$", "", ["xyz"], ["xay"]),
        ("^[^a-z-[0-9]]$", "", ["A"], ["5", "b"]),
        ("^\\d$", "", ["٣"], ["a"]),
        ("^\\w+$", "", ["a1é"], ["a-b"]),
        ("^\\s$", "", ["\t"], ["\u00a0"]),
        ("^\\i\\c*$", "", ["a:b-1"], ["1a"]),
        ("^(a|b)\\1$", "", ["aa"], ["ab"]),
        ("a b", "x", ["ab"], ["a b"]),
        ("a.b", "q", ["a.b"], ["axb"]),
        ("ABC", "i", ["abc"], ["ab"]),
        ("^\\p{IsBasicLatin}+$", "", ["abc"], ["é"]),
        ("^(?:ab)+?$", "", ["abab"], ["aba"]),
        ("^[\\]\\-x]$", "", ["]", "-"], ["y"]),
    ],
)
def test_patterns_mean_what_xpath_says(pattern: str, flags: str, matches: list[str], misses: list[str]) -> None:
    compiled = compile_pattern(pattern, flags)
    assert [text for text in matches if not compiled.search(text)] == []
    assert [text for text in misses if compiled.search(text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)",
        "(?P<n>a)",
        "(?i)a",
        "a**",
        "a{2,1}",
        "*a",
        "[b-a]",
        "[]",
        "[a",
        "(a",
        "a)",
        "\\q",
        "\\2(a)",
        "(a\\1)",
        "\\p{Xx}",
        "\\p{IsKlingon}",
        "a{99999}",
        "\\",
    ],
)
def test_what_xpath_does_not_allow_is_refused_when_loaded(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)
    with pytest.raises(PatternError):
        compile_pattern("a", "g")
