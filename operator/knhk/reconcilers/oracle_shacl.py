"""SHACL once more, for guards of the slower tiers: each constraint component by its SPARQL definition in the Recommendation.

It shares no code with the tiers' validator: paths, targets and comparisons are asked of a store. Where engines may differ for good reasons
(regular expressions beyond their common part, well-formed literals, values beyond what the store holds) and of SPARQL-based constraints
it says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, cast

from pyoxigraph import BlankNode, Literal, NamedNode, Quad, QuerySolutions, RdfFormat, Store, Variable, parse

SH: Final = "http://www.w3.org/ns/shacl#"
RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
RDFS: Final = "http://www.w3.org/2000/01/rdf-schema#"
SUBCLASS_OF: Final = RDFS + "subClassOf"
PREFIXES: Final = f"PREFIX rdf: <{RDF}> PREFIX rdfs: <{RDFS}> PREFIX sh: <{SH}> PREFIX owl: <http://www.w3.org/2002/07/owl#> "
XSD: Final = "http://www.w3.org/2001/XMLSchema#"
TEXTS: Final = frozenset({XSD + "string", RDF + "langString"})
_NUMBERS: Final = frozenset(XSD + name for name in ("integer", "decimal", "double", "float"))
_DURATIONS: Final = frozenset(XSD + name for name in ("duration", "dayTimeDuration", "yearMonthDuration"))
_MOMENTS: Final = frozenset(
    XSD + name for name in ("boolean", "date", "dateTime", "time", "gYear", "gYearMonth", "gMonth", "gMonthDay", "gDay")
)
"""Datatypes of which the store knows values; derived ones (xsd:byte) it does not check."""
_COMMON_PATTERN: Final = re.compile(
    r"(?:[\w ,:;/@#%&=<>~\"'-]|\\d|\\[.^$|?*+()\[\]{}/-]|\[\^?(?:[\w ,:;/@.]|\w-\w|\\d|-(?=\]))+\]|[\^$?*+()|]|\{\d+(?:,\d*)?\})*", re.ASCII
)

TIME: Final = NamedNode("https://knhk.dev/ns#time")

Term = NamedNode | BlankNode | Literal
Key = tuple[str, str]
"""Shape (an IRI, or a label as `_:b3`) and component."""


class Uncertain(Exception):
    """Nothing is said of a constraint."""


class Shacl:
    """The shapes of a pack (N-Triples, blank nodes labelled), asked for the constraints of `wanted` alone."""

    def __init__(self, shapes: bytes, wanted: Collection[Key]) -> None:
        self._wanted = frozenset(wanted)
        self._shapes = _Shapes(list(parse(shapes, format=RdfFormat.N_TRIPLES)))
        self._subclasses = [quad for quad in self._shapes.store if quad.predicate.value == SUBCLASS_OF]
        self._roots = _rows(self._shapes.store, _TARGETED) if wanted else []

    def judge(self, data: bytes) -> Mapping[Key, bool]:
        """Whether each wanted constraint fails for some focus node; left out when nothing is said of it: a store keeps numbers and dates by
        value, so of a graph that spells one otherwise nothing is said."""
        quads = list(parse(data, format=RdfFormat.N_TRIPLES)) if self._wanted else []
        store = Store()
        store.extend(quads)
        kept = set(store)
        if any(quad not in kept for quad in quads if quad.predicate != TIME):
            return {}
        own = Store()
        own.extend([*(quad for quad in store if quad.predicate.value != SUBCLASS_OF), *self._subclasses])
        run = _Run(self._shapes, store, own, self._wanted)
        for root in self._roots if self._wanted else ():
            for focus in run.focus_nodes(root):
                run.top(root, focus)
        return {key: key in run.failing for key in self._wanted - (run.uncertain - run.failing)}


_CLASS: Final = """{ VALUES ?meta { rdfs:Class owl:Class } ?x rdf:type/rdfs:subClassOf* ?meta ; ?p ?o
    FILTER(isIRI(?x) && (STRSTARTS(STR(?p), STR(sh:)) || ?o IN (sh:NodeShape, sh:PropertyShape)))
  }"""
"""Shapes that are classes, and so target their instances (section 2.1.3.3); a class of OWL is one of RDFS."""
_TARGETED: Final = f"{{ ?x sh:targetNode|sh:targetClass|sh:targetSubjectsOf|sh:targetObjectsOf ?t }} UNION {_CLASS}"


def _rows(store: Store, text: str, **bound: Term) -> list[Any]:
    """Solutions of a WHERE clause, distinct, with ?x and these variables bound beforehand."""
    names = " ".join(f"?{name}" for name in (*bound, "x"))
    query = f"{PREFIXES} SELECT DISTINCT {names} WHERE {{ {text} }}"
    found = store.query(query, substitutions={Variable(name): term for name, term in bound.items()})
    return [row["x"] for row in cast(QuerySolutions, found)]


def _holds(store: Store, text: str, **bound: Term) -> bool:
    return bool(_rows(store, text, **bound))


def _component(name: str) -> str:
    return f"{SH}{name}ConstraintComponent"


class _Shapes:
    """A shapes graph, its literals as they were written; `store` for queries."""

    def __init__(self, quads: Iterable[Quad]) -> None:
        self.store = Store()
        self._objects: dict[tuple[Any, str], list[Term]] = {}
        for quad in quads:
            self.store.add(quad)
            self._objects.setdefault((quad.subject, quad.predicate.value), []).append(cast(Term, quad.object))
        self.classes = frozenset(_rows(self.store, _CLASS))

    def of(self, node: Term, predicate: str) -> list[Term]:
        return self._objects.get((node, predicate), [])

    def members(self, head: Term) -> list[Term]:
        found: list[Term] = []
        while head != NamedNode(RDF + "nil"):
            found += self.of(head, RDF + "first")
            (head,) = self.of(head, RDF + "rest")
        return found

    def path(self, node: Term) -> str:
        """SPARQL's spelling of a path."""
        if isinstance(node, NamedNode):
            return str(node)
        for name, form in _PATHS.items():
            for inner in self.of(node, SH + name):
                return form.format(self.path(inner))
        alternatives = self.of(node, SH + "alternativePath")
        parts = [self.path(part) for part in self.members(alternatives[0] if alternatives else node)]
        return f"({('|' if alternatives else '/').join(parts)})"


class _Run:
    """One graph against the shapes. `data` is the graph; `typed` has the class hierarchy of the shapes, too."""

    def __init__(self, shapes: _Shapes, data: Store, typed: Store, wanted: frozenset[Key]) -> None:
        self.shapes, self.data, self.typed, self.wanted = shapes, data, typed, wanted
        self.failing: set[Key] = set()
        self.uncertain: set[Key] = set()

    def of(self, node: Term, name: str) -> list[Term]:
        return self.shapes.of(node, SH + name)

    def members(self, head: Term) -> list[Term]:
        return self.shapes.members(head)

    def focus_nodes(self, shape: Term) -> list[Term]:
        found: dict[Term, None] = dict.fromkeys(self.of(shape, "targetNode"))
        for cls in (*self.of(shape, "targetClass"), *([shape] if shape in self.shapes.classes else [])):
            found |= dict.fromkeys(_rows(self.typed, "?x rdf:type/rdfs:subClassOf* ?cls", cls=cls))
        for p in self.of(shape, "targetSubjectsOf"):
            found |= dict.fromkeys(q.subject for q in self.data.quads_for_pattern(None, cast(NamedNode, p), None))  # type: ignore[misc]
        for p in self.of(shape, "targetObjectsOf"):
            found |= dict.fromkeys(q.object for q in self.data.quads_for_pattern(None, cast(NamedNode, p), None))  # type: ignore[misc]
        return list(found)

    def values(self, shape: Term, focus: Term) -> list[Term]:
        paths = self.of(shape, "path")
        if not paths:
            return [focus]
        if isinstance(focus, Literal):
            raise Uncertain
        return _rows(self.data, f"?this {self.shapes.path(paths[0])} ?x", this=focus)

    # ---- constraints ----

    def top(self, shape: Term, focus: Term) -> None:
        """Notes which wanted constraints of a shape, and of the property shapes of a node shape, fail on a focus node."""
        if self.deactivated(shape):
            return
        through = not self.of(shape, "path")
        name = shape.value if isinstance(shape, NamedNode) else f"_:{shape.value}"
        for part, check in _COMPONENTS.items():
            key = (name, _component(part))
            if key not in self.wanted or (through and part == "Property"):
                continue
            try:
                if check(self, shape, focus, self.values(shape, focus)):
                    self.failing.add(key)
            except Exception:  # Uncertain, or what the store raises: a second opinion that is none keeps no pack from being built
                self.uncertain.add(key)
        self.uncertain |= {key for key in self.wanted if key[0] == name and key[1] not in _KNOWN}
        for inner in self.of(shape, "property") if through else ():
            self.top(inner, focus)

    def deactivated(self, shape: Term) -> bool:
        return any(isinstance(v, Literal) and v.value in ("true", "1") for v in self.of(shape, "deactivated"))

    def conforms(self, shape: Term, focus: Term) -> bool:
        """No constraint of a shape fails. Raises Uncertain unless that is known."""
        if self.deactivated(shape):
            return True
        if any(self.of(shape, name) for name in _UNKNOWN):
            raise Uncertain
        values = self.values(shape, focus)
        return not any(check(self, shape, focus, values) for check in _COMPONENTS.values())


_PATHS: Final = {"inversePath": "(^{})", "zeroOrMorePath": "({}*)", "oneOrMorePath": "({}+)", "zeroOrOnePath": "({}?)"}
_UNKNOWN: Final = ("sparql", "target", "rule", "expression")
Check = Callable[[_Run, Term, Term, list[Term]], bool]
"""Whether a component of a shape fails: run, shape, focus node, value nodes."""


def _each(name: str, filtered: str, of: str = "v") -> Check:
    """The value nodes for which a condition on ?v and the parameter ?p does not hold, or is an error."""

    def check(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
        store = run.typed if of == "typed" else run.data
        return any(not _holds(store, filtered, v=v, p=p) for p in run.of(shape, name) for v in values)

    return check


def _kind(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    letter = {NamedNode: "IRI", BlankNode: "BlankNode", Literal: "Literal"}
    return any(letter[type(v)] not in re.findall("IRI|BlankNode|Literal", p.value) for p in run.of(shape, "nodeKind") for v in values)


def _datatype(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    for wanted in run.of(shape, "datatype"):
        if any(not isinstance(v, Literal) or v.datatype != wanted for v in values):
            return True
        if values and wanted.value not in TEXTS:
            raise Uncertain
    return False


def _count(name: str, fails: Callable[[int, int], bool]) -> Check:
    return lambda run, shape, focus, values: any(fails(len(values), int(p.value)) for p in run.of(shape, name))


def _length(name: str, fails: Callable[[int, int], bool]) -> Check:
    """By the length as the store counts it, and the parameter however large."""

    def check(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
        limits = [int(p.value) for p in run.of(shape, name)]
        return any(isinstance(v, BlankNode) or fails(_strlen(run, v), limit) for limit in limits for v in values)

    return check


def _strlen(run: _Run, v: Term) -> int:
    (length,) = _rows(run.data, "BIND(STRLEN(STR(?v)) AS ?x)", v=v)
    return int(length.value)


def _bound(name: str, sign: str) -> Check:
    return lambda run, shape, _focus, values: any(not _ordered(run, v, sign, p) for p in run.of(shape, name) for v in values)


def _ordered(run: _Run, v: Term, sign: str, p: Term) -> bool:
    """`?v sign ?p` by SPARQL's operators (section 17.3), which the store extends: to strings with a language, and to whatever is the same
    term, NaN too. Raises Uncertain where one of both has no value in the store."""
    if not isinstance(v, Literal) or not isinstance(p, Literal):
        return False
    families = [_family(literal) for literal in (v, p)]
    if families[0] != families[1] or families[0] == "":
        return False
    if not (_has_store_value(run, v) and _has_store_value(run, p)):
        raise Uncertain
    return "NaN" not in (v.value, p.value) and _holds(run.data, f"FILTER(?v {sign} ?p)", v=v, p=p)


def _family(literal: Literal) -> str:
    """What is compared with each other; empty for what no operator orders. Raises Uncertain for datatypes that the store does not check."""
    datatype = literal.datatype.value
    if datatype in _NUMBERS:
        return "numeric"
    if datatype in _DURATIONS:
        return "duration"
    if datatype in _MOMENTS or datatype == XSD + "string":
        return datatype
    if datatype.startswith(XSD):
        raise Uncertain
    return ""


def _has_store_value(run: _Run, literal: Literal) -> bool:
    """The store reads integers of 64 bits, decimals of 38 digits, years of a few, and respells 24:00:00; the rest it keeps as text."""
    datatype = literal.datatype.value
    if datatype == XSD + "string":
        return True
    if datatype in _NUMBERS:
        return _holds(run.data, "FILTER(isNumeric(?v))", v=literal)
    return _rows(run.data, f"BIND(<{datatype}>(STR(?v)) AS ?x)", v=literal) == [literal]


def _pattern(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    flags = next(iter(run.of(shape, "flags")), Literal(""))
    for p in run.of(shape, "pattern"):
        if flags.value.strip("i") or not _COMMON_PATTERN.fullmatch(p.value) or any(not v.value.isascii() for v in values):
            raise Uncertain
        if any(not _holds(run.data, "FILTER(!isBlank(?v) && REGEX(STR(?v), ?p, ?f))", v=v, p=p, f=flags) for v in values):
            return True
    return False


def _language(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    def spoken(v: Term, tags: Iterable[Term]) -> bool:
        return isinstance(v, Literal) and any(_holds(run.data, "FILTER(langMatches(lang(?v), ?p))", v=v, p=tag) for tag in tags)

    return any(not spoken(v, run.members(p)) for p in run.of(shape, "languageIn") for v in values)


def _unique_language(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    tags = [v.language.lower() for v in values if isinstance(v, Literal) and v.language]
    return any(p.value in ("true", "1") for p in run.of(shape, "uniqueLang")) and len(tags) != len(set(tags))


def _others(run: _Run, focus: Term, p: Term) -> list[Term]:
    return _rows(run.data, f"?this {p} ?x", this=focus)


def _pairs(name: str, fails: Callable[[_Run, list[Term], list[Term]], bool]) -> Check:
    return lambda run, shape, focus, values: any(fails(run, values, _others(run, focus, p)) for p in run.of(shape, name))


def _order(sign: str) -> Callable[[_Run, list[Term], list[Term]], bool]:
    return lambda run, values, others: any(not _ordered(run, v, sign, p) for v in values for p in others)


def _not(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    return any(run.conforms(inner, v) for inner in run.of(shape, "not") for v in values)


def _node(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    return any(not run.conforms(inner, v) for inner in run.of(shape, "node") for v in values)


def _property(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    return any(not run.conforms(inner, v) for inner in run.of(shape, "property") for v in values)


def _list(name: str, right: Callable[[int, int], bool]) -> Check:
    """Of the members of a list so many must conform."""

    def check(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
        lists = [run.members(head) for head in run.of(shape, name)]
        return any(not right(sum(run.conforms(member, v) for member in members), len(members)) for members in lists for v in values)

    return check


def _qualified(run: _Run, shape: Term, focus: Term, values: list[Term]) -> bool:
    for inner in run.of(shape, "qualifiedValueShape"):
        siblings: list[Term] = []
        if any(p.value in ("true", "1") for p in run.of(shape, "qualifiedValueShapesDisjoint")):
            text = "?parent sh:property ?this ; sh:property/sh:qualifiedValueShape ?x"
            siblings = [other for other in _rows(run.shapes.store, text, this=shape) if other != inner]
        fitting = sum(run.conforms(inner, v) and not any(run.conforms(s, v) for s in siblings) for v in values)
        low, high = (run.of(shape, name) for name in ("qualifiedMinCount", "qualifiedMaxCount"))
        if any(fitting < int(p.value) for p in low) or any(fitting > int(p.value) for p in high):
            return True
    return False


def _closed(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    if not any(p.value in ("true", "1") for p in run.of(shape, "closed")):
        return False
    ignored = [member for head in run.of(shape, "ignoredProperties") for member in run.members(head)]
    allowed = {*ignored, *(path for inner in run.of(shape, "property") for path in run.of(inner, "path"))}
    nodes = [v for v in values if not isinstance(v, Literal)]
    return any(q.predicate not in allowed for v in nodes for q in run.data.quads_for_pattern(v, None, None))


def _has_value(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    return any(not any(_same(run, v, p) for v in values) for p in run.of(shape, "hasValue"))


def _in(run: _Run, shape: Term, _focus: Term, values: list[Term]) -> bool:
    return any(not any(_same(run, v, p) for p in run.members(head)) for head in run.of(shape, "in") for v in values)


def _same(_run: _Run, v: Term, p: Term) -> bool:
    return v == p


_COMPONENTS: Final[Mapping[str, Check]] = {
    "Class": _each("class", "?v rdf:type/rdfs:subClassOf* ?p", "typed"),
    "Datatype": _datatype,
    "NodeKind": _kind,
    "MinCount": _count("minCount", lambda n, least: n < least),
    "MaxCount": _count("maxCount", lambda n, most: n > most),
    "MinExclusive": _bound("minExclusive", ">"),
    "MinInclusive": _bound("minInclusive", ">="),
    "MaxExclusive": _bound("maxExclusive", "<"),
    "MaxInclusive": _bound("maxInclusive", "<="),
    "MinLength": _length("minLength", lambda n, least: n < least),
    "MaxLength": _length("maxLength", lambda n, most: n > most),
    "Pattern": _pattern,
    "LanguageIn": _language,
    "UniqueLang": _unique_language,
    "Equals": _pairs("equals", lambda run, values, others: set(values) != set(others)),
    "Disjoint": _pairs("disjoint", lambda run, values, others: bool(set(values) & set(others))),
    "LessThan": _pairs("lessThan", _order("<")),
    "LessThanOrEquals": _pairs("lessThanOrEquals", _order("<=")),
    "Not": _not,
    "And": _list("and", lambda n, of: n == of),
    "Or": _list("or", lambda n, of: n > 0),
    "Xone": _list("xone", lambda n, of: n == 1),
    "Node": _node,
    "Property": _property,
    "QualifiedValueShape": _qualified,
    "Closed": _closed,
    "HasValue": _has_value,
    "In": _in,
}
_KNOWN: Final = frozenset(_component(part) for part in _COMPONENTS)
