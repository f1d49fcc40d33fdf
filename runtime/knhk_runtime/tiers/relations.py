"""Relational operators as SPARQL 1.1 says (section 17.3), for every tier the same.

Oxigraph extends them: it knows that 1 and "a" differ, and that "a"@en is less than "b"@en. The standard allows that, but the tables do not
do it, and a verdict must not depend on who decides. So each operator of a query becomes a call of a function here, which the engine calls
back: `?x = ?y` is `<urn:knhk:eq>(?x, ?y)`; an operator that is an error for its operands gives nothing, which is SPARQL's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyoxigraph import BlankNode, Literal, NamedNode, Triple

from knhk_runtime.tiers.graph import Term
from knhk_runtime.tiers.literals import Order, compare, value_of
from knhk_runtime.tiers.names import RDF, XSD
from knhk_runtime.tiers.sparql_text import Token

Any3 = bool | None
"""True, False, or None: an error."""
_STRINGS = frozenset({XSD + "string", RDF + "langString"})


def equal(left: Term, right: Term) -> Any3:
    """`=` (sections 17.3 and 17.4.1.7): by value where both are of one kind, else the same term. Two literals of different kinds are an
    error; two strings of which one has a language, or another language, are known to differ."""
    if not isinstance(left, Literal) or not isinstance(right, Literal):
        return left == right
    a, b = value_of(left), value_of(right)
    if a is not None and b is not None and a.family == b.family:
        if a.not_a_number or b.not_a_number:
            return False
        order = compare(a, b)
        return None if order is None else order == 0
    if left == right:
        return True
    return False if {left.datatype.value, right.datatype.value} <= _STRINGS else None


def _ordered(left: Term, right: Term, allowed: Sequence[Order]) -> Any3:
    a = value_of(left) if isinstance(left, Literal) else None
    b = value_of(right) if isinstance(right, Literal) else None
    if a is None or b is None or a.family != b.family:
        return None
    if a.not_a_number or b.not_a_number:
        return False
    order = compare(a, b)
    return None if order is None else order in allowed


_ORDERS: Mapping[str, tuple[Order, ...]] = {"<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1)}
_NAMES = {"=": "eq", "<": "lt", ">": "gt", "<=": "le", ">=": "ge"}
_FUNCTION = "urn:knhk:"
_TRUTH: Mapping[Any3, Literal | None] = {
    None: None,
    True: Literal("true", datatype=NamedNode(XSD + "boolean")),
    False: Literal("false", datatype=NamedNode(XSD + "boolean")),
}
Function = Callable[..., NamedNode | BlankNode | Literal | Triple | None]


def _order(operator: str) -> Function:
    return lambda left, right: _TRUTH[_ordered(left, right, _ORDERS[operator])]


FUNCTIONS: Mapping[NamedNode, Function] = {
    NamedNode(_FUNCTION + _NAMES["="]): lambda left, right: _TRUTH[equal(left, right)],
    **{NamedNode(_FUNCTION + _NAMES[operator]): _order(operator) for operator in _ORDERS},
}
"""What the engine calls back."""


# ---- operators of a text ----


@dataclass(frozen=True)
class _Group:
    """What stands between brackets, with them."""

    opened: Token
    items: tuple[_Item, ...]
    closed: Token


_Item = Token | _Group
_CLOSES = {"(": ")", "{": "}", "[": "]"}


def by_functions(found: Sequence[Token]) -> list[Token]:
    """The tokens of a query with calls in place of relational operators. Text that is no SPARQL stays as it is."""
    items = _grouped(found)
    return list(found) if items is None else list(_flat(items))


def _grouped(found: Sequence[Token]) -> tuple[_Item, ...] | None:
    """Tokens by brackets, None when these do not match."""
    stack: list[tuple[Token | None, list[_Item]]] = [(None, [])]
    for token in found:
        opened, items = stack[-1]
        if token.mark in _CLOSES:
            stack.append((token, []))
        elif opened is not None and token.mark == _CLOSES[opened.mark]:
            stack.pop()
            stack[-1][1].append(_Group(opened, tuple(items), token))
        elif token.mark in _CLOSES.values():
            return None
        else:
            items.append(token)
    return tuple(stack[0][1]) if len(stack) == 1 else None


def _flat(items: Iterable[_Item]) -> Iterator[Token]:
    for item in items:
        if isinstance(item, Token):
            yield item
        else:
            yield item.opened
            yield from _expressions(item.items) if item.opened.mark == "(" else _flat(item.items)
            yield item.closed


def _expressions(items: Sequence[_Item]) -> Iterator[Token]:
    """Between round brackets, parts that && or || or commas divide have one relational operator at most."""
    part: list[_Item] = []
    for at, item in enumerate(items):
        if isinstance(item, Token) and _divides(items, at, item):
            yield from _part(part)
            yield item
            part = []
        else:
            part.append(item)
    yield from _part(part)


def _divides(items: Sequence[_Item], at: int, item: Token) -> bool:
    doubled = item.mark in ("&", "|") and any(_mark(items, near) == item.mark for near in (at - 1, at + 1))
    return doubled or item.mark in (",", ";") or item.word in ("as", "distinct")


def _mark(items: Sequence[_Item], at: int) -> str:
    item = items[at] if 0 <= at < len(items) else None
    return item.mark if isinstance(item, Token) else ""


def _part(items: Sequence[_Item]) -> Iterator[Token]:
    for at, item in enumerate(items):
        if not isinstance(item, Token) or at == 0:
            continue
        if item.word == "in":
            yield from _member(items, at)
            return
        operator = _operator(items, at)
        if operator and not _is_separator(items[:at]):
            yield from _call(operator, items[:at], items[at + len(operator) :])
            return
    yield from _flat(items)


def _operator(items: Sequence[_Item], at: int) -> str:
    """The relational operator that begins here, or nothing."""
    first, second = _mark(items, at), _mark(items, at + 1)
    if first in ("<", ">", "!") and second == "=":
        return first + second
    return first if first in _NAMES else ""


def _is_separator(left: Sequence[_Item]) -> bool:
    """GROUP_CONCAT(…; SEPARATOR = ", ")"""
    return any(isinstance(item, Token) and item.word == "separator" for item in left)


def _call(operator: str, left: Sequence[_Item], right: Sequence[_Item]) -> Iterator[Token]:
    negated, name = ("!", "=") if operator == "!=" else ("", operator)
    yield Token(f"({negated}<{_FUNCTION}{_NAMES[name]}>(")
    yield from _flat(left)
    yield Token(",")
    yield from _flat(right)
    yield Token("))")


def _member(items: Sequence[_Item], at: int) -> Iterator[Token]:
    """`x IN (a, b)` is `x = a || x = b` (section 17.4.1.9); of no members it stays as it is."""
    left = [item for item in items[:at] if not (isinstance(item, Token) and item.word == "not")]
    listed = next((item for item in items[at + 1 :] if isinstance(item, _Group)), None)
    members = [] if listed is None else _members(listed.items)
    if not members:
        yield from _flat(items)
        return
    yield Token("(!(" if len(left) < at else "((")
    for number, member in enumerate(members):
        yield Token(" || " if number else "")
        yield from _call("=", left, member)
    yield Token("))")


def _members(items: Sequence[_Item]) -> list[list[_Item]]:
    found: list[list[_Item]] = [[]]
    for item in items:
        if isinstance(item, Token) and item.mark == ",":
            found.append([])
        else:
            found[-1].append(item)
    return [member for member in found if any(not isinstance(item, Token) or not item.blank for item in member)]
