"""SPARQL CONSTRUCT with at most 8 template triples (CONSTRUCT8) to cases: what must hold at a focus node, and what is made then.

A body whose variables are values of known subjects factors: every triple of the template takes the values of one variable, whatever the
others are. Everything else is left to the tier below, with its text and $this bound beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rdflib import BNode, Literal, URIRef
from rdflib.plugins.sparql.parserutils import CompValue

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.ask import CHAIN, MAX_PATTERNS, SHARED, SUBSELECT, THIS, Query, _Alt, _Fall, _Lowering, _substituted, read_query
from knhk_gen.exprs import conj
from knhk_gen.names import RDF, SH, TYPE
from knhk_gen.terms import iri_term, plan_term
from knhk_gen.turtle import Text, TripleStore

Doc = dict[str, Any]
Template = Sequence[tuple[Any, Any, Any]]
MAX_TRIPLES: Final = MAX_PATTERNS


@dataclass(frozen=True)
class Construct:
    """A lowered CONSTRUCT source. `cases` is None below class R1."""

    query: Query
    cases: list[Doc] | None
    klass: str
    why: str
    outputs: frozenset[str]


def lower_construct(source: Source, target_of: Callable[[Doc], int]) -> Construct:
    """Lowers one CONSTRUCT source. Raises Refused."""
    query = read_query(source)
    template = _template(source, query.algebra)
    lowering = _Lowering(query.text, source.target is not None, target_of)
    cases: list[Doc] | None
    try:
        body = query.algebra.p
        if body.name != "Project":
            raise _Fall("C1", SUBSELECT)
        found = (_case(lowering, _substituted(alt), template) for alt in lowering.body(body.p))
        cases = [case for case in found if case["triples"]]
        klass, why = "R1", lowering.why()
    except _Fall as fall:
        cases, klass, why = None, fall.klass, fall.why()
    outputs = frozenset(str(p) for _, p, _ in template)
    return Construct(query, cases, klass, why, outputs)


def _template(source: Source, algebra: CompValue) -> Template:
    at = Text(source.text, source.path, source.first_line).at(1)
    if algebra.template is None:
        raise Refused([Fault(at, "CONSTRUCT WHERE", "must have a template: what a rule reads cannot be what it makes")])
    template: Template = algebra.template
    faults = []
    if len(template) > MAX_TRIPLES:
        faults.append(Fault(at, f"{len(template)} triples", f"must have at most {MAX_TRIPLES} triples in the template"))
    for s, p, o in template:
        if isinstance(s, BNode) or isinstance(o, BNode):
            faults.append(Fault(at, str(p), "must not make blank nodes: a decision is replayed"))
        if not isinstance(p, URIRef):
            faults.append(Fault(at, str(p), "must be an IRI: what is made must be known beforehand"))
        if isinstance(s, Literal):
            faults.append(Fault(at, str(s), "must not be a literal: it is the subject of a triple"))
    if faults:
        raise Refused(faults)
    return template


def _case(lowering: _Lowering, alt: _Alt, template: Template) -> Doc:
    when = lowering.finish(alt)
    made = (_triple(lowering, alt, triple) for triple in template)
    return {"when": when, "triples": [triple for triple in made if triple is not None]}


def _triple(lowering: _Lowering, alt: _Alt, triple: tuple[Any, Any, Any]) -> Doc | None:
    """One triple of the template; None when a variable of it is unbound in this alternative, as SPARQL says."""
    s, p, o = triple
    subject, value = _subject(lowering, alt, s), _object(lowering, alt, o)
    return None if subject is None or value is None else {"s": subject, "p": str(p), "o": value}


def _bound(alt: _Alt, term: Any) -> Any:
    """A variable of VALUES or BIND as its constant."""
    return next((constant for v, constant in alt.values if v == term), term)


def _subject(lowering: _Lowering, alt: _Alt, term: Any) -> Doc | None:
    term = _bound(alt, term)
    if isinstance(term, URIRef):
        return iri_term(str(term))
    if term == THIS and lowering.has_this:
        return {"this": True}
    if term not in alt.variables():
        return None
    raise _Fall("W1", CHAIN, "the subject of a triple of the template is a value")


def _object(lowering: _Lowering, alt: _Alt, term: Any) -> Doc | None:
    if isinstance(term, Literal):
        lowering._pattern((THIS, URIRef(RDF + "value"), term))  # a constant that is not canonical falls
        return plan_term(term)
    if isinstance(term, URIRef) or (term == THIS and lowering.has_this):
        return _subject(lowering, alt, term)
    if term not in alt.variables():
        return None
    places = [(s, p) for s, p, o in alt.patterns if o == term]
    if len(places) != 1 or not lowering._known(places[0][0]) or any(s == term for s, _, _ in alt.patterns):
        raise _Fall("W1", SHARED if len(places) > 1 else CHAIN, "a value of the template comes from more than one place")
    (s, p) = places[0]
    of = _subject(lowering, alt, s)
    return {"of": of, "p": p, "test": conj([e for v, e in alt.tests if v == term], "t")}


def inputs(exprs: Iterable[Any], targets: Iterable[Doc], shapes: TripleStore) -> frozenset[str]:
    """IRIs that may be predicates of triples which guards read; more rather than less."""
    found: set[str] = set()
    for target in targets:
        found |= {TYPE} if target["kind"] == "class" else {str(target.get("predicate", ""))}
    todo = list(exprs)
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            found |= {str(node[key]) for key in ("p", "q") if key in node}
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    for _, p, o in shapes.triples:
        if isinstance(o, URIRef) and not str(o).startswith(SH):
            found.add(str(o))
        if str(p) in (SH + "class", SH + "targetClass"):
            found.add(TYPE)
    return frozenset(found)
