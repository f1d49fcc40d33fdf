"""Expressions of the plan (E over a focus node, V over a term) and pieces that know their class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from knhk_gen.table import CLASSES

Expr = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A lowered part: its expression (None below R1), class, row of the table and reason."""

    expr: Expr | None
    klass: str
    feature: str
    reason: str = ""


def fits(expr: Expr, feature: str) -> Piece:
    """A part of class R1."""
    return Piece(expr, "R1", feature)


def falls(klass: str, feature: str, reason: str = "") -> Piece:
    """A part of a lower class."""
    return Piece(None, klass, feature, reason)


def worst(pieces: Sequence[Piece]) -> Piece | None:
    """The first part of the lowest class, None when all are R1."""
    lower = [p for p in pieces if p.klass != "R1"]
    return max(lower, key=lambda p: CLASSES.index(p.klass), default=None)


def merge(pieces: Sequence[Piece], feature: str, build: Callable[[list[Expr]], Expr]) -> Piece:
    """One part made of several: built when all are R1, else of the lowest class among them."""
    if low := worst(pieces):
        return low
    return fits(build([p.expr for p in pieces if p.expr is not None]), feature)


def conj(args: Sequence[Expr], key: str = "op") -> Expr:
    """Conjunction, simplified: no constants, no nesting of one."""
    return _fold(args, key, "and", True)


def disj(args: Sequence[Expr], key: str = "op") -> Expr:
    """Disjunction, simplified likewise."""
    return _fold(args, key, "or", False)


def _fold(args: Sequence[Expr], key: str, word: str, neutral: bool) -> Expr:
    kept: list[Expr] = []
    for arg in args:
        if arg.get(key) == "const":
            if arg["value"] != neutral:
                return {key: "const", "value": not neutral}
        elif arg not in kept:
            kept.append(arg)
    if not kept:
        return {key: "const", "value": neutral}
    return kept[0] if len(kept) == 1 else {key: word, "args": kept}


def negate(arg: Expr, key: str = "op") -> Expr:
    """Negation; constants and double negation are folded."""
    if arg[key] == "const":
        return {key: "const", "value": not arg["value"]}
    if arg[key] == "not":
        inner: Expr = arg["arg"]
        return inner
    return {key: "not", "arg": arg}


def some(p: str, test: Expr) -> Expr:
    """Some value of p passes; with a constant test, presence of p."""
    if test["t"] == "const":
        return count(p, 1, None) if test["value"] else {"op": "const", "value": False}
    return {"op": "some", "p": p, "test": test}


def every(p: str, test: Expr) -> Expr:
    """Every value of p passes."""
    if test["t"] == "const":
        return {"op": "const", "value": True} if test["value"] else count(p, 0, 0)
    return {"op": "all", "p": p, "test": test}


def count(p: str, low: int, high: int | None) -> Expr:
    """Number of distinct values of p is in low … high."""
    if low == 0 and high is None:
        return {"op": "const", "value": True}
    return {"op": "count", "p": p, "min": low, "max": high}


def is_in(terms: Sequence[dict[str, Any]]) -> Expr:
    """V: the term is one of these."""
    if not terms:
        return {"t": "const", "value": False}
    return {"t": "in", "terms": list(terms)}


TRUE: Expr = {"op": "const", "value": True}
FALSE: Expr = {"op": "const", "value": False}
ANY: Expr = {"t": "const", "value": True}
