"""What the policy 1.2.0 of the example admits, written anew from its texts: a judge of stored bytes that shares nothing with the product.

A body is admissible when every document that a parser could read out of it is: first or last of repeated members, any encoding that json
of Python guesses, numbers exact or as doubles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

TYPES = {"standard", "credit-note", "corrective", "debit-note", "proforma"}
CURRENCIES = {"EUR", "USD", "GBP", "CHF", "JPY", "CAD", "AUD", "SEK", "NOK", "DKK", "PLN", "CZK"}
LIMITS = {"max": 5000, "mia": 7500, "hanna": 25_000, "henry": 25_000, "dora": 250_000}
AUDITORS = {"ada"}
CORRECTS = re.compile(r"[A-Z0-9][A-Z0-9/.-]{0,31}\Z")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)
Pick = Callable[[list[tuple[str, Any]]], dict[str, Any]]
DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)\Z", re.ASCII)


def admissible(method: str, path: str, body: bytes, caller: str) -> str:
    """Empty when the policy admits the request as the application sees it, else why it does not."""
    parts = path.split("/")[1:]
    if method == "GET":
        return "" if len(parts) == 2 and parts[0] == "invoices" and parts[1] and not body else f"GET {path} with {len(body)} bytes"
    if method != "POST" or parts not in (["invoices"], ["invoices", parts[1] if len(parts) > 1 else "", "approve"]):
        return f"{method} {path}: no such route"
    try:
        faults = [fault for document in readings(body) for fault in faults_of(document)]
        limits = [payable(document) for document in readings(body)]
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if caller in AUDITORS:
        return "auditors only read"
    if len(parts) == 3 and any(amount > LIMITS.get(caller, -1) for amount in limits):
        return f"{caller} may not approve {limits}"
    return faults[0] if faults else ""


def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of members with one name the first."""
    return dict(reversed(pairs))


def readings(body: bytes) -> Iterator[Any]:
    """Every document that a parser could see."""
    last: Pick = dict
    for pick in (last, first):
        yield json.loads(body, object_pairs_hook=pick)
        yield json.loads(body, object_pairs_hook=pick, parse_float=Decimal)


def payable(document: Any) -> Decimal:
    return number(document["doc"]["totals"]["payable"]) or Decimal("Infinity")


def number(value: Any) -> Decimal | None:
    """The value of an xsd:decimal, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and not DECIMAL.match(value):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() and math.isfinite(float(found)) else None


def at_least(value: Any, least: int, strict: bool = False) -> bool:
    found = number(value)
    return found is not None and (found > least if strict else found >= least)


def scalar(value: Any, least: int, most: int) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and least <= len(str(value)) <= most


def is_day(value: Any) -> bool:
    if not isinstance(value, str) or not DAY.match(value):
        return False
    try:
        return date.fromisoformat(value) >= date(2010, 1, 1)
    except ValueError:
        return False


def faults_of(document: Any) -> list[str]:
    """What is wrong with one reading of a body."""
    doc = document.get("doc") if isinstance(document, dict) else None
    if not isinstance(doc, dict):
        return ["no doc"]
    supplier, totals, lines = doc.get("supplier"), doc.get("totals"), doc.get("lines")
    if not isinstance(supplier, dict) or not isinstance(totals, dict) or not isinstance(lines, list):
        return ["supplier, totals or lines are missing"]
    tax = supplier.get("tax_id")
    lines = [line for line in lines if line is not None]  # null is as good as absent (docs/mapping.md)
    preceding = [item for item in doc.get("preceding") or [] if item is not None]
    if not lines or not all(isinstance(item, dict) for item in [*preceding, *lines]):
        return ["an item is no object"]
    codes = [item["code"] for item in preceding if item.get("code") is not None]
    rules = {
        "uuid": bool(doc.get("uuid")),
        "schema": doc.get("$schema") == "https://gobl.org/draft-0/bill/invoice",
        "type": isinstance(doc.get("type"), str) and doc["type"] in TYPES,
        "code": scalar(doc.get("code"), 1, 40),
        "currency": isinstance(doc.get("currency"), str) and doc["currency"] in CURRENCIES,
        "issue date": is_day(doc.get("issue_date")),
        "payable": at_least(totals.get("payable"), 0),
        "total": at_least(totals.get("total"), 0),
        "supplier's name": scalar(supplier.get("name"), 1, 1 << 20),
        "supplier's country": isinstance(tax, dict) and scalar(tax.get("country"), 2, 2),
        "quantity": all(at_least(line.get("quantity"), 0, strict=True) for line in lines),
        "total of a line": all(line.get("total") is None or number(line["total"]) is not None for line in lines),
        "corrected code": all(isinstance(code, str) and CORRECTS.match(code) for code in codes),
        "credit note": doc.get("type") != "credit-note" or bool(codes),
    }
    return [name for name, holds in rules.items() if not holds]
