"""A shapes graph read into Shape values: everything malformed, unsupported or recursive is refused here, before any data is judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal as OneOf

from pyoxigraph import BlankNode, Literal, NamedNode

from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.graph import Graph, Hierarchy, Term
from knhk_runtime.tiers.literals import Value, value_of
from knhk_runtime.tiers.names import OWL_CLASS, RDF_NIL, RDF_TYPE, RDFS_CLASS, SH, XSD, component, sh
from knhk_runtime.tiers.paths import Path, read_path
from knhk_runtime.tiers.sparql import CURRENT_SHAPE, PATH, SHAPES_GRAPH, THIS, VALUE, check_prebound, mentions, with_path
from knhk_runtime.tiers.xpath_regex import PatternError, compile_pattern

TargetKind = OneOf["node", "class", "subjectsOf", "objectsOf"]
_TARGETS: tuple[tuple[TargetKind, NamedNode], ...] = (
    ("node", sh("targetNode")),
    ("class", sh("targetClass")),
    ("subjectsOf", sh("targetSubjectsOf")),
    ("objectsOf", sh("targetObjectsOf")),
)
_CLASSES = (RDFS_CLASS, OWL_CLASS)
_SHAPE_TYPES = frozenset({sh("NodeShape"), sh("PropertyShape")})
_ADVANCED = ("target", "rule", "expression", "sparqlTarget")
MAX_SHAPES = 100_000


@dataclass(frozen=True)
class Constraint:
    """One constraint of a shape. `component` is its IRI; `kind` selects the checker (validate.py); the rest are its parameters."""

    component: str
    kind: str
    terms: tuple[Term, ...] = ()
    number: int = 0
    bound: Value | None = None
    pattern: re.Pattern[str] | None = None
    shapes: tuple[Term, ...] = ()
    siblings: tuple[Term, ...] = ()
    query: str = ""
    parameters: tuple[tuple[str, Term], ...] = ()  # those of a SPARQL-based component, pre-bound in its query
    source: Term | None = None
    messages: tuple[Literal, ...] = ()


@dataclass(frozen=True)
class Target:
    kind: TargetKind
    term: Term


@dataclass(frozen=True)
class Shape:
    """A node shape (`path` None) or property shape."""

    node: Term
    path: Path | None
    targets: tuple[Target, ...]
    deactivated: bool
    severity: str
    messages: tuple[Literal, ...]
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True)
class Component:
    """A SPARQL-based constraint component (SHACL, section 6): parameters as (name, predicate, optional), and its validators."""

    node: NamedNode
    parameters: tuple[tuple[str, NamedNode, bool], ...]
    validators: dict[str, Term]  # by validator, nodeValidator, propertyValidator

    def validator(self, is_property: bool) -> Term | None:
        """The one for this kind of shape, if there is any."""
        return self.validators.get("propertyValidator" if is_property else "nodeValidator", self.validators.get("validator"))


@dataclass(frozen=True)
class Shapes:
    """All shapes that are reachable from a target, by node, in a stable order; `graph` is where they were read."""

    by_node: dict[Term, Shape]
    targeted: tuple[Term, ...]
    graph: Graph

    @property
    def ask_for_graph(self) -> bool:
        """Whether a query speaks of the shapes graph."""
        return any(mentions(c.query, SHAPES_GRAPH) for shape in self.by_node.values() for c in shape.constraints if c.query)


def load_shapes(graph: Graph) -> Shapes:
    """Raises ShapeError with shape and reason. Recursive shapes are refused: the Recommendation leaves their meaning open."""
    for declared in graph.subjects(RDF_TYPE, sh("SPARQLTargetType")):
        raise ShapeError(str(declared), "sh:SPARQLTargetType is not supported")
    components = tuple(_components(graph))
    roots = _roots(graph)
    by_node: dict[Term, Shape] = {}
    for root in roots:
        _load(graph, root, by_node, components)
    _refuse_recursion(by_node)
    return Shapes(by_node, tuple(roots), graph)


def _roots(graph: Graph) -> list[Term]:
    found: dict[Term, None] = {}
    for _, predicate in _TARGETS:
        found.update(dict.fromkeys(subject for subject, _ in graph.pairs(predicate)))
    hierarchy = Hierarchy(graph)
    for cls in _CLASSES:
        found.update(dict.fromkeys(node for node in hierarchy.instances(graph, cls) if _is_implicit(graph, hierarchy, node)))
    return sorted(found, key=str)


def _is_implicit(graph: Graph, hierarchy: Hierarchy, node: Term) -> bool:
    """A class that is a shape too, by its type or a constraint (section 2.1), and so its own target."""
    if not isinstance(node, NamedNode) or not any(hierarchy.is_instance(graph, node, cls) for cls in _CLASSES):
        return False
    typed = any(kind in _SHAPE_TYPES for kind in graph.objects(node, RDF_TYPE))
    return typed or any(predicate in _PARAMETERS for predicate in graph.predicates(node)) or _has_custom(graph, node)


def _has_custom(graph: Graph, node: NamedNode) -> bool:
    """Whether a node has a parameter of a constraint component of its own."""
    parameters = [p for custom in graph.subjects(RDF_TYPE, sh("ConstraintComponent")) for p in graph.objects(custom, sh("parameter"))]
    predicates = graph.predicates(node)
    return any(graph.has(parameter, sh("path"), predicate) for parameter in parameters for predicate in predicates)


def _load(graph: Graph, root: Term, by_node: dict[Term, Shape], components: tuple[Component, ...]) -> None:
    todo = [root]
    while todo:
        node = todo.pop()
        if node in by_node:
            continue
        if len(by_node) >= MAX_SHAPES:
            raise ShapeError(str(node), f"more than {MAX_SHAPES} shapes")
        shape = by_node[node] = _read_shape(graph, node, components)
        todo.extend(inner for constraint in shape.constraints for inner in (*constraint.shapes, *constraint.siblings))


def _refuse_recursion(by_node: dict[Term, Shape]) -> None:
    done: set[Term] = set()
    for start in by_node:
        if start in done:
            continue
        trail: list[tuple[Term, list[Term]]] = [(start, _inner(by_node[start]))]
        on_trail = {start}
        while trail:
            node, rest = trail[-1]
            if not rest:
                trail.pop()
                on_trail.discard(node)
                done.add(node)
                continue
            inner = rest.pop()
            if inner in on_trail:
                raise ShapeError(str(inner), "a shape that refers to itself, directly or by others, is not supported")
            if inner not in done:
                trail.append((inner, _inner(by_node[inner])))
                on_trail.add(inner)


def _inner(shape: Shape) -> list[Term]:
    return [node for constraint in shape.constraints for node in (*constraint.shapes, *constraint.siblings)]


def _read_shape(graph: Graph, node: Term, components: tuple[Component, ...]) -> Shape:
    if isinstance(node, Literal):
        raise ShapeError(str(node), "a shape must be an IRI or a blank node")
    for name in _ADVANCED:
        if graph.objects(node, sh(name)):
            raise ShapeError(str(node), f"sh:{name} (SHACL Advanced Features) is not supported")
    deactivated = _flag(graph, node, "deactivated")
    path_node = graph.one(node, sh("path"))
    severity = graph.one(node, sh("severity"))
    if severity is not None and not isinstance(severity, NamedNode):
        raise ShapeError(str(node), "sh:severity must be an IRI")
    return Shape(
        node=node,
        path=None if path_node is None or deactivated else read_path(graph, path_node),
        targets=_read_targets(graph, node),
        deactivated=deactivated,
        severity=severity.value if severity is not None else SH + "Violation",
        messages=_texts(graph, node, "message"),
        constraints=() if deactivated else tuple(_read_constraints(graph, node, path_node is not None, components)),
    )


def _read_targets(graph: Graph, node: Term) -> tuple[Target, ...]:
    targets = [Target(kind, term) for kind, predicate in _TARGETS for term in graph.objects(node, predicate)]
    if _is_implicit(graph, Hierarchy(graph), node):
        targets.append(Target("class", node))
    for target in targets:
        if target.kind != "node" and not isinstance(target.term, NamedNode):
            if target.kind == "class" and isinstance(target.term, BlankNode):
                continue
            raise ShapeError(str(node), f"target {target.term} must be an IRI")
    return tuple(targets)


def _flag(graph: Graph, node: Term, name: str) -> bool:
    return graph.one(node, sh(name)) == Literal("true", datatype=NamedNode(XSD + "boolean"))


def _texts(graph: Graph, node: Term, name: str) -> tuple[Literal, ...]:
    return tuple(term for term in graph.objects(node, sh(name)) if isinstance(term, Literal))


Reader = Callable[[Graph, Term, str, Term], Constraint]


def _read_constraints(graph: Graph, node: Term, is_property: bool, components: tuple[Component, ...]) -> Iterable[Constraint]:
    """Constraints in the order of the table, so that results keep one order."""
    for parameter, (name, reader, property_only) in _COMPONENTS.items():
        values = graph.objects(node, sh(parameter))
        if values and property_only and not is_property:
            raise ShapeError(str(node), f"sh:{parameter} needs a property shape")
        if len(values) > 1 and parameter not in _MANY_VALUES:
            raise ShapeError(str(node), f"sh:{parameter} must have one value, not {len(values)}")
        for value in values:
            yield reader(graph, node, component(name), value)
    yield from _read_qualified(graph, node, is_property)
    closed = _read_closed(graph, node)
    if closed is not None:
        yield closed
    for value in graph.objects(node, sh("sparql")):
        constraint = _read_sparql(graph, node, value, is_property)
        if constraint is not None:
            yield constraint
    for component_ in components:
        yield from _read_custom(graph, node, component_, is_property)


def _integer(node: Term, name: str, term: Term) -> int:
    value = value_of(term) if isinstance(term, Literal) and term.datatype.value == XSD + "integer" else None
    if value is None or not 0 <= int(value.exact) <= 2**63:  # type: ignore[arg-type]
        raise ShapeError(str(node), f"sh:{name} must be an xsd:integer, 0 or more, not {term}")
    return int(value.exact)  # type: ignore[arg-type]


def _count(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        return Constraint(iri, kind, number=_integer(node, kind, term))

    return read


def _with_term(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        return Constraint(iri, kind, (term,))

    return read


def _with_iri(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        if not isinstance(term, NamedNode):
            raise ShapeError(str(node), f"sh:{kind} must be an IRI, not {term}")
        return Constraint(iri, kind, (term,))

    return read


def _class(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
    if isinstance(term, Literal):
        raise ShapeError(str(node), f"sh:class must be an IRI, not {term}")
    return Constraint(iri, "class", (term,))


_NODE_KINDS = {
    SH + "IRI": ("iri",),
    SH + "BlankNode": ("bnode",),
    SH + "Literal": ("literal",),
    SH + "BlankNodeOrIRI": ("bnode", "iri"),
    SH + "BlankNodeOrLiteral": ("bnode", "literal"),
    SH + "IRIOrLiteral": ("iri", "literal"),
}


def node_kinds(term: Term) -> tuple[str, ...]:
    """Term kinds that a value of sh:nodeKind allows."""
    return _NODE_KINDS.get(term.value, ()) if isinstance(term, NamedNode) else ()


def _node_kind(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
    if not node_kinds(term):
        raise ShapeError(str(node), f"sh:nodeKind must be one of the six of SHACL, not {term}")
    return Constraint(iri, "nodeKind", (term,))


def _range(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        if not isinstance(term, Literal):
            raise ShapeError(str(node), f"sh:{kind} must be a literal, not {term}")
        return Constraint(iri, kind, (term,), bound=value_of(term))

    return read


def _pattern(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
    flags = graph.one(node, sh("flags"))
    if not isinstance(term, Literal) or (flags is not None and not isinstance(flags, Literal)):
        raise ShapeError(str(node), "sh:pattern and sh:flags must be strings")
    try:
        compiled = compile_pattern(term.value, flags.value if flags is not None else "")
    except PatternError as error:
        raise ShapeError(str(node), f"sh:pattern {error}") from error
    return Constraint(iri, "pattern", (term,), pattern=compiled)


def _with_list(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        return Constraint(iri, kind, tuple(graph.items(term)))

    return read


def _language_in(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
    tags = graph.items(term)
    if not all(isinstance(tag, Literal) for tag in tags):
        raise ShapeError(str(node), "sh:languageIn must be a list of strings")
    return Constraint(iri, "languageIn", tuple(tags))


def _unique_lang(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
    """Only the literal `true` turns it on; "1" does not (W3C test uniqueLang-002)."""
    on = term == Literal("true", datatype=NamedNode(XSD + "boolean"))
    return Constraint(iri, "uniqueLang" if on else "off")


def _with_shape(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        if kind == "property" and graph.one(term, sh("path")) is None:
            raise ShapeError(str(node), f"sh:property {term} must have a sh:path")
        return Constraint(iri, kind, shapes=(term,))

    return read


def _with_shapes(kind: str) -> Reader:
    def read(graph: Graph, node: Term, iri: str, term: Term) -> Constraint:
        return Constraint(iri, kind, shapes=tuple(graph.items(term)))

    return read


def _read_qualified(graph: Graph, node: Term, is_property: bool) -> Iterable[Constraint]:
    counts = [(name, graph.one(node, sh(f"qualified{name}Count"))) for name in ("Min", "Max")]
    inner = graph.objects(node, sh("qualifiedValueShape"))
    present = [(name, count) for name, count in counts if count is not None]
    if not inner:
        return
    if not is_property:
        raise ShapeError(str(node), "sh:qualifiedValueShape needs a property shape")
    disjoint = _flag(graph, node, "qualifiedValueShapesDisjoint")
    for shape in inner:
        siblings = _siblings(graph, node, shape) if disjoint else ()
        for name, count in present:
            number = _integer(node, f"qualified{name}Count", count)
            iri = component(f"Qualified{name}Count")
            yield Constraint(iri, f"qualified{name}", number=number, shapes=(shape,), siblings=siblings)


def _siblings(graph: Graph, node: Term, inner: Term) -> tuple[Term, ...]:
    """Value shapes of the other property shapes of every parent, without this one."""
    found: dict[Term, None] = {}
    for parent in graph.subjects(sh("property"), node):
        for other in graph.objects(parent, sh("property")):
            found.update(dict.fromkeys(graph.objects(other, sh("qualifiedValueShape"))))
    found.pop(inner, None)
    return tuple(found)


def _read_closed(graph: Graph, node: Term) -> Constraint | None:
    if not _flag(graph, node, "closed"):
        return None
    ignored = graph.one(node, sh("ignoredProperties"))
    allowed: dict[Term, None] = dict.fromkeys(graph.items(ignored if ignored is not None else RDF_NIL))
    for inner in graph.objects(node, sh("property")):
        allowed.update(dict.fromkeys(path for path in graph.objects(inner, sh("path")) if isinstance(path, NamedNode)))
    return Constraint(component("Closed"), "closed", tuple(allowed))


def _read_sparql(graph: Graph, node: Term, value: Term, is_property: bool) -> Constraint | None:
    if _flag(graph, value, "deactivated"):
        return None
    query = _query(graph, value, "select", "sh:sparql")
    _check_query(node, query, "sh:select", is_property, (THIS, SHAPES_GRAPH, CURRENT_SHAPE))
    return Constraint(component("SPARQL"), "select", query=query, source=value, messages=_texts(graph, value, "message"))


def _query(graph: Graph, holder: Term, form: str, what: str) -> str:
    text = graph.one(holder, sh(form))
    if not isinstance(text, Literal):
        raise ShapeError(str(holder), f"{what} must have one sh:{form} string")
    return _prefixes(graph, holder) + text.value


def _check_query(where: Term, query: str, what: str, has_path: bool, variables: tuple[str, ...]) -> None:
    if not has_path and mentions(query, PATH):
        raise ShapeError(str(where), f"$PATH needs a property shape and a SELECT: {what}")
    check_prebound(str(where), with_path(query, "<urn:knhk:path>"), what, variables)


def _components(graph: Graph) -> Iterable[Component]:
    """Components with a validator, in the order of their IRIs. Those of SHACL itself, whose vocabulary may be in the graph, have none."""
    for node in sorted(graph.subjects(RDF_TYPE, sh("ConstraintComponent")), key=str):
        validators = {name: graph.objects(node, sh(name)) for name in _VALIDATORS}
        chosen = {name: found[0] for name, found in validators.items() if found}
        if not chosen:
            continue
        if not isinstance(node, NamedNode):
            raise ShapeError(str(node), "a constraint component must be an IRI")
        parameters = sorted((_parameter(graph, node, value) for value in graph.objects(node, sh("parameter"))), key=lambda p: p[0])
        if all(optional for _, _, optional in parameters):
            raise ShapeError(str(node), "a constraint component must have a sh:parameter that is not optional")
        yield Component(node, tuple(parameters), chosen)


_VALIDATORS = ("validator", "nodeValidator", "propertyValidator")
_RESERVED = frozenset({"this", "shapesGraph", "currentShape", "path", "PATH", "value"})


def _parameter(graph: Graph, node: NamedNode, parameter: Term) -> tuple[str, NamedNode, bool]:
    path = graph.one(parameter, sh("path"))
    if not isinstance(path, NamedNode):
        raise ShapeError(str(node), "a sh:parameter must have one sh:path, an IRI")
    name = re.split(r"[#/:]", path.value)[-1]
    if re.fullmatch(r"\w+", name) is None or name in _RESERVED:
        raise ShapeError(str(node), f"a parameter cannot be called {name!r}")
    return name, path, _flag(graph, parameter, "optional")


def _read_custom(graph: Graph, node: Term, custom: Component, is_property: bool) -> Iterable[Constraint]:
    """One constraint for each value of a single parameter; a component of several parameters takes one value of each."""
    validator = custom.validator(is_property)
    given = {name: graph.objects(node, path) for name, path, _ in custom.parameters}
    if validator is None or not all(given[name] or optional for name, _, optional in custom.parameters):
        return
    if len(custom.parameters) > 1 and (many := [name for name, values in given.items() if len(values) > 1]):
        raise ShapeError(str(node), f"{', '.join(many)} of {custom.node} must have one value each")
    (first, values), *others = sorted(given.items(), key=lambda item: -len(item[1]))
    rest = tuple((name, found[0]) for name, found in others if found)
    form = "select" if graph.objects(validator, sh("select")) else "ask"
    query = _query(graph, validator, form, str(custom.node))
    names = (THIS, *((VALUE,) if form == "ask" else ()), *given, SHAPES_GRAPH, CURRENT_SHAPE)
    _check_query(custom.node, query, f"sh:{form}", is_property and form == "select", names)
    for value in values:
        bound = ((first, value), *rest)
        yield Constraint(custom.node.value, form, query=query, parameters=bound, messages=_texts(graph, validator, "message"))


def _prefixes(graph: Graph, value: Term) -> str:
    """PREFIX lines of sh:prefixes, its sh:declare and owl:imports followed."""
    lines: list[str] = []
    seen: set[Term] = set()
    todo = graph.objects(value, sh("prefixes"))
    while todo:
        ontology = todo.pop()
        if ontology in seen:
            continue
        seen.add(ontology)
        todo.extend(graph.objects(ontology, NamedNode("http://www.w3.org/2002/07/owl#imports")))
        for declared in graph.objects(ontology, sh("declare")):
            prefix, namespace = graph.one(declared, sh("prefix")), graph.one(declared, sh("namespace"))
            if not isinstance(prefix, Literal) or not isinstance(namespace, Literal):
                raise ShapeError(str(ontology), "sh:declare must have one sh:prefix and one sh:namespace")
            lines.append(f"PREFIX {prefix.value}: <{namespace.value}>\n")
    return "".join(sorted(set(lines)))


# parameter → (component, reader, whether only property shapes may have it)
_COMPONENTS: dict[str, tuple[str, Reader, bool]] = {
    "class": ("Class", _class, False),
    "datatype": ("Datatype", _with_iri("datatype"), False),
    "nodeKind": ("NodeKind", _node_kind, False),
    "minCount": ("MinCount", _count("minCount"), True),
    "maxCount": ("MaxCount", _count("maxCount"), True),
    "minExclusive": ("MinExclusive", _range("minExclusive"), False),
    "minInclusive": ("MinInclusive", _range("minInclusive"), False),
    "maxExclusive": ("MaxExclusive", _range("maxExclusive"), False),
    "maxInclusive": ("MaxInclusive", _range("maxInclusive"), False),
    "minLength": ("MinLength", _count("minLength"), False),
    "maxLength": ("MaxLength", _count("maxLength"), False),
    "pattern": ("Pattern", _pattern, False),
    "languageIn": ("LanguageIn", _language_in, False),
    "uniqueLang": ("UniqueLang", _unique_lang, True),
    "equals": ("Equals", _with_iri("equals"), False),
    "disjoint": ("Disjoint", _with_iri("disjoint"), False),
    "lessThan": ("LessThan", _with_iri("lessThan"), True),
    "lessThanOrEquals": ("LessThanOrEquals", _with_iri("lessThanOrEquals"), True),
    "not": ("Not", _with_shape("not"), False),
    "and": ("And", _with_shapes("and"), False),
    "or": ("Or", _with_shapes("or"), False),
    "xone": ("Xone", _with_shapes("xone"), False),
    "node": ("Node", _with_shape("node"), False),
    "property": ("Property", _with_shape("property"), False),
    "hasValue": ("HasValue", _with_term("hasValue"), False),
    "in": ("In", _with_list("in"), False),
}
_PARAMETERS = frozenset(sh(name) for name in (*_COMPONENTS, "qualifiedValueShape", "closed", "sparql"))
_MANY_VALUES = frozenset(
    {"class", "pattern", "equals", "disjoint", "lessThan", "lessThanOrEquals", "not", "and", "or", "xone", "node", "property", "hasValue"}
)
