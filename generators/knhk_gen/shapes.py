"""SHACL shapes read from a store, checked term by term; every fault is found before lowering."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from rdflib import BNode, Literal, URIRef

from knhk.model.faults import Fault, Refused
from knhk_gen.names import OWL, RDF, RDFS, SH, TYPE, XSD, local
from knhk_gen.terms import NUMERICS
from knhk_gen.turtle import NIL, Subject, Term, TripleStore, show

NODE_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    SH + "IRI": ("iri",),
    SH + "BlankNode": ("bnode",),
    SH + "Literal": ("literal",),
    SH + "BlankNodeOrIRI": ("bnode", "iri"),
    SH + "BlankNodeOrLiteral": ("bnode", "literal"),
    SH + "IRIOrLiteral": ("iri", "literal"),
}
SEVERITIES: Final = {SH + name: name for name in ("Violation", "Warning", "Info")}
"""What the plan calls SHACL's own; any other IRI is kept as it is, and denies nothing."""

Check = Callable[[TripleStore, Term], str]
"""Empty, or what the value must be."""


def _iri(_: TripleStore, v: Term) -> str:
    return "" if isinstance(v, URIRef) else "must be an IRI"


def _node(_: TripleStore, v: Term) -> str:
    return "must be an IRI or a blank node" if isinstance(v, Literal) else ""


def _constant(_: TripleStore, v: Term) -> str:
    return "must be an IRI or a literal" if isinstance(v, BNode) else ""


def _count(_: TripleStore, v: Term) -> str:
    fine = isinstance(v, Literal) and v.datatype == URIRef(XSD + "integer")
    fine = fine and re.fullmatch(r"\+?\d{1,9}", str(v), re.ASCII) is not None
    return "" if fine else "must be an xsd:integer from 0 to 999999999"


def _boolean(_: TripleStore, v: Term) -> str:
    fine = isinstance(v, Literal) and v.datatype == URIRef(XSD + "boolean")
    return "" if fine else "must be true or false"


_COMPARABLE: Final = frozenset(
    (
        *NUMERICS,
        *(XSD + name for name in ("string", "boolean", "dateTime", "dateTimeStamp", "date", "time", "gYearMonth", "gYear", "gMonthDay")),
        *(XSD + name for name in ("gDay", "gMonth", "duration", "yearMonthDuration", "dayTimeDuration")),
    )
)


def _comparable(_: TripleStore, v: Term) -> str:
    datatype = str(v.datatype or XSD + "string") if isinstance(v, Literal) and not v.language else ""
    broken = datatype in NUMERICS and v.ill_typed  # type: ignore[union-attr]
    return "" if datatype in _COMPARABLE and not broken else "must be a literal that values compare with: a number, string, date or time"


def _truth(_: TripleStore, v: Term) -> str:
    """`1` and `0` are xsd:boolean too, but only `true` turns a parameter on (W3C test uniqueLang-002)."""
    return _boolean(_, v) or ("" if str(v) in ("true", "false") else "must be true or false, so written")


def _string(_: TripleStore, v: Term) -> str:
    fine = isinstance(v, Literal) and v.datatype in (None, URIRef(XSD + "string"))
    return "" if fine and not v.language else "must be a string"  # type: ignore[union-attr]


def _text(_: TripleStore, v: Term) -> str:
    plain = isinstance(v, Literal) and (v.language or v.datatype in (None, URIRef(XSD + "string")))
    return "" if plain else "must be a string, with or without a language tag"


def _literal(_: TripleStore, v: Term) -> str:
    return "" if isinstance(v, Literal) else "must be a literal"


def _kind(_: TripleStore, v: Term) -> str:
    return "" if str(v) in NODE_KINDS else "must be one of sh:IRI, sh:BlankNode, sh:Literal, …"


def _severity(_: TripleStore, v: Term) -> str:
    return "" if str(v) in SEVERITIES else "must be sh:Violation, sh:Warning or sh:Info"


def _own_severity(store: TripleStore, v: Term) -> str:
    """SHACL's own, or an IRI outside its namespace: a misspelt one would deny nothing."""
    return _severity(store, v) if str(v).startswith(SH) else ""


def _list_of(check: Check) -> Check:
    def checked(store: TripleStore, v: Term) -> str:
        if isinstance(v, Literal):
            return "must be a list: ( … )"
        try:
            members = store.items(v, "")
        except Refused:
            return "must be a well-formed list: ( … )"
        wrong = [f"{show(m)} {must}" for m in members if (must := check(store, m))]
        return f"must be a list in which {wrong[0]}" if wrong else ""

    return checked


def _members(store: TripleStore, v: Term) -> str:
    return _list_of(_node)(store, v) or ("must not be empty" if v == NIL else "")


def _pattern(store: TripleStore, v: Term) -> str:
    return _string(store, v) or regex_fault(str(v))


def _flags(store: TripleStore, v: Term) -> str:
    return _string(store, v) or ("" if set(str(v)) <= set("smixq") else "must be of s, m, i, x, q")


def _any(_: TripleStore, __: Term) -> str:
    return ""


@dataclass(frozen=True)
class Param:
    """A constraint parameter: its component, what values it takes, and where it may stand."""

    name: str
    component: str
    check: Check
    single: bool = True
    property_only: bool = False
    node_only: bool = False
    custom: str = ""  # IRI of a SPARQL-based component of the pack's own

    @property
    def iri(self) -> str:
        """IRI of the component."""
        return self.custom or f"{SH}{self.component}ConstraintComponent"


_PARAMS = (
    Param("class", "Class", _iri, single=False),
    Param("datatype", "Datatype", _iri),
    Param("nodeKind", "NodeKind", _kind),
    Param("minCount", "MinCount", _count, property_only=True),
    Param("maxCount", "MaxCount", _count, property_only=True),
    Param("minExclusive", "MinExclusive", _literal),
    Param("minInclusive", "MinInclusive", _literal),
    Param("maxExclusive", "MaxExclusive", _literal),
    Param("maxInclusive", "MaxInclusive", _literal),
    Param("minLength", "MinLength", _count),
    Param("maxLength", "MaxLength", _count),
    Param("pattern", "Pattern", _pattern, single=False),
    Param("languageIn", "LanguageIn", _list_of(_string)),
    Param("uniqueLang", "UniqueLang", _boolean, property_only=True),
    Param("equals", "Equals", _iri, single=False),
    Param("disjoint", "Disjoint", _iri, single=False),
    Param("lessThan", "LessThan", _iri, single=False, property_only=True),
    Param("lessThanOrEquals", "LessThanOrEquals", _iri, single=False, property_only=True),
    Param("not", "Not", _node, single=False),
    Param("and", "And", _list_of(_node), single=False),
    Param("or", "Or", _list_of(_node), single=False),
    Param("xone", "Xone", _list_of(_node), single=False),
    Param("node", "Node", _node, single=False),
    Param("property", "Property", _node, single=False),
    Param("qualifiedValueShape", "QualifiedValueShape", _node, single=False, property_only=True),
    Param("closed", "Closed", _truth),
    Param("hasValue", "HasValue", _any, single=False),
    Param("in", "In", _list_of(_any)),
    Param("sparql", "SPARQL", _node, single=False),
)
PARAMS: Final[Mapping[str, Param]] = {SH + p.name: p for p in _PARAMS}

_OF_AUTHORS: Final[Mapping[str, Check]] = {
    SH + "hasValue": _constant,
    SH + "in": _list_of(_constant),
    SH + "severity": _own_severity,
    **{SH + name: _members for name in ("and", "or", "xone")},
    **{SH + name: _comparable for name in ("minExclusive", "minInclusive", "maxExclusive", "maxInclusive")},
}
"""What the Recommendation allows and no author means: a value that nothing equals, a bound that nothing reaches, a list of no shapes."""

SHAPE_VALUES: Final = (SH + "not", SH + "node", SH + "property", SH + "qualifiedValueShape")
SHAPE_LISTS: Final = (SH + "and", SH + "or", SH + "xone")

_OTHER: Final[Mapping[str, tuple[Check, bool]]] = {
    "path": (_node, True),
    "flags": (_flags, True),
    "qualifiedMinCount": (_count, True),
    "qualifiedMaxCount": (_count, True),
    "qualifiedValueShapesDisjoint": (_truth, True),
    "ignoredProperties": (_list_of(_iri), True),
    "targetNode": (_constant, False),
    "targetClass": (_iri, False),
    "targetSubjectsOf": (_iri, False),
    "targetObjectsOf": (_iri, False),
    "severity": (_iri, True),
    "message": (_text, False),
    "deactivated": (_truth, True),
    "name": (_text, False),
    "description": (_text, False),
    "order": (_literal, False),
    "group": (_node, False),
    "defaultValue": (_any, False),
    # paths
    "inversePath": (_node, True),
    "alternativePath": (_members, True),
    "zeroOrMorePath": (_node, True),
    "oneOrMorePath": (_node, True),
    "zeroOrOnePath": (_node, True),
    # SPARQL constraints
    "select": (_string, True),
    "prefixes": (_node, False),
    "declare": (_node, False),
    "prefix": (_string, True),
    "namespace": (_literal, True),
    # SPARQL-based constraint components
    "parameter": (_node, False),
    "optional": (_truth, True),
    "validator": (_node, False),
    "nodeValidator": (_node, False),
    "propertyValidator": (_node, False),
    "ask": (_string, True),
    "labelTemplate": (_text, False),
    # results, which test files carry beside shapes; they constrain nothing
    **dict.fromkeys(
        (
            "conforms", "result", "focusNode", "resultPath", "value", "sourceShape", "detail",
            "sourceConstraintComponent", "sourceConstraint", "resultSeverity", "resultMessage",
            "shapesGraph", "suggestedShapesGraph", "shapesGraphWellFormed",
        ),
        (_any, False),
    ),
}  # fmt: skip

PATHS: Final = tuple(SH + p for p in ("inversePath", "alternativePath", "zeroOrMorePath", "oneOrMorePath", "zeroOrOnePath"))
_BEYOND: Final = frozenset(
    {
        "target", "expression", "js", "entailment", "reifierShape", "reificationRequired", "memberShape", "minListLength",
        "maxListLength", "uniqueMembers", "nodeByExpression", "singleLine", "subsetOf", "someValue", "rootClass", "targetWhere",
    }
)  # fmt: skip
"""What would constrain, or change the data, in SHACL beyond the Recommendation: never passed over in silence."""
_NO_TERM: Final[Mapping[str, str]] = {
    "": "must be a term of SHACL core that this version compiles",
    "entailment": "must not be there: no entailment regime is supported",
}
_TYPES: Final = frozenset(
    {
        "NodeShape", "PropertyShape", "PropertyGroup", "Shape", "SPARQLConstraint",
        "PrefixDeclaration", "ValidationReport", "ValidationResult",
        "ConstraintComponent", "Parameter", "SPARQLAskValidator", "SPARQLSelectValidator",
    }
)  # fmt: skip
VALIDATORS: Final = ("validator", "nodeValidator", "propertyValidator")
TARGETS: Final = ("targetNode", "targetClass", "targetSubjectsOf", "targetObjectsOf")
_CLASS_TYPES: Final = (RDFS + "Class", OWL + "Class")
BLANK: Final = "_:"
"""How the name of a class begins that is a blank node."""


def regex_fault(pattern: str) -> str:
    """Empty when `pattern` is a regular expression of XPath, as far as Python can tell."""
    plain = re.sub(r"\\[pP]\{[A-Za-z]+\}", "[a]", pattern)
    plain = re.sub(r"\\[iIcC]", "[a]", plain)
    try:
        re.compile(plain)
    except (re.error, RecursionError, OverflowError) as error:
        return f"must be a regular expression: {error}"
    return ""


def needs_backtracking(pattern: str) -> bool:
    """True when a pattern has back-references or look-around."""
    return re.search(r"\\[1-9]|\(\?[=!<]", pattern) is not None


def _class_name(node: Term) -> str:
    return BLANK + node if isinstance(node, BNode) else str(node)


def _subclasses(store: TripleStore) -> dict[str, list[str]]:
    below: dict[str, list[str]] = {}
    for s, p, o in store.triples:
        if str(p) == RDFS + "subClassOf":
            below.setdefault(_class_name(o), []).append(_class_name(s))
    return below


def _closed(below: Mapping[str, list[str]], cls: str) -> list[str]:
    found, todo = {cls}, [cls]
    while todo:
        for sub in below.get(todo.pop(), ()):
            if sub not in found:
                found.add(sub)
                todo.append(sub)
    return sorted(found)


@dataclass(frozen=True)
class Path:
    """A property path: `kind` predicate, inverse, alternative, sequence, zeroOrOne, zeroOrMore,
    oneOrMore; `iri` for a predicate, `parts` for the others."""

    kind: str
    iri: str = ""
    parts: tuple[Path, ...] = ()

    def predicates(self) -> set[str]:
        """All predicates in the path."""
        return {self.iri} if self.iri else set().union(*(p.predicates() for p in self.parts))


class Shapes:
    """The shapes of a pack. `classes` holds the rdfs:subClassOf that targets and sh:class are closed over (None: those of the shapes).
    `open_vocabulary` passes over names of SHACL's namespace that mean nothing. Raises Refused with every fault when made."""

    def __init__(self, store: TripleStore, classes: TripleStore | None = None, open_vocabulary: bool = False) -> None:
        self.store = store
        self.open_vocabulary = open_vocabulary
        self.faults: list[Fault] = []
        self._below = _subclasses(store if classes is None else classes)
        self._blank_classes = classes is not None  # those of the shapes are no nodes of the data
        own = self._below if classes is None else _subclasses(store)
        self._class_types = {URIRef(c) for cls in _CLASS_TYPES for c in _closed(own, cls)}
        self._check_terms()
        self._paths = {
            node: path
            for node in store.subjects(SH + "path")
            if (path := self._path(store.values(node, SH + "path")[0], store.where(node), 0))
        }
        self._check_shapes()
        _ = self._custom  # its faults too
        if self.faults:
            raise Refused(self.faults)

    def path(self, shape: Term) -> Path | None:
        """The path of a property shape; None for a node shape."""
        return None if isinstance(shape, Literal) else self._paths.get(shape)

    def values(self, shape: Term, name: str) -> list[Term]:
        """Values of `sh:name`."""
        return self.store.values(shape, SH + name)

    def value(self, shape: Term, name: str) -> Term | None:
        """The one value of `sh:name`, or None."""
        found = self.values(shape, name)
        return found[0] if found else None

    def flag(self, shape: Term, name: str) -> bool:
        """True when `sh:name` is true."""
        return any(str(v) == "true" for v in self.values(shape, name))

    def items(self, head: Term) -> list[Term]:
        """Members of a list that was found well-formed."""
        return self.store.items(head, "")

    def closure(self, cls: str) -> list[str]:
        """The class and all its subclasses, sorted; `_:label` for blank nodes of the data."""
        return [name for name in _closed(self._below, cls) if self._blank_classes or not name.startswith(BLANK)]

    def params(self, shape: Term) -> list[Param]:
        """The constraint parameters that a shape has values for: SHACL's own, then the pack's."""
        own = [param for param in PARAMS.values() if any(not self._is_off(shape, param, value) for value in self.values(shape, param.name))]
        validators = {"validator", "propertyValidator" if self.path(shape) else "nodeValidator"}
        return own + [
            param
            for param, needed in self._custom
            if all(self.store.values(shape, p) for p in needed) and any(self.store.values(URIRef(param.custom), SH + v) for v in validators)
        ]

    def _is_off(self, shape: Term, param: Param, value: Term) -> bool:
        """A query that is deactivated, or a value shape whose number nobody limits."""
        uncounted = param.name == "qualifiedValueShape" and not any(self.values(shape, f"qualified{m}Count") for m in ("Min", "Max"))
        return uncounted or (param.name == "sparql" and self.flag(value, "deactivated"))

    @cached_property
    def _custom(self) -> list[tuple[Param, list[str]]]:
        """SPARQL-based components with a validator, each with the predicates that it needs. SHACL's own vocabulary has no validators."""
        found: list[tuple[Param, list[str]]] = []
        for node in self.store.subjects(TYPE, URIRef(SH + "ConstraintComponent")):
            if not any(self.values(node, name) for name in VALIDATORS):
                continue
            mandatory = [value for value in self.values(node, "parameter") if not self.flag(value, "optional")]
            needed = [str(p) for value in mandatory for p in self.values(value, "path")]
            if isinstance(node, BNode) or not needed:
                self._fault((node, SH + "parameter", None), show(node), "must be an IRI with a sh:parameter that is not optional")
            name = local(str(node))
            found.append((Param(name, name, _any, single=False, custom=str(node)), needed))
        return sorted(found, key=lambda entry: entry[0].custom)

    def roots(self) -> list[Subject]:
        """Shapes that have a target of their own, in the order of the text."""
        found: dict[Subject, None] = {}
        for s, p, _ in self.store.triples:
            explicit = str(p) in {SH + t for t in TARGETS}
            if explicit or (str(p) == TYPE and self.is_implicit_class(s)):
                found[s] = None
        return list(found)

    def is_implicit_class(self, node: Term) -> bool:
        """True when a class is a shape too: what makes it one is its type or a constraint (section 2.1)."""
        types = self.store.values(node, TYPE)
        if not isinstance(node, URIRef) or not any(t in self._class_types for t in types):
            return False
        return any(str(t) in (SH + "NodeShape", SH + "PropertyShape") for t in types) or bool(self.params(node))

    # faults

    def _fault(self, place: tuple[Term, str, Term | None], value: str, must: str) -> None:
        self.faults.append(Fault(self.store.where(*place), value, must))

    def _check_terms(self) -> None:
        for s, p, o in self.store.triples:
            name = str(p)
            if name == TYPE and isinstance(o, URIRef) and str(o).startswith(SH):
                self._check_type(s, o)
            if not name.startswith(SH):
                continue
            param = PARAMS.get(name)
            check, single = (param.check, param.single) if param else _OTHER.get(name.removeprefix(SH), (None, False))
            if check is None:
                if self.open_vocabulary and name.removeprefix(SH) not in _BEYOND:
                    continue
                self._fault((s, name, o), self.store.curie(name), _NO_TERM.get(name.removeprefix(SH), _NO_TERM[""]))
            elif must := check(self.store, o) or self._of_authors(name, o):
                self._fault((s, name, o), f"{self.store.curie(name)} {show(o)}", must)
            elif single and self.store.values(s, name)[0] != o:
                self._fault((s, name, o), f"{self.store.curie(name)} {show(o)}", "must be given once")

    def _of_authors(self, name: str, o: Term) -> str:
        """Empty, or what the value must be in a pack."""
        return "" if self.open_vocabulary or name not in _OF_AUTHORS else _OF_AUTHORS[name](self.store, o)

    def _check_type(self, s: Term, o: URIRef) -> None:
        if str(o).removeprefix(SH) not in _TYPES and not self.open_vocabulary:
            self._fault((s, TYPE, o), show(o), "must be sh:NodeShape or sh:PropertyShape")

    def _shapes(self) -> Iterable[Term]:
        found: dict[Term, None] = {}
        for s, p, o in self.store.triples:
            name = str(p)
            if name in PARAMS or name.removeprefix(SH) in TARGETS or name == SH + "path":
                found[s] = None
            if name in SHAPE_VALUES and not isinstance(o, Literal):
                found[o] = None
        return found

    def _check_shapes(self) -> None:
        for shape in self._shapes():
            is_property = bool(self.values(shape, "path"))
            for name, param in PARAMS.items():
                for value in self.store.values(shape, name)[:1]:
                    if param.property_only and not is_property:
                        must = "must stand in a property shape (one with sh:path)"
                        self._fault((shape, name, value), f"sh:{param.name}", must)
            for value in self.values(shape, "property"):
                if not self.values(value, "path"):
                    must = "must be a property shape (one with sh:path)"
                    self._fault((shape, SH + "property", value), show(value), must)
            if not self.open_vocabulary:
                self._check_pairs(shape)
            self._check_kind(shape)
            self._check_sparql(shape)

    def _check_kind(self, shape: Term) -> None:
        """Node shapes have no path, property shapes have one (sections 2.2, 2.3); sh:node takes node shapes."""
        is_property = bool(self.values(shape, "path"))
        for kind, wrong in (("NodeShape", is_property), ("PropertyShape", not is_property)):
            if wrong and URIRef(SH + kind) in self.store.values(shape, TYPE):
                self._fault(
                    (shape, TYPE, URIRef(SH + kind)), f"{show(shape)} a sh:{kind}", f"must have {'no' if is_property else 'a'} sh:path"
                )
        for value in self.values(shape, "node"):
            if self.values(value, "path"):
                self._fault((shape, SH + "node", value), show(value), "must be a node shape (one without sh:path)")

    def _check_pairs(self, shape: Term) -> None:
        for low, high in (
            ("minCount", "maxCount"),
            ("minLength", "maxLength"),
            ("qualifiedMinCount", "qualifiedMaxCount"),
        ):
            a, b = self.value(shape, low), self.value(shape, high)
            if a is None or b is None or _count(self.store, a) or _count(self.store, b):
                continue
            if int(str(a)) > int(str(b)):
                must = f"must not be greater than sh:{high} {b}"
                self._fault((shape, SH + low, a), f"sh:{low} {a}", must)
        qualified = self.values(shape, "qualifiedValueShape")
        counts = [self.value(shape, f"qualified{m}Count") for m in ("Min", "Max")]
        if qualified and all(count is None for count in counts):
            must = "must come with sh:qualifiedMinCount or sh:qualifiedMaxCount"
            self._fault((shape, SH + "qualifiedValueShape", None), "sh:qualifiedValueShape", must)
        for name, needs in (("flags", "pattern"), ("ignoredProperties", "closed")):
            if self.values(shape, name) and not self.values(shape, needs):
                self._fault((shape, SH + name, None), f"sh:{name}", f"must come with sh:{needs}")

    def _check_sparql(self, shape: Term) -> None:
        for constraint in self.values(shape, "sparql"):
            if not self.values(constraint, "select"):
                self._fault((shape, SH + "sparql", constraint), "sh:sparql", "must have an sh:select")

    def _path(self, node: Term, where: str, depth: int) -> Path | None:
        if isinstance(node, URIRef) and node != NIL:
            return Path("predicate", str(node))
        if isinstance(node, Literal) or depth > 16:
            self._bad_path(node, where)
            return None
        if self.store.values(node, RDF + "first"):
            return self._parts("sequence", node, where, depth)
        for name in PATHS:
            for inner in self.store.values(node, name):
                kind = name.removeprefix(SH).removesuffix("Path")
                if kind == "alternative":
                    return self._parts(kind, inner, where, depth)
                part = self._path(inner, where, depth + 1)
                return Path(kind, parts=(part,)) if part else None
        self._bad_path(node, where)
        return None

    def _parts(self, kind: str, head: Term, where: str, depth: int) -> Path | None:
        try:
            members = self.store.items(head, where)
        except Refused as refused:
            self.faults += refused.faults
            return None
        parts = [self._path(member, where, depth + 1) for member in members]
        if len(parts) < 2:
            self._bad_path(head, where)
            return None
        return Path(kind, parts=tuple(p for p in parts if p)) if all(parts) else None

    def _bad_path(self, node: Term, where: str) -> None:
        must = "must be a property path (IRI, list of two or more, sh:inversePath, …)"
        self.faults.append(Fault(where, f"sh:path {show(node)}", must))
