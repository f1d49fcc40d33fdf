"""SPARQL's order of literals (section 17.3 of SPARQL 1.1), for the few types that tests use.

pySHACL orders whatever rdflib can sort, across types and ill-formed literals too; SHACL calls
values that SPARQL cannot compare a violation. `comparing_by_sparql` puts this order in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any
from unittest.mock import patch

from pyshacl.constraints.core import property_pair_constraints as pairs
from pyshacl.constraints.core import value_range_constraints as ranges
from rdflib import Literal
from rdflib.term import Node

XSD = "http://www.w3.org/2001/XMLSchema#"
_INTEGERS = re.compile(r"(integer|long|int|short|byte|(non)?(Negative|Positive|negative|positive)Integer|unsigned\w+)")


def value(term: Node) -> tuple[str, Any] | None:
    """(family, comparable value), None for what SPARQL does not order or is ill-formed."""
    if not isinstance(term, Literal) or term.language:
        return None
    name, text = str(term.datatype or XSD + "string").removeprefix(XSD), str(term)
    if name == "string":
        return "string", text
    if name == "boolean":
        known = {"true": 1, "1": 1, "false": 0, "0": 0}
        return ("boolean", known[text]) if text in known else None
    if name == "decimal" or _INTEGERS.fullmatch(name):
        form = r"[+-]?(\d+(\.\d*)?|\.\d+)" if name == "decimal" else r"[+-]?\d+"
        return ("number", Fraction(text)) if re.fullmatch(form, text, re.ASCII) else None
    if name == "double":
        form = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
        return ("number", Fraction(float(text))) if re.fullmatch(form, text, re.ASCII) else None
    try:
        if name == "date" and len(text) == 10:
            return "date", date.fromisoformat(text)
        if name == "dateTime" and re.search(r"(Z|[+-]\d\d:\d\d)$", text):
            return "dateTime", datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
    return None


def order(a: Node, b: Node) -> int | None:
    """-1, 0, 1, or None when SPARQL cannot compare the two."""
    x, y = value(a), value(b)
    if x is None or y is None or x[0] != y[0]:
        return None
    return (x[1] > y[1]) - (x[1] < y[1])


def _compare_literal(a: Node, b: Node) -> int:
    found = order(a, b)
    if found is None:
        raise TypeError("not comparable")
    return found


def _relation(allowed: tuple[int, ...]) -> Any:
    def compare(self: Any, values: set[Node], others: set[Node], graph: Any, focus: Any) -> Any:
        wrong = [v for v in values for o in others if order(v, o) not in allowed]
        return bool(wrong), [self.make_v_result(graph, focus, value_node=v) for v in wrong]

    return compare


@contextmanager
def comparing_by_sparql() -> Iterator[None]:
    """pySHACL compares as `order` does."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(ranges, "compare_literal", _compare_literal))
        less, at_most = pairs.LessThanConstraintComponent, pairs.LessThanOrEqualsConstraintComponent
        stack.enter_context(patch.object(less, "_compare_lt", _relation((-1,))))
        stack.enter_context(patch.object(at_most, "_compare_ltoe", _relation((-1, 0))))
        yield
