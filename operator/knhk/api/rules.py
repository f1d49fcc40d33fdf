"""Constructors of rules: each gives the CEL text and the predicate of one law, so that they cannot drift apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from knhk.api.shape import Bool, Int, List, Map, Obj, Rule, Shape, Str

DECIMAL = r"^(0|0\.[0-9]{1,6}|1|1\.0{1,6})$"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def listed(values: tuple[str, ...]) -> str:
    """a, b or c."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def matches(pattern: str, message: str) -> Rule:
    """The string matches an anchored RE2 pattern that means the same to Python's re (ASCII)."""
    compiled = re.compile(pattern.removesuffix("$") + r"\Z", re.ASCII)
    return Rule(f"self.matches({_quoted(pattern)})", message, lambda v: compiled.search(v) is not None)


def one_of(*values: str) -> Rule:
    """The string is one of `values`."""
    cel = f"self in [{', '.join(_quoted(v) for v in values)}]"
    return Rule(cel, f"must be {listed(values)}", lambda v: v in values)


def refused(value: str, message: str) -> Rule:
    """One value that is known but not accepted yet."""
    return Rule(f"self != {_quoted(value)}", message, lambda v: v != value)


def share(low: str, high: str) -> tuple[Rule, ...]:
    """A decimal string from `low` to `high`, both included; at most 6 decimals."""
    message = f"must be a decimal string from {low} to {high} with at most 6 decimals, such as '0.01'"
    pattern = re.compile(DECIMAL.removesuffix("$") + r"\Z", re.ASCII)
    cel = f"self.matches({_quoted(DECIMAL)}) && double(self) >= {_float(low)} && double(self) <= {_float(high)}"

    def holds(value: str) -> bool:
        return pattern.match(value) is not None and Decimal(low) <= Decimal(value) <= Decimal(high)

    return (Rule(cel, message, holds),)


RATIO = r"^(0|[1-9][0-9]{0,2}(\.[0-9]{1,3})?)$"


def latency_ratio() -> tuple[Rule, ...]:
    """A decimal string from 1 to 999, or 0 for no limit; at most 3 decimals."""
    compiled = re.compile(RATIO.removesuffix("$") + r"\Z", re.ASCII)
    message = "must be a decimal string from 1 to 999 with at most 3 decimals, such as '1.5', or '0' for no limit"
    return (Rule(f"self.matches({_quoted(RATIO)})", message, lambda v: compiled.match(v) is not None),)


def _float(text: str) -> str:
    return text if "." in text else f"{text}.0"


def _decimal(value: Mapping[str, Any], path: str) -> Decimal:
    found: Any = value
    for name in path.split("."):
        found = found[name]
    return Decimal(found)


def larger(big: str, small: str, message: str) -> Rule:
    """Decimal string at `big` is larger than the one at `small` (dotted paths; absent on either side: holds)."""
    reads = tuple(sorted({big.split(".")[0], small.split(".")[0]}))
    guards = sorted({part for path in (big, small) for part in _prefixes(path)}, key=lambda p: (p.count("."), p))
    has = " && ".join(f"has(self.{part})" for part in guards)
    cel = f"!({has}) || double(self.{big}) > double(self.{small})"

    def holds(value: Mapping[str, Any]) -> bool:
        try:
            return _decimal(value, big) > _decimal(value, small)
        except (KeyError, TypeError, InvalidOperation):
            return True

    return Rule(cel, message, holds, reads, big)


def _prefixes(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[: i + 1]) for i in range(len(names))]


def growing(first: str, second: str, default: int, grows: str, shrinks: str) -> tuple[Rule, Rule]:
    """Neither of two fields of a list's items shrinks from one to the next, and one of them grows. `default` is that of the second."""

    def of(item: str) -> str:
        return f"(has({item}.{second}) ? {item}.{second} : {default})"

    distinct = f"self.all(a, self.exists_one(b, b.{first} == a.{first} && {of('b')} == {of('a')}))"

    def grow(items: list[Mapping[str, Any]]) -> bool:
        values = [(item[first], item[second]) for item in items]
        return all(a[0] <= b[0] and a != b for a, b in pairwise(values))

    def shrink(items: list[Mapping[str, Any]]) -> bool:
        return all(a[second] <= b[second] for a, b in pairwise(items))

    return (
        Rule(f"{distinct} && self.map(s, s.{first}).isSorted()", grows, grow),
        Rule(f"self.map(s, {of('s')}).isSorted()", shrinks, shrink),
    )


def exactly_one(a: str, b: str, message: str) -> Rule:
    """One of two fields is there and the other is not."""
    return Rule(f"has(self.{a}) != has(self.{b})", message, lambda v: (a in v) != (b in v), (a, b))


def requires_when(name: str, value: str, needed: str, message: str) -> Rule:
    """When field `name` is `value`, field `needed` is there."""
    cel = f"self.{name} != {_quoted(value)} || has(self.{needed})"
    return Rule(cel, message, lambda v: v[name] != value or needed in v, (name,))


def forbids_unless(name: str, values: Sequence[str], other: str, message: str) -> Rule:
    """Field `other` is there only when field `name` is one of `values`."""
    cel = f"self.{name} in [{', '.join(map(_quoted, values))}] || !has(self.{other})"
    return Rule(cel, message, lambda v: v[name] in values or other not in v, (name,), other)


def immutable(message: str) -> Rule:
    """The value stays what it was when the object was made."""
    return Rule("self == oldSelf", message, lambda _: True, on_update=True)


def unchanged(names: tuple[str, ...], message: str) -> Rule:
    """These fields of an object stay what they were when it was made."""
    cel = " && ".join(f"self.{name} == oldSelf.{name}" for name in names)
    return Rule(cel, message, lambda _: True, names, on_update=True)


def known_to(mapping: str, name: str, message: str) -> Rule:
    """Field `name` is a key of the map in field `mapping`, when that has any."""
    cel = f"size(self.{mapping}) == 0 || self.{name} in self.{mapping}"
    return Rule(cel, message, lambda v: not v[mapping] or v[name] in v[mapping], (mapping, name), name)


def named_in(mapping: str, items: str, name: str, message: str) -> Rule:
    """Field `name` of each item of the list `items` is a key of the map in field `mapping`, when that has any."""
    cel = f"size(self.{mapping}) == 0 || self.{items}.all(i, i.{name} in self.{mapping})"
    return Rule(cel, message, lambda v: not v[mapping] or all(i[name] in v[mapping] for i in v[items]), (mapping, items), items)


def least(shape: Shape) -> tuple[Rule, ...]:
    """The bounds of a value as rules, in the words of the parser. (Those that an API server needs to price the other rules, the
    longest text and list, stay in the schema, which says them in its own words.)"""
    match shape:
        case Int(min=low, max=high):
            must = f"must be from {low} to {high}"
            return (Rule(f"self >= {low} && self <= {high}", must, lambda v: low <= v <= high),)
        case Str(min=low) if low:
            must = "must not be empty" if low == 1 else f"must be at least {low} characters long"
            return (Rule(f"size(self) >= {low}", must, lambda v: len(v) >= low),)
        case List(min=low) if low:
            must = f"must have at least {low} item{'s' if low > 1 else ''}"
            return (Rule(f"size(self) >= {low}", must, lambda v: len(v) >= low),)
        case Str() | List() | Bool() | Map() | Obj():
            return ()
