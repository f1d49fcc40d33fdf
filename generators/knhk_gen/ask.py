"""SPARQL ASK rules to expressions.

A rule holds when its query is true. The body becomes a disjunction of alternatives; each is a
conjunction of patterns, of tests on single variables and of conditions on known nodes. Filters are
read in SPARQL 1.1's three-valued logic (section 17.2): `_truth(e, True)` is what makes e true,
`_truth(e, False)` what makes it false; an error makes neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyoxigraph
from pyparsing import ParseException
from rdflib import BNode, Literal, URIRef, Variable
from rdflib.paths import AlternativePath, InvPath, MulPath, NegatedPath, Path, SequencePath
from rdflib.plugins.sparql.algebra import translateGroupGraphPattern, translateQuery
from rdflib.plugins.sparql.parser import parseQuery
from rdflib.plugins.sparql.parserutils import CompValue

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen import table
from knhk_gen.exprs import FALSE, Expr, conj, count, disj, is_in, negate, some
from knhk_gen.names import CALLER, LANG_STRING, PREFIXES, REQUEST, XSD
from knhk_gen.terms import NUMERICS, iri_term, plan_term, scaled
from knhk_gen.turtle import Text

MAX_PATTERNS = 8
MAX_ALTERNATIVES = 64
THIS: Final = Variable("this")
MAX_QUERY_CHARS = 64 * 1024
MAX_NESTING = 32

COMPARE = "filter: compare with a constant"
TESTS = "filter: IN / NOT IN constants, sameTerm, isIRI, isLiteral, lang, datatype, bound"
LOGIC = "filter: && || ! over R1 tests"
EXISTS = "FILTER NOT EXISTS / EXISTS of an R1 body"
UNION = "UNION of R1 bodies"
OPTIONAL = "OPTIONAL"
VALUES = "VALUES with constants"
COUNT = "COUNT of one predicate of one subject, HAVING compare"
BIND = "BIND of constants or pure arithmetic"
CHAIN = "chain of two"
GROUND = "ground triple"
OPEN = "one open object or subject"
ALL_OPEN = "all open"
STAR = "star on one known subject"
SHARED = "star with a shared variable"
UNKNOWN = "star on an unknown subject"
STRINGS = "regex, contains, strstarts, str functions"
SUBSELECT = "sub-select with joins, GROUP BY over subjects, ORDER BY, LIMIT > 1"
PATH = "path p1/p2, ^p, p1|p2, p?"
STAR_PATH = "path p*, p+, negated set"

_FORBIDDEN: Final = {
    "Builtin_NOW": "must not use NOW: compare with knhk:time of knhk:request",
    "Builtin_RAND": "must not use RAND: a decision is replayed",
    "Builtin_UUID": "must not use UUID: a decision is replayed",
    "Builtin_STRUUID": "must not use STRUUID: a decision is replayed",
    "Builtin_BNODE": "must not use BNODE: a decision is replayed",
    "ServiceGraphPattern": "must not use SERVICE: a decision reads nothing from outside",
    "Graph": "must not use GRAPH: a request is one graph",
}

Node = URIRef | BNode | Literal | Variable
Constant = URIRef | Literal
Pattern = tuple[Node, str, Node]


@dataclass(frozen=True)
class Rule:
    """A lowered ASK rule."""

    expr: Expr | None
    klass: str
    why: str
    query: str
    subjects: frozenset[str]
    predicates: frozenset[str]
    reads_bundle: bool
    reads_all: bool


class _Fall(Exception):
    """The rule does not fit R1."""

    def __init__(self, klass: str, feature: str, reason: str = "") -> None:
        super().__init__(feature)
        self.klass, self.feature, self.reason = klass, feature, reason

    def why(self) -> str:
        """The text of the guard's `why`."""
        return table.why(table.ask(), self.feature, self.klass, self.reason)


@dataclass(frozen=True)
class _Alt:
    """One alternative: all of it must hold together."""

    patterns: tuple[Pattern, ...] = ()
    tests: tuple[tuple[Variable, Expr], ...] = ()
    conds: tuple[Expr, ...] = ()
    values: tuple[tuple[Variable, Constant], ...] = ()
    counts: tuple[tuple[Variable, Node, str], ...] = ()

    def variables(self) -> set[Node]:
        """Variables that this alternative binds."""
        found: set[Node] = {t for s, _, o in self.patterns for t in (s, o) if _open(t)}
        return found | {v for v, _ in self.values} | {v for v, _, _ in self.counts}

    def with_(self, other: _Alt) -> _Alt:
        """Both together."""
        return _Alt(
            tuple(dict.fromkeys(self.patterns + other.patterns)),
            self.tests + other.tests,
            self.conds + other.conds,
            self.values + other.values,
            self.counts + other.counts,
        )


Atoms = list[tuple[Variable | None, Expr]]
"""A conjunction: (variable, V) or (None, E)."""


def _open(term: Any) -> bool:
    return isinstance(term, (Variable, BNode))


@dataclass
class _Lowering:
    """State of one rule."""

    text: str
    has_this: bool
    target_of: Callable[[dict[str, Any]], int]
    features: set[str] = field(default_factory=set)

    def why(self) -> str:
        """The text of `why` for a rule of class R1."""
        return " + ".join(table.why(table.ask(), feature, "R1") for feature in sorted(self.features) or [GROUND])

    # bodies

    def body(self, node: CompValue) -> list[_Alt]:
        alts = self._body(node)
        if len(alts) > MAX_ALTERNATIVES:
            raise _Fall("W1", LOGIC, "more than 64 alternatives")
        return alts

    def _body(self, node: CompValue) -> list[_Alt]:
        name = node.name
        if name == "BGP":
            return [_Alt(tuple(self._pattern(t) for t in node.triples))]
        if name == "Filter":
            return [self._tested(alt, atoms) for alt in self.body(node.p) for atoms in self._truth(node.expr, True, alt)]
        if name == "Join":
            rights = self.body(node.p2)
            return [a.with_(b) for a in self.body(node.p1) for b in rights]
        if name == "Union":
            self.features.add(UNION)
            return self.body(node.p1) + self.body(node.p2)
        if name == "LeftJoin":
            return self._optional(node)
        if name == "ToMultiSet":
            return self._multiset(node.p)
        if name == "Extend" and isinstance(node.expr, (URIRef, Literal)):
            return [replace(a, values=(*a.values, (node.var, node.expr))) for a in self.body(node.p)]
        if name == "Extend":
            raise _Fall("W1", BIND)
        if name == "Minus":
            return self._minus(node)
        raise _Fall("C1", SUBSELECT)

    def _pattern(self, triple: tuple[Any, Any, Any]) -> Pattern:
        s, p, o = triple
        if isinstance(p, Path):
            hard = isinstance(p, NegatedPath) or (isinstance(p, MulPath) and p.mod != "?")
            raise _Fall("C1" if hard or _nested(p) else "W1", STAR_PATH if hard else PATH)
        if not isinstance(p, URIRef):
            if _open(s) and s != THIS and _open(o) and s != o != p != s:
                return (s, "", o)
            raise _Fall("C1", ALL_OPEN, "the predicate is a variable")
        typed = isinstance(o, Literal) and o.datatype not in (None, URIRef(XSD + "string"))
        if typed and not re.search(rf"(?<![\w.+-]){re.escape(str(o))}(?![\w.])", self.text):
            raise _Fall("W1", GROUND, "the constant is not written in canonical form")
        return (s, str(p), o)

    def _optional(self, node: CompValue) -> list[_Alt]:
        self.features.add(OPTIONAL)
        lefts, rights = self.body(node.p1), self.body(node.p2)
        found: list[_Alt] = []
        for left in lefts:
            joined: list[_Alt] = []
            for right in rights:
                if (left.variables() & right.variables()) - {THIS}:
                    raise _Fall("W1", OPTIONAL)
                both = left.with_(right)
                if isinstance(node.expr, CompValue) and node.expr.name == "TrueFilter":
                    joined.append(both)
                    continue
                joined += [self._tested(both, a) for a in self._truth(node.expr, True, both)]
            if any(({v for v, _ in j.tests} & left.variables()) for j in joined):
                raise _Fall("W1", OPTIONAL)
            absent = negate(disj([self.finish(_without(j, left)) for j in joined]))
            found += [*joined, replace(left, conds=(*left.conds, absent))]
        return found

    def _minus(self, node: CompValue) -> list[_Alt]:
        lefts, rights = self.body(node.p1), self.body(node.p2)
        for left in lefts:
            for right in rights:
                if left.variables() & right.variables():
                    raise _Fall("W1", "MINUS")
        return lefts

    def _multiset(self, node: CompValue) -> list[_Alt]:
        if node.name == "values":
            self.features.add(VALUES)
            if len(node.res) > MAX_PATTERNS:
                raise _Fall("W1", VALUES)
            return [_Alt(values=tuple(_bindings(row))) for row in node.res]
        if node.name == "Project":
            return self._count(node)
        raise _Fall("C1", SUBSELECT)

    def _count(self, node: CompValue) -> list[_Alt]:
        """SELECT (COUNT(?x) AS ?n) WHERE { s p ?x } [HAVING (COUNT(?x) op n)]"""
        projected, inner, having, names = set(node.PV), node.p, None, {}
        while inner.name in ("Filter", "Extend"):
            if inner.name == "Filter":
                having, inner = inner.expr, inner.p
            else:
                names[inner.expr], inner = inner.var, inner.p
        if inner.name != "AggregateJoin" or inner.p.expr is not None:
            raise _Fall("C1", SUBSELECT)
        body = inner.p.p
        if body.name != "BGP" or len(body.triples) != 1:
            raise _Fall("C1", COUNT)
        s, p, o = self._pattern(body.triples[0])
        plain = all(a.name == "Aggregate_Count" and a.vars in ("*", o) for a in inner.A)
        if not self._known(s) or not p or not _open(o) or not plain:
            raise _Fall("C1", COUNT)
        self.features.add(COUNT)
        counted = {v for a in inner.A for v in (names.get(a.res, a.res), a.res)}
        alt = _Alt(counts=tuple(sorted((v, s, p) for v in counted)))
        if projected - counted:
            raise _Fall("C1", SUBSELECT)
        if having is None:
            return [alt]
        return [self._tested(alt, atoms) for atoms in self._truth(having, True, alt)]

    def _tested(self, alt: _Alt, atoms: Atoms) -> _Alt:
        tests = tuple((v, e) for v, e in atoms if v is not None)
        return replace(alt, tests=alt.tests + tests, conds=alt.conds + tuple(e for v, e in atoms if v is None))

    # filters

    def _truth(self, e: Any, want: bool, alt: _Alt) -> list[Atoms]:
        """Disjunction of conjunctions that hold exactly when e is `want`."""
        if isinstance(e, Literal):
            if e.datatype != URIRef(XSD + "boolean"):
                raise _Fall("W1", COMPARE)
            return [[]] if (str(e) in ("true", "1")) == want else []  # ill-formed is false (section 17.2.2)
        if not isinstance(e, CompValue):
            raise _Fall("W1", COMPARE)
        name = e.name
        if name == "UnaryNot":
            self.features.add(LOGIC)
            return self._truth(e.expr, not want, alt)
        if name in ("ConditionalAndExpression", "ConditionalOrExpression"):
            return self._junction(e, want, alt)
        if name == "RelationalExpression":
            return self._relation(e, want, alt)
        if name in ("Builtin_EXISTS", "Builtin_NOTEXISTS"):
            return self._exists(e, (name == "Builtin_EXISTS") == want, alt)
        if name in ("Builtin_BOUND", "Builtin_sameTerm", "Builtin_LANGMATCHES") or name in _KINDS:
            return self._builtin(e, want, alt)
        raise _Fall("W1", STRINGS if name.startswith(("Builtin", "Function")) else BIND)

    def _junction(self, e: CompValue, want: bool, alt: _Alt) -> list[Atoms]:
        parts = [self._truth(part, want, alt) for part in (e.expr, *e.other)]
        self.features.add(LOGIC)
        if (e.name == "ConditionalOrExpression") == want:
            return [atoms for part in parts for atoms in part]
        found: list[Atoms] = [[]]
        for part in parts:
            found = [a + b for a in found for b in part]
            if len(found) > MAX_ALTERNATIVES:
                raise _Fall("W1", LOGIC, "more than 64 alternatives")
        return found

    def _exists(self, e: CompValue, want: bool, alt: _Alt) -> list[Atoms]:
        self.features.add(EXISTS)
        graph = e.graph
        if (_mentioned(graph) & alt.variables()) - {THIS}:
            raise _Fall("C1", EXISTS)
        if graph.name in ("GroupGraphPatternSub", "GroupOrUnionGraphPattern"):
            graph = translateGroupGraphPattern(graph)
        inner = disj([self.finish(a) for a in self.body(graph)])
        return [[(None, inner if want else negate(inner))]]

    def _builtin(self, e: CompValue, want: bool, alt: _Alt) -> list[Atoms]:
        self.features.add(TESTS)
        name = e.name
        if name == "Builtin_BOUND":
            bound = e.arg in alt.variables() or (self.has_this and e.arg == THIS)
            return [[]] if bound == want else []
        if name == "Builtin_sameTerm":
            var, constant = _sides(e.arg1, e.arg2)
            return self._on(var, _sign(is_in([plan_term(constant)]), want), alt)
        if name == "Builtin_LANGMATCHES":
            return self._lang_matches(e, want, alt)
        if not isinstance(e.arg, Variable):
            raise _Fall("W1", STRINGS)
        return self._on(e.arg, _sign(_KINDS[name], want), alt)

    def _lang_matches(self, e: CompValue, want: bool, alt: _Alt) -> list[Atoms]:
        of_var = isinstance(e.arg1, CompValue) and e.arg1.name == "Builtin_LANG"
        if not of_var or not isinstance(e.arg1.arg, Variable) or not isinstance(e.arg2, Literal):
            raise _Fall("W1", STRINGS)
        test = {"t": "lang", "ranges": [str(e.arg2).lower()]}
        return self._on(e.arg1.arg, test if want else _literal_but(test), alt)

    def _relation(self, e: CompValue, want: bool, alt: _Alt) -> list[Atoms]:
        left, op, right = _folded(e.expr), e.op, _folded(e.other)
        if op in ("IN", "NOT IN"):
            return self._member(left, right, (op == "IN") == want, alt)
        for a, b, flipped in ((left, right, False), (right, left, True)):
            if isinstance(a, CompValue) and a.name in ("Builtin_LANG", "Builtin_DATATYPE"):
                return self._function(a, op, b, want, alt)
            if isinstance(a, Variable) and isinstance(b, (URIRef, Literal)):
                effective = _FLIP[op] if flipped else op
                if a in {v for v, _, _ in alt.counts}:
                    return self._counted(a, effective, b, want, alt)
                self.features.add(COMPARE)
                return self._on(a, _comparison(effective, b) if want else _failed(effective, b), alt)
        raise _Fall("W1", COMPARE)

    def _member(self, left: Any, right: Any, want: bool, alt: _Alt) -> list[Atoms]:
        self.features.add(TESTS)
        if not isinstance(left, Variable) or not isinstance(right, (list, tuple)):
            raise _Fall("W1", STRINGS) if isinstance(left, CompValue) else _Fall("W1", COMPARE)
        if not all(isinstance(c, (URIRef, Literal)) for c in right):
            raise _Fall("W1", COMPARE)
        tests = [_comparison("=" if want else "!=", c) for c in right]
        return self._on(left, disj(tests, "t") if want else conj(tests, "t"), alt)

    def _function(self, f: CompValue, op: str, other: Any, want: bool, alt: _Alt) -> list[Atoms]:
        """lang(?x) or datatype(?x) against a constant, by = or !=."""
        self.features.add(TESTS)
        if op not in ("=", "!=") or not isinstance(f.arg, Variable):
            raise _Fall("W1", STRINGS)
        equal = (op == "=") == want
        if f.name == "Builtin_LANG" and isinstance(other, Literal) and not str(other):
            tagged: Expr = {"t": "lang", "ranges": ["*"]}
            return self._on(f.arg, _literal_but(tagged) if equal else tagged, alt)
        if f.name == "Builtin_DATATYPE" and str(other) in (XSD + "string", LANG_STRING):
            test: Expr = {"t": "datatype", "iri": str(other)}
            return self._on(f.arg, test if equal else _literal_but(test), alt)
        if f.name == "Builtin_DATATYPE":
            raise _Fall("W1", TESTS, "datatype() of an ill-formed literal")
        raise _Fall("W1", TESTS, "lang() against one tag")

    def _counted(self, var: Variable, op: str, bound: Any, want: bool, alt: _Alt) -> list[Atoms]:
        if not isinstance(bound, Literal) or bound.datatype != URIRef(XSD + "integer"):
            raise _Fall("C1", COUNT)
        n, op = int(str(bound)), op if want else _NOT[op]
        if n > MAX_PATTERNS:
            raise _Fall("C1", COUNT)
        _, s, p = next(c for c in alt.counts if c[0] == var)
        found = [self._at(s, e) for e in _count_exprs(op, n, p)]
        return [[(None, e)] for e in found]

    def _on(self, var: Any, test: Expr, alt: _Alt) -> list[Atoms]:
        if self.has_this and var == THIS:
            return [[(None, {"op": "self", "test": test})]]
        if var not in alt.variables():
            return []  # an unbound variable is an error: neither true nor false
        if var in {v for v, _, _ in alt.counts}:
            raise _Fall("C1", COUNT)
        return [[(var, test)]]

    # alternatives to expressions

    def finish(self, alt: _Alt) -> Expr:
        """One alternative as E over the focus node."""
        alt = _substituted(alt)
        if len(alt.patterns) > MAX_PATTERNS:
            raise _Fall("W1", STAR)
        if len(alt.patterns) == 1 and not alt.patterns[0][1]:
            self.features.add(ALL_OPEN)
            if alt.tests:
                raise _Fall("C1", ALL_OPEN, "the predicate is a variable")
            return conj(list(alt.conds))  # a request always has triples
        objects = {o for _, _, o in alt.patterns if _open(o)}
        found = list(alt.conds)
        for s in dict.fromkeys(s for s, _, _ in alt.patterns):
            mine = [(p, o) for t, p, o in alt.patterns if t == s]
            if self._known(s):
                found.append(self._at(s, self._star(s, mine, alt)))
            elif s in objects:
                raise _Fall("W1", CHAIN)
            else:
                found.append(self._unknown(s, mine, alt))
        self._no_stray_tests(alt, objects)
        return conj(found)

    def _no_stray_tests(self, alt: _Alt, objects: set[Node]) -> None:
        if any(v not in objects for v, _ in alt.tests):
            raise _Fall("W1", BIND)

    def _star(self, s: Node, mine: Sequence[tuple[str, Node]], alt: _Alt) -> Expr:
        self.features.add(STAR if len(mine) > 1 else GROUND if not _open(mine[0][1]) else OPEN)
        found: list[Expr] = []
        for o in dict.fromkeys(o for _, o in mine):
            predicates = [p for p, other in mine if other == o]
            if self.has_this and o == THIS:
                raise _Fall("W1", CHAIN)
            if not isinstance(o, (Variable, BNode)):
                found += [some(p, is_in([plan_term(o)])) for p in predicates]
                continue
            if any(t != s for t, _, other in alt.patterns if other == o):
                raise _Fall("W1", SHARED, "the variable joins two subjects")
            tests = [e for v, e in alt.tests if v == o]
            if len(predicates) == 1:
                found.append(some(predicates[0], conj(tests, "t")))
            elif len(predicates) == 2 and not tests:
                self.features.add(SHARED)
                p, q = predicates
                found.append(negate({"op": "pair", "rel": "disjoint", "p": p, "q": q}))
            else:
                raise _Fall("W1", SHARED, "more than a pair of predicates")
        return conj(found)

    def _unknown(self, s: Node, mine: Sequence[tuple[str, Node]], alt: _Alt) -> Expr:
        if len(mine) > 1 or any(v == s for v, _ in alt.tests) or not mine[0][0]:
            raise _Fall("C1", UNKNOWN)
        p = mine[0][0]
        star = self._star(s, mine, alt)
        target = self.target_of({"kind": "subjectsOf", "predicate": p})
        return negate({"op": "forall", "target": target, "min": 0, "arg": negate(star)})

    def _known(self, s: Node) -> bool:
        return isinstance(s, URIRef) or (self.has_this and s == THIS)

    def _at(self, s: Node, expr: Expr) -> Expr:
        focus = THIS if self.has_this else URIRef(REQUEST)
        if s == focus or expr["op"] == "const":
            return expr
        return {"op": "on", "focus": iri_term(str(s)), "arg": expr}


_LITERAL: Final[Expr] = {"t": "kind", "kinds": ["literal"]}
_KINDS: Final[dict[str, Expr]] = {
    "Builtin_isIRI": {"t": "kind", "kinds": ["iri"]},
    "Builtin_isURI": {"t": "kind", "kinds": ["iri"]},
    "Builtin_isBLANK": {"t": "kind", "kinds": ["bnode"]},
    "Builtin_isLITERAL": _LITERAL,
    "Builtin_isNUMERIC": disj([{"t": "datatype", "iri": d} for d in NUMERICS], "t"),
}
_FLIP: Final = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_NOT_A_NUMBER: Final = [plan_term(Literal("NaN", datatype=URIRef(XSD + name), normalize=False)) for name in ("double", "float")]
_NOT: Final = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def _folded(e: Any) -> Any:
    """A number behind a sign as the constant that it is; members of a list likewise."""
    if isinstance(e, list):
        return [_folded(each) for each in e]
    if isinstance(e, CompValue) and e.name in ("UnaryMinus", "UnaryPlus") and isinstance(e.expr, Literal):
        text = str(e.expr)
        if str(e.expr.datatype) in NUMERICS and text[:1] not in "+-":
            return Literal(("-" if e.name == "UnaryMinus" else "") + text, datatype=e.expr.datatype, normalize=False)
    return e


def _sign(test: Expr, want: bool) -> Expr:
    return test if want else negate(test, "t")


def _literal_but(test: Expr) -> Expr:
    return conj([_LITERAL, negate(test, "t")], "t")


def _comparison(op: str, constant: Constant) -> Expr:
    """V: the term stands in relation `op` to the constant; an error is false."""
    value = scaled(constant) if isinstance(constant, Literal) else "not a literal"
    if op in ("=", "!="):
        plain = isinstance(constant, URIRef) or (bool(constant.language) or constant.datatype in (None, URIRef(XSD + "string")))
        if isinstance(value, str) and not plain:
            raise _Fall("W1", COMPARE)
        return _equality(op, constant)
    if isinstance(value, str):
        raise _Fall("W1", COMPARE)
    family, n = value
    low = {">=": n, ">": n + 1}.get(op)
    high = {"<=": n, "<": n - 1}.get(op)
    return {"t": "range", "family": family, "min": low, "max": high}


def _failed(op: str, constant: Constant) -> Expr:
    """V: the term is known not to stand in relation `op` to the constant. NaN is neither above nor below anything."""
    test = _comparison(_NOT[op], constant)
    return disj([test, is_in(_NOT_A_NUMBER)], "t") if test["t"] == "range" and test["family"] == "numeric" else test


def _equality(op: str, constant: Constant) -> Expr:
    """V: = or != the constant. Literals whose languages differ, or of which one has none, are known
    to be different; other literals of different kinds are an error."""
    term = plan_term(constant)
    if op == "=":
        return {"t": "value", "op": "eq", "term": term}
    known: list[Expr] = [{"t": "value", "op": "ne", "term": term}]
    if term["k"] == "lit" and term["dt"] in (LANG_STRING, XSD + "string"):
        others: list[Expr] = [{"t": "lang", "ranges": ["*"]}]
        others += [{"t": "datatype", "iri": XSD + "string"}] if term["lang"] else []
        known.append(conj([disj(others, "t"), negate(is_in([term]), "t")], "t"))
    return disj(known, "t")


def _count_exprs(op: str, n: int, p: str) -> list[Expr]:
    """Alternatives that say: number of values of p `op` n."""
    if op == "!=":
        return [*_count_exprs("<", n, p), *_count_exprs(">", n, p)]
    low = {">=": n, ">": n + 1, "=": n}.get(op, 0)
    high = {"<=": n, "<": n - 1, "=": n}.get(op)
    if high is not None and high < max(low, 0):
        return []
    return [count(p, max(low, 0), high)]


def _sides(a: Any, b: Any) -> tuple[Any, Any]:
    if isinstance(a, Variable) and isinstance(b, (URIRef, Literal)):
        return a, b
    if isinstance(b, Variable) and isinstance(a, (URIRef, Literal)):
        return b, a
    raise _Fall("W1", COMPARE)


def _bindings(row: Any) -> Iterator[tuple[Variable, Constant]]:
    return ((v, t) for v, t in sorted(row.items()) if isinstance(t, (URIRef, Literal)))


def _without(joined: _Alt, left: _Alt) -> _Alt:
    """What an OPTIONAL adds to the alternative it stands beside."""
    return _Alt(
        tuple(p for p in joined.patterns if p not in left.patterns),
        joined.tests[len(left.tests) :],
        joined.conds[len(left.conds) :],
        joined.values[len(left.values) :],
        joined.counts[len(left.counts) :],
    )


def _substituted(alt: _Alt) -> _Alt:
    """Values of VALUES and BIND put where they are used: subjects replaced, objects tested."""
    bound: dict[Node, list[Constant]] = {}
    for var, term in alt.values:
        bound.setdefault(var, []).append(term)
    if any(len(set(terms)) > 1 for terms in bound.values()):
        return _Alt(conds=(FALSE,))
    single = {var: terms[0] for var, terms in bound.items()}
    patterns = tuple((single.get(s, s), p, o) for s, p, o in alt.patterns)
    objects = {o for _, _, o in patterns}
    tests = [(v, is_in([plan_term(t)])) for v, t in single.items() if v in objects and isinstance(v, Variable)]
    return replace(alt, patterns=patterns, tests=alt.tests + tuple(tests), values=())


def _nested(path: Path) -> bool:
    parts = getattr(path, "args", None) or [getattr(path, "arg", None) or getattr(path, "path", None)]
    deep = any(isinstance(part, Path) for part in parts)
    return deep or (isinstance(path, SequencePath) and len(parts) > 2)


def mentioned_iris(query: str) -> frozenset[str]:
    """IRIs that a query speaks of; its prefixes are declared in it."""
    return frozenset(str(term) for term in _walk(translateQuery(parseQuery(query)).algebra) if isinstance(term, URIRef))


def _walk(node: Any) -> Iterator[Any]:
    yield node
    if isinstance(node, CompValue):
        children: Iterable[Any] = [v for k, v in node.items() if k not in ("_vars", "PV")]
    elif isinstance(node, dict):
        children = [*node.keys(), *node.values()]
    elif isinstance(node, (list, tuple)):
        children = node
    elif isinstance(node, (SequencePath, AlternativePath, NegatedPath)):
        children = node.args
    elif isinstance(node, InvPath):
        children = [node.arg]
    elif isinstance(node, MulPath):
        children = [node.path]
    else:
        children = []
    for child in children:
        yield from _walk(child)


def _mentioned(node: Any) -> set[Node]:
    return {t for t in _walk(node) if isinstance(t, Variable)}


def _normal(text: str) -> str:
    """The query with the prefixes that need no declaration declared, and plain line ends."""
    body = "\n".join(line.rstrip() for line in text.strip().splitlines())
    known = set(re.findall(r"(?i)\bPREFIX\s+([\w-]*):", body))
    used = {p for p in PREFIXES if p not in known and re.search(rf"(?<![\w-]){p}:", body)}
    return "".join(f"PREFIX {p}: <{PREFIXES[p]}>\n" for p in sorted(used)) + body


def _parsed(source: Source, query: str) -> CompValue:
    at = Text(source.text, source.path, source.first_line)
    form = source.kind.upper()
    must = f"must be a SPARQL 1.1 {form} query: "
    if depth(source.text) > MAX_NESTING:
        where, must = at.at(1), f"must not nest brackets deeper than {MAX_NESTING}"
        raise Refused([Fault(where, source.name, must)])
    if found := re.search(r"(?i)\bSERVICE\b", _bare(source.text)):
        where = at.where(found.start())
        raise Refused([Fault(where, "SERVICE", _FORBIDDEN["ServiceGraphPattern"])])
    if len(source.text) > MAX_QUERY_CHARS:
        raise Refused(
            [
                Fault(
                    at.at(1),
                    f"{len(source.text)} characters",
                    f"must have at most {MAX_QUERY_CHARS} characters",
                )
            ]
        )
    declared = query.count("\n") - source.text.strip().count("\n")
    blank = len(source.text) - len(source.text.lstrip())
    offset = source.text[:blank].count("\n") - declared
    try:
        tree = parseQuery(query)
    except (ParseException, RecursionError) as error:
        line = max(1, getattr(error, "lineno", 1) + offset)
        value = getattr(error, "line", "").strip()[:120]
        reason = getattr(error, "msg", "nested too deep")
        raise Refused([Fault(at.at(line), value, must + str(reason))]) from error
    try:
        algebra = translateQuery(tree).algebra
    except Exception as error:  # rdflib raises bare Exception for unknown prefixes and bad scopes
        raise Refused([Fault(_place(at, _missing(error)), str(error)[:120], must + str(error)[:120])]) from error
    if algebra.name != f"{source.kind.capitalize()}Query":
        raise Refused([Fault(at.at(1), algebra.name, f"must be {'an' if form == 'ASK' else 'a'} {form} query")])
    return algebra


def _bare(text: str) -> str:
    """The query with strings, IRIs and comments blanked, position by position."""
    pattern = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|<[^<>\s]*>|#[^\n]*'
    return re.sub(pattern, lambda m: " " * len(m[0]), text)


def depth(text: str) -> int:
    """Deepest nesting of brackets in a query."""
    deepest = now = 0
    for ch in _bare(text):
        now += (ch in "{([") - (ch in "})]")
        deepest = max(deepest, now)
    return deepest


def _missing(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1].strip() + ":"


def _place(at: Text, token: str) -> str:
    """Place of the first word in the text that starts with `token`, else the first line."""
    found = re.search(rf"(?i)(?<![\w-]){re.escape(token)}", at.text) if token.strip(":") else None
    return at.where(found.start()) if found else at.at(1)


def _forbidden(source: Source, algebra: CompValue) -> list[Fault]:
    at = Text(source.text, source.path, source.first_line)
    faults: list[Fault] = []
    for node in _walk(algebra):
        if not isinstance(node, CompValue):
            continue
        if node.name in _FORBIDDEN:
            word = {"ServiceGraphPattern": "SERVICE"}.get(node.name, node.name.removeprefix("Builtin_").upper())
            faults.append(Fault(_place(at, word), word, _FORBIDDEN[node.name]))
        if node.name == "Function" and not str(node.iri).startswith(XSD):
            iri = str(node.iri)
            shown = re.search(r"[\w-]+:" + re.escape(iri[max(iri.rfind("#"), iri.rfind("/")) + 1 :]), at.text)
            place = at.where(shown.start()) if shown else at.at(1)
            faults.append(Fault(place, f"<{iri}>", "must be a function of SPARQL 1.1"))
    if algebra.datasetClause:
        faults.append(Fault(_place(at, "FROM"), "FROM", "must not use FROM: a request is one graph"))
    return faults


def _evaluable(source: Source, query: str) -> None:
    """Raises Refused when the evaluator of lower tiers cannot read the query."""
    try:
        pyoxigraph.Store().query(query)
    except (SyntaxError, ValueError) as error:
        must = f"must be a SPARQL 1.1 {source.kind.upper()} query: {error}"
        where = Text(source.text, source.path, source.first_line).at(1)
        raise Refused([Fault(where, source.name, must[:300])]) from error


def _open_predicate(algebra: CompValue) -> bool:
    """Some pattern reads predicates that it does not name. A lone `?s ?p ?o` is told by any triple: a request has some anyway."""
    for node in _walk(algebra):
        for triple in (node.get("triples") if isinstance(node, CompValue) else None) or []:
            flat = list(zip(*[iter(triple)] * 3, strict=False)) if not isinstance(triple, tuple) else [triple]
            if any(isinstance(p, Variable) or any(isinstance(t, NegatedPath) for t in _walk(p)) for _, p, _ in flat):
                return True
    return False


def _reads(algebra: CompValue, has_this: bool) -> tuple[set[str], set[str], bool]:
    """Constant subjects, all predicates, and whether the query may read the data bundle."""
    subjects: set[str] = set()
    predicates: set[str] = set()
    reads = False
    for node in _walk(algebra):
        triples = node.get("triples") if isinstance(node, CompValue) else None
        for triple in triples or []:
            for s, p, _ in zip(*[iter(triple)] * 3, strict=False):
                predicates |= {str(t) for t in _walk(p) if isinstance(t, URIRef)}
                if isinstance(s, URIRef) and str(s) not in (REQUEST, CALLER):
                    subjects.add(str(s))
                reads = reads or not (str(s) == REQUEST or (has_this and s == THIS))
    return subjects, predicates, reads


@dataclass(frozen=True)
class Query:
    """A query that every tier can read: its text with prefixes declared, its algebra, and what it reads."""

    text: str
    algebra: CompValue
    subjects: frozenset[str]
    predicates: frozenset[str]
    reads_bundle: bool
    reads_all: bool


def read_query(source: Source) -> Query:
    """Reads an ASK or CONSTRUCT source. Raises Refused."""
    text = _normal(source.text)
    algebra = _parsed(source, text)
    if faults := _forbidden(source, algebra):
        raise Refused(faults)
    _evaluable(source, text)
    if source.target is None and THIS in _mentioned(algebra):
        at = Text(source.text, source.path, source.first_line)
        raise Refused([Fault(_place(at, "this"), "$this", "must have a target class for $this to range over")])
    subjects, predicates, reads = _reads(algebra, source.target is not None)
    return Query(text, algebra, frozenset(subjects), frozenset(predicates), reads, _open_predicate(algebra))


def lower_ask(source: Source, target_of: Callable[[dict[str, Any]], int]) -> Rule:
    """Lowers one ASK source. `target_of` gives a target its index. Raises Refused."""
    query = read_query(source)
    algebra = query.algebra
    lowering = _Lowering(query.text, source.target is not None, target_of)
    try:
        alts = lowering.body(algebra.p.p if algebra.p.name == "Project" else algebra.p)
        expr: Expr | None = disj([lowering.finish(a) for a in alts])
        klass, text = "R1", lowering.why()
    except _Fall as fall:
        expr, klass, text = None, fall.klass, fall.why()
    return Rule(expr, klass, text, query.text, query.subjects, query.predicates, query.reads_bundle, query.reads_all)
