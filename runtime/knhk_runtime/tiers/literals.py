"""Literals by XSD 1.1 and SPARQL 1.1: which lexical forms are valid, and which of two values is less.

Two rules that keep this tier equal to the R1 tables: xsd:float counts as xsd:double, and a value without time zone is
comparable with one that has it only where the 14 hours of XSD leave no doubt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal as OneOf

from pyoxigraph import Literal

from knhk_runtime.tiers.names import RDF, XSD

Order = OneOf[-1, 0, 1]

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)\Z")
_DOUBLE = re.compile(r"([+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?INF|NaN)\Z")
_ZONE = r"(?P<zone>Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))?"
_YEAR = r"(?P<year>-?(?:[1-9][0-9]{3,}|0[0-9]{3}))"
_MONTH = r"(?P<month>0[1-9]|1[0-2])"
_DAY = r"(?P<day>0[1-9]|[12][0-9]|3[01])"
_TIME = r"(?:(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9](?:\.[0-9]+)?)|(?P<midnight>24:00:00(?:\.0+)?))"
_MOMENTS = {
    "dateTime": re.compile(f"{_YEAR}-{_MONTH}-{_DAY}T{_TIME}{_ZONE}\\Z"),
    "date": re.compile(f"{_YEAR}-{_MONTH}-{_DAY}{_ZONE}\\Z"),
    "time": re.compile(f"{_TIME}{_ZONE}\\Z"),
    "gYearMonth": re.compile(f"{_YEAR}-{_MONTH}{_ZONE}\\Z"),
    "gYear": re.compile(f"{_YEAR}{_ZONE}\\Z"),
    "gMonthDay": re.compile(f"--{_MONTH}-{_DAY}{_ZONE}\\Z"),
    "gDay": re.compile(f"---{_DAY}{_ZONE}\\Z"),
    "gMonth": re.compile(f"--{_MONTH}{_ZONE}\\Z"),
}
_DURATION = re.compile(
    r"(?P<sign>-?)P(?=[0-9T])(?:(?P<years>[0-9]+)Y)?(?:(?P<months>[0-9]+)M)?(?:(?P<days>[0-9]+)D)?"
    r"(?:T(?=[0-9])(?:(?P<hours>[0-9]+)H)?(?:(?P<minutes>[0-9]+)M)?(?:(?P<seconds>[0-9]+(?:\.[0-9]+)?)S)?)?\Z"
)
_NAME_START = (
    "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f"
    "\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NAME_MORE = _NAME_START + "\\-.0-9\u00b7\u0300-\u036f\u203f-\u2040"
NAME_START_CHARS, NAME_CHARS = _NAME_START, _NAME_MORE

_INTEGER_BOUNDS: dict[str, tuple[int | None, int | None]] = {
    "integer": (None, None),
    "nonPositiveInteger": (None, 0),
    "negativeInteger": (None, -1),
    "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None),
    "long": (-(2**63), 2**63 - 1),
    "int": (-(2**31), 2**31 - 1),
    "short": (-(2**15), 2**15 - 1),
    "byte": (-128, 127),
    "unsignedLong": (0, 2**64 - 1),
    "unsignedInt": (0, 2**32 - 1),
    "unsignedShort": (0, 2**16 - 1),
    "unsignedByte": (0, 255),
}
_FLOATS = frozenset({"double", "float"})
BOOLEAN_OR_NUMERIC = frozenset(XSD + name for name in ("boolean", "decimal", *_FLOATS, *_INTEGER_BOUNDS))
_DURATIONS = frozenset({"duration", "yearMonthDuration", "dayTimeDuration"})

_PATTERNS = {
    "boolean": re.compile(r"(?:true|false|0|1)\Z"),
    "decimal": _DECIMAL,
    "double": _DOUBLE,
    "float": _DOUBLE,
    "hexBinary": re.compile(r"(?:[0-9A-Fa-f]{2})*\Z"),
    "normalizedString": re.compile(r"[^\t\n\r]*\Z"),
    "token": re.compile(r"(?:[^\t\n\r ]+(?: [^\t\n\r ]+)*)?\Z"),
    "language": re.compile(r"[a-zA-Z]{1,8}(?:-[a-zA-Z0-9]{1,8})*\Z"),
    "Name": re.compile(f"[:{_NAME_START}][:{_NAME_MORE}]*\\Z"),
    "NCName": re.compile(f"[{_NAME_START}][{_NAME_MORE}]*\\Z"),
    "NMTOKEN": re.compile(f"[:{_NAME_MORE}]+\\Z"),
    "base64Binary": re.compile(
        r"(?:(?:[A-Za-z0-9+/] ?){4})*(?:(?:[A-Za-z0-9+/] ?){3}[A-Za-z0-9+/]"
        r"|(?:[A-Za-z0-9+/] ?){2}[AEIMQUYcgkosw048] ?=|[A-Za-z0-9+/] ?[AQgw] ?= ?=)?\Z"
    ),
    "QName": re.compile(f"(?:[{_NAME_START}][{_NAME_MORE}]*:)?[{_NAME_START}][{_NAME_MORE}]*\\Z"),
}


def _valid_integer(text: str, bounds: tuple[int | None, int | None]) -> bool:
    if not _INTEGER.match(text):
        return False
    low, high = bounds
    value = Decimal(text)
    return (low is None or value >= low) and (high is None or value <= high)


def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _valid_moment(text: str, kind: str) -> bool:
    found = _MOMENTS[kind].match(text)
    if not found:
        return False
    parts = found.groupdict()
    if "day" not in parts or "month" not in parts:
        return True
    year = _year_in_cycle(parts["year"]) if parts.get("year") else 2000
    return int(parts["day"]) <= _month_days(year, int(parts["month"]))


def _year_in_cycle(text: str) -> int:
    """Years repeat their calendar every 400 years, and 400 divides 10,000: the last four digits are enough for years of any length."""
    last = int(text[-4:])
    return (-last if text.startswith("-") else last) % 400


def _valid_duration(text: str, kind: str) -> bool:
    found = _DURATION.match(text)
    if not found:
        return False
    parts = found.groupdict()
    if kind == "yearMonthDuration":
        return all(parts[name] is None for name in ("days", "hours", "minutes", "seconds"))
    if kind == "dayTimeDuration":
        return parts["years"] is None and parts["months"] is None
    return True


def well_formed(literal: Literal) -> bool:
    """Whether the lexical form is in the lexical space of the datatype; True for datatypes that are not known here."""
    iri = literal.datatype.value
    if not iri.startswith(XSD):
        return iri != RDF + "langString" or bool(literal.language)
    name = iri[len(XSD) :]
    if name in _INTEGER_BOUNDS:
        return _valid_integer(literal.value, _INTEGER_BOUNDS[name])
    if name in _MOMENTS:
        return _valid_moment(literal.value, name)
    if name == "dateTimeStamp":
        return _valid_moment(literal.value, "dateTime") and bool(_ZONE_AT_END.search(literal.value))
    if name in _DURATIONS:
        return _valid_duration(literal.value, name)
    pattern = _PATTERNS.get(name)
    return pattern is None or bool(pattern.match(literal.value))


_ZONE_AT_END = re.compile(r"(?:Z|[+-][0-9]{2}:[0-9]{2})\Z")


@dataclass(frozen=True)
class Value:
    """A literal as a comparable value. `family` values of one name compare; `exact` is a Decimal, text or tuple by family."""

    family: str
    exact: Decimal | Fraction | str | bool | tuple[int, Fraction] | None
    double: float | None = None
    zoned: bool = True

    @property
    def not_a_number(self) -> bool:
        """NaN, which is neither equal to, nor less than, anything."""
        return self.double is not None and math.isnan(self.double)


def value_of(literal: Literal) -> Value | None:
    """The value of a well-formed literal of a comparable datatype, else None."""
    if literal.language is not None or not well_formed(literal):
        return None
    iri = literal.datatype.value
    if not iri.startswith(XSD):
        return None
    name = iri[len(XSD) :]
    if name in _INTEGER_BOUNDS or name == "decimal":
        return Value("numeric", Decimal(literal.value))
    reader = _READERS.get("dateTime" if name == "dateTimeStamp" else name)
    return reader(literal.value) if reader else None


def _read_double(text: str) -> Value:
    number = float(text.replace("INF", "inf"))
    exact = Decimal(text) if math.isfinite(number) and len(text) <= 400 else None
    return Value("numeric", exact, number)


def _read_boolean(text: str) -> Value:
    return Value("boolean", text in ("true", "1"))


def _read_string(text: str) -> Value:
    return Value("string", text)


_YEAR_OF_NONE = 1972  # XSD's reference: a leap year, for values without a year
_LONGEST_MOMENT = 64  # characters; a longer one has no value here and compares with nothing


def _days(year: int, month: int, day: int) -> int:
    """Days of the proleptic Gregorian calendar before this one, counted from 0000-03-01."""
    shifted = year - 1 if month < 3 else year
    era, in_era = divmod(shifted, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + in_era * 365 + in_era // 4 - in_era // 100 + of_year


def _read_moment(kind: str) -> Callable[[str], Value | None]:
    def read(text: str) -> Value | None:
        found = _MOMENTS[kind].match(text)
        if found is None or len(text) > _LONGEST_MOMENT:
            return None
        parts = found.groupdict()
        days = _days(int(parts.get("year") or _YEAR_OF_NONE), int(parts.get("month") or 12), int(parts.get("day") or 31))
        zone = parts["zone"]
        return Value(kind, days * 86400 + _clock(parts) - _offset(zone), zoned=zone is not None)

    return read


def _clock(parts: dict[str, str | None]) -> Fraction:
    """Seconds of the day; 24:00:00 is the next day's first moment."""
    if parts.get("midnight"):
        return Fraction(86400)
    hour, minute, second = (Fraction(parts.get(name) or 0) for name in ("hour", "minute", "second"))
    return hour * 3600 + minute * 60 + second


def _offset(zone: str | None) -> int:
    """Seconds east of UTC."""
    if zone is None or zone == "Z":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return -seconds if zone[0] == "-" else seconds


def _read_duration(text: str) -> Value | None:
    found = _DURATION.match(text)
    if found is None or len(text) > _LONGEST_MOMENT:
        return None
    number = {name: Fraction(part) for name, part in found.groupdict(default="0").items() if name != "sign"}
    sign = -1 if found["sign"] else 1
    months = int(number["years"] * 12 + number["months"])
    seconds = number["days"] * 86400 + number["hours"] * 3600 + number["minutes"] * 60 + number["seconds"]
    return Value("duration", (sign * months, sign * seconds))


_READERS: dict[str, Callable[[str], Value | None]] = {
    "double": _read_double,
    "float": _read_double,
    "boolean": _read_boolean,
    "string": _read_string,
    **{kind: _read_moment(kind) for kind in _MOMENTS},
    **dict.fromkeys(_DURATIONS, _read_duration),
}


def compare(left: Value, right: Value) -> Order | None:
    """-1, 0 or 1 when the left value is less, equal or greater; None when the two are not comparable."""
    if left.family != right.family:
        return None
    if left.family == "numeric":
        return _compare_numbers(left, right)
    if left.family == "duration":
        return _compare_durations(left, right)
    if left.zoned != right.zoned:
        return _compare_across_zones(left, right)
    return _order(left.exact, right.exact)


def _order(left: object, right: object) -> Order:
    return -1 if left < right else 1 if left > right else 0  # type: ignore[operator]


def _compare_numbers(left: Value, right: Value) -> Order | None:
    if left.double is None and right.double is None:
        return _order(left.exact, right.exact)
    a, b = _as_double(left), _as_double(right)
    return None if math.isnan(a) or math.isnan(b) else _order(a, b)


def _as_double(value: Value) -> float:
    if value.double is not None:
        return value.double
    assert isinstance(value.exact, Decimal)
    try:
        return float(value.exact)
    except OverflowError:
        return math.copysign(math.inf, value.exact)


_DURATION_ANCHORS = ((1696, 9), (1697, 2), (1903, 3), (1903, 7))


def _compare_durations(left: Value, right: Value) -> Order | None:
    """XSD: less only when less from each of four starting months."""
    orders = {_order(_span(left, *start), _span(right, *start)) for start in _DURATION_ANCHORS}
    return orders.pop() if len(orders) == 1 else None


def _span(value: Value, year: int, month: int) -> Fraction:
    """Seconds that the duration spans when it starts at the first of this month."""
    assert isinstance(value.exact, tuple)
    months, seconds = value.exact
    end_year, end_month = divmod(year * 12 + (month - 1) + months, 12)
    return (_days(end_year, end_month + 1, 1) - _days(year, month, 1)) * 86400 + seconds


_DOUBT_S = 14 * 3600


def _compare_across_zones(left: Value, right: Value) -> Order | None:
    assert isinstance(left.exact, Fraction)
    assert isinstance(right.exact, Fraction)
    if left.exact < right.exact - _DOUBT_S:
        return -1
    return 1 if left.exact > right.exact + _DOUBT_S else None
