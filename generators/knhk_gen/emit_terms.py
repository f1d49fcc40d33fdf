"""Strings, terms and scaled values as the numbers that the engine uses (hot_c/include/knhk_tables.h, hot_c/src/terms.c).

A term is ``kind << 60 | second << 32 | string``; its lanes are value and meta. Constants get their lanes here, values of inputs get
theirs in C; tests/hot holds the two against each other.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knhk_gen.perfect import Seed, hash64

MASK64 = (1 << 64) - 1
XSD = "http://www.w3.org/2001/XMLSchema#"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
KNHK = "https://knhk.dev/ns#"
ATTRIBUTE = "https://knhk.dev/ns/attr#"

DATATYPES = (
    "string", "boolean", "decimal", "integer", "double", "float", "date", "dateTime",
    "time", "gYear", "gYearMonth", "gMonthDay", "gDay", "gMonth", "anyURI",
    "nonNegativeInteger", "positiveInteger", "nonPositiveInteger", "negativeInteger",
    "long", "int", "short", "byte",
    "unsignedLong", "unsignedInt", "unsignedShort", "unsignedByte",
    "normalizedString", "token", "language", "duration", "dayTimeDuration", "yearMonthDuration",
    "hexBinary", "base64Binary", "dateTimeStamp",
)  # fmt: skip
WELL_KNOWN = (
    "", RDF + "type", RDF + "langString", KNHK + "request", KNHK + "caller", KNHK + "region",
    KNHK + "route", KNHK + "time", *(XSD + name for name in DATATYPES),
)  # fmt: skip
IRI, BNODE, LITERAL, LANG = 1, 2, 3, 4
META_IRI, META_BNODE, META_LITERAL, META_VALID = 1, 2, 4, 8
DATATYPE_MASK = 0xFFFFFF << 8
LENGTH_MAX = 0xFFFFFF
FAMILIES = {"numeric": 1, "date": 2, "dateTime": 3, "boolean": 4}
INEXACT = 8
BIAS = 1 << 59
STRINGS_MAX = 1 << 23


class EmitError(ValueError):
    """A plan that cannot become tables: a fault of the compiler, not of the author."""


def name_bit(name: bytes) -> int:
    """KNHK_NAME_BIT of knhk_tables.h: the bit of a member's name in its state's filter."""
    head = int.from_bytes(name[:8], "little")
    return (head * 0x9E3779B97F4A7C15 + len(name) * 0xBF58476D1CE4E5B9 & MASK64) >> 58


# ---- lexical forms (XSD 1.1 part 2) ----

_ZONE = r"(Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00))?"
_YEAR = r"(-?(?:[1-9]\d{3,}|0\d{3}))"
_CLOCK = r"(?:([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(\.\d+)?|(24):00:00(?:\.0+)?)"
_INTEGER = re.compile(r"([+-]?)(\d+)", re.ASCII)
_DECIMAL = re.compile(r"([+-]?)(?=\.?\d)(\d*)(?:\.(\d*))?", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(?=\.?\d)\d*(?:\.\d*)?(?:[Ee][+-]?\d+)?|[+-]?INF|NaN", re.ASCII)
_DATE = re.compile(_YEAR + r"-(\d\d)-(\d\d)" + _ZONE, re.ASCII)
_DATETIME = re.compile(_YEAR + r"-(\d\d)-(\d\d)T" + _CLOCK + _ZONE, re.ASCII)
_DAYTIME = r"(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?"
_PLAIN: Mapping[str, str] = {
    "time": _CLOCK + _ZONE,
    "gYear": _YEAR + _ZONE,
    "gYearMonth": _YEAR + r"-(0[1-9]|1[0-2])" + _ZONE,
    "gMonth": r"--(0[1-9]|1[0-2])" + _ZONE,
    "gDay": r"---(0[1-9]|[12]\d|3[01])" + _ZONE,
    "gMonthDay": r"--(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|[12]\d))" + _ZONE,
    "normalizedString": r"[^\t\n\r]*",
    "token": r"(?:[^\t\n\r ]+(?: [^\t\n\r ]+)*)?",
    "language": r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*",
    "duration": r"-?P(?=[\dT])(?:\d+Y)?(?:\d+M)?" + _DAYTIME,
    "dayTimeDuration": r"-?P(?=[\dT])" + _DAYTIME,
    "yearMonthDuration": r"-?P(?=\d)(?:\d+Y)?(?:\d+M)?",
    "hexBinary": r"(?:[0-9A-Fa-f]{2})*",
    "base64Binary": r"(?:(?:[A-Za-z0-9+/] ?){4})*"
    r"(?:(?:[A-Za-z0-9+/] ?){3}[A-Za-z0-9+/]|(?:[A-Za-z0-9+/] ?){2}[AEIMQUYcgkosw048] ?=|[A-Za-z0-9+/] ?[AQgw] ?= ?=)?",
}  # fmt: skip
_PLAIN_FORMS = {name: re.compile(form, re.ASCII) for name, form in _PLAIN.items()}
_BOUNDS: Mapping[str, tuple[int | None, int | None]] = {
    "integer": (None, None),
    "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None),
    "nonPositiveInteger": (None, 0),
    "negativeInteger": (None, -1),
    **{n: (-(1 << b), (1 << b) - 1) for n, b in (("long", 63), ("int", 31), ("short", 15), ("byte", 7))},
    **{f"unsigned{n}": (0, (1 << b) - 1) for n, b in (("Long", 64), ("Int", 32), ("Short", 16), ("Byte", 8))},
}


@dataclass(frozen=True)
class Value:
    """`family` 0: none; `scaled` None: a value without exact scaled form."""

    valid: bool
    family: int = 0
    scaled: int | None = None

    @property
    def lane(self) -> int:
        if self.family == 0:
            return 0
        if self.scaled is None:
            return (self.family | INEXACT) << 60
        return self.family << 60 | (self.scaled + BIAS)


_INVALID = Value(False)


def _scaled_number(lexical: str, family: int = FAMILIES["numeric"]) -> Value:
    match = _DECIMAL.fullmatch(lexical)
    if match is None:
        return Value(True, family)
    sign, whole, fraction = match[1], match[2], match[3] or ""
    digits = (whole + fraction).lstrip("0")
    if len(digits) > 15 or len(fraction) > 6:
        return Value(True, family)
    scaled = int(digits or "0") * 10 ** (6 - len(fraction))
    if scaled >= BIAS:
        return Value(True, family)
    return Value(True, family, -scaled if sign == "-" else scaled)


def _integer(name: str, lexical: str) -> Value:
    if _INTEGER.fullmatch(lexical) is None:
        return _INVALID
    low, high = _BOUNDS[name]
    digits = lexical.lstrip("+-").lstrip("0") or "0"
    magnitude = int(digits) if len(digits) <= 30 else 10**30  # beyond every bound
    value = -magnitude if lexical[0] == "-" else magnitude
    if (low is not None and value < low) or (high is not None and value > high):
        return _INVALID
    return _scaled_number(lexical)


def _decimal(lexical: str) -> Value:
    return _scaled_number(lexical) if _DECIMAL.fullmatch(lexical) else _INVALID


def _double(lexical: str) -> Value:
    return _scaled_number(lexical) if _DOUBLE.fullmatch(lexical) else _INVALID


def _float(lexical: str) -> Value:
    found = _double(lexical)
    match = _DECIMAL.fullmatch(lexical)
    if match is not None and (match[3] or len(match[2].lstrip("0")) > 7):
        return Value(True, FAMILIES["numeric"])
    return found


def _boolean(lexical: str) -> Value:
    truth = {"true": 1, "1": 1, "false": 0, "0": 0}.get(lexical)
    return _INVALID if truth is None else Value(True, FAMILIES["boolean"], truth)


def _days(year: str, month: int, day: int) -> int | bool | None:
    """Days since 1970-01-01; None: a real date outside the years 1 to 9999; False: no date."""
    in_cycle = int(year.lstrip("-")[-4:]) % 400 + 2000
    try:
        datetime.date(in_cycle, month, day)
    except ValueError:
        return False
    if len(year) != 4 or year == "0000":
        return None
    return (datetime.date(int(year), month, day) - datetime.date(1970, 1, 1)).days


def _date(lexical: str) -> Value:
    match = _DATE.fullmatch(lexical)
    days = _days(match[1], int(match[2]), int(match[3])) if match else False
    if match is None or days is False:
        return _INVALID
    return Value(True, FAMILIES["date"], None if match[4] else days)


def _zone_minutes(zone: str) -> int:
    if zone == "Z":
        return 0
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return -minutes if zone[0] == "-" else minutes


def _datetime(lexical: str, zone_needed: bool = False) -> Value:
    match = _DATETIME.fullmatch(lexical)
    days = _days(match[1], int(match[2]), int(match[3])) if match else False
    if match is None or days is False or (zone_needed and not match[9]):
        return _INVALID
    fraction = lexical.partition(".")[2]
    fraction = re.match(r"\d*", fraction)[0]  # type: ignore[index]
    family = FAMILIES["dateTime"]
    if days is None or not match[9] or len(fraction) > 6:
        return Value(True, family)
    hour, minute, second = (24, 0, 0) if match[8] else (int(match[4]), int(match[5]), int(match[6]))
    seconds = (hour * 60 + minute - _zone_minutes(match[9])) * 60 + second
    return Value(True, family, (days * 86400 + seconds) * 1_000_000 + int(fraction.ljust(6, "0")))


_VALUES: Mapping[str, Callable[[str], Value]] = {
    "boolean": _boolean,
    "decimal": _decimal,
    "double": _double,
    "float": _float,
    "date": _date,
    "dateTime": _datetime,
    "dateTimeStamp": lambda lexical: _datetime(lexical, zone_needed=True),
}


def value_of(lexical: str, datatype: str) -> Value:
    """Validity and scaled value of a literal (formats/guardplan.md, families)."""
    name = datatype.removeprefix(XSD) if datatype.startswith(XSD) else ""
    if name in _VALUES:
        return _VALUES[name](lexical)
    if name in _BOUNDS:
        return _integer(name, lexical)
    if name in _PLAIN_FORMS:
        return Value(_PLAIN_FORMS[name].fullmatch(lexical) is not None)
    return Value(True)


# ---- strings and terms ----


@dataclass(frozen=True)
class Lanes:
    """A constant: identity, value lane, meta lane."""

    term: int
    value: int
    meta: int


@dataclass
class Strings:
    """Interned strings in order of first use; the well-known ones first."""

    ids: dict[str, int] = field(default_factory=lambda: {s: i for i, s in enumerate(WELL_KNOWN)})

    def id(self, text: str) -> int:
        found = self.ids.setdefault(text, len(self.ids))
        if found >= STRINGS_MAX:
            raise EmitError("more strings than a pack can hold")
        return found

    def lanes(self, kind: int, second: str, text: str) -> Lanes:
        datatype = {LITERAL: second, LANG: RDF + "langString"}.get(kind, "")
        value = value_of(text, second) if kind == LITERAL else Value(True)
        second_id = self.id(second) if second else 0
        bit = {IRI: META_IRI, BNODE: META_BNODE}.get(kind, META_LITERAL)
        length = 0 if kind == BNODE else min(len(text), LENGTH_MAX)
        meta = bit | (META_VALID if value.valid else 0) | length << 40
        meta |= (self.id(datatype) if datatype else 0) << 8
        return Lanes(kind << 60 | second_id << 32 | self.id(text), value.lane, meta)

    def term(self, term: Mapping[str, Any]) -> Lanes:
        """Lanes of a TERM of the plan."""
        match term["k"]:
            case "iri":
                return self.lanes(IRI, "", term["v"])
            case "bnode":
                return self.lanes(BNODE, "", term["v"])
            case "lit" if term.get("lang"):
                return self.lanes(LANG, term["lang"].lower(), term["v"])
            case "lit":
                return self.lanes(LITERAL, term["dt"], term["v"])
        raise EmitError(f"unknown term kind {term['k']!r}")


def hash_table(keys: list[bytes], seed: Seed, bits: int, probes_max: int) -> list[int] | None:
    """Open addressing, linear probing: position + 1 of each key, 0 empty; None when a probe gets too long."""
    mask = (1 << bits) - 1
    slots = [0] * (1 << bits)
    for number, key in enumerate(keys):
        at = hash64(key, seed) & mask
        for _ in range(probes_max):
            if slots[at] == 0:
                break
            at = (at + 1) & mask
        else:
            return None
        slots[at] = number + 1
    return slots
