"""SHACL Core and sh:sparql by the Recommendation of 2017-07-20: shapes and data in, validation results out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyoxigraph import BlankNode, Literal, NamedNode

from knhk_runtime.tiers.errors import Undecided
from knhk_runtime.tiers.graph import Graph, Hierarchy, Term
from knhk_runtime.tiers.literals import compare, value_of, well_formed
from knhk_runtime.tiers.names import XSD
from knhk_runtime.tiers.paths import Path, values
from knhk_runtime.tiers.shapes import Constraint, Shape, Shapes, Target, node_kinds
from knhk_runtime.tiers.sparql import CURRENT_SHAPE, SHAPES_GRAPH, THIS, VALUE, ask, select, with_path


@dataclass(frozen=True)
class Result:
    """One validation result. `shape` is the source shape; `outer` the shapes whose sh:property led to it, outermost first, and `root` the
    focus node of the outermost one."""

    focus: Term
    path: Path | None
    value: Term | None
    shape: Term
    component: str
    severity: str
    messages: tuple[Literal, ...]
    source: Term | None = None
    outer: tuple[Term, ...] = ()
    root: Term | None = None


@dataclass(frozen=True)
class Found:
    """What a checker reports: the offending value node (None: the focus as a whole), and what sh:sparql adds."""

    value: Term | None = None
    path: NamedNode | None = None
    messages: tuple[Literal, ...] = ()
    source: Term | None = None


SHAPES = NamedNode("urn:knhk:shapes-graph")
"""What $shapesGraph is bound to."""
_TRUE = Literal("true", datatype=NamedNode(XSD + "boolean"))

Wanted = frozenset[tuple[Term, str]]
"""Constraints, as the node of their shape and the IRI of their component."""


class Validator:
    """Shapes over one data graph. `classes`: the graph whose rdfs:subClassOf counts, None for the data graph's own."""

    def __init__(self, shapes: Shapes, data: Graph, classes: Graph | None = None) -> None:
        self.shapes = shapes
        self.data = data
        self.classes = Hierarchy(data if classes is None else classes)
        if shapes.ask_for_graph:
            data.named = {SHAPES: shapes.graph}

    def validate(self, only: Wanted | None = None) -> list[Result]:
        """Results of every targeted shape on each of its focus nodes, in a stable order; `only`: of these constraints alone."""
        out: list[Result] = []
        for node in self.shapes.targeted:
            shape = self.shapes.by_node[node]
            for focus in self.focus_nodes(shape):
                out.extend(self.check(shape, focus, (), focus, only))
        return out

    def focus_nodes(self, shape: Shape) -> list[Term]:
        """Union of the targets, each node once."""
        return list(dict.fromkeys(node for target in shape.targets for node in self.target_nodes(target)))

    def target_nodes(self, target: Target) -> Iterable[Term]:
        if target.kind == "node":
            return (target.term,)
        if target.kind == "class":
            return self.classes.instances(self.data, target.term)
        assert isinstance(target.term, NamedNode)
        pairs = self.data.pairs(target.term)
        return [s for s, _ in pairs] if target.kind == "subjectsOf" else [o for _, o in pairs]

    def check(self, shape: Shape, focus: Term, outer: tuple[Term, ...], root: Term, only: Wanted | None = None) -> Iterator[Result]:
        """Results of one shape on one focus node. sh:property of a node shape is looked through: `only` names what lies behind it."""
        if shape.deactivated:
            return
        wanted = [constraint for constraint in shape.constraints if _is_wanted(shape, constraint, only)]
        nodes = [focus] if shape.path is None else values(self.data, shape.path, focus) if wanted else []
        for constraint in wanted:
            if constraint.kind == "property":
                inner = self.shapes.by_node[constraint.shapes[0]]
                for node in nodes:
                    yield from self.check(inner, node, (*outer, shape.node), root, only if shape.path is None else None)
                continue
            for found in _CHECKERS[constraint.kind](self, shape, constraint, focus, nodes):
                yield Result(
                    focus,
                    shape.path if found.path is None else Path("predicate", found.path),
                    found.value,
                    shape.node,
                    constraint.component,
                    shape.severity,
                    found.messages or shape.messages,
                    found.source,
                    outer,
                    root,
                )

    def conforms(self, shape_node: Term, focus: Term) -> bool:
        """No result of any severity."""
        return next(self.check(self.shapes.by_node[shape_node], focus, (), focus), None) is None


def _is_wanted(shape: Shape, constraint: Constraint, only: Wanted | None) -> bool:
    looked_through = shape.path is None and constraint.kind == "property"
    return only is None or looked_through or (shape.node, constraint.component) in only


Checker = Callable[[Validator, Shape, Constraint, Term, list[Term]], Iterable[Found]]
Test = Callable[[Validator, Constraint, Term], bool]


def _each(test: Test) -> Checker:
    """A component that tests each value node by itself."""

    def check(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
        return [Found(node) for node in nodes if not test(validator, constraint, node)]

    return check


def _test_class(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return validator.classes.is_instance(validator.data, node, constraint.terms[0])


def _test_datatype(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return isinstance(node, Literal) and node.datatype == constraint.terms[0] and well_formed(node)


def term_kind(node: Term) -> str:
    """iri, bnode or literal."""
    return "iri" if isinstance(node, NamedNode) else "bnode" if isinstance(node, BlankNode) else "literal"


def _test_node_kind(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return term_kind(node) in node_kinds(constraint.terms[0])


_ALLOWED_ORDERS = {
    "minExclusive": (1,),
    "minInclusive": (0, 1),
    "maxExclusive": (-1,),
    "maxInclusive": (-1, 0),
    "lessThan": (-1,),
    "lessThanOrEquals": (-1, 0),
}


def _test_range(validator: Validator, constraint: Constraint, node: Term) -> bool:
    value = value_of(node) if isinstance(node, Literal) else None
    if value is None or constraint.bound is None:
        return False
    return compare(value, constraint.bound) in _ALLOWED_ORDERS[constraint.kind]


def _test_length(validator: Validator, constraint: Constraint, node: Term) -> bool:
    if isinstance(node, BlankNode):
        return False
    length = len(node.value)
    return length >= constraint.number if constraint.kind == "minLength" else length <= constraint.number


def _test_pattern(validator: Validator, constraint: Constraint, node: Term) -> bool:
    assert constraint.pattern is not None
    return not isinstance(node, BlankNode) and constraint.pattern.search(node.value) is not None


def lang_matches(tag: str, ranges: Iterable[str]) -> bool:
    """RFC 4647 basic filtering, as SPARQL langMatches."""
    low = tag.lower()
    wanted = [text.lower() for text in ranges]
    return any(low == text or low.startswith(text + "-") or (text == "*" and low != "") for text in wanted)


def _test_language(validator: Validator, constraint: Constraint, node: Term) -> bool:
    tag = node.language if isinstance(node, Literal) else None
    return tag is not None and lang_matches(tag, [term.value for term in constraint.terms if isinstance(term, Literal)])


def _test_in(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return _is_constant(node) and node in constraint.terms


def _is_constant(node: Term) -> bool:
    """A blank node of the data is none of the shapes, whatever their labels."""
    return not isinstance(node, BlankNode)


def _test_node(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return validator.conforms(constraint.shapes[0], node)


def _test_not(validator: Validator, constraint: Constraint, node: Term) -> bool:
    return not validator.conforms(constraint.shapes[0], node)


_FOLDS: dict[str, Callable[[int, int], bool]] = {
    "and": lambda passed, members: passed == members,
    "or": lambda passed, members: passed > 0,
    "xone": lambda passed, members: passed == 1,
}


def _test_members(validator: Validator, constraint: Constraint, node: Term) -> bool:
    passed = sum(validator.conforms(shape, node) for shape in constraint.shapes)
    return _FOLDS[constraint.kind](passed, len(constraint.shapes))


def _check_count(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    too_few, too_many = len(nodes) < constraint.number, len(nodes) > constraint.number
    return [Found()] if (too_few if constraint.kind == "minCount" else too_many) else []


def _check_unique_lang(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    tags = [node.language.lower() for node in nodes if isinstance(node, Literal) and node.language]
    return [Found() for tag in dict.fromkeys(tags) if tags.count(tag) > 1]


def _other(validator: Validator, constraint: Constraint, focus: Term) -> list[Term]:
    predicate = constraint.terms[0]
    assert isinstance(predicate, NamedNode)
    return validator.data.objects(focus, predicate)


def _check_equals(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    other = _other(validator, constraint, focus)
    here, there = set(nodes), set(other)
    return [Found(node) for node in (*nodes, *other) if (node in here) != (node in there)]


def _check_disjoint(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    other = set(_other(validator, constraint, focus))
    return [Found(node) for node in nodes if node in other]


def _check_less(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    other = [value_of(node) if isinstance(node, Literal) else None for node in _other(validator, constraint, focus)]
    allowed = _ALLOWED_ORDERS[constraint.kind]
    for node in nodes:
        value = value_of(node) if isinstance(node, Literal) else None
        for bound in other:
            if value is None or bound is None or compare(value, bound) not in allowed:
                yield Found(node)


def _check_closed(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    for node in nodes:
        for predicate in validator.data.predicates(node):
            if predicate not in constraint.terms:
                for value in validator.data.objects(node, predicate):
                    yield Found(value, path=predicate)


def _check_has_value(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    wanted = constraint.terms[0]
    return [] if _is_constant(wanted) and wanted in nodes else [Found()]


def _check_qualified(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    counted = [
        node
        for node in nodes
        if validator.conforms(constraint.shapes[0], node) and not any(validator.conforms(other, node) for other in constraint.siblings)
    ]
    below, above = len(counted) < constraint.number, len(counted) > constraint.number
    return [Found()] if (below if constraint.kind == "qualifiedMin" else above) else []


def _prebound(shape: Shape, constraint: Constraint, focus: Term) -> dict[str, Term]:
    return {THIS: focus, **dict(constraint.parameters), SHAPES_GRAPH: SHAPES, CURRENT_SHAPE: shape.node}


def _check_select(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    """One result for each solution (SHACL, section 5.3.2)."""
    query = constraint.query if shape.path is None else with_path(constraint.query, str(shape.path))
    bound = _prebound(shape, constraint, focus)
    for row in select(validator.data, query, bound):
        if row.get("failure") == _TRUE:
            raise Undecided(f"{constraint.source or constraint.component}: the query reports a failure")
        value = row.get("value", focus if shape.path is None else None)
        path = row.get("path") if shape.path is None else None
        told = row.get("message")
        messages = (told,) if isinstance(told, Literal) else _messages(shape, constraint, row)
        yield Found(value, path if isinstance(path, NamedNode) else None, messages, constraint.source)


def _check_ask(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    """One result for each value node for which the query is false."""
    for node in nodes:
        bound = {**_prebound(shape, constraint, focus), VALUE: node}
        if not ask(validator.data, constraint.query, bound):
            yield Found(node, messages=_messages(shape, constraint, bound), source=constraint.source)


def _messages(shape: Shape, constraint: Constraint, row: dict[str, Term]) -> tuple[Literal, ...]:
    return tuple(_filled(text, row) for text in constraint.messages or shape.messages)


_HOLE = re.compile(r"\{[?$](\w+)\}")


def _filled(text: Literal, row: dict[str, Term]) -> Literal:
    """{?name} and {$name} in a message stand for the solution's values."""

    def fill(match: re.Match[str]) -> str:
        term = row.get(match[1])
        return match[0] if term is None else term.value

    filled = _HOLE.sub(fill, text.value)
    return Literal(filled, language=text.language) if text.language else Literal(filled)


def _check_nothing(validator: Validator, shape: Shape, constraint: Constraint, focus: Term, nodes: list[Term]) -> Iterable[Found]:
    return ()


_CHECKERS: dict[str, Checker] = {
    "class": _each(_test_class),
    "datatype": _each(_test_datatype),
    "nodeKind": _each(_test_node_kind),
    "minCount": _check_count,
    "maxCount": _check_count,
    **{kind: _each(_test_range) for kind in ("minExclusive", "minInclusive", "maxExclusive", "maxInclusive")},
    "minLength": _each(_test_length),
    "maxLength": _each(_test_length),
    "pattern": _each(_test_pattern),
    "languageIn": _each(_test_language),
    "uniqueLang": _check_unique_lang,
    "off": _check_nothing,
    "equals": _check_equals,
    "disjoint": _check_disjoint,
    "lessThan": _check_less,
    "lessThanOrEquals": _check_less,
    "not": _each(_test_not),
    "and": _each(_test_members),
    "or": _each(_test_members),
    "xone": _each(_test_members),
    "node": _each(_test_node),
    "hasValue": _check_has_value,
    "in": _each(_test_in),
    "qualifiedMin": _check_qualified,
    "qualifiedMax": _check_qualified,
    "closed": _check_closed,
    "select": _check_select,
    "ask": _check_ask,
}
