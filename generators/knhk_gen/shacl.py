"""SHACL core to guards: one guard per constraint component per shape and target.

A shape stands on a focus node (E) or on a value node (V). A component that fits neither form, or
whose condition in the classification table does not hold, makes a guard of class W1 or C1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rdflib import BNode, Literal, URIRef

from knhk_gen import table
from knhk_gen.exprs import (
    TRUE,
    Expr,
    Piece,
    conj,
    count,
    disj,
    every,
    falls,
    fits,
    is_in,
    merge,
    negate,
    some,
)
from knhk_gen.names import SH, TYPE, XSD, local
from knhk_gen.shapes import (
    BLANK,
    NODE_KINDS,
    SEVERITIES,
    Param,
    Path,
    Shapes,
    needs_backtracking,
)
from knhk_gen.terms import UNCHECKED, plan_term, scaled
from knhk_gen.turtle import Term

MAX_RUN = 8
MAX_DEPTH = 12

Target = dict[str, Any]

BOUNDS = "sh:minExclusive / sh:minInclusive / sh:maxExclusive / sh:maxInclusive"
LENGTHS = "sh:minLength / sh:maxLength"
LOGIC = "sh:and / sh:or / sh:not / sh:xone"
PAIRS = "sh:equals / sh:disjoint"
ORDERS = "sh:lessThan / sh:lessThanOrEquals"
QUALIFIED = "sh:qualifiedValueShape with sh:qualifiedMinCount / sh:qualifiedMaxCount"
PATTERN = "sh:pattern (+ sh:flags)"
CLOSED = "sh:closed (+ sh:ignoredProperties)"
NESTED = "sh:property nested under a value node"
RECURSIVE = "recursive shapes"
BLANK_CLASS = "a subclass is a blank node"
SPARQL = "sh:sparql, sh:select and sh:ask validators, custom components"

PATH_ROWS = {
    "inverse": "inverse of a predicate",
    "alternative": "alternative of predicates",
    "sequence": "sequence of two predicates, zeroOrOne",
    "zeroOrOne": "sequence of two predicates, zeroOrOne",
    "zeroOrMore": "zeroOrMore / oneOrMore",
    "oneOrMore": "zeroOrMore / oneOrMore",
}
MIXED = "longer or mixed paths"


@dataclass(frozen=True)
class ShapeGuard:
    """A guard before it gets its id and its target's index. `named`: IRI of the nearest shape around it that has one."""

    shape: Term
    named: str
    owner: str
    param: Param
    path: Path | None
    target: Target
    piece: Piece
    where: str


class Lowering:
    """Lowers the shapes of one pack."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.stack: list[Term] = []

    def guards(self) -> list[ShapeGuard]:
        """All guards, in the order of the text."""
        found: list[ShapeGuard] = []
        for root in self.shapes.roots():
            for target in self.targets(root):
                self._collect(root, target, _name(root) or "shape", found)
        return found

    def targets(self, shape: Term) -> list[Target]:
        """The targets of a shape; all its classes make one target."""
        s = self.shapes
        classes = [str(c) for c in s.values(shape, "targetClass")]
        if s.is_implicit_class(shape):
            classes.append(str(shape))
        found: list[Target] = []
        if classes:
            closed = sorted({c for cls in classes for c in s.closure(cls)})
            found.append({"kind": "class", "classes": closed})
        for node in s.values(shape, "targetNode"):
            found.append({"kind": "node", "node": plan_term(node)})
        for kind in ("subjectsOf", "objectsOf"):
            for p in s.values(shape, "target" + kind[0].upper() + kind[1:]):
                found.append({"kind": kind, "predicate": str(p)})
        return found

    def _collect(self, shape: Term, target: Target, owner: str, found: list[ShapeGuard]) -> None:
        s = self.shapes
        if self._off(shape):
            return
        self.stack.append(shape)
        path = s.path(shape)
        for param in s.params(shape):
            values = s.values(shape, param.name)
            if param.name == "property" and path is None:
                for inner in values:
                    if inner in self.stack:
                        piece = falls("C1", RECURSIVE)
                        found.append(self._guard(shape, owner, param, target, piece))
                    else:
                        self._collect(inner, target, _name(inner) or owner, found)
                continue
            piece = self._cap(self.component(shape, param, path), target)
            if piece.expr != TRUE or param.name not in ("uniqueLang", "closed"):
                found.append(self._guard(shape, owner, param, target, piece))
        self.stack.pop()

    def _guard(self, shape: Term, owner: str, param: Param, target: Target, piece: Piece) -> ShapeGuard:
        where = self.shapes.store.where(shape, None if param.custom else SH + param.name)
        named = next((str(node) for node in reversed(self.stack) if isinstance(node, URIRef)), "")
        return ShapeGuard(shape, named, owner, param, self.shapes.path(shape), target, piece, where)

    def _cap(self, piece: Piece, target: Target) -> Piece:
        if target["kind"] == "objectsOf" and piece.klass != "C1":
            return falls("W1", "sh:targetObjectsOf")
        if any(name.startswith(BLANK) for name in target.get("classes", ())):
            return falls("C1", "sh:targetClass / implicit class target", BLANK_CLASS)
        return piece

    def _off(self, shape: Term) -> bool:
        return self.shapes.flag(shape, "deactivated")

    # a component on the focus node

    def component(self, shape: Term, param: Param, path: Path | None) -> Piece:
        """The component as E over the focus node of `shape`."""
        if param.custom:
            return falls("C1", SPARQL)
        if path is None:
            return self._on_focus(shape, param)
        if path.kind != "predicate":
            return _path_piece(path)
        return self._on_values(shape, param, path.iri)

    def _on_focus(self, shape: Term, param: Param) -> Piece:
        s, name = self.shapes, param.name
        values = s.values(shape, name)
        if name == "class":
            row = "sh:class on the focus node"
            closures = [s.closure(str(v)) for v in values]
            if any(name.startswith(BLANK) for names in closures for name in names):
                return falls("W1", row, BLANK_CLASS)
            return fits(conj([some(TYPE, is_in([plan_term(URIRef(c)) for c in names])) for names in closures]), row)
        if name in ("and", "or", "not", "xone"):
            return self._logic(shape, name, self.on_focus, "op")
        if name == "node":
            return merge([self.on_focus(v) for v in values], LOGIC, conj)
        if name == "property":
            row = "sh:property on the focus node"
            return merge([self.on_focus(v) for v in values], row, conj)
        if name == "closed":
            return self._closed(shape)
        if name in ("equals", "disjoint"):
            return fits(conj([{"op": "pair", "rel": name, "p": None, "q": str(q)} for q in values]), PAIRS)
        piece = self._test(shape, param)
        if piece.expr is None:
            return piece
        return fits(_self(piece.expr), piece.feature)

    def _on_values(self, shape: Term, param: Param, p: str) -> Piece:
        s, name = self.shapes, param.name
        values = s.values(shape, name)
        if name in ("minCount", "maxCount"):
            return _cardinality(name, int(str(values[0])), p)
        if name == "hasValue":
            return fits(conj([some(p, _one_of([v])) for v in values]), "sh:hasValue")
        if name == "uniqueLang":
            on = str(values[0]) == "true"
            return fits({"op": "uniqueLang", "p": p} if on else TRUE, "sh:uniqueLang")
        if name in ("equals", "disjoint", "lessThan", "lessThanOrEquals"):
            row = PAIRS if name in ("equals", "disjoint") else ORDERS
            return fits(conj([{"op": "pair", "rel": name, "p": p, "q": str(q)} for q in values]), row)
        if name == "qualifiedValueShape":
            return self._qualified(shape, p)
        piece = self._test(shape, param)
        if piece.expr is None:
            return piece
        return fits(every(p, piece.expr), piece.feature)

    def on_focus(self, shape: Term) -> Piece:
        """A whole shape as E over a focus node."""
        return self._whole(shape, lambda param: self.component(shape, param, self.shapes.path(shape)))

    def on_value(self, shape: Term) -> Piece:
        """A whole shape as V over a value node."""
        if self.shapes.path(shape) is not None and not self._off(shape):
            return falls("W1", NESTED)
        return self._whole(shape, lambda param: self._test(shape, param), "t")

    def _whole(self, shape: Term, lower: Callable[[Param], Piece], key: str = "op") -> Piece:
        if self._off(shape):
            return fits({key: "const", "value": True}, LOGIC)
        if shape in self.stack or len(self.stack) > MAX_DEPTH:
            return falls("C1", RECURSIVE)
        self.stack.append(shape)
        pieces = [lower(p) for p in self.shapes.params(shape)]
        self.stack.pop()
        return merge(pieces, LOGIC, lambda args: conj(args, key))

    # a component on a value node, from its term alone

    def _test(self, shape: Term, param: Param) -> Piece:
        s, name = self.shapes, param.name
        if param.custom:
            return falls("C1", SPARQL)
        values = s.values(shape, name)
        first = values[0]
        if name == "nodeKind":
            return fits({"t": "kind", "kinds": list(NODE_KINDS[str(first)])}, "sh:nodeKind")
        if name == "datatype":
            return _datatype(str(first))
        if name in ("minInclusive", "maxInclusive", "minExclusive", "maxExclusive"):
            return _bound(name, first)
        if name in ("minLength", "maxLength"):
            n = int(str(first))
            low, high = (n, None) if name == "minLength" else (0, n)
            return fits({"t": "length", "min": low, "max": high}, LENGTHS)
        if name == "pattern":
            hard = any(needs_backtracking(str(v)) for v in values)
            return falls("C1" if hard else "W1", PATTERN)
        if name == "languageIn":
            ranges = [str(v).lower() for v in s.items(first)]
            return fits({"t": "lang", "ranges": list(dict.fromkeys(ranges))}, "sh:languageIn")
        if name == "in":
            return fits(_one_of(s.items(first)), "sh:in")
        if name == "hasValue":
            return fits(conj([_one_of([v]) for v in values], "t"), "sh:hasValue")
        if name in ("and", "or", "not", "xone"):
            return self._logic(shape, name, self.on_value, "t")
        if name == "node":
            pieces = [self.on_value(v) for v in values]
            hops = [p for p in pieces if p.klass != "R1"]
            if hops and all(p.feature in (NESTED, CLOSED, PAIRS) for p in hops):
                return falls("W1", "sh:node")
            return merge(pieces, "sh:node", lambda args: conj(args, "t"))
        if name == "class":
            return falls("W1", "sh:class on a value node")
        if name == "property":
            return falls("C1" if self._recursive(values) else "W1", NESTED)
        if name == "sparql":
            return falls("C1", SPARQL)
        if name == "closed":
            return falls("W1", CLOSED)
        return falls("W1", PAIRS)

    def _recursive(self, shapes: Sequence[Term]) -> bool:
        """True when a shape below these is one that is being lowered."""
        seen: set[Term] = set()
        todo = list(shapes)
        while todo:
            shape = todo.pop()
            if shape in self.stack:
                return True
            if shape not in seen:
                seen.add(shape)
                todo += self._references(shape)
        return False

    def _references(self, shape: Term) -> list[Term]:
        s = self.shapes
        found = [v for n in ("not", "node", "property", "qualifiedValueShape") for v in s.values(shape, n)]
        return found + [v for n in ("and", "or", "xone") for head in s.values(shape, n) for v in s.items(head)]

    def _logic(self, shape: Term, name: str, lower: Callable[[Term], Piece], key: str) -> Piece:
        parts: list[Piece] = []
        for value in self.shapes.values(shape, name):
            if name == "not":
                inner = lower(value)
                parts.append(merge([inner], LOGIC, lambda a: negate(a[0], key)))
                continue
            pieces = [lower(member) for member in self.shapes.items(value)]
            parts.append(merge(pieces, LOGIC, _FOLDS[name](key)))
        return merge(parts, LOGIC, lambda args: conj(args, key))

    def _closed(self, shape: Term) -> Piece:
        s = self.shapes
        if not s.flag(shape, "closed"):
            return fits(TRUE, CLOSED)
        allowed = {str(p) for head in s.values(shape, "ignoredProperties") for p in s.items(head)}
        for inner in s.values(shape, "property"):
            path = s.path(inner)
            if path and path.kind == "predicate":
                allowed.add(path.iri)
        return fits({"op": "closed", "allowed": sorted(allowed)}, CLOSED)

    def _qualified(self, shape: Term, p: str) -> Piece:
        s = self.shapes
        if s.flag(shape, "qualifiedValueShapesDisjoint"):
            return falls("C1", "sh:qualifiedValueShapesDisjoint")
        low, high = s.value(shape, "qualifiedMinCount"), s.value(shape, "qualifiedMaxCount")
        least, most = int(str(low or 0)), None if high is None else int(str(high))
        inner = merge([self.on_value(v) for v in s.values(shape, "qualifiedValueShape")], QUALIFIED, _one)
        if inner.expr is None:
            return falls("C1" if inner.klass == "C1" else "W1", QUALIFIED)
        if least > 1 or most not in (None, 0) or len(s.values(shape, "qualifiedValueShape")) > 1:
            return falls("W1", QUALIFIED)
        parts = [some(p, inner.expr)] if least == 1 else []
        parts += [every(p, negate(inner.expr, "t"))] if most == 0 else []
        return fits(conj(parts), QUALIFIED)


def _one_of(terms: Sequence[Term]) -> Expr:
    """The value is one of these. A blank node of the shapes is no node of the data."""
    return is_in([plan_term(term) for term in terms if not isinstance(term, BNode)])


def _one(args: list[Expr]) -> Expr:
    return args[0]


def _xone(key: str) -> Callable[[list[Expr]], Expr]:
    return lambda args: {key: "xone", "args": args} if len(args) > 1 else disj(args, key)


_FOLDS: dict[str, Callable[[str], Callable[[list[Expr]], Expr]]] = {
    "and": lambda key: lambda args: conj(args, key),
    "or": lambda key: lambda args: disj(args, key),
    "xone": _xone,
}


def _self(test: Expr) -> Expr:
    if test["t"] == "const":
        return {"op": "const", "value": test["value"]}
    return {"op": "self", "test": test}


def _name(shape: Term) -> str:
    return local(str(shape)) if isinstance(shape, URIRef) else ""


def _path_piece(path: Path) -> Piece:
    row = PATH_ROWS[path.kind]
    if row == "zeroOrMore / oneOrMore":
        return falls("C1", row)
    if any(part.kind != "predicate" for part in path.parts):
        return falls("C1", MIXED)
    if path.kind == "sequence" and len(path.parts) > 2:
        return falls("C1", MIXED)
    return falls("W1", row)


def _cardinality(name: str, n: int, p: str) -> Piece:
    row = f"sh:{name}"
    if n > MAX_RUN:
        return falls("C1", row, f"n is greater than {MAX_RUN}")
    return fits(count(p, n, None) if name == "minCount" else count(p, 0, n), row)


def _datatype(iri: str) -> Piece:
    if iri in UNCHECKED:
        return falls("W1", "sh:datatype", "lexical forms of this datatype are not checked at R1")
    return fits({"t": "datatype", "iri": iri}, "sh:datatype")


def _bound(name: str, value: Term) -> Piece:
    found = scaled(value) if isinstance(value, Literal) else "not a literal"
    if isinstance(found, str):
        return falls("W1", BOUNDS, found)
    family, n = found
    low = {"minInclusive": n, "minExclusive": n + 1}.get(name)
    high = {"maxInclusive": n, "maxExclusive": n - 1}.get(name)
    return fits({"t": "range", "family": family, "min": low, "max": high}, BOUNDS)


def why(piece: Piece) -> str:
    """The `why` of a guard: row of the table, class, condition."""
    return table.why(table.shacl(), piece.feature, piece.klass, piece.reason)


def severity(shapes: Shapes, shape: Term) -> str:
    """Violation, Warning, Info, or the IRI of another severity."""
    value = shapes.value(shape, "severity")
    return SEVERITIES.get(str(value), str(value)) if value is not None else "Violation"


def message(shapes: Shapes, guard: ShapeGuard) -> str:
    """The author's message (English or without a language first), else a standard one."""
    texts = [v for v in shapes.values(guard.shape, "message") if isinstance(v, Literal)]
    if texts:
        return str(min(texts, key=lambda t: (_rank(t.language), str(t))))
    return _standard(shapes, guard)


def _rank(language: str | None) -> int:
    return 0 if not language else 1 if language.lower().split("-")[0] == "en" else 2


_STANDARD = {
    "class": "must be of class {}",
    "datatype": "must be a well-formed {}",
    "nodeKind": "must be of kind {}",
    "minCount": "must have at least {} value(s)",
    "maxCount": "must have at most {} value(s)",
    "minExclusive": "must be greater than {}",
    "minInclusive": "must be at least {}",
    "maxExclusive": "must be less than {}",
    "maxInclusive": "must be at most {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "pattern": "must match {}",
    "languageIn": "must be in one of the languages {}",
    "uniqueLang": "must have one value for each language at most",
    "equals": "must have the same values as {}",
    "disjoint": "must share no value with {}",
    "lessThan": "must be less than {}",
    "lessThanOrEquals": "must be at most {}",
    "hasValue": "must have the value {}",
    "in": "must be one of {}",
    "closed": "must have no properties but those that the shape names",
    "not": "must not conform to a shape that it conforms to",
    "and": "must conform to all of the shapes",
    "or": "must conform to one of the shapes",
    "xone": "must conform to exactly one of the shapes",
    "node": "must conform to the shape {}",
    "property": "has a value that does not conform to the shape {}",
    "qualifiedValueShape": "must have the right number of values that conform to the shape {}",
    "sparql": "must give no result to the shape's query",
}
_STANDARD_CUSTOM = "must satisfy {}"


def _standard(shapes: Shapes, guard: ShapeGuard) -> str:
    name = guard.param.name
    values = [member for v in shapes.values(guard.shape, name) for member in (shapes.items(v) if name in ("in", "languageIn") else [v])]
    shown = ", ".join(_shown(shapes, v) for v in values[:16]) + (", …" if len(values) > 16 else "")
    subject = path_text(shapes, guard.path) if guard.path else "the node"
    if guard.param.custom:
        return f"{subject} {_STANDARD_CUSTOM.format(shapes.store.curie(guard.param.custom))}"
    return f"{subject} {_STANDARD[name].format(shown)}"


def _shown(shapes: Shapes, term: Term) -> str:
    if isinstance(term, Literal):
        return f'"{term}"' if str(term.datatype or XSD + "string") == XSD + "string" else str(term)
    return shapes.store.curie(str(term)) if isinstance(term, URIRef) else "below"


_MARKS = {"zeroOrMore": "*", "oneOrMore": "+", "zeroOrOne": "?"}


def path_text(shapes: Shapes, path: Path | None) -> str:
    """A path in the notation of SPARQL, with the prefixes of the source."""
    if path is None:
        return ""
    if path.iri:
        return shapes.store.curie(path.iri)
    parts = [path_text(shapes, part) for part in path.parts]
    if path.kind == "inverse":
        return f"^{parts[0]}"
    if path.kind in _MARKS:
        return parts[0] + _MARKS[path.kind]
    return "(" + ("/" if path.kind == "sequence" else "|").join(parts) + ")"


def path_name(path: Path) -> str:
    """A path as a part of a guard's id."""
    if path.iri:
        return local(path.iri)
    inner = "-".join(path_name(part) for part in path.parts)
    return inner if path.kind in ("sequence", "alternative") else f"{path.kind}-{inner}"


def predicates(shapes: Shapes, shape: str) -> set[str]:
    """Predicates that a shape, named as a plan does, and the shapes below it read of their focus nodes."""
    found: set[str] = set()
    seen: set[Term] = set()
    todo: list[Term] = [BNode(shape.removeprefix(BLANK)) if shape.startswith(BLANK) else URIRef(shape)]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        path = shapes.path(node)
        found |= path.predicates() if path else set()
        for name in ("equals", "disjoint", "lessThan", "lessThanOrEquals"):
            found |= {str(v) for v in shapes.values(node, name)}
        if shapes.values(node, "class"):
            found.add(TYPE)
        todo += Lowering(shapes)._references(node)
    return found
