"""Mutants of a plan: each is one small mistake that an author could have made. A test notices it, or the mutant survives.

Pure and deterministic. Guards with an expression are changed in it; those of the cold tier in their shape or query. What only restates
the guard, or says the same as dropping it, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from knhk.model.canonical import canonical
from knhk_gen.names import local

Doc = Mapping[str, Any]
Change = tuple[str, dict[str, Any]]  # what was changed, and the expression or test that came of it

MAX_PER_GUARD: Final = 32
MAX_TERMS: Final = 8  # of a longer list only the first and the last term are dropped
UNITS: Final[Mapping[str, tuple[int, str]]] = {
    "numeric": (10**6, "1"), "date": (1, "1 day"), "dateTime": (10**6, "1 s"), "boolean": (1, "1"),
}  # fmt: skip
SWAPPED: Final[Mapping[str, str]] = {
    "le": "lt", "lt": "le", "ge": "gt", "gt": "ge", "eq": "le", "ne": "eq",
    "lessThan": "lessThanOrEquals", "lessThanOrEquals": "lessThan", "equals": "disjoint", "disjoint": "equals",
}  # fmt: skip
KINDS: Final = ("iri", "bnode", "literal")
TRUE: Final[Doc] = {"op": "const", "value": True}
_OPERATORS: Final[Mapping[str, str]] = {
    "=": "!=", "!=": "=", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "&&": "||", "||": "&&",
}  # fmt: skip
_OPERATOR: Final = re.compile(r"(?<=\s)(!=|<=|>=|&&|\|\||=|<|>)(?=\s)")


@dataclass(frozen=True)
class Mutant:
    """`guard`: its number. `what`: the mistake, for people. `expr`: the guard's expression instead; `cold`: the plan's cold part
    instead; neither: the guard is dropped."""

    guard: int
    what: str
    expr: Doc | None = None
    cold: Doc | None = None


def mutants(plan: Doc) -> tuple[Mutant, ...]:
    """All mutants of a plan, guard by guard."""
    found: list[Mutant] = []
    for number, guard in enumerate(plan["guards"]):
        found.append(Mutant(number, "the guard is dropped"))
        if guard["kind"] == "payload":
            continue
        changed = _of_expr(number, guard["expr"]) if guard.get("expr") is not None else _of_cold(number, guard, plan["cold"])
        found += list(changed)[:MAX_PER_GUARD]
    return tuple(found)


def _of_expr(number: int, expr: Doc) -> Iterator[Mutant]:
    seen = {canonical(expr), canonical(TRUE)}
    for what, changed in _expr(expr):
        name = canonical(changed)
        if name not in seen:
            seen.add(name)
            yield Mutant(number, what, expr=changed)


# -- E --


def _expr(e: Doc) -> Iterator[Change]:
    """Every expression that differs from `e` by one mistake."""
    match e["op"]:
        case "count":
            yield from _bounds(e, f"count of {local(e['p'])}", 1, "1")
        case "all" | "some":
            other = "some" if e["op"] == "all" else "all"
            yield f"{e['op']} values of {local(e['p'])} → {other}", {**e, "op": other}
            yield from _inside(e, "test", _test(e["test"]))
        case "self":
            yield from _inside(e, "test", _test(e["test"]))
        case "and" | "or" | "xone":
            yield from _joined(e, "op", _expr)
        case "not":
            yield "negation dropped", dict(e["arg"])
            yield from _inside(e, "arg", _expr(e["arg"]))
        case "pair" | "within":
            yield f"{e['rel']} → {SWAPPED[e['rel']]}", {**e, "rel": SWAPPED[e["rel"]]}
        case "closed":
            for i in _picked(e["allowed"]):
                yield f"{local(e['allowed'][i])} no longer allowed", {**e, "allowed": _without(e["allowed"], i)}
        case "forall":
            yield from _bounds({**e, "max": None}, "number of resources", 1, "1", lower=0)
            yield from _inside(e, "arg", _expr(e["arg"]))
        case "on":
            yield from _inside(e, "arg", _expr(e["arg"]))


def _test(t: Doc) -> Iterator[Change]:
    """The same for a test of one value."""
    match t["t"]:
        case "range":
            unit, text = UNITS[t["family"]]
            yield from _bounds(t, "bound", unit, text)
            yield from _strictness(t, unit)
        case "length":
            yield from _bounds(t, "length", 1, "1")
        case "in":
            for i in _picked(t["terms"]):
                yield f"{t['terms'][i]['v']!r} no longer among the values", {**t, "terms": _without(t["terms"], i)}
        case "value":
            other = "ne" if t["op"] == "eq" else "eq"
            yield f"{t['op']} {t['term']['v']!r} → {other}", {**t, "op": other}
        case "kind":
            rest = [kind for kind in KINDS if kind not in t["kinds"]]
            if rest:
                yield f"{' or '.join(t['kinds'])} → {' or '.join(rest)}", {**t, "kinds": rest}
        case "clock":
            for i in _picked(t["days"]) if len(t["days"]) > 1 else ():
                yield f"day {t['days'][i]} dropped", {**t, "days": _without(t["days"], i)}
            for name, by in (("from_s", 60), ("from_s", -60), ("until_s", 60), ("until_s", -60)):
                yield f"{name.removesuffix('_s')} moved by {by} s", {**t, name: t[name] + by}
        case "lang":
            for i in _picked(t["ranges"]) if len(t["ranges"]) > 1 else ():
                yield f"language {t['ranges'][i]} dropped", {**t, "ranges": _without(t["ranges"], i)}
        case "and" | "or" | "xone":
            yield from _joined(t, "t", _test)
        case "not":
            yield "negation dropped", dict(t["arg"])
            yield from _inside(t, "arg", _test(t["arg"]))


def _inside(whole: Doc, name: str, changes: Iterable[Change]) -> Iterator[Change]:
    for what, part in changes:
        yield what, {**whole, name: part}


def _joined(whole: Doc, key: str, inner: Any) -> Iterator[Change]:
    args: Sequence[Doc] = whole["args"]
    if len(args) > 1:
        other = "or" if whole[key] == "and" else "and" if whole[key] == "or" else "or"
        yield f"{whole[key]} → {other}", {**whole, key: other}
        for i in _picked(args):
            yield f"part {i + 1} of {whole[key]} dropped", {**whole, "args": _without(args, i)}
    for i, arg in enumerate(args):
        for what, part in inner(arg):
            yield what, {**whole, "args": [*args[:i], part, *args[i + 1 :]]}


def _bounds(whole: Doc, what: str, unit: int, text: str, lower: int = 1) -> Iterator[Change]:
    """Each bound moved by one unit, either way. A least number of one that goes would be the guard dropped, unless there is a most."""
    low, high = whole.get("min"), whole.get("max")
    clean = {name: value for name, value in whole.items() if name != "max" or value is not None or what != "number of resources"}
    counted = what != "bound"
    if low is not None and (not counted or low > 0):
        if high is None or low + unit <= high:
            yield f"least {what} up by {text}", {**clean, "min": low + unit}
        if not counted or high is not None or low > lower:
            yield f"least {what} down by {text}", {**clean, "min": low - unit}
    if high is not None:
        yield f"most {what} up by {text}", {**clean, "max": high + unit}
        if low is None or high - unit >= low:
            yield f"most {what} down by {text}", {**clean, "max": high - unit}


def _strictness(test: Doc, unit: int) -> Iterator[Change]:
    """An inclusive bound made exclusive and the other way round: one step of the scale."""
    if unit == 1:
        return  # a day is the step, and was moved already
    for name, inwards, edge in (("min", 1, 1), ("max", -1, unit - 1)):
        bound = test.get(name)
        if bound is not None:
            exclusive = bound % unit == edge
            told = "exclusive → inclusive" if exclusive else "inclusive → exclusive"
            yield f"{'least' if name == 'min' else 'most'} bound {told}", {**test, name: bound + (-inwards if exclusive else inwards)}


def _picked(items: Sequence[Any]) -> Sequence[int]:
    return range(len(items)) if len(items) <= MAX_TERMS else (0, len(items) - 1)


def _without(items: Sequence[Any], i: int) -> list[Any]:
    return [*items[:i], *items[i + 1 :]]


# -- the cold tier --


def _of_cold(number: int, guard: Doc, cold: Doc) -> Iterator[Mutant]:
    query = cold["asks"].get(guard["id"])
    if query is not None:
        yield from _of_query(number, guard, query, cold)
    elif guard["kind"] == "shacl":
        yield from _of_shape(number, guard, cold)


def _of_query(number: int, guard: Doc, query: str, cold: Doc) -> Iterator[Mutant]:
    for match in _OPERATOR.finditer(query):
        other = _OPERATORS[match[1]]
        text = query[: match.start()] + other + query[match.end() :]
        yield Mutant(number, f"{match[1]} → {other}", cold={**cold, "asks": {**cold["asks"], guard["id"]: text}})


def _of_shape(number: int, guard: Doc, cold: Doc) -> Iterator[Mutant]:
    """The parameter of the constraint, where it is a number or a pattern, in the line of its shape."""
    lines = cold["shapes"].splitlines(keepends=True)
    subject = f"{guard['shape']} " if guard["shape"].startswith("_:") else f"<{guard['shape']}> "
    component = re.sub(r".*#|ConstraintComponent$", "", guard["component"])
    parameters = {component[0].lower() + component[1:]}
    if component == "QualifiedValueShape":
        parameters = {"qualifiedMinCount", "qualifiedMaxCount"}
    for i, line in enumerate(lines):
        name = re.match(re.escape(subject) + r"<http://www\.w3\.org/ns/shacl#(\w+)> ", line)
        if name is None or name[1] not in parameters:
            continue
        for what, text in _of_line(name[1], line):
            yield Mutant(number, what, cold={**cold, "shapes": "".join([*lines[:i], text, *lines[i + 1 :]])})


def _of_line(name: str, line: str) -> Iterator[tuple[str, str]]:
    number = re.search(r'> "(\d+)"', line)
    if number is not None:
        value = int(number[1])
        for other in (value + 1, *((value - 1,) if value > 0 else ())):
            yield f"{name} {value} → {other}", line[: number.start(1)] + str(other) + line[number.end(1) :]
    if name == "pattern":
        text = re.search(r'> "((?:[^"\\]|\\.)*)"', line)
        for anchor, at in (("^", 0), ("$", -1)) if text is not None else ():
            assert text is not None
            if text[1] and text[1][at] == anchor:
                start = text.start(1) if at == 0 else text.end(1) - 1
                yield f"{anchor} of the pattern dropped", line[:start] + line[start + 1 :]


def schemata(plan: Doc, changed: Sequence[Mutant]) -> dict[str, Any]:
    """The plan with each of these mutants, which have expressions, as one more guard that never denies: one pack decides them all at
    once. Guard `len(plan["guards"]) + i` stands for the i-th of them."""
    extra = [
        {**plan["guards"][mutant.guard], "id": f"mutant.{i}", "kind": "ask", "severity": "Info", "expr": mutant.expr}
        for i, mutant in enumerate(changed)
    ]
    return {**plan, "guards": [*plan["guards"], *extra]}
