"""What differs between two versions of a schema, and what of it breaks BACKWARD or FORWARD. Pure.

BACKWARD: data that were valid stay valid, and questions that were true stay true. FORWARD: the same from the new version to the old.
The rules are sound and not complete: what cannot be decided breaks both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final

from knhk_gen.names import OWL, SH, local
from knhk_gen.schema import BOUNDS, SEVERAL, TOGETHER, Schema, Shape


class Effect(StrEnum):
    """On the data that are valid, or on the terms."""

    WIDENS = "Widens"
    NARROWS = "Narrows"
    NEUTRAL = "Neutral"
    UNKNOWN = "Unknown"
    ADDS = "Adds"
    REMOVES = "Removes"


@dataclass(frozen=True, order=True)
class SchemaChange:
    """One difference: of which term, what, and which directions it breaks."""

    term: str
    change: str
    effect: Effect
    backward: bool
    forward: bool

    @property
    def breaks(self) -> str:
        """BACKWARD, FORWARD, FULL for both, or empty."""
        return {(True, True): "FULL", (True, False): "BACKWARD", (False, True): "FORWARD"}.get((self.backward, self.forward), "")


Sets = tuple[frozenset[str], frozenset[str]]
NONE: Final = frozenset[str]()
_KIND_SETS: Final[Mapping[str, frozenset[str]]] = {
    SH + name: frozenset(parts)
    for name, parts in {
        "IRI": ("i",),
        "BlankNode": ("b",),
        "Literal": ("l",),
        "BlankNodeOrIRI": ("b", "i"),
        "BlankNodeOrLiteral": ("b", "l"),
        "IRIOrLiteral": ("i", "l"),
    }.items()
}


def compare(old: Schema, new: Schema) -> tuple[SchemaChange, ...]:
    """All differences, in order of term; those for people alone are none. `old` has its renames applied."""
    found = {*_terms(old, new), *_edges(old, new), *_axioms(old, new), *_bounds(old, new), *_shapes(old, new)}
    return tuple(sorted(found))


def _change(term: str, change: str, effect: Effect) -> SchemaChange:
    narrows, widens = effect in (Effect.NARROWS, Effect.UNKNOWN), effect in (Effect.WIDENS, Effect.UNKNOWN)
    return SchemaChange(term, change, effect, narrows, widens)


def _terms(old: Schema, new: Schema) -> Iterator[SchemaChange]:
    closed = any("closed" in shape.asks for shape in old.shapes.values())
    for term in old.terms.keys() - new.terms.keys():
        yield SchemaChange(term, f"{_kinds(old, term)} removed", Effect.REMOVES, True, term in old.spoken)
    for term in new.terms.keys() - old.terms.keys():
        breaks = closed and any("property" in kind for kind in new.terms[term])
        yield SchemaChange(term, f"{_kinds(new, term)} added", Effect.ADDS, False, breaks)
    for term in old.terms.keys() & new.terms.keys():
        if old.terms[term] != new.terms[term]:
            yield _change(term, f"was {_kinds(old, term)}, is {_kinds(new, term)}", Effect.UNKNOWN)
    for term in new.deprecated - old.deprecated:
        yield _change(term, "deprecated", Effect.NEUTRAL)


def _kinds(schema: Schema, term: str) -> str:
    return " and ".join(sorted(schema.terms[term]))


def _edges(old: Schema, new: Schema) -> Iterator[SchemaChange]:
    targeted = {t.removeprefix("targetClass ") for s in (old, new) for shape in s.shapes.values() for t in shape.targets}
    for predicate, sub, above in new.edges - old.edges:
        if sub in old.terms:
            narrows, widens = above in targeted, above in old.terms
            effect = Effect.NARROWS if narrows else Effect.NEUTRAL
            yield SchemaChange(sub, f"{local(predicate)} {above} added", effect, narrows, widens)
    for predicate, sub, above in old.edges - new.edges:
        if sub in new.terms:
            narrows, widens = above in old.terms, above in targeted
            effect = Effect.WIDENS if widens else Effect.NEUTRAL
            yield SchemaChange(sub, f"{local(predicate)} {above} removed", effect, narrows, widens)


def _axioms(old: Schema, new: Schema) -> Iterator[SchemaChange]:
    for at in old.axioms.keys() | new.axioms.keys():
        term, predicate = at
        if term not in old.terms or term not in new.terms:
            continue
        before, after = old.axioms.get(at, NONE), new.axioms.get(at, NONE)
        if predicate == OWL + "oneOf" and before and after and before != after:
            yield _change(term, "members changed", Effect.UNKNOWN)
            continue
        yield from (_change(term, f"{local(predicate)} {_short(v)} added", Effect.NARROWS) for v in after - before)
        yield from (_change(term, f"{local(predicate)} {_short(v)} removed", Effect.WIDENS) for v in before - after)


def _bounds(old: Schema, new: Schema) -> Iterator[SchemaChange]:
    """rdfs:domain and rdfs:range hold all together; domainIncludes and rangeIncludes are alternatives."""
    for at in old.bounds.keys() | new.bounds.keys():
        term, predicate = at
        if term not in old.terms or term not in new.terms:
            continue
        sets = old.bounds.get(at, NONE), new.bounds.get(at, NONE)
        rate = _together if predicate in BOUNDS[:2] else _alternatives
        yield from (_change(term, f"{local(predicate)} {what}", effect) for what, effect in rate(sets))


# -- shapes --


def _shapes(old: Schema, new: Schema) -> Iterator[SchemaChange]:
    unsure = old.unsure | new.unsure
    for key in old.shapes.keys() | new.shapes.keys():
        before, after = old.shapes.get(key), new.shapes.get(key)
        some = before or after
        assert some is not None
        for what, effect in _shape(before, after, old, new):
            sure = effect if some.root not in unsure or effect is Effect.NEUTRAL else Effect.UNKNOWN
            nested = key.removeprefix(some.root).strip()
            yield _change(some.root, f"{local(nested)}: {what}" if nested else what, sure)


Rated = Iterator[tuple[str, Effect]]


def _shape(before: Shape | None, after: Shape | None, old: Schema, new: Schema) -> Rated:
    if before is None and after is not None:
        if after.nested and after.root not in old.shapes:
            return  # said of the shape that has it
        if after.asks or not after.nested:
            yield "shape added", _added(after, old)
        return
    if after is None and before is not None:
        if before.nested and before.root not in new.shapes:
            return
        if before.asks or not before.nested:
            yield "shape removed", _removed(before)
        return
    assert before is not None
    assert after is not None
    for target in after.targets - before.targets:
        yield f"{_short(target)} added", Effect.NEUTRAL if _is_new(target, old) else Effect.NARROWS
    for target in before.targets - after.targets:
        yield f"{_short(target)} removed", Effect.WIDENS
    for name in sorted(before.asks.keys() | after.asks.keys()):
        sets = before.asks.get(name, NONE), after.asks.get(name, NONE)
        if sets[0] != sets[1]:
            yield from ((f"sh:{name} {what}", effect) for what, effect in _component(name, sets, old, new))


def _added(shape: Shape, old: Schema) -> Effect:
    if shape.nested:
        return Effect.NARROWS
    return Effect.NEUTRAL if all(_is_new(target, old) for target in shape.targets) else Effect.NARROWS


def _removed(shape: Shape) -> Effect:
    return Effect.WIDENS if shape.nested or shape.targets else Effect.NEUTRAL


def _is_new(target: str, old: Schema) -> bool:
    name, _, iri = target.partition(" ")
    return name == "targetClass" and iri not in old.terms


def _component(name: str, sets: Sets, old: Schema, new: Schema) -> Rated:
    if any(value.startswith(SEVERAL) for value in sets[0] | sets[1]):
        return _unknown(sets)
    if name == "class":
        return _class(sets, old, new)
    return _RATES.get(name, _unknown)(sets)


def _together(sets: Sets) -> Rated:
    """Every value is one more demand."""
    before, after = sets
    yield from ((f"{_short(v)} added", Effect.NARROWS) for v in sorted(after - before))
    yield from ((f"{_short(v)} removed", Effect.WIDENS) for v in sorted(before - after))


def _alternatives(sets: Sets) -> Rated:
    """Every value is one more way to be valid; none at all: no demand."""
    before, after = sets
    if not before or not after:
        yield ("added", Effect.NARROWS) if after else ("removed", Effect.WIDENS)
        return
    yield from ((f"{_short(v)} added", Effect.WIDENS) for v in sorted(after - before))
    yield from ((f"{_short(v)} removed", Effect.NARROWS) for v in sorted(before - after))


def _excepted(sets: Sets) -> Rated:
    """Every value is one more exception."""
    before, after = sets
    yield from ((f"{_short(v)} added", Effect.WIDENS) for v in sorted(after - before))
    yield from ((f"{_short(v)} removed", Effect.NARROWS) for v in sorted(before - after))


def _at_least(sets: Sets) -> Rated:
    yield from _bound(sets, Effect.NARROWS, Effect.WIDENS)


def _at_most(sets: Sets) -> Rated:
    yield from _bound(sets, Effect.WIDENS, Effect.NARROWS)


def _min_count(sets: Sets) -> Rated:
    yield from _bound((sets[0] or _ZERO, sets[1] or _ZERO), Effect.NARROWS, Effect.WIDENS)


_ZERO: Final = frozenset({"0"})


def _bound(sets: Sets, raised: Effect, lowered: Effect) -> Rated:
    before, after = sets
    if not before or not after:
        yield (f"{_value(after)} added", Effect.NARROWS) if after else (f"{_value(before)} removed", Effect.WIDENS)
        return
    numbers = [_number(values) for values in sets]
    if numbers[0] is None or numbers[1] is None:
        yield "changed", Effect.UNKNOWN
    elif numbers[0] != numbers[1]:
        yield f"{numbers[0]} to {numbers[1]}", raised if numbers[1] > numbers[0] else lowered


def _value(values: frozenset[str]) -> str:
    number = _number(values)
    return _short(", ".join(sorted(values))) if number is None else str(number)


def _number(values: frozenset[str]) -> Decimal | None:
    """The one number of a literal; None of anything else."""
    if len(values) != 1:
        return None
    (text,) = values
    try:
        found = Decimal(text.split("^^")[0].strip('"'))
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _flag(sets: Sets) -> Rated:
    on = [any("true" in value or value.startswith('"1"') for value in values) for values in sets]
    if on[0] != on[1]:
        yield ("added", Effect.NARROWS) if on[1] else ("removed", Effect.WIDENS)


def _node_kind(sets: Sets) -> Rated:
    kinds = [frozenset[str]().union(*(_KIND_SETS.get(v, NONE) for v in values)) or frozenset("bil") for values in sets]
    if kinds[0] < kinds[1]:
        yield "allows more", Effect.WIDENS
    elif kinds[1] < kinds[0]:
        yield "allows less", Effect.NARROWS
    elif kinds[0] != kinds[1]:
        yield "changed", Effect.UNKNOWN


def _class(sets: Sets, old: Schema, new: Schema) -> Rated:
    """One class for one of its super classes allows more."""
    gone, come = sets[0] - sets[1], sets[1] - sets[0]
    if len(gone) == len(come) == 1:
        (before,), (after,) = gone, come
        above = {(sub, sup) for _, sub, sup in old.edges & new.edges}
        for pair, effect in (((before, after), Effect.WIDENS), ((after, before), Effect.NARROWS)):
            if pair in above:
                yield f"{before} to {after}", effect
                return
    yield from _together(sets)


def _unknown(sets: Sets) -> Rated:
    yield "changed", Effect.UNKNOWN


_RATES: Final[Mapping[str, Callable[[Sets], Rated]]] = {
    "minCount": _min_count,
    **dict.fromkeys(("minLength", "minInclusive", "minExclusive"), _at_least),
    **dict.fromkeys(("maxCount", "maxLength", "maxInclusive", "maxExclusive"), _at_most),
    **dict.fromkeys(("in", "languageIn", "or"), _alternatives),
    "ignoredProperties": _excepted,
    **dict.fromkeys((*TOGETHER, "and"), _together),  # another one in the place of one adds and removes: it breaks both
    **dict.fromkeys(("closed", "uniqueLang"), _flag),
    "nodeKind": _node_kind,
}


def _short(text: str) -> str:
    """As people read it: the local name of an IRI, no digest of a blank node."""
    if text.startswith("_:"):
        return "(…)"
    shown = " ".join(local(part) if "://" in part else part for part in text.split(" "))
    return shown if len(shown) <= 120 else f"{shown[:117]}…"
