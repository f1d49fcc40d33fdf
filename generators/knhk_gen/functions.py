"""Functions of mappings: how vendors write dates, amounts and codes, brought to lexical forms of XSD (formats/guardplan.md, FUNCTION).

The table says what each takes; hot_c/src/functions.c runs them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from knhk_gen.names import XSD

MAX_CHAIN: Final = 8
_PATTERN: Final = re.compile(r"(?:YYYY|MM?|DD?|hh?|mm|ss|f|Z|[-/.: ,_T])+\*?")
_ZONE: Final = re.compile(r"Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00")


@dataclass(frozen=True)
class Kind:
    """`number`: KNHK_FN_* of hot_c/include/knhk_tables.h; `argument`: "", "text", "pattern", "codes" or "context" (JSON-LD only);
    `datatype`: that of results."""

    number: int
    argument: str = ""
    datatype: str = ""


FUNCTIONS: Final[Mapping[str, Kind]] = {
    "trim": Kind(0),
    "absentIf": Kind(1, "text"),
    "stripZeros": Kind(2),
    "upper": Kind(3),
    "lower": Kind(4),
    "decimalPoint": Kind(5, datatype=XSD + "decimal"),
    "decimalComma": Kind(6, datatype=XSD + "decimal"),
    "date": Kind(7, "pattern", XSD + "date"),
    "dateTime": Kind(8, "pattern", XSD + "dateTime"),
    "dotNetDate": Kind(9, datatype=XSD + "date"),
    "dotNetDateTime": Kind(10, datatype=XSD + "dateTime"),
    "epochMillis": Kind(11, datatype=XSD + "dateTime"),
    "epochSeconds": Kind(12, datatype=XSD + "dateTime"),
    "codes": Kind(13, "codes"),
    "prefix": Kind(14, "text"),
    "percentEncode": Kind(15),
    "expand": Kind(16, "context"),
}
NAMES: Final = ", ".join(name for name, kind in FUNCTIONS.items() if kind.argument != "context")

Function = dict[str, Any]
"""FUNCTION of the plan."""


def pattern_fault(name: str, pattern: str) -> str:
    """What a pattern must be, or nothing."""
    if not _PATTERN.fullmatch(pattern) or any(pattern.count(token) > 1 for token in ("YYYY", "f", "Z")):
        return "must be a pattern of YYYY MM M DD D hh h mm ss f Z, -/.:,_T and blanks, and * at the end for what is ignored"
    for token in ("YYYY", "M", "D"):
        if token not in pattern:
            return "must hold year, month and day, such as YYYYMMDD"
    if name == "date" and any(token in pattern for token in ("h", "m", "s", "f", "Z")):
        return "must hold no time: a date ignores the rest by * at the end, as in YYYY-MM-DD*"
    return ""


def zone_fault(zone: str) -> str:
    """What a zone must be, or nothing."""
    return "" if not zone or _ZONE.fullmatch(zone) else "must be Z or an offset such as +02:00"
