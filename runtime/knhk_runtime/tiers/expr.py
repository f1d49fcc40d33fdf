"""The plan's E and V expressions (formats/guardplan.md) on a graph, with exact arithmetic: what the tables decide with scaled integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pyoxigraph import BlankNode, Literal, NamedNode

from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.graph import Graph, Term, node_of
from knhk_runtime.tiers.literals import Order, Value, compare, value_of, well_formed
from knhk_runtime.tiers.names import KNHK, RDF_TYPE, XSD
from knhk_runtime.tiers.relations import equal
from knhk_runtime.tiers.shacl import lang_matches, term_kind

Expr = Mapping[str, Any]
_DAY_S = 86400
_UNIX_DAYS = 719468  # days from 0000-03-01 to 1970-01-01, the origin of literals.py
REQUEST = NamedNode(KNHK + "request")
CALLER = NamedNode(KNHK + "caller")
_WITHIN: Mapping[str, tuple[Order, ...]] = {"le": (-1, 0), "lt": (-1,), "ge": (0, 1), "gt": (1,)}
_LESS: Mapping[str, tuple[Order, ...]] = {"lessThan": (-1,), "lessThanOrEquals": (-1, 0)}


def term_of(document: Mapping[str, Any]) -> Term:
    """TERM of the plan."""
    kind, text = document["k"], document["v"]
    if kind == "iri":
        return NamedNode(text)
    if kind == "bnode":
        return BlankNode(text)
    if document.get("lang"):
        return Literal(text, language=document["lang"])
    return Literal(text, datatype=NamedNode(document.get("dt") or XSD + "string"))


class Expressions:
    """Expressions over one graph. `targets` are the plan's."""

    def __init__(self, targets: Sequence[Expr], graph: Graph) -> None:
        self.targets = targets
        self.graph = graph

    def focus_nodes(self, index: int) -> list[Term]:
        """Focus nodes of a target, each once."""
        target = self.targets[index]
        found = _TARGETS[target["kind"]](self, target)
        return list(dict.fromkeys(found))

    def holds(self, target: int, expr: Expr) -> bool:
        """True when no focus node of the target makes `expr` false: the guard passes."""
        nodes = self.focus_nodes(target)
        return all(self.test(expr, node, nodes) for node in nodes)

    def test(self, expr: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
        """E at one focus node; `nodes` are all focus nodes of its target, for `unique`."""
        return _E[expr["op"]](self, expr, focus, nodes)

    def objects(self, focus: Term, iri: str) -> list[Term]:
        return self.graph.objects(focus, NamedNode(iri))

    def known(self, document: Mapping[str, Any]) -> Term:
        """A TERM that names a node; knhk:caller stands for the caller's IRI."""
        node = term_of(document)
        if node == CALLER:
            callers = self.graph.objects(REQUEST, CALLER)
            own = self.graph.predicates(CALLER)
            return callers[0] if callers and not own else node
        return node


Exprs = Expressions


def _class(self: Exprs, target: Expr) -> Iterable[Term]:
    return [node for name in target["classes"] for node in self.graph.subjects(RDF_TYPE, node_of(name))]


def _subjects_of(self: Exprs, target: Expr) -> Iterable[Term]:
    return [subject for subject, _ in self.graph.pairs(NamedNode(target["predicate"]))]


def _objects_of(self: Exprs, target: Expr) -> Iterable[Term]:
    return [obj for _, obj in self.graph.pairs(NamedNode(target["predicate"]))]


_TARGETS: Mapping[str, Callable[[Exprs, Expr], Iterable[Term]]] = {
    "class": _class,
    "node": lambda self, target: (term_of(target["node"]),),
    "subjectsOf": _subjects_of,
    "objectsOf": _objects_of,
    "request": lambda self, target: (REQUEST,),
}


def _count(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    number = len(self.objects(focus, e["p"]))
    return number >= e["min"] and (e["max"] is None or number <= e["max"])


def _all(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    return all(test_term(e["test"], value) for value in self.objects(focus, e["p"]))


def _some(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    return any(test_term(e["test"], value) for value in self.objects(focus, e["p"]))


def _unique_lang(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    tags = [v.language.lower() for v in self.objects(focus, e["p"]) if isinstance(v, Literal) and v.language]
    return len(tags) == len(set(tags))


def _unique(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    own = set(self.objects(focus, e["p"]))
    return not any(value in own for other in nodes if other != focus for value in self.objects(other, e["p"]))


def _pair(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    left = [focus] if e["p"] is None else self.objects(focus, e["p"])
    right = self.objects(focus, e["q"])
    if e["rel"] == "equals":
        return set(left) == set(right)
    if e["rel"] == "disjoint":
        return not set(left) & set(right)
    return all(_related(x, y, _LESS[e["rel"]]) for x in left for y in right)


def _related(x: Term, y: Term, allowed: tuple[Order, ...]) -> bool:
    a = value_of(x) if isinstance(x, Literal) else None
    b = value_of(y) if isinstance(y, Literal) else None
    return a is not None and b is not None and compare(a, b) in allowed


def _closed(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    allowed = set(e["allowed"])
    return all(predicate.value in allowed for predicate in self.graph.predicates(focus))


def _within(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    left, right = self.objects(focus, e["p"]), self.objects(self.known(e["focus"]), e["q"])
    if e["rel"] == "ne":
        return bool(left) and bool(right) and all(_unequal(x, y) for x in left for y in right)
    if e["rel"] == "eq":
        return bool(left) and all(any(equal(x, y) is True for y in right) for x in left)
    allowed = _WITHIN[e["rel"]]
    return bool(left) and all(any(_related(x, y, allowed) for y in right) for x in left)


def _unequal(x: Term, y: Term) -> bool:
    """SPARQL's != where it is known: values of one family, plain strings, or a term that is no literal."""
    if x == y:
        return False
    if not isinstance(x, Literal) or not isinstance(y, Literal):
        return True
    a, b = value_of(x), value_of(y)
    return a is not None and b is not None and a.family == b.family and compare(a, b) in (-1, 1)


def _forall(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
    inner = self.focus_nodes(e["target"])
    return len(inner) >= e["min"] and all(self.test(e["arg"], node, inner) for node in inner)


def _fold(word: str) -> Callable[[Exprs, Expr, Term, Sequence[Term]], bool]:
    def test(self: Exprs, e: Expr, focus: Term, nodes: Sequence[Term]) -> bool:
        return _FOLDS[word](self.test(arg, focus, nodes) for arg in e["args"])

    return test


_FOLDS: Mapping[str, Callable[[Iterable[bool]], bool]] = {"and": all, "or": any, "xone": lambda values: sum(values) == 1}

_E: Mapping[str, Callable[[Exprs, Expr, Term, Sequence[Term]], bool]] = {
    "count": _count,
    "all": _all,
    "some": _some,
    "self": lambda self, e, focus, nodes: test_term(e["test"], focus),
    "uniqueLang": _unique_lang,
    "unique": _unique,
    "pair": _pair,
    "closed": _closed,
    "within": _within,
    "forall": _forall,
    "on": lambda self, e, focus, nodes: self.test(e["arg"], self.known(e["focus"]), nodes),
    "not": lambda self, e, focus, nodes: not self.test(e["arg"], focus, nodes),
    "const": lambda self, e, focus, nodes: bool(e["value"]),
    **{word: _fold(word) for word in _FOLDS},
}


def test_term(v: Expr, term: Term) -> bool:
    """V at one term."""
    return _V[v["t"]](v, term)


def _datatype(v: Expr, term: Term) -> bool:
    return isinstance(term, Literal) and term.datatype.value == v["iri"] and well_formed(term)


def _bound(family: str, scaled: int) -> Value:
    """A scaled integer of the plan as a value of its family."""
    if family == "date":
        return Value("date", Fraction((scaled + _UNIX_DAYS) * _DAY_S), zoned=False)
    if family == "dateTime":
        return Value("dateTime", _UNIX_DAYS * _DAY_S + Fraction(scaled, 10**6))
    if family == "boolean":
        return Value("boolean", bool(scaled))
    return Value("numeric", Decimal(scaled).scaleb(-6))


def _range(v: Expr, term: Term) -> bool:
    value = value_of(term) if isinstance(term, Literal) else None
    if value is None or value.family != v["family"]:
        return False
    above = v["min"] is None or compare(value, _bound(v["family"], v["min"])) in (0, 1)
    below = v["max"] is None or compare(value, _bound(v["family"], v["max"])) in (-1, 0)
    return above and below and not value.not_a_number


def _clock(v: Expr, term: Term) -> bool:
    """Local time of day and weekday (1 Monday; 1970-01-01 was a Thursday) of a dateTime with zone."""
    value = value_of(term) if isinstance(term, Literal) else None
    if value is None or value.family != "dateTime" or not value.zoned or not isinstance(value.exact, Fraction):
        return False
    local = value.exact - _UNIX_DAYS * _DAY_S + v["zone_s"]
    day, second = divmod(local, _DAY_S)
    return (day + 3) % 7 + 1 in v["days"] and v["from_s"] <= second < v["until_s"]


def _length(v: Expr, term: Term) -> bool:
    if isinstance(term, BlankNode):
        return False
    return len(term.value) >= v["min"] and (v["max"] is None or len(term.value) <= v["max"])


def _lang(v: Expr, term: Term) -> bool:
    tag = term.language if isinstance(term, Literal) else None
    return tag is not None and lang_matches(tag, v["ranges"])


def _value(v: Expr, term: Term) -> bool:
    """SPARQL `=` and `!=`; an error is false."""
    same = equal(term, term_of(v["term"]))
    return same is not None and same == (v["op"] == "eq")


def _fold_v(word: str) -> Callable[[Expr, Term], bool]:
    def test(v: Expr, term: Term) -> bool:
        return _FOLDS[word](test_term(arg, term) for arg in v["args"])

    return test


_V: Mapping[str, Callable[[Expr, Term], bool]] = {
    "kind": lambda v, term: term_kind(term) in v["kinds"],
    "datatype": _datatype,
    "range": _range,
    "clock": _clock,
    "length": _length,
    "lang": _lang,
    "in": lambda v, term: any(term == term_of(member) for member in v["terms"]),
    "value": _value,
    "not": lambda v, term: not test_term(v["arg"], term),
    "const": lambda v, term: bool(v["value"]),
    **{word: _fold_v(word) for word in _FOLDS},
}


def check_expr(where: str, expr: Expr) -> None:
    """Raises ShapeError for a form that this version does not know; found when the plan is loaded."""
    key, known = ("t", _V) if "t" in expr else ("op", _E)  # `value` of V has a member op too
    if expr.get(key) not in known:
        raise ShapeError(where, f"expression form {expr.get(key)!r} is unknown")
    inner = [expr[name] for name in ("test", "arg") if name in expr]
    for child in (*inner, *expr.get("args", ())):
        check_expr(where, child)
