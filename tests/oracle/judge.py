"""Which rules a graph breaks, by other people's engines: pySHACL and rdflib."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import pyshacl
from pyshacl.constraints.constraint_component import ConstraintComponent
from pyshacl.validator import Validator
from rdflib import Graph, Literal, Namespace, URIRef
from rdflib.plugins.sparql import prepareQuery
from rdflib.plugins.sparql.sparql import Query
from rdflib.term import Node

from oracle.values import comparing_by_sparql

SH = Namespace("http://www.w3.org/ns/shacl#")
RDF_TYPE = URIRef("http://www.w3.org/1999/02/22-rdf-syntax-ns#type")
KNHK = Namespace("https://knhk.dev/ns#")
ATTR = Namespace("https://knhk.dev/ns/attr#")
ABAC = Namespace("https://knhk.dev/ns/abac#")
SUBCLASS = URIRef("http://www.w3.org/2000/01/rdf-schema#subClassOf")


@dataclass(frozen=True)
class Failure:
    """One result of the SHACL engine."""

    focus: Node
    shape: Node
    component: str
    path: Node | None
    message: str


def shacl_failures(data: Graph, shapes: Graph) -> list[Failure]:
    """All results of validating `data` (subclass triples are added to it) against `shapes`; classes
    are those of the shapes graph. Most time of pySHACL goes into texts of results and the graph of
    the report; neither is made here."""
    for triple in shapes.triples((None, SUBCLASS, None)):
        data.add(triple)
    found: list[Failure] = []

    def result(self: Any, graph: Any, focus_node: Node, **_: Any) -> Any:
        component, shape = str(self.shacl_constraint_component), self.shape
        path = shape.path() if shape.is_property_shape else None
        texts = sorted(str(m) for m in shape.message)
        return "", Failure(focus_node, shape.node, component, path, "".join(texts[:1])), []

    def report(cls: Any, graph: Any, conforms: bool, results: list[Any]) -> Any:
        found.extend(failure for _, failure, _ in results)
        return Graph(), ""

    with (
        comparing_by_sparql(),
        patch.object(ConstraintComponent, "make_v_result", result),
        patch.object(Validator, "create_validation_report", classmethod(report)),
    ):
        pyshacl.validate(data, shacl_graph=shapes, inference="none", advanced=False, inplace=True)
    return found


def request_graph(attributes: Mapping[str, str], region: str, route: str, time: str) -> Graph:
    """The triples of the request node; `time` is an xsd:dateTime."""
    g = Graph()
    for name, value in attributes.items():
        g.add((KNHK.request, ATTR[name], Literal(value)))
    g.add((KNHK.request, KNHK.region, Literal(region)))
    g.add((KNHK.request, KNHK.route, Literal(route)))
    stamp = URIRef("http://www.w3.org/2001/XMLSchema#dateTime")
    g.add((KNHK.request, KNHK.time, Literal(time, datatype=stamp, normalize=False)))
    return g


def caller_graph(bundle: Graph, caller: URIRef) -> Graph:
    """What the bundle says of a caller, roles closed, under knhk:caller."""
    g = Graph()
    g.add((KNHK.request, KNHK.caller, caller))
    roles: set[Node] = set()
    for role in bundle.objects(caller, ABAC.hasRole):
        roles |= {r for r in bundle.transitive_objects(role, ABAC.inherits) if r is not None}
    for p, o in bundle.predicate_objects(caller):
        g.add((KNHK.caller, p, o))
    for role in roles:
        g.add((KNHK.caller, ABAC.hasRole, role))
        for p, o in bundle.predicate_objects(role):
            if (p, ABAC.inheritable, Literal(True)) in bundle:
                g.add((KNHK.caller, p, o))
    return g


def ask_holds(data: Graph, query: str, focus: Node | None) -> bool:
    """The answer of one ASK query with $this bound."""
    bound: dict[str, Any] = {} if focus is None else {"this": focus}
    return bool(data.query(_prepared(query), initBindings=bound).askAnswer)


@cache
def _prepared(query: str) -> Query:
    return prepareQuery(query, initNs={"knhk": KNHK, "attr": ATTR, "abac": ABAC})


def ask_fails(data: Graph, query: str, target: str | None) -> bool:
    """True when the rule fails for some focus node."""
    if target is None:
        return not ask_holds(data, query, None)
    focus_nodes = set(data.subjects(RDF_TYPE, URIRef(target)))
    return any(not ask_holds(data, query, focus) for focus in focus_nodes)


@dataclass
class Access:
    """Access rules of one source, judged by their words."""

    rules: Graph
    data: Graph
    failing: set[str] = field(default_factory=set)

    def judge(self) -> set[str]:
        """IRIs of policies without a permission and of prohibitions that apply."""
        actions = {str(v) for v in self.data.objects(KNHK.request, ATTR.action)}
        for policy in self.rules.subjects(RDF_TYPE, ABAC.Policy):
            scope = {str(v) for v in self.rules.objects(policy, ABAC.scope)}
            members = list(self.rules.objects(policy, ABAC.rule))
            permissions = [r for r in members if (r, RDF_TYPE, ABAC.Permission) in self.rules]
            if actions & scope and not any(self.applies(r) for r in permissions):
                self.failing.add(str(policy))
            for rule in members:
                if (rule, RDF_TYPE, ABAC.Prohibition) in self.rules and self.applies(rule):
                    self.failing.add(str(rule))
        return self.failing

    def applies(self, rule: Node) -> bool:
        """All conditions of a rule hold."""
        wanted = {
            ATTR.action: self.rules.objects(rule, ABAC.action),
            KNHK.region: self.rules.objects(rule, ABAC.region),
        }
        for node in self.rules.objects(rule, ABAC.attribute):
            name = str(self.rules.value(node, ABAC.name))
            wanted[ATTR[name]] = self.rules.objects(node, ABAC.value)
        for p, values in wanted.items():
            texts = {str(v) for v in values}
            if texts and not texts & {str(v) for v in self.data.objects(KNHK.request, p)}:
                return False
        roles = set(self.rules.objects(rule, ABAC.role))
        if roles and not roles & set(self.data.objects(KNHK.caller, ABAC.hasRole)):
            return False
        return all(self._resource(rule, cls) for cls in self.rules.objects(rule, ABAC.resource))

    def _resource(self, rule: Node, cls: Node) -> bool:
        resources = list(self.data.subjects(RDF_TYPE, cls))
        limits = list(self.rules.objects(rule, ABAC.limit))
        return bool(resources) and all(self._within(r, n) for r in resources for n in limits)

    def _within(self, resource: Node, limit: Node) -> bool:
        path = self.rules.value(limit, ABAC.path)
        values = list(self.data.objects(resource, path))
        for relation in (ABAC.atMost, ABAC.atLeast, ABAC.equalTo):
            for q in self.rules.objects(limit, relation):
                bounds = list(self.data.objects(KNHK.caller, q))
                return bool(values) and all(any(_related(v, relation, b) for b in bounds) for v in values)
        raise AssertionError("a limit has one relation")


def _related(value: Node, relation: URIRef, bound: Node) -> bool:
    if not isinstance(value, Literal) or not isinstance(bound, Literal):
        return relation == ABAC.equalTo and value == bound
    try:
        if relation == ABAC.equalTo:
            return bool(value.eq(bound))
        low, high = (value, bound) if relation == ABAC.atMost else (bound, value)
        return not value.ill_typed and bool(low.value <= high.value)
    except TypeError:
        return False
