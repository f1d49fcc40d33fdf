"""Relational operators and effective boolean values as SPARQL 1.1 says (sections 17.3 and 17.2.2), for every tier the same.

Oxigraph extends them: it knows that 1 and "a" differ, and that "a"@en is less than "b"@en. The standard allows that, but the tables do not
do it, and a verdict must not depend on who decides. So each operator of a query becomes a call of a function here, which the engine calls
back: `?x = ?y` is `<urn:knhk:eq>(?x, ?y)`; an operator that is an error for its operands gives nothing, which is SPARQL's error.
It also takes a boolean or a number that is ill-formed for an error where the standard takes it for false: what FILTER, HAVING, IF, `!`,
`&&` and `||` judge is `<urn:knhk:truth>(…)`, unless it is a boolean for sure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyoxigraph import BlankNode, Literal, NamedNode, Triple

from knhk_runtime.tiers.graph import Term
from knhk_runtime.tiers.literals import BOOLEAN_OR_NUMERIC, Order, compare, value_of
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


def truth(term: Term) -> Any3:
    """The effective boolean value (section 17.2.2). What is neither boolean, numeric nor a string is an error."""
    if not isinstance(term, Literal):
        return None
    if term.datatype.value in _STRINGS:
        return term.value != ""
    if term.datatype.value not in BOOLEAN_OR_NUMERIC:
        return None
    value = value_of(term)
    return value is not None and not value.not_a_number and bool(value.exact if value.double is None else value.double)


_ORDERS: Mapping[str, tuple[Order, ...]] = {"<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1)}
_NAMES = {"=": "eq", "<": "lt", ">": "gt", "<=": "le", ">=": "ge"}
_TRUE = "truth"
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
    NamedNode(_FUNCTION + _TRUE): lambda term: _TRUTH[truth(term)],
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
_CLAUSES = frozenset({"filter", "having", "by", "order", "limit", "offset", "values"})
_CONSTRAINTS = frozenset({"filter", "having"})
_STRING_TESTS = frozenset({"regex", "contains", "strstarts", "strends", "langmatches"})
_TERM_TESTS = frozenset({"bound", "isblank", "isiri", "isuri", "isliteral", "isnumeric", "sameterm"})
_BOOLEAN = frozenset({"exists", "not"}) | _STRING_TESTS | _TERM_TESTS
"""Words with which an expression begins that is a boolean or an error."""


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


def _flat(items: Sequence[_Item]) -> Iterator[Token]:
    """Clauses and patterns. Expressions are the constraints of FILTER and HAVING, brackets with AS, and those behind BY; other round
    brackets are paths, lists and rows of VALUES, whose marks are no operators."""
    clause, at = "", 0
    while at < len(items):
        item = items[at]
        word = item.word if isinstance(item, Token) else ""
        if clause in _CONSTRAINTS and word not in _CLAUSES and not _is_blank(item):
            end = _behind_group(items, at)
            yield from _truth(items[at:end])
            clause, at = clause if clause == "having" else "", end
            continue
        clause = word if word in _CLAUSES else clause
        yield from _clause(item, clause == "by")
        at += 1


def _clause(item: _Item, conditions: bool) -> Iterator[Token]:
    if isinstance(item, Token):
        yield item
    elif item.opened.mark == "(" and (conditions or any(isinstance(inner, Token) and inner.word == "as" for inner in item.items)):
        yield from _bracket(item, False)
    else:
        yield from (item.opened, *_flat(item.items), item.closed)


def _is_blank(item: _Item) -> bool:
    return isinstance(item, Token) and item.blank


def _behind_group(items: Sequence[_Item], at: int) -> int:
    """Where a constraint ends that begins here: `(…)`, `f(…)`, `NOT EXISTS {…}`."""
    return next((end for end in range(at, len(items)) if isinstance(items[end], _Group)), len(items) - 1) + 1


def _bracket(group: _Group, judged: bool) -> Iterator[Token]:
    """Expressions that commas, AS and DISTINCT divide; of the first the effective boolean value is taken when it is `judged`."""
    yield group.opened
    for number, (part, divider) in enumerate(_parts(group.items, _is_comma)):
        yield from _expression(part, judged and number == 0)
        yield from divider
    yield group.closed


def _expression(items: Sequence[_Item], judged: bool) -> Iterator[Token]:
    """Operands that && and || divide have one relational operator at most."""
    found = _parts(items, _is_logical)
    for part, divider in found:
        yield from _truth(part) if judged or len(found) > 1 else _operand(part)
        yield from divider


_Divides = Callable[[Sequence[_Item], int], bool]


def _parts(items: Sequence[_Item], divides: _Divides) -> list[tuple[list[_Item], tuple[Token, ...]]]:
    """What dividers divide, each with its divider."""
    found: list[tuple[list[_Item], tuple[Token, ...]]] = []
    part: list[_Item] = []
    for at, item in enumerate(items):
        if isinstance(item, Token) and divides(items, at):
            found.append((part, (item,)))
            part = []
        else:
            part.append(item)
    return [*found, (part, ())]


def _is_logical(items: Sequence[_Item], at: int) -> bool:
    mark = _mark(items, at)
    return mark in ("&", "|") and any(_mark(items, near) == mark for near in (at - 1, at + 1))


def _is_comma(items: Sequence[_Item], at: int) -> bool:
    item = items[at]
    return isinstance(item, Token) and (item.mark in (",", ";") or item.word in ("as", "distinct"))


def _mark(items: Sequence[_Item], at: int) -> str:
    item = items[at] if 0 <= at < len(items) else None
    return item.mark if isinstance(item, Token) else ""


def _truth(items: Sequence[_Item]) -> Iterator[Token]:
    """An operand of which the effective boolean value is taken: a call of `truth`, unless it is a boolean anyway."""
    solid = [item for item in items if not _is_blank(item)]
    first = solid[0] if solid else None
    if isinstance(first, _Group) and len(solid) == 1 and first.opened.mark == "(":
        for item in items:
            yield from (item,) if isinstance(item, Token) else _bracket(item, True)
    elif first is None or _is_boolean(first) or _relation(items) is not None:
        yield from _operand(items)
    else:
        yield Token(f"<{_FUNCTION}{_TRUE}>(")
        yield from _values(items)
        yield Token(")")


def _is_boolean(first: _Item) -> bool:
    return isinstance(first, Token) and (first.mark == "!" or first.word in _BOOLEAN)


def _operand(items: Sequence[_Item]) -> Iterator[Token]:
    relation = _relation(items)
    if relation is None:
        yield from _values(items)
        return
    at, operator = relation
    if operator == "in":
        yield from _member(items, at)
    else:
        yield from _call(operator, items[:at], items[at + len(operator) :])


def _relation(items: Sequence[_Item]) -> tuple[int, str] | None:
    """The relational operator of an operand, and where it stands."""
    for at, item in enumerate(items):
        if not isinstance(item, Token) or at == 0:
            continue
        if item.word == "in":
            return at, item.word
        operator = _operator(items, at)
        if operator and not _is_separator(items[:at]):
            return at, operator
    return None


def _values(items: Sequence[_Item]) -> Iterator[Token]:
    """An operand without relational operator: `!` judges what follows it, IF its first argument."""
    at, word = 0, ""
    while at < len(items):
        item = items[at]
        at += 1
        if isinstance(item, _Group):
            yield from _bracket(item, word == "if") if item.opened.mark == "(" else (item.opened, *_flat(item.items), item.closed)
            continue
        yield item
        word = word if item.blank else item.word
        if item.mark == "!":
            end = _negated(items, at)
            yield from _truth(items[at:end])
            at = end


_ARITHMETIC = ("+", "-", "*", "/")


def _negated(items: Sequence[_Item], at: int) -> int:
    """Where the operand of a `!` ends: before an arithmetic operator, which the sign of an exponent is not."""
    for end in range(at, len(items)):
        before = items[end - 1]
        exponent = isinstance(before, Token) and re.fullmatch("[0-9]*e", before.word) is not None
        if _mark(items, end) in _ARITHMETIC and any(not _is_blank(item) for item in items[at:end]) and not exponent:
            return end
    return len(items)


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
    yield from _values(left)
    yield Token(",")
    yield from _values(right)
    yield Token("))")


def _member(items: Sequence[_Item], at: int) -> Iterator[Token]:
    """`x IN (a, b)` is `x = a || x = b` (section 17.4.1.9); of no members it stays as it is."""
    left = [item for item in items[:at] if not (isinstance(item, Token) and item.word == "not")]
    listed = next((item for item in items[at + 1 :] if isinstance(item, _Group)), None)
    members = [] if listed is None else _members(listed.items)
    if not members:
        yield from _values(items)
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
