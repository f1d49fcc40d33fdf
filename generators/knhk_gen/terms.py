"""RDF terms as the plan spells them, and values as scaled integers (formats/guardplan.md)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from rdflib import BNode, Literal, URIRef

from knhk_gen.names import LANG_STRING, XSD
from knhk_gen.turtle import Term

PlanTerm = dict[str, Any]

INTEGERS: Final = tuple(
    XSD + name
    for name in (
        "integer", "long", "int", "short", "byte",
        "nonNegativeInteger", "positiveInteger", "nonPositiveInteger", "negativeInteger",
        "unsignedLong", "unsignedInt", "unsignedShort", "unsignedByte",
    )
)  # fmt: skip
NUMERICS: Final = (*INTEGERS, XSD + "decimal", XSD + "double", XSD + "float")

UNCHECKED: Final = frozenset(XSD + name for name in ("Name", "NCName", "NMTOKEN", "QName"))
"""Datatypes whose lexical forms only the cold tier tells valid from ill-formed. Datatypes outside XSD have no ill-formed literals here."""

SCALE: Final = 6
MAX_DIGITS: Final = 15
MAX_SCALED: Final = 2**58

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH_DATE: Final = date(1970, 1, 1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def iri_term(iri: str) -> PlanTerm:
    """TERM of an IRI."""
    return {"k": "iri", "v": iri}


def string_term(text: str) -> PlanTerm:
    """TERM of a plain string."""
    return {"k": "lit", "v": text, "dt": XSD + "string", "lang": ""}


def plan_term(term: Term) -> PlanTerm:
    """TERM of an rdflib term."""
    if isinstance(term, URIRef):
        return iri_term(str(term))
    if isinstance(term, BNode):
        return {"k": "bnode", "v": str(term)}
    if term.language:
        return {"k": "lit", "v": str(term), "dt": LANG_STRING, "lang": term.language.lower()}
    return {"k": "lit", "v": str(term), "dt": str(term.datatype or XSD + "string"), "lang": ""}


def scaled(term: Literal) -> tuple[str, int] | str:
    """(family, scaled integer) of a constant, or the reason why it has none."""
    datatype, text = str(term.datatype or XSD + "string"), str(term)
    if datatype in NUMERICS:
        return _numeric(text, datatype)
    if datatype == XSD + "date":
        return _date(text)
    if datatype == XSD + "dateTime":
        return _date_time(text)
    if datatype == XSD + "boolean" and text in ("true", "false", "1", "0"):
        return "boolean", int(text in ("true", "1"))
    return "the bound is of a type that has no scaled form"


def _numeric(text: str, datatype: str) -> tuple[str, int] | str:
    if datatype == XSD + "float":
        return "the bound is of a type that has no scaled form"
    try:
        value = Decimal(text) if _NUMBER.fullmatch(text) and len(text) <= 400 else None
    except InvalidOperation:
        value = None
    if value is None or not value.is_finite():
        return "the bound is not an exact number"
    _, digits, exponent = value.normalize().as_tuple()
    fits = isinstance(exponent, int) and exponent >= -SCALE and value.adjusted() < MAX_DIGITS
    if not fits or len(digits) > MAX_DIGITS or abs(value) * 10**SCALE >= MAX_SCALED:
        return "the bound is not an exact number"
    return "numeric", int(value * 10**SCALE)


def _date(text: str) -> tuple[str, int] | str:
    match = _DATE.fullmatch(text)
    try:
        day = date(*(int(x) for x in match.groups())) if match else None
    except ValueError:
        day = None
    if day is None:
        return "the bound is a date with a zone or out of range"
    return "date", (day - _EPOCH_DATE).days


def _date_time(text: str) -> tuple[str, int] | str:
    match = _DATE_TIME.fullmatch(text)
    try:
        instant = _instant(match) if match else None
    except (ValueError, OverflowError):
        instant = None
    if instant is None:
        return "the bound is a dateTime without a zone or out of range"
    return "dateTime", (instant - _EPOCH) // timedelta(microseconds=1)


def _instant(match: re.Match[str]) -> datetime:
    year, month, day, hour, minute, second = (int(x) for x in match.groups()[:6])
    micros = int((match[7] or "").ljust(6, "0"))
    zone = timedelta()
    if match[8] != "Z":
        zone = timedelta(hours=int(match[8][1:3]), minutes=int(match[8][4:6]))
        zone = -zone if match[8][0] == "-" else zone
    midnight = timedelta(days=1) if (hour, minute, second, micros) == (24, 0, 0, 0) else timedelta()
    at = datetime(year, month, day, 0 if midnight else hour, minute, second, micros, tzinfo=UTC)
    return at + midnight - zone
